"""What another version of the model has already is linked, never fetched twice, and never written through."""

import json
import os
import signal
from collections.abc import Iterator

import pytest

from modelyard.errors import SourceUnavailable
from modelyard.loader.killpoints import POINTS
from modelyard.loader.link import _Asked
from modelyard.models import Checksum, FileRecord, SourceFile
from modelyard.sources.base import Done, Sink, Transfer
from tests.services.loader.uploads import MIB
from tests.services.s3_fixtures import Bucket, Loader, assert_published, tree


@pytest.fixture
def first(bucket: Bucket, loader: Loader) -> dict[str, bytes]:
    """Version v1, published."""
    files = {"config.json": b"{}", "weights/a": os.urandom(9 * MIB), "weights/b": os.urandom(1000), "empty": b""}
    bucket.put(files)
    loader.run(bucket.spec()).succeeded()
    return files


def put_second(bucket: Bucket, first: dict[str, bytes]) -> dict[str, bytes]:
    second = first | {"weights/b": os.urandom(1000)}
    bucket.put(second, prefix="m/v2/")
    return second


def test_only_the_changed_file_is_fetched(bucket: Bucket, loader: Loader, first: dict[str, bytes]) -> None:
    second = put_second(bucket, first)
    before = len(bucket.requests("GetObject"))
    result = loader.run(bucket.spec("v2", "m/v2")).succeeded()
    assert_published(loader.root, second, "v2")
    assert_published(loader.root, first, "v1")
    assert (result["fetched_bytes"], result["linked_bytes"]) == (1000, 9 * MIB + 2)
    assert [request.key for request in bucket.requests("GetObject")[before:]] == ["m/v2/weights/b"]
    same = [path for path in first if (loader.root / "m/v1" / path).samefile(loader.root / "m/v2" / path)]
    assert sorted(same) == ["config.json", "weights/a"]


@pytest.mark.parametrize("rotted", [False, True])
def test_versions_of_a_versioned_bucket(rotted: bool, versioned_bucket: Bucket, loader: Loader) -> None:  # noqa: FBT001
    """Under another prefix the same bytes have another VersionId; their checksum and ETag tell that they are the same."""
    first = {"same": os.urandom(9 * MIB), "changed": os.urandom(1000)}
    second = first | {"changed": os.urandom(1000)}
    versioned_bucket.put(first)
    loader.run(versioned_bucket.spec()).succeeded()
    versioned_bucket.put(second, prefix="m/v2/")
    heads = len(versioned_bucket.requests("HeadObject"))
    origin = loader.root / "m/v1/same"
    if rotted:
        origin.write_bytes(bytes(9 * MIB))
    run = loader.run(versioned_bucket.spec("v2", "m/v2"))
    assert run.succeeded()["linked_bytes"] == (0 if rotted else 9 * MIB)
    manifest = assert_published(loader.root, second, "v2")
    assert origin.samefile(loader.root / "m/v2/same") != rotted
    assert ("m/v1/same: is not what was published" in run.output) == rotted
    if not rotted:
        assert [request.key for request in versioned_bucket.requests("HeadObject")[heads:]] == ["m/v2/same"]
        head = versioned_bucket.client.head_object(Bucket=versioned_bucket.name, Key="m/v2/same")
        assert {record.path: record.version_id for record in manifest.files}["same"] == head["VersionId"]


def test_a_source_that_does_not_answer_links_nothing() -> None:
    """Size and ETag alone are no proof, and one failed question is the last."""

    class Silent:
        asked = 0

        def list(self) -> Iterator[SourceFile]:
            raise AssertionError

        def stat(self, file: SourceFile) -> Checksum | None:
            self.asked += 1
            raise SourceUnavailable(file.path)

        def fetch(self, file: SourceFile, sink: Sink, start: int, done: Done) -> Transfer:
            raise AssertionError(file, sink, start, done)

    source = Silent()
    asked = _Asked(source)
    crc, md5 = Checksum(algorithm="CRC32", value="x"), Checksum(algorithm="MD5", value="y")
    for checksum, etag in ((md5, "e"), (None, "e"), (crc, "other"), (crc, "e"), (crc, "e")):
        record = FileRecord(path="a", size=1, sha256="0", etag=etag, checksum=checksum)
        assert not asked.same_bytes(record, SourceFile("a", 1, etag="e"))
    assert source.asked == 1


@pytest.mark.parametrize("point", [pytest.param(point, marks=[] if point == "before-fsync" else pytest.mark.faults) for point in POINTS])
def test_a_killed_run_never_writes_through_a_link(point: str, bucket: Bucket, loader: Loader, first: dict[str, bytes]) -> None:
    second = put_second(bucket, first)
    before = tree(loader.root / "m" / "v1")
    spec = bucket.spec("v2", "m/v2")
    assert loader.run(spec, MODELYARD_KILL_AT=point).code in {-signal.SIGKILL, 0}
    journal = loader.root / ".modelyard/staging/m/v2/journal.jsonl"
    journal.unlink(missing_ok=True)  # the worst: linked files that no line speaks of, fetched or linked anew
    loader.run(spec).succeeded()
    assert tree(loader.root / "m" / "v1") == before
    assert_published(loader.root, second, "v2")


def test_a_changed_object_is_never_written_through_its_link(bucket: Bucket, loader: Loader, first: dict[str, bytes]) -> None:
    """A half-done v2 links v1's file; then the object changes, and v2 is planned anew."""
    put_second(bucket, first)
    before = tree(loader.root / "m" / "v1")
    assert loader.run(bucket.spec("v2", "m/v2"), MODELYARD_KILL_AT="before-fsync").code == -signal.SIGKILL
    bucket.put({"weights/a": b"z" * 9 * MIB, "config.json": b"[]"}, prefix="m/v2/")
    loader.run(bucket.spec("v2", "m/v2")).succeeded()
    assert tree(loader.root / "m" / "v1") == before
    assert (loader.root / "m/v2/weights/a").read_bytes() == b"z" * 9 * MIB


@pytest.mark.parametrize("model", ["../outside", "/etc", "other"])
def test_a_manifest_that_names_another_place_is_not_believed(model: str, bucket: Bucket, loader: Loader, first: dict[str, bytes]) -> None:
    """What it names lies outside of the volume, or belongs to another model."""
    second, path = put_second(bucket, first), loader.root / ".modelyard/manifests/m/v1.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model": model}))
    copy = loader.root / "m/v1"
    if model == "../outside":
        copy.rename(loader.root.parent / "v1-outside")
        (loader.root.parent / "outside").mkdir()
        (loader.root.parent / "v1-outside").rename(loader.root.parent / "outside" / "v1")
    assert loader.run(bucket.spec("v2", "m/v2")).succeeded()["linked_bytes"] == 0
    assert_published(loader.root, second, "v2")


def test_a_pipe_in_a_manifests_place_is_not_waited_for(bucket: Bucket, loader: Loader, first: dict[str, bytes]) -> None:
    second, path = put_second(bucket, first), loader.root / ".modelyard/manifests/m/v1.json"
    path.unlink()
    os.mkfifo(path)
    assert loader.run(bucket.spec("v2", "m/v2")).succeeded()["linked_bytes"] == 0
    assert_published(loader.root, second, "v2")


@pytest.mark.parametrize(
    "damage",
    [
        "other bytes",
        "unreadable manifest",
        *(pytest.param(damage, marks=pytest.mark.faults) for damage in ("other size", "a link", "missing")),
    ],
)
def test_a_damaged_version_is_not_linked_from(damage: str, bucket: Bucket, loader: Loader, first: dict[str, bytes]) -> None:
    second = put_second(bucket, first)
    origin = loader.root / "m/v1/weights/a"
    match damage:
        case "other size":
            origin.write_bytes(b"short")
        case "other bytes":
            origin.write_bytes(bytes(9 * MIB))
        case "a link":
            origin.rename(loader.root / "elsewhere")
            origin.symlink_to(loader.root / "elsewhere")
        case "missing":
            origin.unlink()
        case _:
            (loader.root / ".modelyard/manifests/m/v1.json").write_text("{")
    loader.run(bucket.spec("v2", "m/v2")).succeeded()
    assert_published(loader.root, second, "v2")
