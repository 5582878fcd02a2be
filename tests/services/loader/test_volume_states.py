"""What the loader finds on the volume and did not put there: refused and left as it is, or replaced where that is safe."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from modelyard.orders import LoadSpec, RemoveSpec, VerifyLevel, VerifySpec
from tests.services.fault_proxy import FaultProxy
from tests.services.s3_fixtures import Bucket, Loader, assert_published, tree

FILES = {"a": b"abc", "dir/b": b"bcd"}


@pytest.fixture
def spec(bucket: Bucket) -> LoadSpec:
    bucket.put(FILES)
    return bucket.spec()


@pytest.fixture
def published(loader: Loader, spec: LoadSpec) -> LoadSpec:
    loader.run(spec).succeeded()
    return spec


def test_a_directory_of_someone_else(spec: LoadSpec, loader: Loader) -> None:
    target = loader.root / "m" / "v1"
    target.mkdir(parents=True)
    (target / "theirs").write_bytes(b"theirs")
    loader.run(spec).failed("VersionConflict", str(target), "holds files that Modelyard did not put there", "move the directory away")
    assert tree(loader.root / "m") == {"v1/theirs": tree(target)["theirs"]}
    assert not (loader.root / ".modelyard/manifests").exists()


def test_an_empty_directory_of_a_kubelet(spec: LoadSpec, loader: Loader) -> None:
    (loader.root / "m" / "v1").mkdir(parents=True)
    loader.run(spec).succeeded()
    assert_published(loader.root, FILES)


def test_a_file_at_the_target(spec: LoadSpec, loader: Loader) -> None:
    (loader.root / "m").mkdir()
    (loader.root / "m" / "v1").write_bytes(b"theirs")
    loader.run(spec).failed("VersionConflict", "is a file", "move it away")
    assert (loader.root / "m" / "v1").read_bytes() == b"theirs"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        pytest.param(lambda target: (target / "a").unlink(), "a is missing", id="missing file", marks=pytest.mark.faults),
        pytest.param(lambda target: (target / "a").write_bytes(b"abcd"), "a has 4 bytes, not 3", id="other size", marks=pytest.mark.faults),
        pytest.param(lambda target: (target / "a").write_bytes(b"abd"), "a has another SHA-256", id="other bytes"),
    ],
)
def test_a_damaged_version(damage: Callable[[Path], object], told: str, published: LoadSpec, loader: Loader) -> None:
    damage(loader.root / "m" / "v1")
    run = loader.run(published.model_copy(update={"verify": VerifyLevel.DIGESTS}))
    run.failed(
        "VolumeUnusable", "m@v1: 1 of 2 files", told, "repair the version (deployment verify-cache), or remove it and preload it again"
    )


@pytest.mark.parametrize("repair", [True, False])
def test_following_the_advice_loads_it_again(repair: bool, published: LoadSpec, bucket: Bucket, loader: Loader) -> None:  # noqa: FBT001
    (loader.root / "m/v1/a").unlink()
    loader.run(published).failed("VolumeUnusable", "verify-cache", "remove it")
    order = VerifySpec(repair=True, source=bucket.location(prefix="")) if repair else RemoveSpec(model=published.model)
    loader.run(order).succeeded()
    loader.run(published).succeeded()
    assert_published(loader.root, FILES)


def test_another_listing_for_a_published_version(published: LoadSpec, bucket: Bucket, loader: Loader) -> None:
    before = tree(loader.root)
    bucket.put({"a": b"other"})
    changed = bucket.spec()
    loader.run(changed).failed("VersionConflict", published.listing.digest, changed.listing.digest, "under a new version")
    assert tree(loader.root) == before


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("{", id="torn"),
        pytest.param("", id="empty", marks=pytest.mark.faults),
        pytest.param('{"schemaVersion": 2}', id="other schema", marks=pytest.mark.faults),
        pytest.param("\x00\x00", id="zeros", marks=pytest.mark.faults),
    ],
)
def test_an_unreadable_manifest(text: str, published: LoadSpec, loader: Loader) -> None:
    manifest = loader.root / ".modelyard/manifests/m/v1.json"
    manifest.write_text(text)
    loader.run(published).failed("VolumeUnusable", str(manifest), "is not a readable manifest", "remove it")
    assert (loader.root / "m/v1/a").read_bytes() == b"abc"


LINKS = [
    "m",
    "m/v1",
    ".modelyard",
    ".modelyard/locks",
    ".modelyard/locks/m@v1.lock",
    ".modelyard/manifests",
    ".modelyard/manifests/m",
    ".modelyard/manifests/m/v1.json",
    ".modelyard/staging",
    ".modelyard/staging/m",
    ".modelyard/staging/m/v1",
    ".modelyard/staging/m/v1/files",
    ".modelyard/staging/m/v1/journal.jsonl",
]
FIRST = LINKS[::5]


@pytest.mark.parametrize("link", FIRST)
def test_a_planted_link_is_not_followed(link: str, spec: LoadSpec, loader: Loader, tmp_path: Path) -> None:
    plant_and_load(link, "directory", spec, loader, tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("end", ["directory", "file", "nothing"])
def test_no_planted_link_is_followed(link: str, end: str, spec: LoadSpec, loader: Loader, tmp_path: Path) -> None:
    plant_and_load(link, end, spec, loader, tmp_path)


def plant_and_load(link: str, end: str, spec: LoadSpec, loader: Loader, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"precious")
    planted = loader.root / link
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.symlink_to({"directory": outside, "file": outside / "precious", "nothing": outside / "made"}[end])
    loader.run(spec).failed("VolumeUnusable", str(planted), "is a symbolic link", "remove it")
    assert tree(outside) == {"precious": tree(outside)["precious"]}
    assert [path.name for path in outside.iterdir()] == ["precious"]


@pytest.mark.parametrize("link", ["a", "dir"])
def test_a_link_among_the_staged_files_is_replaced(link: str, spec: LoadSpec, loader: Loader, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "b").write_bytes(b"precious")
    staged = loader.root / ".modelyard/staging/m/v1/files"
    staged.mkdir(parents=True)
    (staged / link).symlink_to(outside / "b" if link == "a" else outside)
    loader.run(spec).succeeded()
    assert_published(loader.root, FILES)
    assert (outside / "b").read_bytes() == b"precious"


def test_leftovers_of_another_listing_are_not_published(spec: LoadSpec, loader: Loader) -> None:
    staged = loader.root / ".modelyard/staging/m/v1/files"
    (staged / "old" / "deep").mkdir(parents=True)
    (staged / "old" / "file").write_bytes(b"old")
    (staged / "a").mkdir()  # a directory where a file belongs now
    (staged / "a" / "x").write_bytes(b"x")
    (staged / "dir").write_bytes(b"a file where a directory belongs now")
    loader.run(spec).succeeded()
    assert_published(loader.root, FILES)


def test_two_loaders_at_once(bucket: Bucket, spec: LoadSpec, fault_proxy: FaultProxy, loader: Loader) -> None:
    """A pod of a node that came back from the dead meets its successor."""
    held = threading.Event()
    fault_proxy.before_first_fetch = lambda: held.wait(60)
    first = loader.start(bucket.spec(url=fault_proxy.url))
    first.wait_until(lambda: any("/m/v1/" in line for line in fault_proxy.passed))  # a list has it escaped
    second = loader.run(spec)
    held.set()
    second.failed("LoaderInterrupted", "m@v1: another loader is writing this version", code=75)
    assert second.message["delay"] > 0
    first.wait().succeeded()
    assert_published(loader.root, FILES)


def test_a_volume_that_is_not_there(spec: LoadSpec, loader: Loader) -> None:
    loader.root.rmdir()
    run = loader.run(spec)
    run.failed("VolumeUnusable", str(loader.root), "is not there")
    assert not loader.root.exists()


def test_a_read_only_volume_says_so(spec: LoadSpec, loader: Loader) -> None:
    loader.root = Path("/proc/self")  # nothing can be made there, even by root
    loader.run(spec).failed("VolumeUnusable", "/proc/self")
