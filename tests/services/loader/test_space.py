"""A volume that is too small, or becomes full: said with numbers, nothing published, and the next run goes on."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelyard.models import ModelRef
from modelyard.orders import RemoveSpec
from tests.services.fault_proxy import Fault, FaultProxy, Kind
from tests.services.loader.uploads import MIB
from tests.services.s3_fixtures import Bucket, Loader, assert_absent, assert_published


@pytest.fixture(params=["tmpfs", pytest.param("ext4", marks=pytest.mark.faults)])
def small_loader(request: pytest.FixtureRequest, loader: Loader, tmp_path: Path) -> Iterator[Loader]:
    """A loader whose volume has 64 MiB. Mounting needs root, which the tests' machine gives; without it this fails."""
    if request.param == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(loader.root)]
    else:
        image = tmp_path / "image"
        image.touch()
        os.truncate(image, 64 * MIB)
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", "-m", "0", str(image)], check=True)
        command = ["mount", "-o", "loop", str(image), str(loader.root)]
    subprocess.run(command, check=True)
    try:
        yield loader
    finally:
        subprocess.run(["umount", "-l", str(loader.root)], check=True)


def test_too_small_is_refused_before_the_first_byte(bucket: Bucket, small_loader: Loader) -> None:
    bucket.put({"large": bytes(70 * MIB)})
    small_loader.run(bucket.spec()).failed("NotEnoughSpace", "m@v1: needs 70.0 MiB and 0 B headroom", "are free", "larger claim")
    assert_absent(small_loader.root)
    assert not bucket.requests("GetObject", "HeadObject")


def test_headroom_is_kept_free(bucket: Bucket, small_loader: Loader) -> None:
    bucket.put({"large": bytes(30 * MIB)})
    small_loader.run(bucket.spec(headroom=40 * MIB)).failed("NotEnoughSpace", "needs 30.0 MiB and 40.0 MiB headroom")
    assert_absent(small_loader.root)
    small_loader.run(bucket.spec(headroom=20 * MIB)).succeeded()


def test_full_in_the_middle(bucket: Bucket, fault_proxy: FaultProxy, small_loader: Loader) -> None:
    """A neighbour fills the volume while the loader runs; when it is gone, only what is missing is fetched."""
    files = {f"part-{number}": os.urandom(6 * MIB) for number in range(4)} | {"small": b"small"}
    bucket.put(files)
    spec = bucket.spec(url=fault_proxy.url)
    fault_proxy.faults = [late := Fault(Kind.STALL, target="/part-[23]")]
    running = small_loader.start(spec, MODELYARD_LOADER_TRANSFERS="2", MODELYARD_LOADER_SYNC_BYTES="1")
    journal = small_loader.root / ".modelyard/staging/m/v1/journal.jsonl"
    running.wait_until(lambda: journal.exists() and {"part-0", "part-1"} <= {path for path in files if f'"{path}"' in journal.read_text()})
    neighbour = small_loader.root / "neighbour"
    fill(neighbour)
    late.lifted.set()
    run = running.wait()
    run.failed("NotEnoughSpace", "the volume became full", "nothing was published", "Free or add space and run the preload again")
    assert_absent(small_loader.root)
    whole = {path for path in files if f'"{path}"' in journal.read_text()}
    assert {"part-0", "part-1"} <= whole
    neighbour.unlink()
    result = small_loader.run(spec).succeeded()
    assert_published(small_loader.root, files)
    assert result["fetched_bytes"] == sum(len(body) for path, body in files.items() if path not in whole)
    assert result["resumed_bytes"] == sum(len(files[path]) for path in whole)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(MIB))
        except OSError:
            return


def test_what_is_staged_needs_no_room_twice(bucket: Bucket, small_loader: Loader) -> None:
    """40 of 64 MiB are there; the run that finishes them must not ask for 40 more."""
    files = {"a": os.urandom(20 * MIB), "b": os.urandom(20 * MIB)}
    bucket.put(files)
    spec = bucket.spec()
    small_loader.run(spec, MODELYARD_KILL_AT="before-fsync")
    small_loader.run(spec).succeeded()
    assert_published(small_loader.root, files)


def test_what_is_finished_gives_no_room(bucket: Bucket, small_loader: Loader) -> None:
    """Finished files take their room already; counting it as free would start a load that cannot end."""
    files = {"a": os.urandom(40 * MIB), "b": os.urandom(10 * MIB)}
    bucket.put(files)
    spec = bucket.spec()
    small_loader.run(spec, MODELYARD_KILL_AT="pending-written")
    (small_loader.root / ".modelyard/staging/m/v1/files/b").unlink()
    fill(small_loader.root / "neighbour")
    small_loader.run(spec).failed("NotEnoughSpace", "needs 10.0 MiB", "nothing was written")
    assert_absent(small_loader.root)


def test_a_version_is_removed_from_a_full_volume(bucket: Bucket, small_loader: Loader) -> None:
    bucket.put({"large": bytes(30 * MIB), "dir/small": b"small"})
    small_loader.run(bucket.spec()).succeeded()
    fill(small_loader.root / "neighbour")
    result = small_loader.run(RemoveSpec(model=ModelRef(name="m", version="v1"))).succeeded()
    assert result["freed_bytes"] == 30 * MIB + 5
    assert not (small_loader.root / "m").exists()
    stat = os.statvfs(small_loader.root)
    assert stat.f_bavail * stat.f_frsize >= 30 * MIB
