"""Hard-link what another version of the model on the volume has already, instead of fetching it once more."""

from collections.abc import Iterator

from modelyard.errors import VolumeUnusable
from modelyard.loader.checksums import sha256_of
from modelyard.loader.journal import Journal, same_bytes
from modelyard.loader.layout import Layout, make_directories, read_manifest, refuse_links
from modelyard.loader.progress import say
from modelyard.models import FileRecord, Manifest, SourceFile, VerifyLevel


def link_unchanged(layout: Layout, journal: Journal, files: list[SourceFile], verify: VerifyLevel) -> int:
    """Link what the source says are the very same bytes as another version's, and say so in the journal; how many bytes."""
    wanted = {file.path: file for file in files if file.size and not journal.record(file)}
    linked: dict[str, FileRecord] = {}
    for manifest in _other_versions(layout):
        for record in manifest.files:
            file = wanted.get(record.path)
            if file and record.path not in linked and same_bytes(record, file) and _link(layout, manifest, record, verify):
                linked[record.path] = record
    journal.add_files(list(linked.values()))
    return sum(record.size for record in linked.values())


def _other_versions(layout: Layout) -> Iterator[Manifest]:
    for path in sorted(layout.manifest.parent.glob("*.json")):
        try:
            if path != layout.manifest and (manifest := read_manifest(path)):
                yield manifest
        except VolumeUnusable as error:  # that version's trouble; this one needs nothing of it
            say("note", message=f"{error}; nothing is linked from it")


def _link(layout: Layout, manifest: Manifest, record: FileRecord, verify: VerifyLevel) -> bool:
    origin = layout.root / manifest.model / manifest.version / record.path
    target = layout.files / record.path
    try:
        refuse_links(origin, layout.root)
        if origin.stat().st_size != record.size or (verify is VerifyLevel.DIGESTS and sha256_of(origin) != record.sha256):
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
