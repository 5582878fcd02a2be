"""An S3 server whose answers are harmed on their way to the loader's pod: a whole preload, with the auditor around it."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blocks import S3Source, load_block
from tests.cluster.faults.support import MIB, Audit, failing, finish, preload
from tests.cluster.preload.conftest import Stack
from tests.services.fault_proxy import Fault, FaultProxy, Kind, proxy_before
from tests.services.s3_fixtures import Certificates, S3Server, make_certificates

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(1200)]
MODEL = {"config__json": b"{}", "model__safetensors": os.urandom(12 * MIB), "empty": b""}


@pytest.fixture
def door(stack: Stack, tmp_path: Path) -> Iterator[FaultProxy]:
    """The stack's source goes through it, to the devcluster's own S3 server."""
    address = stack.cluster.host_ip
    certificates = make_certificates(tmp_path, address)
    upstream = make_upstream(stack)
    with proxy_before(upstream, certificates, address) as proxy:
        source = load_block(S3Source, stack.name)
        source.endpoint_url, source.ca_certificate = proxy.url, certificates.ca.read_text()
        source.save(stack.name, overwrite=True)
        yield proxy


def make_upstream(stack: Stack) -> S3Server:
    """What the proxy has to know of the devcluster's server."""
    ca = stack.cluster.ca_bundle
    return S3Server(stack.cluster.s3_endpoint, Certificates(ca, ca, ca, ca), stack.cluster.s3_access_log)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault(Kind.FLIP, times=2), id="flipped bits"),
        pytest.param(Fault(Kind.TRUNCATE, times=3), id="cut off"),
        pytest.param(Fault(Kind.SHORTEN, times=2), id="shortened"),
        pytest.param(Fault(Kind.RESET, times=3), id="resets"),
        pytest.param(Fault(Kind.REFUSE, times=6), id="a storm of 503"),
        pytest.param(Fault(Kind.DRIP, times=1, target="config"), id="a slow drip"),
    ],
)
def test_what_passes_leaves_nothing_but_the_model(fault: Fault, stack: Stack, door: FaultProxy, audit: Callable[[], Audit]) -> None:
    files = stack.put(**MODEL)
    before = audit()
    door.faults = [fault]
    finish(preload(stack))
    assert fault.done
    before.ends_ready({"m/v1": files})


def test_rights_that_end_in_mid_load_are_one_error_and_no_model(stack: Stack, door: FaultProxy, audit: Callable[[], Audit]) -> None:
    files = stack.put(**MODEL)
    before = audit()
    door.faults = [Fault(Kind.REFUSE, from_byte=8 * MIB, error=(403, "AccessDenied"))]
    failing(preload(stack), "SourceDenied", "model.safetensors")
    before.ends_absent()
    door.faults = []
    finish(preload(stack))
    before.ends_ready({"m/v1": files})
