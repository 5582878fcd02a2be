"""What an inspection says of a volume: every state of a version, what is not ours, and all of it without a change."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from modelyard.loader.inspect import MAX_FOREIGN, look
from modelyard.loader.layout import Layout
from modelyard.models import FileRecord, Manifest, ModelRef, S3Location
from modelyard.orders import InspectSpec, LoadSpec, VersionState
from tests.services.loader.uploads import MIB
from tests.services.s3_fixtures import REPOSITORY, Bucket, Loader, Run

FILES = {"a": b"abc", "dir/b": b"bcde"}


@pytest.fixture
def published(bucket: Bucket, loader: Loader) -> LoadSpec:
    bucket.put(FILES)
    spec = bucket.spec()
    loader.run(spec).succeeded()
    return spec


def states(run: Run) -> dict[str, str]:
    run.succeeded()
    return {entry["path"]: entry["state"] for entry in run.entries}


def everything(root: Path) -> dict[str, tuple[int, ...]]:
    """Every name on the volume with what a change would change."""
    found: dict[str, tuple[int, ...]] = {}
    for path in (root, *root.rglob("*")):
        stat = path.lstat()
        found[str(path)] = (stat.st_ino, stat.st_mode, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    return found


def test_a_published_version(published: LoadSpec, loader: Loader) -> None:
    manifest = Manifest.model_validate_json((loader.root / ".modelyard/manifests/m/v1.json").read_bytes())
    before = everything(loader.root)
    run = loader.run(InspectSpec())
    [entry] = run.entries
    assert entry == {
        "event": "entry",
        "state": "ready",
        "path": "m/v1",
        "model": "m",
        "version": "v1",
        "digest": manifest.digest,
        "listing_digest": published.listing.digest,
        "source": published.source.uri,
        "files": 2,
        "bytes": 7,
        "created": manifest.created.isoformat(),
    }
    assert everything(loader.root) == before
    stat = os.statvfs(loader.root)
    space = run.succeeded()["space"]
    assert (space["total_bytes"], space["total_inodes"]) == (stat.f_blocks * stat.f_frsize, stat.f_files)
    assert 0 < space["free_bytes"] <= space["total_bytes"]


def test_an_empty_volume(loader: Loader) -> None:
    run = loader.run(InspectSpec())
    assert run.succeeded()["entries"]["count"] == len(run.entries) == 0
    assert list(loader.root.iterdir()) == []


def test_a_volume_that_is_not_there(loader: Loader) -> None:
    loader.root.rmdir()
    loader.run(InspectSpec()).failed("VolumeUnusable", str(loader.root), "is not there")


def test_a_volume_mounted_to_read(published: LoadSpec, loader: Loader) -> None:
    before = states(loader.run(InspectSpec()))
    subprocess.run(["mount", "--bind", "-o", "ro", str(loader.root), str(loader.root)], check=True)
    try:
        with pytest.raises(OSError, match="Read-only"):
            (loader.root / "x").touch()
        assert states(loader.run(InspectSpec())) == before == {f"{published.model.name}/v1": "ready"}
    finally:
        subprocess.run(["umount", str(loader.root)], check=True)


def unlink(root: Path) -> None:
    (root / "m/v1/a").unlink()


def shorten(root: Path) -> None:
    (root / "m/v1/a").write_bytes(b"ab")


def replace_by_link(root: Path) -> None:
    (root / "m/v1/a").unlink()
    (root / "m/v1/a").symlink_to("dir/b")


def move_away(root: Path) -> None:
    (root / "m/v1").rename(root.parent / "away")


def link_away(root: Path) -> None:
    move_away(root)
    (root / "m/v1").symlink_to(root.parent / "away")


def file_in_place(root: Path) -> None:
    move_away(root)
    (root / "m/v1").write_bytes(b"x")


def tamper(**fields: object) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        manifest = root / ".modelyard/manifests/m/v1.json"
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | fields))

    return change


def tear(root: Path) -> None:
    (root / ".modelyard/manifests/m/v1.json").write_text("{")


def pipe(root: Path) -> None:
    (root / ".modelyard/manifests/m/v1.json").unlink()
    os.mkfifo(root / ".modelyard/manifests/m/v1.json")


DAMAGES = [
    pytest.param(unlink, "1 of 2 files on the volume are not what was published: a is missing", id="missing file"),
    pytest.param(shorten, "a has 2 bytes, not 3", id="other size"),
    pytest.param(replace_by_link, "a is missing", id="link for a file"),
    pytest.param(move_away, "2 of 2 files", id="no directory"),
    pytest.param(link_away, "is a symbolic link", id="link for the directory"),
    pytest.param(file_in_place, "is no directory", id="file for the directory"),
    pytest.param(tear, "its manifest cannot be read", id="torn manifest"),
    pytest.param(pipe, "its manifest is no file", id="pipe for the manifest"),
    pytest.param(tamper(model="other"), "its manifest is that of other@v1", id="another's manifest"),
    pytest.param(tamper(digest="sha256:0"), "its digest is not that of its files", id="changed digest"),
    pytest.param(tamper(files=[]), "its digest is not that of its files", id="fewer files"),
]


@pytest.mark.parametrize(("damage", "told"), DAMAGES)
def test_a_damaged_version_spoils_no_other(damage: Callable[[Path], None], told: str, published: LoadSpec, loader: Loader) -> None:
    loader.run(published.model_copy(update={"model": ModelRef(name="n", version="v1")})).succeeded()
    damage(loader.root)
    run = loader.run(InspectSpec())
    assert states(run) == {"m/v1": "damaged", "n/v1": "ready"}
    assert told in run.entries[0]["problem"]


@pytest.mark.parametrize(
    ("point", "state", "path"),
    [
        ("before-fsync", "staging", ".modelyard/staging/m/v1"),
        ("pending-written", "staging", ".modelyard/staging/m/v1"),
        ("renamed", "publishing", "m/v1"),
        ("published", "ready", "m/v1"),
    ],
)
def test_a_load_that_was_killed(point: str, state: str, path: str, bucket: Bucket, loader: Loader) -> None:
    bucket.put({"a": bytes(MIB), "b": b"b"})
    spec = bucket.spec()
    loader.run(spec, MODELYARD_KILL_AT=point)
    run = loader.run(InspectSpec())
    assert states(run) == {path: state}
    [entry] = run.entries
    assert (entry["files"], entry["bytes"]) == (2, MIB + 1)
    assert entry.get("listing_digest") == (None if point == "before-fsync" else spec.listing.digest)
    assert (run.succeeded()["staged_bytes"] > MIB) == (state == "staging")


def test_what_another_version_has_too_is_not_counted_as_staged(bucket: Bucket, loader: Loader) -> None:
    bucket.put({"large": bytes(8 * MIB)})
    loader.run(bucket.spec()).succeeded()
    loader.run(bucket.spec("v2"), MODELYARD_KILL_AT="pending-written")
    run = loader.run(InspectSpec())
    assert states(run) == {"m/v1": "ready", ".modelyard/staging/m/v2": "staging"}
    assert run.succeeded()["staged_bytes"] < MIB


def test_trash_is_counted_and_a_half_removal_told(published: LoadSpec, loader: Loader) -> None:
    trash = loader.root / f".modelyard/trash/17-{published.model}"
    trash.parent.mkdir(exist_ok=True)
    markers = loader.root / ".modelyard/manifests/m"
    (markers / "v1.json").rename(markers / "v1.json.removing")
    run = loader.run(InspectSpec())
    assert (states(run), run.entries[0]["bytes"], run.succeeded()["trash_bytes"]) == ({"m/v1": "removing"}, 7, 0)
    (loader.root / "m/v1").rename(trash)
    (loader.root / "m/v1").mkdir()
    run = loader.run(InspectSpec())
    assert (states(run), run.entries[0]["bytes"]) == ({"m/v1": "removing"}, 7)
    assert run.entries[0]["digest"].startswith("sha256:")
    assert run.succeeded()["trash_bytes"] == sum(path.stat().st_blocks * 512 for path in trash.rglob("*") if path.is_file())
    (loader.root / "m/v1/theirs").touch()
    assert sorted(entry["state"] for entry in loader.run(InspectSpec()).entries) == ["foreign", "removing"]


def test_what_is_not_ours(published: LoadSpec, loader: Loader) -> None:
    root, outside = loader.root, loader.scratch / "outside"
    (outside / "v1").mkdir(parents=True)
    (outside / "v1/precious").write_bytes(b"precious")
    for empty in ("lost+found", ".snapshot/daily", "kubelet/v1", "m/kubelet", "bad name"):
        (root / empty).mkdir(parents=True)
    for file in (
        "lost+found/x",
        ".snapshot/daily/x",
        "top",
        "m/file",
        "m/v2/sub/x",
        "n/v1/x",
        "n/-bad/x",
        ".hidden/x",
        ".modelyard/manifests/odd",
    ):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(b"foreign")
    (root / ".modelyard/manifests/m/odd").write_bytes(b"")
    (root / "linked").symlink_to(outside)
    (root / os.fsdecode(b"not utf-8 \xff")).write_bytes(b"")
    (root / ".modelyard/staging/m/v2").mkdir(parents=True)
    before = everything(root)
    run = loader.run(InspectSpec())
    told = {entry["path"]: (entry.get("model"), entry["files"], entry["bytes"]) for entry in run.entries if entry["state"] == "foreign"}
    assert told == {
        "top": (None, 1, 7),
        "m/file": ("m", 1, 7),
        "m/v2": ("m", 1, 7),
        "n/v1": ("n", 1, 7),
        "n/-bad": (None, 1, 7),
        ".hidden": (None, 1, 7),
        ".modelyard/manifests/odd": (None, 1, 7),
        ".modelyard/manifests/m/odd": (None, 1, 0),
        "linked": (None, 0, 0),
        "not utf-8 \\xff": (None, 1, 0),
    }
    assert {entry["path"]: entry["state"] for entry in run.entries if entry["state"] != "foreign"} == {
        f"{published.model.name}/v1": "ready",
        ".modelyard/staging/m/v2": "staging",
    }
    assert everything(root) == before


@pytest.mark.parametrize("link", [".modelyard", ".modelyard/manifests/m", "m"])
def test_no_link_is_followed(link: str, published: LoadSpec, loader: Loader) -> None:
    place, outside = loader.root / link, loader.scratch / "outside"
    place.rename(outside)
    place.symlink_to(outside)
    run = loader.run(InspectSpec())
    assert all("bytes" not in entry or not entry["bytes"] for entry in run.entries if entry["path"] != f"{published.model.name}/v1")
    assert "foreign" in states(run).values()
    assert "ready" not in states(run).values()


def test_only_some_models(published: LoadSpec, loader: Loader) -> None:
    loader.run(published.model_copy(update={"model": ModelRef(name="n", version="v1")})).succeeded()
    (loader.root / "o/v1").mkdir(parents=True)
    (loader.root / "o/v1/x").touch()
    assert states(loader.run(InspectSpec(models=("n", "o")))) == {"n/v1": "ready", "o/v1": "foreign"}


@pytest.mark.parametrize("place", ["", "m"])
def test_a_volume_full_of_another_s_files(place: str, published: LoadSpec, loader: Loader) -> None:
    (loader.root / place).mkdir(exist_ok=True)
    for number in range(MAX_FOREIGN + 50):
        (loader.root / place / f"f{number}").touch()
    run = loader.run(InspectSpec())
    foreign = [entry for entry in run.entries if entry["state"] == "foreign"]
    assert len(foreign) == MAX_FOREIGN + 1
    assert (foreign[-1]["path"], foreign[-1]["problem"]) == (".", "50 more that are not listed")
    assert states(run)[f"{published.model.name}/v1"] == "ready"


def publish_by_hand(root: Path, version: str, count: int) -> None:
    (root / "m" / version).mkdir(parents=True)
    records = [FileRecord(path=f"f{number}", size=1, sha256="0" * 64) for number in range(count)]
    for record in records:
        (root / "m" / version / record.path).write_bytes(b"x")
    location = S3Location(bucket="bucket", prefix=version)
    manifest = Manifest.of(ModelRef(name="m", version=version), location, "sha256:0", records, datetime.now(UTC))
    marker = root / ".modelyard/manifests/m" / f"{version}.json"
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.write_text(manifest.model_dump_json(by_alias=True))


def test_five_hundred_versions(loader: Loader) -> None:
    for number in range(500):
        publish_by_hand(loader.root, f"v{number}", 100)
    run = loader.run(InspectSpec())
    assert set(states(run).values()) == {"ready"}
    assert sum(entry["files"] for entry in run.entries) == 50_000


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    publish_by_hand(tmp_path, "v1", 3)
    return Layout(tmp_path, ModelRef(name="m", version="v1"))


def steps_of(function: Callable[[], object], act: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Call ``function`` once for each of its looks at the volume, with ``act`` done right before that look."""
    real: dict[str, Any] = {"lstat": Path.lstat, "scandir": os.scandir}
    for step in range(1000):
        calls = 0

        def counted(name: str, *arguments: Any, at: int = step) -> Any:
            nonlocal calls
            calls += 1
            if calls == at + 1:
                act()
            return real[name](*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "lstat", lambda path, counted=counted: counted("lstat", path))
            patch.setattr(os, "scandir", lambda path, counted=counted: counted("scandir", path))
            function()
            patch.undo()
        if calls <= step:
            return
        yield step


@pytest.mark.parametrize("leaving", [True, False])
def test_a_version_that_comes_or_goes_at_any_look(layout: Layout, leaving: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    """The renames of a publish, and of a removal, done between any two looks: never damaged, never foreign, never an error."""
    seen: list[VersionState] = []
    layout.staging.mkdir(parents=True)
    layout.trash.mkdir()

    def go() -> None:
        if leaving:
            layout.manifest.rename(layout.removing)
            layout.target.rename(layout.trash / f"17-{layout.model}")
        else:
            layout.files.rename(layout.target)
            layout.pending.rename(layout.manifest)

    def back() -> None:
        for path in (layout.target, *layout.trashed()):
            if path.exists():
                path.rename(layout.target if leaving else layout.files)
        for path in (layout.manifest, layout.removing):
            if path.exists():
                path.rename(layout.manifest if leaving else layout.pending)

    back()
    for _ in steps_of(lambda: seen.extend(entry.state for entry in look(layout)), go, monkeypatch):
        back()
    assert len(seen) > 10
    assert set(seen) <= ({VersionState.READY, VersionState.REMOVING} if leaving else {VersionState.STAGING, VersionState.READY})


def test_what_may_not_be_read_is_told(published: LoadSpec, loader: Loader) -> None:
    """Not even by root, once it has lost the capability to read everything."""
    for path in (loader.root / "theirs/v1", loader.root / "m/v2"):
        path.mkdir(parents=True)
        (path / "x").touch()
    for closed in ("theirs", "m/v2", "m/v1/dir"):
        (loader.root / closed).chmod(0)
    command = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", sys.executable, "-m", "modelyard.loader"]
    command += ["inspect", "--spec", InspectSpec().model_dump_json(), "--root", str(loader.root)]
    said = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    told = {entry["path"]: (entry["state"], entry["problem"]) for line in said.splitlines() if "path" in (entry := json.loads(line))}
    denied = "cannot be read to its end (Permission denied)"
    assert told == {f"{published.model.name}/v1": ("damaged", denied), "theirs": ("foreign", denied), "m/v2": ("foreign", denied)}
