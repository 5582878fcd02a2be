"""Registries, networks and sources that misbehave: the image is whole, or the tag does not know it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from modelyard.errors import (
    ContentMismatch,
    Refused,
    RegistryRefused,
    RegistryUnavailable,
    SourceChanged,
    SourceUnavailable,
)
from modelyard.modelcar.build import Built
from modelyard.modelcar.records import unfinished_tag
from modelyard.modelcar.tuning import Tuning
from modelyard.oci.access import Keychain
from tests.services import fault_proxy as source_faults
from tests.services.fault_proxy import Fault as SourceFault
from tests.services.fault_proxy import FaultProxy
from tests.services.oci.building import QUICK, Builder, new_repository
from tests.services.oci.oracle import assert_modelcar, get
from tests.services.oci.registries import KINDS, Registry, running_registry
from tests.services.oci.registry_proxy import Fault, RegistryProxy, proxy_before
from tests.services.s3_fixtures import REPOSITORY, Bucket

MIB = 1024 * 1024
FEW_TRIES = Tuning(retry_seconds=0.05, attempts=2)
faults = pytest.mark.faults
UPLOAD = "^PATCH "


class Proxied(Builder):
    """Builds through a proxy before the registry."""

    proxy: RegistryProxy
    resume: bool = False

    @property
    def keychain(self) -> Keychain:
        return Keychain(replace(self.proxy.keychain.main, resume_uploads=self.resume))


@pytest.fixture
def proxy(registry: Registry) -> Iterator[RegistryProxy]:
    with proxy_before(registry) as running:
        yield running


def builder(bucket: Bucket, proxy: RegistryProxy, tuning: Tuning = QUICK, *, resume: bool = False) -> Proxied:
    made = Proxied(bucket, proxy.registry, tuning)
    made.proxy, made.resume = proxy, resume
    return made


def assert_untagged(registry: Registry, repository: str) -> None:
    assert get(registry.host, f"/v2/{repository}/manifests/v1")[0] == 404


def weights(size: int = 24 * MIB) -> dict[str, bytes]:
    return {"model.safetensors": os.urandom(size)}


CUTS = [1, 511, 512, 513, 8 * MIB, 8 * MIB + 1, 23 * MIB + 4096, 24 * MIB + 511, 24 * MIB + 512 + 1023]


@pytest.mark.parametrize("cut", [pytest.param(cut, marks=() if cut in {8 * MIB, 513} else faults) for cut in CUTS])
@pytest.mark.parametrize("resume", [True, False], ids=["resumed", "replayed"])
def test_a_cut_upload_goes_on_where_that_is_allowed_or_begins_anew(cut: int, bucket: Bucket, proxy: RegistryProxy, *, resume: bool) -> None:
    files, repository = weights(), new_repository()
    bucket.put(files)
    proxy.faults = [Fault(UPLOAD, cut=cut)]
    made = builder(bucket, proxy, resume=resume)
    _, built = made.build(repository=repository)
    assert_modelcar(proxy.registry.host, repository, "v1", files)
    assert proxy.faults[0].done == 1
    went_on = any("goes on at byte" in note for note in made.notes)
    if not resume:
        assert not went_on
        assert built.read_bytes >= 24 * MIB + min(cut, 20 * MIB), "what was sent was not read again"
    elif proxy.registry.kind == "docker-registry-2.8":  # it forgets the upload
        assert not went_on
    elif cut >= 8 * MIB:
        assert went_on
        assert built.read_bytes < 40 * MIB, "what the registry had was not read again"


def test_many_cuts_in_one_layer(bucket: Bucket, proxy: RegistryProxy) -> None:
    """More of them than tries, on a registry that can go on: each that brings the layer further forgives the ones before."""
    files, repository = weights(64 * MIB), new_repository()
    bucket.put(files)
    count = 10 if proxy.registry.kind == "distribution-3" else 3
    proxy.faults = [Fault(UPLOAD, times=count, cut=5 * MIB + 77)]
    builder(bucket, proxy, Tuning(retry_seconds=0.05, attempts=4), resume=True).build(repository=repository)
    assert_modelcar(proxy.registry.host, repository, "v1", files)
    assert proxy.faults[0].done == count


@pytest.mark.parametrize("kind", KINDS)
def test_a_registry_killed_in_mid_layer(kind: str, bucket: Bucket, tmp_path: Path) -> None:
    files = {**weights(), "config.json": b"{}"}
    bucket.put(files)
    with running_registry(kind, tmp_path / "registry") as registry, proxy_before(registry) as proxy:

        def restart() -> None:
            registry.kill()
            registry.start()

        proxy.faults = [Fault(UPLOAD, cut=12 * MIB, then=restart)]
        builder(bucket, proxy).build()
        assert proxy.faults[0].done == 1
        assert_modelcar(registry.host, "models/m", "v1", files)


PASSING = [
    Fault("^POST .*/uploads/", status=429, headers={"Retry-After": "0"}, times=3),
    Fault("^POST .*/uploads/", status=503, times=3),
    Fault(UPLOAD, status=429, times=3),
    Fault(UPLOAD, status=503, times=3),
    Fault("^PUT .*/uploads/", status=502, times=2),
    Fault("^PUT .*/manifests/", status=503, times=2),
    Fault("^(HEAD|GET) ", status=503, times=3),
]


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: f"{fault.line} {fault.status}")
def test_throttling_passes(fault: Fault, bucket: Bucket, proxy: RegistryProxy) -> None:
    files, repository = {**weights(17 * MIB), "config.json": b"{}"}, new_repository()
    bucket.put(files)
    fault.done = 0  # the table is used once for each registry
    proxy.faults = [fault]
    builder(bucket, proxy).build(repository=repository)
    assert fault.done == fault.times
    assert_modelcar(proxy.registry.host, repository, "v1", files)


def test_throttling_that_lasts(bucket: Bucket, proxy: RegistryProxy) -> None:
    repository = new_repository()
    bucket.put({"a": b"1"})
    proxy.faults = [Fault(UPLOAD, status=503, times=1000)]
    with pytest.raises(RegistryUnavailable, match="503"):
        builder(bucket, proxy, FEW_TRIES).build(repository=repository)
    assert_untagged(proxy.registry, repository)


def test_an_answer_that_is_lost_after_the_commit(bucket: Bucket, proxy: RegistryProxy) -> None:
    """The blob is there, the upload is not: that is seen, and nothing is sent again."""
    files, repository = weights(17 * MIB), new_repository()
    bucket.put(files)
    made = builder(bucket, proxy)
    plan = made.plan(repository=repository)
    first = made.layers(plan)
    proxy.faults = [Fault("^PUT .*/uploads/.*digest=", status=504)]
    second = made.layers(plan)
    assert second.sent_bytes == first.sent_bytes
    assert proxy.faults[0].done == 1


def test_bits_that_flip_on_their_way_to_the_registry(bucket: Bucket, proxy: RegistryProxy) -> None:
    files, repository = weights(17 * MIB), new_repository()
    bucket.put(files)
    proxy.faults = [Fault(UPLOAD, flip=9 * MIB)]
    builder(bucket, proxy).build(repository=repository)
    assert_modelcar(proxy.registry.host, repository, "v1", files)
    other = new_repository()
    proxy.faults = [Fault(UPLOAD, flip=9 * MIB, times=1000)]
    with pytest.raises(ContentMismatch, match="DIGEST_INVALID"):
        builder(bucket, proxy, FEW_TRIES).build(repository=other)
    assert_untagged(proxy.registry, other)


@pytest.mark.parametrize("size", [1000, 24 * MIB])
def test_bits_that_flip_on_their_way_from_the_source(size: int, bucket: Bucket, registry: Registry, fault_proxy: FaultProxy) -> None:
    files, repository = {"model.safetensors": os.urandom(size)}, new_repository()
    bucket.put(files)
    made = Builder(bucket, registry, url=fault_proxy.url)
    fault_proxy.faults = [SourceFault(source_faults.Kind.FLIP, times=1)]
    made.build(repository=repository)
    assert_modelcar(registry.host, repository, "v1", files)
    assert fault_proxy.faults[0].done == 1
    other = new_repository()
    fault_proxy.faults = [SourceFault(source_faults.Kind.FLIP)]
    with pytest.raises(ContentMismatch, match="the source"):
        Builder(bucket, registry, FEW_TRIES, url=fault_proxy.url).build(repository=other)
    assert_untagged(registry, other)
    assert not [line for line in registry.requests("PUT", other) if "/uploads/" in line], "committed before it was compared"
    assert registry.abandoned(other) == len(registry.requests("POST", other)), "an upload was left behind"


@pytest.mark.parametrize("kind", [source_faults.Kind.RESET, source_faults.Kind.TRUNCATE, source_faults.Kind.REFUSE])
def test_a_source_that_breaks_does_not_break_the_upload(
    kind: source_faults.Kind, bucket: Bucket, registry: Registry, fault_proxy: FaultProxy
) -> None:
    files, repository = {**weights(), "config.json": b"{}"}, new_repository()
    bucket.put(files)
    fault_proxy.faults = [SourceFault(kind, times=3)]
    Builder(bucket, registry, url=fault_proxy.url).build(repository=repository)
    assert_modelcar(registry.host, repository, "v1", files)
    assert len(registry.requests("PATCH", repository)) == 2, "one for each layer"


#: The engine hands over parts of 5 MiB: of the second and the third file some are here when the source stalls.
STALLED = [
    pytest.param(1000, 0, id="small"),
    pytest.param(12 * MIB, 5 * MIB, id="small in parts"),
    pytest.param(24 * MIB, 5 * MIB, id="large"),
]
#: On a busy machine also a sound source may give no byte for a second: how often it is tried again is for each test to say.
IMPATIENT = Tuning(retry_seconds=0.05, stall_seconds=1)


@pytest.mark.parametrize(("size", "from_byte"), STALLED)
def test_a_source_that_stalls_in_mid_body(size: int, from_byte: int, bucket: Bucket, registry_3: Registry, fault_proxy: FaultProxy) -> None:
    """The file is asked for again, and the upload outlives it."""
    files, repository = {"model.safetensors": os.urandom(size)}, new_repository()
    bucket.put(files)
    stall = SourceFault(source_faults.Kind.STALL, times=1, from_byte=from_byte)
    fault_proxy.faults = [stall]
    Builder(bucket, registry_3, IMPATIENT, url=fault_proxy.url).build(repository=repository)
    assert stall.done == 1
    assert_modelcar(registry_3.host, repository, "v1", files)
    assert len(registry_3.requests("PATCH", repository)) == 1


@pytest.mark.parametrize(("size", "from_byte"), STALLED)
def test_a_source_that_stalls_for_good_ends_the_build(
    size: int, from_byte: int, bucket: Bucket, registry_3: Registry, fault_proxy: FaultProxy
) -> None:
    """Once a byte came, the wait has an end of its own still: the tuning's, not that of the engine's connections."""
    repository = new_repository()
    bucket.put({"model.safetensors": os.urandom(size)})
    fault_proxy.faults = [SourceFault(source_faults.Kind.STALL, from_byte=from_byte)]
    tuning = IMPATIENT.model_copy(update={"attempts": 2})
    with pytest.raises(SourceUnavailable, match=r"model\.safetensors: no byte came for 1 s"):
        Builder(bucket, registry_3, tuning, url=fault_proxy.url).build(repository=repository)
    assert_untagged(registry_3, repository)


@pytest.mark.parametrize("size", [1000, 24 * MIB])
def test_an_object_that_changes_after_the_plan(size: int, bucket: Bucket, registry: Registry, fault_proxy: FaultProxy) -> None:
    repository = new_repository()
    bucket.put({"model.safetensors": os.urandom(size)})
    fault_proxy.before_first_fetch = lambda: bucket.put({"model.safetensors": os.urandom(size)})
    with pytest.raises(SourceChanged):
        Builder(bucket, registry, url=fault_proxy.url).build(repository=repository)
    assert_untagged(registry, repository)


def test_a_read_only_registry(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put({"a": b"1"})
    read_only = {"storage": {"maintenance": {"readonly": {"enabled": True}}}}
    for kind in KINDS:
        with running_registry(kind, tmp_path / kind, settings=read_only) as registry, pytest.raises(RegistryRefused, match="read-only"):
            Builder(bucket, registry).build()


def test_names_that_delete_are_refused(bucket: Bucket, registry_3: Registry) -> None:
    bucket.put({".wh.config.json": b"{}", "a": b"1"})
    with pytest.raises(Refused, match="deletes files in an image"):
        Builder(bucket, registry_3).build(repository=new_repository())


#: The builder as a process of its own, to be killed: reads its request on standard input.
DRIVER = """
import sys
from modelyard.modelcar.build import build_layers
from modelyard.modelcar.publish import publish
from modelyard.modelcar.resolve import read_facts
from modelyard.modelcar.tuning import Tuning
from modelyard.oci.access import Access, Keychain
from modelyard.plans.modelcar import ModelcarRequest, plan_modelcar
from modelyard.sources.s3 import S3Source, s3_client
request = ModelcarRequest.model_validate_json(sys.stdin.read())
keychain = Keychain(Access(request.image.host, plain_http=True))
source = S3Source(request.source, s3_client(request.source))
plan = plan_modelcar(request, read_facts(request, source, keychain))
built = build_layers(plan, source, keychain, Tuning(layers=1), lambda _: None, print)
print(publish(plan, built, keychain).model_dump_json(), built.read_bytes)
"""


def test_a_builder_killed_between_layers(bucket: Bucket, own_registry: Registry, fault_proxy: FaultProxy) -> None:
    """The next build, on any machine, sends only what was not finished: the registry tells which layers are."""
    files = {"model-1.safetensors": os.urandom(18 * MIB), "model-2.safetensors": os.urandom(17 * MIB), "config.json": b"{}"}
    bucket.put(files)
    fault_proxy.faults = [SourceFault(source_faults.Kind.STALL, target="model-2")]
    request = Builder(bucket, own_registry, url=fault_proxy.url).request()
    environment = {**os.environ, **bucket.server.environment()}
    with subprocess.Popen([sys.executable, "-c", DRIVER], cwd=REPOSITORY, stdin=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdin
        process.stdin.write(request.model_dump_json())
        process.stdin.close()
        try:
            deadline = time.monotonic() + 120
            # The largest comes first; that the second stalls keeps this one there.
            while get(own_registry.host, f"/v2/models/m/manifests/{unfinished_tag('v1')}")[0] != 200:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            process.kill()
    fault_proxy.faults = []
    assert_untagged(own_registry, "models/m")
    _, built = Builder(bucket, own_registry).build()
    assert {each.layer.files[0].path: each.action.value for each in built.layers} == {
        "config.json": "new",
        "model-1.safetensors": "reused",
        "model-2.safetensors": "new",
    }
    assert built.read_bytes == 17 * MIB + 2
    assert_modelcar(own_registry.host, "models/m", "v1", files)
    assert json.loads(get(own_registry.host, "/v2/models/m/tags/list")[2])["tags"] == ["v1"]


def test_a_layer_that_fails_stops_the_others(bucket: Bucket, registry: Registry, fault_proxy: FaultProxy) -> None:
    repository = new_repository()
    bucket.put({f"model-{number}.safetensors": os.urandom(20 * MIB) for number in range(3)})
    fault_proxy.faults = [SourceFault(source_faults.Kind.REFUSE, target="model-1")]
    made = Builder(bucket, registry, FEW_TRIES, url=fault_proxy.url)
    built: Built | None = None
    with pytest.raises(Exception, match="model-1"):
        built = made.layers(made.plan(repository=repository))
    assert built is None
    assert_untagged(registry, repository)
