"""A removal: the version is gone or untouched, wherever it is killed, and nothing of anybody else's goes with it."""

import fcntl
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from modelyard.loader.killpoints import REMOVAL_POINTS
from modelyard.models import Manifest, ModelRef
from modelyard.orders import InspectSpec, LoadSpec, RemoveSpec
from tests.services.fault_proxy import Fault, FaultProxy, Kind
from tests.services.s3_fixtures import Bucket, Loader, Run, assert_absent, assert_published, tree

FILES = {"a": b"abc", "dir/b": b"bcde"}
REF = ModelRef(name="m", version="v1")
REMOVE = RemoveSpec(model=REF)


@pytest.fixture
def spec(bucket: Bucket) -> LoadSpec:
    bucket.put(FILES)
    return bucket.spec()


@pytest.fixture
def published(loader: Loader, spec: LoadSpec) -> LoadSpec:
    loader.run(spec).succeeded()
    return spec


def digest_of(loader: Loader, version: str = "v1") -> str:
    return Manifest.model_validate_json((loader.root / f".modelyard/manifests/m/{version}.json").read_bytes()).digest


def counted(run: Run) -> tuple[bool, int, int, int]:
    result = run.succeeded()
    return result["found"], result["files"], result["bytes"], result["freed_bytes"]


def assert_nothing_left(root: Path) -> None:
    """Not a directory of the model, and of ours only the empty ones and the locks."""
    assert not (root / "m").exists()
    files = {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}
    assert {file for file in files if not file.startswith(".modelyard/locks/")} == set()
    assert not (root / ".modelyard/manifests/m").exists()
    assert not (root / ".modelyard/staging/m").exists()
    assert not list((root / ".modelyard/trash").glob("*"))


@pytest.mark.parametrize("with_digest", [True, False])
def test_a_published_version(with_digest: bool, published: LoadSpec, loader: Loader) -> None:  # noqa: FBT001
    (loader.root / "other").mkdir()
    run = loader.run(RemoveSpec(model=published.model, digest=digest_of(loader) if with_digest else None))
    assert counted(run) == (True, 2, 7, 7)
    assert_nothing_left(loader.root)
    assert (loader.root / "other").is_dir()
    assert counted(loader.run(REMOVE)) == (False, 0, 0, 0)
    loader.run(published).succeeded()
    assert_published(loader.root, FILES)


@pytest.mark.parametrize("point", REMOVAL_POINTS)
@pytest.mark.parametrize("then", ["remove", "preload", pytest.param("remove with digest", marks=pytest.mark.faults)])
def test_killed_at(point: str, then: str, published: LoadSpec, loader: Loader) -> None:
    """A next removal finishes it, and so does a preload before it loads."""
    order = RemoveSpec(model=REF, digest=digest_of(loader) if then == "remove with digest" else None)
    assert loader.run(order, MODELYARD_KILL_AT=point).code == -signal.SIGKILL
    assert not (loader.root / ".modelyard/manifests/m/v1.json").exists()
    told = [(entry["state"], entry["path"]) for entry in loader.run(InspectSpec()).entries]
    assert told == ([] if point == "unmarked" else [("removing", "m/v1")])
    if then == "preload":
        run = loader.run(published)
        assert "removal was stopped half-way" in run.output
        assert run.succeeded()["fetched_bytes"] == 7
        assert_published(loader.root, FILES)
        assert not list((loader.root / ".modelyard/trash").iterdir())
        assert counted(loader.run(REMOVE)) == (True, 2, 7, 7)
    else:
        assert loader.run(order).succeeded()["found"]
    assert_nothing_left(loader.root)


@pytest.mark.parametrize("first", REMOVAL_POINTS)
@pytest.mark.faults
def test_killed_again_and_again(first: str, published: LoadSpec, loader: Loader) -> None:
    for point in (first, *REMOVAL_POINTS):
        loader.run(REMOVE, MODELYARD_KILL_AT=point)
        assert_absent_or_marked(loader.root)
    loader.run(REMOVE).succeeded()
    assert_nothing_left(loader.root)
    loader.run(published).succeeded()
    assert_published(loader.root, FILES)


def assert_absent_or_marked(root: Path) -> None:
    assert not (root / ".modelyard/manifests/m/v1.json").exists()
    assert not (root / "m/v1").exists() or (root / ".modelyard/manifests/m/v1.json.removing").exists()


@pytest.mark.parametrize("point", ["moved", "unstaged", "deleting", "deleted"])
def test_what_comes_into_the_place_of_a_half_removed_version_is_not_ours(point: str, published: LoadSpec, loader: Loader) -> None:
    assert loader.run(REMOVE, MODELYARD_KILL_AT=point).code == -signal.SIGKILL
    theirs = loader.root / "m/v1/theirs"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"theirs")
    assert loader.run(REMOVE).succeeded()["found"]
    assert theirs.read_bytes() == b"theirs"
    assert not list((loader.root / ".modelyard/trash").iterdir())
    for order in (REMOVE, published):
        loader.run(order).failed("VersionConflict", "holds files that Modelyard did not put there")
    assert theirs.read_bytes() == b"theirs"


@pytest.mark.parametrize("point", ["before-fsync", "pending-written", "renamed", "published"])
@pytest.mark.parametrize("killed", [None, *(pytest.param(point, marks=pytest.mark.faults) for point in REMOVAL_POINTS)])
def test_a_load_that_was_killed(point: str, killed: str | None, spec: LoadSpec, loader: Loader) -> None:
    assert loader.run(spec, MODELYARD_KILL_AT=point).code == -signal.SIGKILL
    if killed:
        loader.run(REMOVE, MODELYARD_KILL_AT=killed)
        loader.run(REMOVE).succeeded()
    else:
        assert counted(loader.run(REMOVE)) == (True, 2, 7, 7)
    assert_nothing_left(loader.root)


def test_what_is_staged_has_no_digest(spec: LoadSpec, loader: Loader) -> None:
    assert loader.run(spec, MODELYARD_KILL_AT="pending-written").code == -signal.SIGKILL
    before = tree(loader.root)
    assert counted(loader.run(RemoveSpec(model=REF, digest="sha256:0"))) == (False, 0, 0, 0)
    assert tree(loader.root).items() >= before.items()


def test_another_digest(published: LoadSpec, loader: Loader) -> None:
    before = tree(loader.root)
    digest = digest_of(loader)
    run = loader.run(RemoveSpec(model=published.model, digest="sha256:0"))
    run.failed("VersionConflict", "sha256:0", digest, "nothing was changed", "by this digest, or without one")
    assert tree(loader.root) == before


def test_a_neighbour_keeps_what_it_shares(bucket: Bucket, loader: Loader) -> None:
    first = {"shared": os.urandom(1000), "own": b"own"}
    second = first | {"own": b"other"}
    bucket.put(first)
    loader.run(bucket.spec()).succeeded()
    bucket.put(second, prefix="m/v2/")
    assert loader.run(bucket.spec("v2", "m/v2")).succeeded()["linked_bytes"] == 1000
    assert counted(loader.run(REMOVE)) == (True, 2, 1003, 3)
    assert_absent(loader.root)
    assert_published(loader.root, second, "v2")
    assert counted(loader.run(RemoveSpec(model=ModelRef(name="m", version="v2")))) == (True, 2, 1005, 1005)
    assert_nothing_left(loader.root)


def test_names_that_look_alike(published: LoadSpec, loader: Loader) -> None:
    """The trash of a-b@c is not that of a@b-c."""
    one, other = ModelRef(name="a-b", version="c"), ModelRef(name="a", version="b-c")
    for ref in (one, other):
        loader.run(published.model_copy(update={"model": ref})).succeeded()
    assert loader.run(RemoveSpec(model=one), MODELYARD_KILL_AT="moved").code == -signal.SIGKILL
    loader.run(RemoveSpec(model=other)).succeeded()
    [trashed] = (loader.root / ".modelyard/trash").iterdir()
    assert trashed.name.endswith("-a-b@c")
    assert tree(trashed) == tree(loader.root / "m/v1")


def test_a_reader_with_an_open_file_reads_on(bucket: Bucket, loader: Loader) -> None:
    body = os.urandom(4_000_000)
    bucket.put({"weights": body})
    loader.run(bucket.spec()).succeeded()
    with (loader.root / "m/v1/weights").open("rb", buffering=0) as reader:
        start = reader.read(1_000_000)
        loader.run(REMOVE).succeeded()
        assert_nothing_left(loader.root)
        assert start + reader.readall() == body


@pytest.mark.parametrize("killed", [None, "unmarked"])
def test_an_open_file_on_nfs(killed: str | None, published: LoadSpec, loader: Loader) -> None:
    """An NFS client renames what is open to .nfs*, and says EBUSY when that is to be removed; a mount point says so as well."""
    silly = "dir/.nfs000000000000002a00000001"
    (loader.root / "m/v1" / silly).write_bytes(b"open")
    assert loader.run(REMOVE, MODELYARD_KILL_AT="moved").code == -signal.SIGKILL
    [trashed] = (loader.root / ".modelyard/trash").iterdir()
    subprocess.run(["mount", "--bind", str(trashed / silly), str(trashed / silly)], check=True)
    mounted = trashed / silly
    try:
        if killed:
            assert loader.run(REMOVE, MODELYARD_KILL_AT=killed).code == -signal.SIGKILL
        run = loader.run(REMOVE)
        assert run.succeeded()["found"]
        assert "still open on this node" in run.output
        mounted = trashed.with_name(f"{trashed.name.partition('-')[0]}.open") / silly
        assert mounted.read_bytes() == b"open"
        loader.run(published).succeeded()
        assert_published(loader.root, FILES)
        assert counted(loader.run(REMOVE)) == (True, 2, 7, 7)
        assert tree(loader.root / ".modelyard/trash").keys() == {str(mounted.relative_to(loader.root / ".modelyard/trash"))}
    finally:
        subprocess.run(["umount", str(mounted)], check=True)
    loader.run(REMOVE).succeeded()
    assert_nothing_left(loader.root)


@pytest.mark.parametrize("content", ["directory", "file"])
def test_what_is_not_ours_is_refused(content: str, loader: Loader) -> None:
    target = loader.root / "m/v1"
    theirs = target / "sub/theirs" if content == "directory" else target
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"theirs")
    loader.run(REMOVE).failed("VersionConflict", str(target), "did not put there", "nothing was changed")
    assert theirs.read_bytes() == b"theirs"


def test_an_empty_directory_of_a_kubelet_stays(loader: Loader) -> None:
    (loader.root / "m/v1").mkdir(parents=True)
    assert counted(loader.run(REMOVE)) == (False, 0, 0, 0)
    assert (loader.root / "m/v1").is_dir()


def lose_a_file(root: Path) -> None:
    (root / "m/v1/a").unlink()


def lose_all(root: Path) -> None:
    (root / "m/v1").rename(root.parent / "away")


def file_in_place(root: Path) -> None:
    lose_all(root)
    (root / "m/v1").write_bytes(b"x")


def tear(root: Path) -> None:
    (root / ".modelyard/manifests/m/v1.json").write_text("{")


def plant(root: Path) -> None:
    (root.parent / "precious").mkdir()
    (root.parent / "precious/file").write_bytes(b"precious")
    (root / "m/v1/file").symlink_to(root.parent / "precious/file")
    (root / "m/v1/dir/directory").symlink_to(root.parent / "precious")
    os.mkfifo(root / "m/v1/pipe")


@pytest.mark.parametrize("damage", [lose_a_file, lose_all, file_in_place, tear, plant])
@pytest.mark.parametrize("killed", [None, *(pytest.param(point, marks=pytest.mark.faults) for point in REMOVAL_POINTS)])
def test_a_damaged_version(damage: Callable[[Path], None], killed: str | None, published: LoadSpec, loader: Loader) -> None:
    damage(loader.root)
    if killed:
        loader.run(RemoveSpec(model=published.model), MODELYARD_KILL_AT=killed)
    assert loader.run(REMOVE).succeeded()["found"] or killed
    assert_nothing_left(loader.root)
    if damage is plant:
        assert tree(loader.root.parent / "precious").keys() == {"file"}


def test_a_digest_that_cannot_be_read(published: LoadSpec, loader: Loader) -> None:
    digest = digest_of(loader)
    tear(loader.root)
    before = tree(loader.root)
    loader.run(RemoveSpec(model=published.model, digest=digest)).failed("VersionConflict", "manifest cannot be read", "without a digest")
    assert tree(loader.root) == before


LINKS = [
    "m",
    "m/v1",
    ".modelyard",
    ".modelyard/locks/m@v1.lock",
    ".modelyard/locks/m.lock",
    ".modelyard/manifests/m",
    ".modelyard/manifests/m/v1.json",
    ".modelyard/manifests/m/v1.json.removing",
    ".modelyard/trash",
    ".modelyard/staging/m/v1",
]


@pytest.mark.parametrize("link", [*LINKS[::4], *(pytest.param(link, marks=pytest.mark.faults) for link in LINKS)])
def test_no_planted_link_is_followed(link: str, published: LoadSpec, loader: Loader) -> None:
    planted, outside = loader.root / link, loader.root.parent / "outside"
    if planted.exists():
        planted.rename(outside)
    else:
        outside.mkdir()
        (outside / "precious").write_bytes(b"precious")
        planted.parent.mkdir(parents=True, exist_ok=True)
    planted.symlink_to(outside)
    before = tree(loader.root.parent)
    kept = {path: told for path, told in before.items() if path.startswith(("volume", "outside"))}
    loader.run(RemoveSpec(model=published.model)).failed("VolumeUnusable", str(planted), "is a symbolic link", "remove it")
    assert tree(loader.root.parent).items() >= kept.items()


def test_a_load_under_way_holds_it_off(bucket: Bucket, fault_proxy: FaultProxy, loader: Loader) -> None:
    bucket.put(FILES)
    fault_proxy.faults = [Fault(Kind.STALL, target="/a")]
    running = loader.start(bucket.spec(url=fault_proxy.url))
    running.wait_until((loader.root / ".modelyard/staging/m/v1").exists)
    run = loader.run(REMOVE)
    run.failed("LoaderInterrupted", "m@v1: another loader", code=75)
    fault_proxy.faults = []
    running.process.terminate()
    running.wait()
    loader.run(bucket.spec()).succeeded()
    assert_published(loader.root, FILES)


def test_directories_that_a_load_is_about_to_use_stay(bucket: Bucket, fault_proxy: FaultProxy, loader: Loader) -> None:
    """The last version of a model goes while another one is loaded."""
    bucket.put(FILES)
    loader.run(bucket.spec()).succeeded()
    bucket.put({"stalled": b"stalled"}, prefix="m/v2/")
    fault_proxy.faults = [Fault(Kind.STALL, target="/stalled")]
    running = loader.start(bucket.spec("v2", "m/v2", url=fault_proxy.url))
    running.wait_until(lambda: any("/stalled" in line for line in fault_proxy.passed))
    loader.run(REMOVE).succeeded()
    assert (loader.root / "m").is_dir()
    assert (loader.root / ".modelyard/manifests/m").is_dir()
    fault_proxy.faults = []
    running.process.terminate()
    running.wait()
    loader.run(RemoveSpec(model=ModelRef(name="m", version="v2"))).succeeded()
    assert_nothing_left(loader.root)


def test_a_shared_lock_of_the_model_is_respected(published: LoadSpec, loader: Loader) -> None:
    with (loader.root / ".modelyard/locks/m.lock").open("a+") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        loader.run(RemoveSpec(model=published.model)).succeeded()
        assert (loader.root / "m").is_dir()
    assert_absent(loader.root)


def test_left_over_trash_of_the_same_version_goes_too(published: LoadSpec, loader: Loader) -> None:
    trash = loader.root / ".modelyard/trash"
    for name in ("16-m@v1", "17-m@v1", "17-m@v10", "17-n@v1"):
        (trash / name).mkdir(parents=True)
        (trash / name / "old").write_bytes(b"old")
    assert counted(loader.run(RemoveSpec(model=published.model))) == (True, 4, 13, 13)
    assert sorted(path.name for path in trash.iterdir()) == ["17-m@v10", "17-n@v1"]


def test_a_volume_that_does_not_let_it(published: LoadSpec, loader: Loader) -> None:
    """A file that nobody may delete, as a broken volume has: the version is not usable, and the next removal goes on."""
    stuck = loader.root / "m/v1/a"
    subprocess.run(["chattr", "+i", str(stuck)], check=True)
    run = loader.run(RemoveSpec(model=published.model))
    [trashed] = (loader.root / ".modelyard/trash").iterdir()
    subprocess.run(["chattr", "-i", str(trashed / "a")], check=True)
    run.failed("VolumeUnusable", "Operation not permitted", "it goes on where it stopped")
    assert json.loads((loader.root / ".modelyard/manifests/m/v1.json.removing").read_text())["version"] == "v1"
    assert loader.run(REMOVE).succeeded()["found"]
    assert_nothing_left(loader.root)


def test_a_volume_that_is_not_there(loader: Loader) -> None:
    loader.root.rmdir()
    loader.run(REMOVE).failed("VolumeUnusable", str(loader.root), "is not there")
    assert not loader.root.exists()
