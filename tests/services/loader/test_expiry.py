"""Credentials that end under a load: the account is removed, or gets another secret, or the session is over, before or while bytes come."""

import os
import secrets
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.services.fault_proxy import Fault, FaultProxy, Kind
from tests.services.loader.uploads import MIB
from tests.services.s3_fixtures import Bucket, Loader, Running, S3Server, assert_absent, assert_published, versitygw

#: So much of ``large`` comes before the credentials end: four parts of the engine. A checkpoint keeps the first two at least.
DELIVERED = 20 * MIB
QUICK = {"MODELYARD_LOADER_CHECKPOINT_BYTES": str(8 * MIB), "MODELYARD_LOADER_ATTEMPTS": "3", "MODELYARD_LOADER_RETRY_SECONDS": "0.1"}
FILES = {"large": os.urandom(40 * MIB), "beside": b"beside"}


class Account:
    """An account of the S3 server's, which owns a bucket."""

    def __init__(self, bucket: Bucket) -> None:
        self.name, self._server = f"reader-{secrets.token_hex(4)}", bucket.server
        self.secret = secrets.token_hex(16)
        self.create()
        admin(self._server, "change-bucket-owner", "--bucket", bucket.name, "--owner", self.name)

    def create(self) -> None:
        admin(self._server, "create-user", "--access", self.name, "--secret", self.secret, "--role", "user")

    def remove(self) -> None:
        admin(self._server, "delete-user", "--access", self.name)

    def renew(self) -> None:
        """Another secret: the one that a load was begun with is worth nothing any more."""
        self.secret = secrets.token_hex(16)
        admin(self._server, "update-user", "--access", self.name, "--secret", self.secret)

    @property
    def environment(self) -> dict[str, str]:
        """For the loader."""
        return {"AWS_ACCESS_KEY_ID": self.name, "AWS_SECRET_ACCESS_KEY": self.secret}


def admin(server: S3Server, *arguments: str) -> None:
    root = server.environment()
    keys = {"ADMIN_ACCESS_KEY_ID": root["AWS_ACCESS_KEY_ID"], "ADMIN_SECRET_ACCESS_KEY": root["AWS_SECRET_ACCESS_KEY"]}
    keys |= {"ADMIN_ACCESS_KEY": root["AWS_ACCESS_KEY_ID"], "ADMIN_SECRET_KEY": root["AWS_SECRET_ACCESS_KEY"]}
    command = [str(versitygw()), "admin", "--allow-insecure", "--endpoint-url", server.url, *arguments]
    done = subprocess.run(command, env=os.environ | keys, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def account(bucket: Bucket) -> Account:
    return Account(bucket)


removed_or_renewed = pytest.mark.parametrize(
    "end", [Account.remove, pytest.param(Account.renew, marks=pytest.mark.faults)], ids=["removed", "another secret"]
)


def give_anew(account: Account, end: Callable[[Account], None]) -> None:
    """Credentials that are worth something again, and are not those of before."""
    if end is Account.remove:
        account.secret = secrets.token_hex(16)
        account.create()


@pytest.mark.parametrize("size", [1000, pytest.param(70 * MIB, marks=pytest.mark.faults)], ids=["small", "large"])
@removed_or_renewed
def test_credentials_that_end_after_the_listing(
    end: Callable[[Account], None], size: int, bucket: Bucket, account: Account, fault_proxy: FaultProxy, loader: Loader
) -> None:
    """Refused at the first object: one error that says what to check, and with new ones the next run goes on."""
    files = {"x": os.urandom(size), "beside": b"beside"}
    bucket.put(files)
    spec = bucket.spec(url=fault_proxy.url)
    fault_proxy.before_first_fetch = lambda: end(account)
    loader.run(spec, **account.environment).failed("SourceDenied", "check the credentials")
    assert_absent(loader.root)
    give_anew(account, end)
    loader.run(spec, **account.environment).succeeded()
    assert_published(loader.root, files)


def stopped_in_mid_load(running: Running, stall: Fault, loader: Loader) -> None:
    """Until so much was delivered that a checkpoint keeps some of it; nothing behind ``DELIVERED`` came, the stall holds it up."""
    journal = loader.root / ".modelyard/staging/m/v1/journal.jsonl"
    running.wait_until(lambda: stall.done > 0 and journal.exists() and "checkpoint" in journal.read_text())


@removed_or_renewed
def test_credentials_that_end_while_bytes_come(
    end: Callable[[Account], None], bucket: Bucket, account: Account, fault_proxy: FaultProxy, loader: Loader
) -> None:
    """What came with the old ones is kept: a run with new ones goes on behind it."""
    bucket.put(FILES)
    spec = bucket.spec(url=fault_proxy.url)
    stall = Fault(Kind.STALL, from_byte=DELIVERED)
    fault_proxy.faults = [stall]
    running = loader.start(spec, **account.environment, **QUICK)
    stopped_in_mid_load(running, stall, loader)
    end(account)
    stall.lifted.set()
    running.wait().failed("SourceDenied", "large: ", "check the credentials")
    assert_absent(loader.root)
    give_anew(account, end)
    assert_goes_on(loader.run(spec, **account.environment, **QUICK).succeeded())
    assert_published(loader.root, FILES)


def assert_goes_on(result: dict[str, Any]) -> None:
    """Assert that a run fetched what was missing of ``large``, and that alone."""
    kept = result["resumed_bytes"] - len(FILES["beside"])
    assert 0 < kept <= DELIVERED
    assert result["fetched_bytes"] == len(FILES["large"]) - kept


@pytest.mark.parametrize("times", [1, 1000], ids=["once", "for good"])
def test_a_session_that_ends_while_bytes_come(times: int, bucket: Bucket, fault_proxy: FaultProxy, loader: Loader) -> None:
    """As AWS answers; the real server here has no sessions. Another try gets fresh credentials where there are any, else the next run."""
    bucket.put(FILES)
    spec = bucket.spec(url=fault_proxy.url)
    stall = Fault(Kind.STALL, from_byte=DELIVERED)
    expired = Fault(Kind.REFUSE, times=times, from_byte=DELIVERED, error=(400, "ExpiredToken"))
    fault_proxy.faults = [stall, expired]
    running = loader.start(spec, **QUICK)
    stopped_in_mid_load(running, stall, loader)
    stall.lifted.set()
    if times == 1:
        running.wait().succeeded()
        assert expired.done == 1
    else:
        running.wait().failed("SourceUnavailable", "large: ExpiredToken", "the credentials have expired", code=75)
        assert_absent(loader.root)
        fault_proxy.faults = []
        assert_goes_on(loader.run(spec, **QUICK).succeeded())
    assert_published(loader.root, FILES)
