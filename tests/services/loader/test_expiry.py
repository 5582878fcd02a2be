"""Credentials that end in the middle of a load: the account is removed, or gets another secret, while objects come."""

import os
import secrets
import subprocess
from collections.abc import Callable

import pytest

from tests.services.fault_proxy import FaultProxy
from tests.services.loader.uploads import MIB
from tests.services.s3_fixtures import Bucket, Loader, S3Server, assert_absent, assert_published, versitygw


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


@pytest.mark.parametrize("size", [1000, pytest.param(70 * MIB, marks=pytest.mark.faults)], ids=["small", "large"])
@pytest.mark.parametrize("end", [Account.remove, pytest.param(Account.renew, marks=pytest.mark.faults)], ids=["removed", "another secret"])
def test_credentials_that_end_in_mid_load(
    end: Callable[[Account], None], size: int, bucket: Bucket, account: Account, fault_proxy: FaultProxy, loader: Loader
) -> None:
    """Listed with them, and refused at the first object: one error that says what to check, and with new ones the next run goes on."""
    files = {"x": os.urandom(size), "beside": b"beside"}
    bucket.put(files)
    spec = bucket.spec(url=fault_proxy.url)
    fault_proxy.before_first_fetch = lambda: end(account)
    loader.run(spec, **account.environment).failed("SourceDenied", "check the credentials")
    assert_absent(loader.root)
    if end is Account.remove:
        account.create()
    loader.run(spec, **account.environment).succeeded()
    assert_published(loader.root, files)
