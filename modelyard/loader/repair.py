"""Fetching damaged files again: from the object that the manifest pins, checked against its SHA-256, put in place by a rename.

Readers that have the old file open keep it; those that open it next get the good one. A file that shared its inode with another
version's is linked again to the repaired one, so that both are mended and the bytes still lie there once.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG

from modelyard.errors import ContentMismatch, LoaderInterrupted, ModelyardError, SourceChanged, SourceMissing
from modelyard.loader.fetch import Fetch
from modelyard.loader.journal import Journal
from modelyard.loader.layout import Layout, make_directories, read_manifest, remove_tree, sync_file_system, volume_error, walk_files
from modelyard.loader.lock import alone
from modelyard.loader.progress import ProgressLog
from modelyard.loader.survey import Believed, Finding
from modelyard.loader.tuning import Tuning
from modelyard.models import FileRecord, ModelRef, Origin, S3Location, SourceFile, content_digest
from modelyard.orders import RegistryAddress
from modelyard.sources.base import Source

SourceOf = Callable[[Origin], Source]
#: What is the matter with one object; anything else is the matter with the whole source, or with the volume.
_OF_ONE_FILE = (SourceChanged, SourceMissing, ContentMismatch)


@dataclass(slots=True)
class Repair:
    """Repairs findings in place, and says of each that it did, or why not. ``source`` and ``registry`` may be read."""

    root: Path
    source: S3Location | None
    registry: RegistryAddress | None
    source_of: SourceOf
    tuning: Tuning
    _mended: dict[str, Path] = field(default_factory=dict)  # by SHA-256: where this run has put a good copy

    def run(self, findings: Iterable[Finding], seen: Mapping[ModelRef, Believed]) -> None:
        """Repair what can be, version by version, each under its lock and only if it is still what was ``seen``."""
        by_version: dict[str, tuple[Layout, list[Finding]]] = {}
        for finding in findings:
            if finding.layout and finding.file is not None and not finding.foreign:
                by_version.setdefault(str(finding.layout.model), (finding.layout, []))[1].append(finding)
        for layout, damaged in by_version.values():
            if reason := self._try(layout, damaged, seen[layout.model].digest):
                for finding in damaged:
                    _leave(finding, reason)

    def _try(self, layout: Layout, damaged: list[Finding], digest: str) -> str | None:
        """Repair one version; what stands against all of it."""
        with ExitStack() as held:
            try:
                held.enter_context(alone(layout))
            except ModelyardError as error:
                return str(error)
            except OSError as error:
                return str(volume_error(error, layout.lock))
            try:
                return self._repair(layout, damaged, digest)
            except LoaderInterrupted:
                raise
            except ModelyardError as error:
                return str(error)
            except OSError as error:
                return str(volume_error(error, self.root))

    def _repair(self, layout: Layout, damaged: list[Finding], digest: str) -> str | None:
        layout.refuse_links()
        manifest = read_manifest(layout.manifest)
        if manifest is None or not manifest.digest == content_digest(manifest.files) == digest:
            return "the version was changed while it was verified; verify it again"
        location = self._location(manifest.source)
        if isinstance(location, str):
            return location
        records = {record.path: record for record in manifest.files}
        wanted = [(finding, records[finding.file]) for finding in damaged if finding.file is not None]
        make_directories(layout.files, layout.root)
        missing = [record for _, record in wanted if not self._link(layout, record)]
        reasons = _Staging(layout, self.source_of(location), self.tuning).fetch(missing) if missing else {}
        for finding, record in wanted:
            self._settle(layout, finding, record, reasons)
        sync_file_system(layout.root)
        remove_tree(layout.staging)
        return None

    def _location(self, origin: Origin) -> Origin | str:
        """Where to fetch from what came from ``origin``, or why not. Only its path and pins are the manifest's, never the address."""
        if isinstance(origin, S3Location):
            if self.source and origin.bucket == self.source.bucket:
                return self.source.model_copy(update={"prefix": origin.prefix})
            given = f"the source given is bucket {self.source.bucket}" if self.source else "no source was given"
            return f"it was loaded from {origin.uri}, {given}: name that bucket's block"
        if self.registry and origin.host == self.registry.host and origin.digest:
            return origin.model_copy(
                update={"tag": None, "plain_http": self.registry.plain_http}
            )  # the digest pins it, wherever the tag is
        given = f"the registry given is {self.registry.host}" if self.registry else "no registry was given"
        return f"it was loaded from {origin.uri}, {given}: name that registry's block"

    def _link(self, layout: Layout, record: FileRecord) -> bool:
        """Stage a link to a file that was repaired a moment ago; False where there is none, or the file system has no links."""
        good, staged = self._mended.get(record.sha256), layout.files / record.path
        if good is None:
            return False
        try:
            make_directories(staged.parent, layout.root)
            staged.unlink(missing_ok=True)
            staged.hardlink_to(good)
        except OSError:
            return False
        return True

    def _settle(self, layout: Layout, finding: Finding, record: FileRecord, reasons: dict[str, str]) -> None:
        """Put one staged file in its place, or say why there is none."""
        if reason := reasons.get(record.path):
            _leave(finding, reason)
            return
        target = layout.target / record.path
        try:
            make_directories(target.parent, layout.root)
            (layout.files / record.path).replace(target)  # of a link, the link itself
        except ModelyardError as error:
            _leave(finding, str(error))
        except OSError as error:
            _leave(finding, f"{target}: {error.strerror}")
        else:
            finding.repaired = True
            self._mended[record.sha256] = target


def _leave(finding: Finding, reason: str) -> None:
    if not finding.repaired:
        finding.problem += f"; not repaired: {reason}"


@dataclass(slots=True)
class _Staging:
    """Fetches records of one version into its staging directory; a killed repair goes on with what it finds there."""

    layout: Layout
    source: Source
    tuning: Tuning

    def fetch(self, records: list[FileRecord]) -> dict[str, str]:
        """Why a path could not be fetched, for those that could not; all others are staged with the SHA-256 of their record."""
        files = {record.path: _file(record) for record in records}
        journal = Journal.open(self.layout.journal)
        self._tidy(journal, files)
        reasons = self._fetch(journal, list(files.values()))
        return reasons | {record.path: reason for record in records if (reason := _other_bytes(journal, record, reasons))}

    def _tidy(self, journal: Journal, files: dict[str, SourceFile]) -> None:
        there = set()
        for path, stat in walk_files(self.layout.files):
            file = files.get(path)
            if file and S_ISREG(stat.st_mode) and stat.st_size == file.size and journal.record(file):
                there.add(path)
        journal.keep(there)  # what it knows of other bytes, or of a load that was published, is not staged

    def _fetch(self, journal: Journal, files: list[SourceFile]) -> dict[str, str]:
        """All at once; where one file's object is at fault, one by one, so that it takes no other with it."""
        progress = ProgressLog(sum(file.size for file in files), len(files))
        try:
            self._run(journal, files, files, progress)
        except _OF_ONE_FILE:
            return self._one_by_one(journal, files, progress)
        except LoaderInterrupted:
            raise
        except ModelyardError as error:
            return _all_for(str(error), journal, files)
        return {}

    def _one_by_one(self, journal: Journal, files: list[SourceFile], progress: ProgressLog) -> dict[str, str]:
        reasons: dict[str, str] = {}
        for file in files:
            try:
                self._run(journal, [file], files, progress)
            except _OF_ONE_FILE as error:
                reasons[file.path] = str(error)
            except LoaderInterrupted:
                raise
            except ModelyardError as error:
                return _all_for(str(error), journal, files) | reasons
        return reasons

    def _run(self, journal: Journal, wanted: list[SourceFile], everything: list[SourceFile], progress: ProgressLog) -> None:
        there = [file for file in everything if file.path in journal.done]
        fetch = Fetch(
            self.source,
            self.layout.files,
            journal,
            progress,
            self.tuning,
            done_bytes=sum(file.size for file in there),
            done_files=len(there),
        )
        fetch.run(file for file in wanted if file.path not in journal.done)


def _all_for(reason: str, journal: Journal, files: list[SourceFile]) -> dict[str, str]:
    return {file.path: reason for file in files if file.path not in journal.done}


def _file(record: FileRecord) -> SourceFile:
    return SourceFile(record.path, record.size, record.etag, record.version_id)


def _other_bytes(journal: Journal, record: FileRecord, reasons: dict[str, str]) -> str | None:
    """Why what was fetched is not what was published."""
    fetched = journal.done.get(record.path)
    if record.path in reasons or (fetched and fetched.sha256 == record.sha256):
        return None
    return f"the source holds other bytes now (SHA-256 {fetched.sha256 if fetched else 'unknown'}), although their pin is the same"
