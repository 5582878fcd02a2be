"""What a storage check tries in a directory of its own: one function an ability, each doing what the loader does for real.

A probe raises ``Lacking`` with what it saw, or the OSError that it met. It leaves nothing behind that ``remove_tree`` does not take.
"""

import fcntl
import json
import mmap
import os
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

from modelyard.loader.layout import sync_file_system, write_durably
from modelyard.names import MAX_FILE_NAME
from modelyard.storage_orders import Ability, Lack

#: Of JSON, in which a letter beyond ASCII is six: all abilities may be lacking, and a termination message has 4096 bytes.
_SEEN_CHARS = 140
#: How the kernel writes a space in a path, for one.
_OCTAL = re.compile(r"\\([0-7]{3})")
_BLOCK = 4096
_LOCK_SECONDS = 30
#: Exit code of the second process when it gets the lock that the first one holds.
_GOT_IT = 3
_TRY_LOCK = f"""
import fcntl, sys
with open(sys.argv[1], "a") as file:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(0)
sys.exit({_GOT_IT})
"""


class Lacking(Exception):
    """The volume does not do what was asked, without an error of its own."""


def probe_all(directory: Path) -> tuple[list[Ability], list[Lack]]:
    """Try everything below ``directory``, which is there: what works, and what does not."""
    works, lacks = list[Ability](), list[Lack]()
    for ability, probe in _PROBES.items():
        try:
            probe(_place(directory, ability))
        except (Lacking, OSError) as error:
            lacks.append(lack(ability, error))
        else:
            works.append(ability)
    return works, lacks


def lack(ability: Ability, error: Exception | str) -> Lack:
    """What was seen, short enough that many fit one termination message."""
    text = f"{error.strerror} ({error.errno})" if isinstance(error, OSError) and error.strerror else str(error)
    while len(json.dumps(text)) > _SEEN_CHARS:
        text = text[: len(text) * 9 // 10]
    return Lack(ability=ability, seen=text)


def _place(directory: Path, ability: Ability) -> Path:
    """A directory for each probe, so that one that fails leaves nothing in another's way."""
    place = directory / str(ability)
    place.mkdir(exist_ok=True)
    return place


def _write(place: Path) -> None:
    file = place / "deep" / "er" / "file"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x" * _BLOCK)
    os.truncate(file, 100)
    if file.read_bytes() != b"x" * 100:
        raise Lacking("what was read is not what was written")


def _rename(place: Path) -> None:
    write_durably(place / "marker", "one")
    write_durably(place / "marker", "two")
    if (place / "marker").read_text() != "two":
        raise Lacking("a file that was renamed over another did not take its place")
    (place / "staged").mkdir()
    (place / "staged" / "file").write_text("x")
    (place / "target").mkdir()
    (place / "staged").rename(place / "target")
    if not (place / "target" / "file").exists() or (place / "staged").exists():
        raise Lacking("a directory that was renamed over an empty one did not take its place")


def _fsync(place: Path) -> None:
    write_durably(place / "file", "x")  # fsync of the file, and of its directory


def _hard_link(place: Path) -> None:
    (place / "one").write_text("x")
    (place / "two").hardlink_to(place / "one")
    if not (place / "one").samefile(place / "two"):
        raise Lacking("a hard link is another file")


def _lock(place: Path) -> None:
    path = place / "lock"
    with path.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        command = [sys.executable, "-I", "-c", _TRY_LOCK, str(path)]
        second = subprocess.run(command, check=False, capture_output=True, timeout=_LOCK_SECONDS)
    if second.returncode == _GOT_IT:
        raise Lacking("a second process got the lock that the first one held")
    if second.returncode:
        raise Lacking(second.stderr.decode(errors="replace").strip().rpartition("\n")[2])


def _direct(place: Path) -> None:
    path = place / "file"
    with mmap.mmap(-1, _BLOCK) as page:
        page.write(b"d" * _BLOCK)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_DIRECT, 0o664)
        try:
            os.pwrite(descriptor, page, 0)
        finally:
            os.close(descriptor)
    if path.read_bytes() != b"d" * _BLOCK:
        raise Lacking("what was read is not what was written")


def _mode(place: Path) -> None:
    for mode in (0o664, 0o640):
        path = place / f"{mode:o}"
        path.touch()
        path.chmod(mode)
        if (kept := path.stat().st_mode & 0o777) != mode:
            raise Lacking(f"mode {mode:o} became {kept:o}")
    made = place / "made"
    made.mkdir(mode=0o777)
    if (kept := made.stat().st_mode & 0o777) != 0o775:  # noqa: PLR2004 - under the loader's umask of 002
        raise Lacking(f"a directory made with 777 and umask 002 has {kept:o}")


def _owner(place: Path) -> None:
    path = place / "file"
    path.touch()
    found, groups = path.stat(), {os.getegid(), *os.getgroups()}
    if found.st_uid != os.geteuid():
        raise Lacking(f"a file of uid {os.geteuid()} belongs to uid {found.st_uid}")
    if found.st_gid not in groups and found.st_gid != place.stat().st_gid:
        raise Lacking(f"a file of gid {os.getegid()} belongs to gid {found.st_gid}")


def _unlink_open(place: Path) -> None:
    path = place / "file"
    path.write_bytes(b"x" * _BLOCK)
    with path.open("rb", buffering=0) as file:
        path.unlink()
        if file.read() != b"x" * _BLOCK:
            raise Lacking("an open file could not be read on after its name was removed")


def _long_names(place: Path) -> None:
    (place / ("n" * MAX_FILE_NAME)).touch()
    if [len(name) for name in _names(place)] != [MAX_FILE_NAME]:
        raise Lacking(f"a name of {MAX_FILE_NAME} bytes is not kept")


def _unicode(place: Path) -> None:
    names = {unicodedata.normalize(form, "modèle-ü-模型") for form in ("NFC", "NFD")} | {"a b+%\\c"}
    for name in names:
        (place / name).touch()
    if (kept := _names(place)) != names:
        raise Lacking(f"{len(names)} names became {sorted(ascii(name) for name in kept)}")


def _case(place: Path) -> None:
    (place / "Model").write_text("1")
    (place / "model").write_text("2")
    if len(_names(place)) != 2:  # noqa: PLR2004
        raise Lacking("'Model' and 'model' are one file")


def _names(place: Path) -> set[str]:
    return {path.name for path in place.iterdir()}


_PROBES: dict[Ability, Callable[[Path], None]] = {
    Ability.WRITE: _write,
    Ability.RENAME: _rename,
    Ability.FSYNC: _fsync,
    Ability.SYNCFS: sync_file_system,
    Ability.HARD_LINK: _hard_link,
    Ability.LOCK: _lock,
    Ability.DIRECT: _direct,
    Ability.MODE: _mode,
    Ability.OWNER: _owner,
    Ability.UNLINK_OPEN: _unlink_open,
    Ability.LONG_NAMES: _long_names,
    Ability.UNICODE: _unicode,
    Ability.CASE: _case,
}


def file_system_of(path: Path) -> str:
    """Type and source of the mount that ``path`` lies on, as the kernel tells them: ``nfs4 (server:/export)``.

    The line with the longest mount point above the path decides; proc_pid_mountinfo(5) gives the fields.
    """
    mounts = dict(_mounts())
    return next((mounts[str(above)] for above in (path.resolve(), *path.resolve().parents) if str(above) in mounts), "unknown")


def _mounts() -> Iterator[tuple[str, str]]:
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        point, (kind, source) = before.split()[4], after.split()[:2]
        yield _OCTAL.sub(lambda found: chr(int(found[1], 8)), point), f"{kind} ({source})"
