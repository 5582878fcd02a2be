"""What of the staged files is known to be durable: the loader's memory across its own death.

One JSON object a line. Nothing is written here before the bytes it speaks of are on the volume, so a line can be believed
after any crash; a torn last line is cut off, or the next one would be glued to it. Kinds of line: a finished file (its record), a
finished file that the volume no longer has, and a checkpoint inside a large one (offset, and the SHA-256 of all before it).
"""

import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelyard.loader.layout import refuse_links
from modelyard.models import FileRecord, SourceFile


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The first ``offset`` bytes of a file are durable, and had this SHA-256."""

    offset: int
    sha256: str


@dataclass(slots=True)
class Journal:
    """The staged files' journal: what earlier lives left, and where this one writes on."""

    path: Path
    done: dict[str, FileRecord] = field(default_factory=dict)
    checkpoints: dict[tuple[str, str | None], Checkpoint] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> "Journal":
        """The journal at ``path`` as it was left; a missing one is empty, and one that cannot be read on ends there."""
        journal = cls(path)
        refuse_links(path, path.parent)
        with suppress(FileNotFoundError), path.open("r+b") as lines:
            whole = 0
            for line in lines:
                if not line.endswith(b"\n") or not journal._take(line):
                    break
                whole += len(line)
            lines.truncate(whole)
        return journal

    def _take(self, line: bytes) -> bool:
        """Remember what a line says; False if it says nothing that this release understands."""
        try:
            match json.loads(line):
                case {"file": told}:
                    record = FileRecord.model_validate(told)
                    self.done[record.path] = record
                case {"lost": str(path)}:
                    self.done.pop(path, None)
                case {"checkpoint": {"path": str(path), "identity": identity, "offset": int(offset), "sha256": str(sha256)}}:
                    self.checkpoints[path, identity] = Checkpoint(offset, sha256)
                case _:
                    return False
        except ValueError:
            return False
        return True

    def record(self, file: SourceFile) -> FileRecord | None:
        """The finished record of exactly these bytes, if there is one."""
        record = self.done.get(file.path)
        return record if record and same_bytes(record, file) else None

    def checkpoint(self, file: SourceFile) -> Checkpoint | None:
        """The last checkpoint inside exactly these bytes, if there is one."""
        return self.checkpoints.get((file.path, _identity(file)))

    def add_files(self, records: list[FileRecord]) -> None:
        """Say that these files are durable."""
        self._append([{"file": record.model_dump(mode="json")} for record in records])
        self.done.update({record.path: record for record in records})

    def add_checkpoint(self, file: SourceFile, mark: Checkpoint) -> None:
        """Say that the file is durable up to the checkpoint."""
        self._append([{"checkpoint": {"path": file.path, "identity": _identity(file), "offset": mark.offset, "sha256": mark.sha256}}])

    def keep(self, paths: set[str]) -> None:
        """Forget finished files that are not among ``paths``: the volume does not have them.

        The journal must forget them too: a later life would believe it, and take half a file of the right size for a whole.
        """
        lost = self.done.keys() - paths
        self._append([{"lost": path} for path in sorted(lost)])
        for path in lost:
            del self.done[path]

    def _append(self, lines: list[dict[str, Any]]) -> None:
        if not lines:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
            file.flush()


def _identity(file: SourceFile) -> str | None:
    return file.version_id or file.etag


def same_bytes(record: FileRecord, file: SourceFile) -> bool:
    """Whether the source says that ``file`` holds the very bytes that ``record`` was made from."""
    if record.size != file.size:
        return False
    if file.version_id:
        return record.version_id == file.version_id
    return record.version_id is None and file.etag is not None and record.etag == file.etag
