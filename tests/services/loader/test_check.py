"""A storage check on real file systems: this machine's own, a small one, a read-only one, and one that lacks some."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelyard.loader.probes import file_system_of
from modelyard.storage_orders import Ability, CheckSpec, CheckStep
from tests.services.s3_fixtures import REPOSITORY, Loader, Run, tree

NONCE = "0123456789abcdef"
MIB = 1024 * 1024
WHILE_WRITING = {ability.value for ability in Ability} - {Ability.VISIBLE.value, Ability.CLEAN.value}


def step(which: CheckStep, **fields: Any) -> CheckSpec:
    return CheckSpec.model_validate({"step": which, "nonce": NONCE, "bytes": 8 * MIB, **fields})


def lacks(run: Run) -> dict[str, str]:
    return {each["ability"]: each["seen"] for each in run.succeeded()["lacks"]}


@contextmanager
def mounted(loader: Loader, *options: str) -> Iterator[Loader]:
    """The loader beside an ext4 of 64 MiB."""
    image = loader.scratch / "image"
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True, capture_output=True)
    subprocess.run(["mount", "-o", ",".join(("loop", *options)), image, loader.root], check=True)
    try:
        yield loader
    finally:
        subprocess.run(["umount", loader.root], check=True)


def test_a_sound_volume_does_everything_and_is_left_as_it_was(loader: Loader) -> None:
    with mounted(loader):
        before = sorted(loader.root.rglob("*"))
        written = loader.run(step(CheckStep.WRITE)).succeeded()
        assert (set(written["works"]), written["lacks"]) == (WHILE_WRITING, [])
        assert written["file_system"].startswith("ext4 (/dev/loop")
        assert (written["measured_bytes"], written["written_direct"]) == (8 * MIB, True)
        assert (written["uid"], written["gid"]) == (os.geteuid(), os.getegid())
        assert 50 * MIB < written["space"]["total_bytes"] < 64 * MIB
        assert written["write_bytes_per_second"] > 0
        read = loader.run(step(CheckStep.READ)).succeeded()
        assert (read["works"], read["lacks"], read["measured_bytes"], read["read_direct"]) == (["visible"], [], 8 * MIB, True)
        assert read["read_bytes_per_second"] > 0
        assert loader.run(step(CheckStep.CLEAN)).succeeded()["works"] == ["clean"]
        assert sorted(loader.root.rglob("*")) == before


def test_each_step_may_run_twice_and_what_is_ours_stays(loader: Loader) -> None:
    (loader.root / ".modelyard/manifests/m").mkdir(parents=True)
    (loader.root / ".modelyard/manifests/m/v1.json").write_text("{}")
    before = tree(loader.root)
    for which in (CheckStep.WRITE, CheckStep.WRITE, CheckStep.READ, CheckStep.READ, CheckStep.CLEAN, CheckStep.CLEAN):
        assert not {"write", "visible", "clean"} & set(lacks(loader.run(step(which))))
    assert tree(loader.root) == before
    assert sorted(path.name for path in (loader.root / ".modelyard").iterdir()) == ["manifests"]


def test_a_check_that_was_never_cleaned_up_goes_after_a_day(loader: Loader) -> None:
    stale, young = loader.root / ".modelyard/check/feed", loader.root / ".modelyard/check/f00d"
    for path in (stale, young):
        path.mkdir(parents=True)
    os.utime(stale, (0, 0))
    loader.run(step(CheckStep.WRITE)).succeeded()
    assert (stale.exists(), young.exists()) == (False, True)


def test_other_bytes_and_a_missing_nonce_are_told(loader: Loader) -> None:
    loader.run(step(CheckStep.WRITE)).succeeded()
    data = loader.root / ".modelyard/check" / NONCE / "data"
    body = bytearray(data.read_bytes())
    body[-1] ^= 1
    data.write_bytes(body)
    assert "reads otherwise" in lacks(loader.run(step(CheckStep.READ)))["visible"]
    os.truncate(data, MIB)
    assert "reads otherwise" in lacks(loader.run(step(CheckStep.READ)))["visible"]
    assert "not there after 0 s" in lacks(loader.run(step(CheckStep.READ, nonce="f" * 16, patience=0)))["visible"]


def test_a_volume_that_is_mounted_read_only(loader: Loader) -> None:
    with mounted(loader, "ro"):
        assert lacks(loader.run(step(CheckStep.WRITE)))["write"]
        assert not loader.run(step(CheckStep.WRITE)).message["works"]


def test_a_small_volume_is_not_filled(loader: Loader) -> None:
    with mounted(loader):
        written = loader.run(step(CheckStep.WRITE, bytes=1024 * MIB)).succeeded()
        assert 10 * MIB < written["measured_bytes"] < 32 * MIB
        assert written["lacks"] == []


def test_a_file_system_that_lacks_some(loader: Loader) -> None:
    """Ramfs counts no space and takes no O_DIRECT."""
    subprocess.run(["mount", "-t", "ramfs", "none", loader.root], check=True)
    try:
        run = loader.run(step(CheckStep.WRITE))
        assert set(lacks(run)) == {"space", "direct-io"}
        assert run.message["write_bytes_per_second"] is None
    finally:
        subprocess.run(["umount", loader.root], check=True)


def test_an_unprivileged_user_who_may_not_write() -> None:
    code = (
        "import os, sys; from pathlib import Path;"
        "from modelyard.loader.check import check; from modelyard.storage_orders import CheckSpec;"
        "os.setgroups([]); os.setgid(10001); os.setuid(10001);"
        "print(check(CheckSpec.model_validate_json(sys.argv[1]), Path(sys.argv[2])).model_dump_json())"
    )
    with tempfile.TemporaryDirectory() as volume:  # not below pytest's own, which only root may enter
        Path(volume).chmod(0o755)
        command = [sys.executable, "-c", code, step(CheckStep.WRITE).model_dump_json(), volume]
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=REPOSITORY)
    assert "uid 10001 may not write here" in done.stdout, done.stderr


def test_the_mount_of_a_path() -> None:
    assert file_system_of(Path("/proc/self")).startswith("proc (")
