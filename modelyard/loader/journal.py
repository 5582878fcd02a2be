"""What of the staged files is known to be durable: the loader's memory across its own death.

One JSON object a line. Nothing is written here before the bytes it speaks of are on the volume, so a line can be believed
after any crash; a torn last line is ignored. Two kinds of line: a finished file (its record), and a checkpoint inside a
large one (offset, and the SHA-256 of everything before it).
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelyard.loader.layout import read_lines
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
        """The journal at ``path`` as it was left; a missing one is empty."""
        journal = cls(path)
        for line in read_lines(path):
            journal._take(line)
        return journal

    def _take(self, line: dict[str, Any]) -> None:
        if "file" in line:
            record = FileRecord.model_validate(line["file"])
            self.done[record.path] = record
        elif "checkpoint" in line:
            mark = line["checkpoint"]
            self.checkpoints[mark["path"], mark["identity"]] = Checkpoint(mark["offset"], mark["sha256"])

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
        """Forget finished files that are not among ``paths``: the volume does not have them."""
        self.done = {path: record for path, record in self.done.items() if path in paths}

    def _append(self, lines: list[dict[str, Any]]) -> None:
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
