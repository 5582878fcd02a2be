"""Hard-link what another version of the model on the volume has already, instead of fetching it once more.

A link publishes bytes that are not fetched, so it needs two proofs: the source says that they are the same (the very same object, or
another one whose ETag and checksum of the whole are both those of the record, or it tells their SHA-256), and the volume still holds
them (their SHA-256).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from modelyard.errors import ModelyardError, VolumeUnusable
from modelyard.loader.checksums import sha256_of
from modelyard.loader.journal import Journal, same_bytes
from modelyard.loader.layout import Layout, make_directories, read_manifest, refuse_links, tampering
from modelyard.loader.progress import Reread, say
from modelyard.models import Checksum, FileRecord, Manifest, ModelRef, Origin, S3Location, SourceFile
from modelyard.names import name_problem
from modelyard.sources.base import Source

#: Each question is a request, one after the other: more of them would take longer than fetching small files does.
_MOST_QUESTIONS = 1000


def link_unchanged(layout: Layout, journal: Journal, files: list[SourceFile], location: Origin, source: Source) -> int:
    """Link what the source says are the very same bytes as another version's, and say so in the journal; how many bytes."""
    wanted = {file.path: file for file in files if file.size and not journal.record(file)}
    asked, linked = _Asked(source), list[FileRecord]()
    for manifest in _other_versions(layout):
        here = _place(manifest.source) == _place(location)
        for record in sorted(manifest.files, key=lambda record: record.size, reverse=True):
            file = wanted.get(record.path)
            if file and _is_same(record, file, asked, here=here) and _link(layout, manifest, record):
                del wanted[record.path]
                linked.append(_record(record, file))
    journal.add_files(linked)
    return sum(record.size for record in linked)


def _is_same(record: FileRecord, file: SourceFile, asked: "_Asked", *, here: bool) -> bool:
    """Whether the source says so; where it tells the SHA-256, that decides alone."""
    if file.sha256:
        return (file.sha256, file.size) == (record.sha256, record.size)
    return (here and same_bytes(record, file)) or asked.same_bytes(record, file)


def _place(location: Origin) -> tuple[str | None, str, str]:
    """What makes a path one key of one bucket, or one file of a repository: VersionIds and ETags mean the same object only there."""
    if isinstance(location, S3Location):
        return location.endpoint_url, location.bucket, location.directory
    return None, location.host, location.repository


def _record(record: FileRecord, file: SourceFile) -> FileRecord:
    """The linked bytes' record, with the identity that they have in this listing."""
    return record.model_copy(update={"etag": file.etag, "version_id": file.version_id})


@dataclass(slots=True)
class _Asked:
    """Asks the source for checksums of objects that may be copies; each once, and not without end."""

    source: Source
    answers: dict[str, Checksum | None] = field(default_factory=dict)
    failed: bool = False

    def same_bytes(self, record: FileRecord, file: SourceFile) -> bool:
        """Whether another object has the record's size, ETag and checksum. One alone would not do: a CRC is easily met by other
        bytes, and an ETag need not be made from the bytes at all. MD5 is the ETag once more.
        """
        if file.size != record.size or file.etag is None or file.etag != record.etag:
            return False
        if record.checksum is None or record.checksum.algorithm == "MD5":
            return False
        return self._checksum(file) == record.checksum

    def _checksum(self, file: SourceFile) -> Checksum | None:
        if file.path not in self.answers and not self.failed and len(self.answers) < _MOST_QUESTIONS:
            try:
                self.answers[file.path] = self.source.stat(file)
            except ModelyardError as error:  # the fetch meets it as well, and knows what to do
                self.failed = True
                say("note", message=f"{error}; nothing more is linked from versions of other prefixes")
        return self.answers.get(file.path)


def _other_versions(layout: Layout) -> Iterator[Manifest]:
    for path in sorted(layout.manifest.parent.glob("*.json")):
        try:
            if path != layout.manifest and (manifest := read_manifest(path)):
                _believe(manifest, layout.model.name, path)
                yield manifest
        except VolumeUnusable as error:  # that version's trouble; this one needs nothing of it
            say("note", message=f"{error}; nothing is linked from it")


def _believe(manifest: Manifest, model: str, path: Path) -> None:
    """Raise if the manifest is not that of its place: what it names would be linked, wherever it lies."""
    version = path.name.removesuffix(".json")
    if name_problem(version) or (problem := tampering(manifest, ModelRef(name=model, version=version))):
        raise VolumeUnusable(f"{path}: {problem if not name_problem(version) else 'is no version name'}")


def _link(layout: Layout, manifest: Manifest, record: FileRecord) -> bool:
    origin = layout.root / manifest.model / manifest.version / record.path
    target = layout.files / record.path
    try:
        refuse_links(origin, layout.root)
        if origin.stat().st_size != record.size:
            return False
        if sha256_of(origin, Reread(f"{record.path}: before it is linked", record.size)) != record.sha256:
            say("note", message=f"{origin}: is not what was published; {record.path} is fetched instead")
            return False
        make_directories(target.parent, layout.root)
        target.unlink(missing_ok=True)
        target.hardlink_to(origin)
    except OSError as error:  # not every file system links; then the file is fetched
        say("note", message=f"{record.path}: not linked ({error.strerror}), fetched instead")
        return False
    except VolumeUnusable as error:
        say("note", message=f"{error}; {record.path} is fetched instead")
        return False
    return True
