"""Check a volume: one pod writes and measures, pods on other nodes look for what it wrote, and one removes all of it.

All is in ``.modelyard/check/<nonce>``, and gone after CLEAN; a directory of ours that was not there before goes with it. A volume that
does not serve is a result, not an error: the report says what it lacks.
"""

import hashlib
import json
import mmap
import os
import time
from contextlib import suppress
from pathlib import Path

from modelyard.errors import ModelyardError, VolumeUnusable
from modelyard.loader.checksums import READ_SIZE, sha256_of
from modelyard.loader.file_writer import FileWriter
from modelyard.loader.layout import make_directories, refuse_links, remove_tree, space_of, sync_directory, write_durably
from modelyard.loader.probes import file_system_of, lack, probe_all
from modelyard.loader.progress import ProgressLog
from modelyard.names import OWN_DIRECTORY
from modelyard.storage_orders import Ability, CheckResult, CheckSpec, CheckStep, Lack

_MIB = 1024 * 1024
#: Some servers count what was written only after a while.
_SPACE_TRIES, _SPACE_PAUSE = 5, 1.0
#: A check that was killed before it cleaned up is no longer waited for.
_STALE_SECONDS = 24 * 3600.0
_MARK = "nonce.json"
_DATA = "data"


def check(spec: CheckSpec, root: Path) -> CheckResult:
    """Carry out one step on the volume at ``root``.

    Raises:
        VolumeUnusable: there is no volume.
    """
    if not root.is_dir():
        raise VolumeUnusable(f"{root}: is not there; mount the volume, or name its directory by MODELYARD_ROOT")
    place = root / OWN_DIRECTORY / "check" / spec.nonce
    seen = CheckResult(step=spec.step, file_system=file_system_of(root), uid=os.geteuid(), gid=os.getegid())
    match spec.step:
        case CheckStep.WRITE:
            found = _write(spec, root, place)
        case CheckStep.READ:
            found = _read(spec, root, place)
        case CheckStep.CLEAN:
            found = _clean(root, place)
    return seen.model_copy(update=found)


Found = dict[str, object]


# Writing ------------------------------------------------------------------------------------------------------------


def _write(spec: CheckSpec, root: Path, place: Path) -> Found:
    space = space_of(root)
    try:
        make_directories(place.parent, root)
        _remove_stale(place.parent)
        remove_tree(place)  # of an earlier try of this very step
        make_directories(place / "probes", root)
    except (ModelyardError, OSError) as error:
        return {"space": space, "lacks": (lack(Ability.WRITE, error),)}
    works, lacks = probe_all(place / "probes")
    found: Found = {"space": space}
    amount = min(spec.bytes, space.free_bytes // 2) // _MIB * _MIB  # a volume that serves must not become full
    if not amount:
        lacks.append(lack(Ability.SPACE, f"{space.free_bytes} bytes are free: nothing was measured"))
    else:
        try:
            found |= _measure_writing(spec, place, amount)
            _mark(spec, place, amount)
            _judge_space(space.free_bytes, root, amount, works, lacks)
        except (ModelyardError, OSError) as error:
            works = [ability for ability in works if ability is not Ability.WRITE]
            lacks.append(lack(Ability.WRITE, error))
    return {**found, "works": tuple(works), "lacks": tuple(lacks)}


def _remove_stale(checks: Path) -> None:
    for old in checks.iterdir():
        with suppress(OSError):
            if time.time() - old.lstat().st_mtime > _STALE_SECONDS:
                remove_tree(old)


def _measure_writing(spec: CheckSpec, place: Path, amount: int) -> Found:
    """Write as the loader writes large files, the fsync in the time; bytes that no storage can shrink or has already."""
    path = place / _DATA
    noise, progress = bytearray(os.urandom(READ_SIZE)), ProgressLog(amount, 1)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o664)
    writer = FileWriter(path, descriptor, direct=True)
    try:
        began, offset = time.monotonic(), 0
        while offset < amount:
            noise[:16] = hashlib.md5(f"{spec.nonce}{offset}".encode(), usedforsecurity=False).digest()
            chunk = bytes(noise[: min(READ_SIZE, amount - offset)])
            writer.write(chunk, offset)
            offset += len(chunk)
            progress.update(offset, 0)
        os.fsync(descriptor)
        seconds = time.monotonic() - began
        direct = writer.is_direct
    finally:
        writer.close()
        os.close(descriptor)
    sync_directory(place)
    return {"write_bytes_per_second": _rate(amount, seconds), "written_direct": direct, "measured_bytes": amount}


def _mark(spec: CheckSpec, place: Path, amount: int) -> None:
    """What the readers look for; written last, so that who finds it finds the data whole."""
    told = {"nonce": spec.nonce, "bytes": amount, "sha256": sha256_of(place / _DATA, lambda _: None)}
    write_durably(place / _MARK, json.dumps(told))


def _judge_space(free: int, root: Path, amount: int, works: list[Ability], lacks: list[Lack]) -> None:
    for _ in range(_SPACE_TRIES):
        fell = free - space_of(root).free_bytes
        if fell >= amount // 2:
            works.append(Ability.SPACE)
            return
        time.sleep(_SPACE_PAUSE)
    lacks.append(lack(Ability.SPACE, f"{amount} bytes were written, and free space fell by {fell}"))


# Reading ------------------------------------------------------------------------------------------------------------


def _read(spec: CheckSpec, root: Path, place: Path) -> Found:
    found: Found = {"space": space_of(root)}
    try:
        refuse_links(place / _MARK, root)
        told = _await_mark(place / _MARK, spec.patience)
        if told is None:
            what = f"what the writing pod left is not there after {spec.patience:.0f} s"
            return {**found, "lacks": (lack(Ability.VISIBLE, what),)}
        found |= _measure_reading(place / _DATA)
        if (told["nonce"], told["bytes"]) != (spec.nonce, found["measured_bytes"]) or told["sha256"] != sha256_of(
            place / _DATA, lambda _: None
        ):
            return {**found, "lacks": (lack(Ability.VISIBLE, "what the writing pod left reads otherwise here"),)}
    except (ModelyardError, OSError, ValueError, KeyError) as error:
        return {**found, "lacks": (lack(Ability.VISIBLE, error),)}
    return {**found, "works": (Ability.VISIBLE,)}


def _await_mark(path: Path, patience: float) -> dict[str, object] | None:
    deadline = time.monotonic() + patience
    while True:
        with suppress(FileNotFoundError):
            told: dict[str, object] = json.loads(path.read_text())
            return told
        if time.monotonic() > deadline:
            return None
        time.sleep(0.5)


def _measure_reading(path: Path) -> Found:
    """Read the file as fast as it comes: past the page cache where it is a block device's, else after dropping it from there.

    A network file system reads ahead only through the page cache, and that is how it is read when it serves.
    """
    direct, descriptor = _open_to_read(path)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        size = os.fstat(descriptor).st_size
        progress = ProgressLog(size, 1)
        with mmap.mmap(-1, READ_SIZE) as buffer:
            began, read = time.monotonic(), 0
            while count := os.readv(descriptor, [buffer]):
                read += count
                progress.update(read, 0)
            seconds = time.monotonic() - began
    finally:
        os.close(descriptor)
    return {"read_bytes_per_second": _rate(read, seconds), "read_direct": direct, "measured_bytes": read}


def _open_to_read(path: Path) -> tuple[bool, int]:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    if os.major(path.stat().st_dev):  # 0: no block device of its own
        with suppress(OSError):
            return True, os.open(path, flags | os.O_DIRECT)
    return False, os.open(path, flags)


def _rate(count: int, seconds: float) -> float:
    return round(count / max(seconds, 1e-6), 1)


# Cleaning up --------------------------------------------------------------------------------------------------------


def _clean(root: Path, place: Path) -> Found:
    try:
        refuse_links(place, root)
        remove_tree(place)
        for above in (place.parent, place.parent.parent):
            above.rmdir()  # what holds anything else stays
    except FileNotFoundError:
        pass
    except ModelyardError as error:
        return {"space": space_of(root), "lacks": (lack(Ability.CLEAN, error),)}
    except OSError as error:
        if place.exists():
            return {"space": space_of(root), "lacks": (lack(Ability.CLEAN, error),)}
    return {"space": space_of(root), "works": (Ability.CLEAN,)}
