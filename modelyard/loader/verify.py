"""Verify: read a volume's versions again and compare them with their manifests; with leave, fetch anew what is damaged.

Every file's kind and size is looked at each time; ``share`` decides how many are read. Without ``repair`` nothing is written.
"""

import time
from collections.abc import Iterator
from pathlib import Path

from modelyard.errors import VolumeUnusable
from modelyard.loader.layout import Layout
from modelyard.loader.progress import EntryLog, ProgressLog, say
from modelyard.loader.repair import Repair, SourceOf
from modelyard.loader.reread import Rereader
from modelyard.loader.survey import Content, Finding, Survey, still_there, survey
from modelyard.loader.tuning import Tuning
from modelyard.models import ModelRef
from modelyard.orders import DamageEntry, VerifyResult, VerifySpec, VersionVerdict
from modelyard.plans.sampling import chosen

#: More would outgrow the log that the kubelet keeps; the result counts all.
MOST_ENTRIES = 2000


def verify(spec: VerifySpec, root: Path, source_of: SourceOf, tuning: Tuning) -> VerifyResult:
    """Look at the versions of ``spec`` on the volume at ``root``; what is found is in the result and the log, not an error.

    Raises:
        VolumeUnusable: there is no volume.
    """
    began = time.monotonic()
    if not root.is_dir():
        raise VolumeUnusable(f"{root}: is not there; mount the volume, or name its directory by MODELYARD_ROOT")
    seen = survey(root, spec.models)
    reader = _reread(seen, spec)
    findings = [finding for finding in seen.findings if _lasting(finding, seen)]
    if spec.repair:
        Repair(root, spec.source, spec.registry, source_of, tuning).run(findings, seen.versions)
    damage = [finding for finding in findings if not finding.foreign]
    log = EntryLog()
    for verdict in _verdicts(root, seen, damage):
        log.add(**verdict.model_dump(exclude_none=True))
    _tell(findings, log)
    return VerifyResult(
        versions=len(seen.versions),
        files=sum(version.files for version in seen.versions.values()),
        bytes=sum(version.bytes for version in seen.versions.values()),
        read_files=reader.read_files,
        read_bytes=reader.read_bytes,
        damaged=len(damage),
        foreign=len(findings) - len(damage),
        repaired=sum(finding.repaired for finding in damage),
        seconds=round(time.monotonic() - began, 3),
        entries=log.entries,
    )


def _reread(seen: Survey, spec: VerifySpec) -> Rereader:
    """Read the chosen files; what differs from its record becomes a finding of each of its names."""
    everything = list(seen.contents.values())
    picked = [everything[index] for index in chosen([(str(each.names[0].path), each.size) for each in everything], spec.share, spec.seed)]
    reader = Rereader(ProgressLog(sum(content.size for content in picked), len(picked)))
    for content, digest in zip(picked, reader.hash_all([content.names[0].path for content in picked]), strict=True):
        seen.findings += _differences(content, digest)
    return reader


def _differences(content: Content, digest: str | OSError) -> list[Finding]:
    if isinstance(digest, OSError):
        return [name.finding(f"cannot be read: {digest.strerror or digest}") for name in content.names]
    unseen = content.links - len(content.names)
    more = f"; {unseen} more hard links of it are outside what was looked at: verify all versions" if unseen else ""
    return [
        name.finding(f"has SHA-256 {digest}, was published with {name.sha256.hex()}{more}")
        for name in content.names
        if digest != name.sha256.hex()
    ]


def _lasting(finding: Finding, seen: Survey) -> bool:
    """Whether it is no mere trace of a version that was removed while it was read."""
    version = seen.versions.get(finding.layout.model) if finding.layout else None
    if finding.layout is None or version is None or still_there(finding.layout, version):
        return True
    say("note", message=f"{finding.path}: its version was removed or replaced meanwhile")
    return False


def _verdicts(root: Path, seen: Survey, damage: list[Finding]) -> Iterator[VersionVerdict]:
    """One for each version that is what it was when it was looked at; those whose manifests cannot be believed are damaged as well."""
    of_version: dict[ModelRef, list[Finding]] = {}
    for finding in damage:
        if finding.layout:
            of_version.setdefault(finding.layout.model, []).append(finding)
    for ref in sorted({*seen.versions, *of_version}, key=str):
        found, believed = of_version.get(ref, []), seen.versions.get(ref)
        repaired = sum(finding.repaired for finding in found)
        verdict = VersionVerdict(model=ref.name, version=ref.version, damaged=len(found) - repaired, repaired=repaired)
        if believed is None:
            yield verdict
        elif still_there(Layout(root, ref), believed):
            yield verdict.model_copy(update={"digest": believed.digest, "files": believed.files, "bytes": believed.bytes})


def _tell(findings: list[Finding], log: EntryLog) -> None:
    for finding in findings[:MOST_ENTRIES]:
        log.add(**_entry(finding).model_dump(exclude_none=True))
    if (more := len(findings) - MOST_ENTRIES) > 0:
        log.add(**DamageEntry(path=".", problem=f"and {more} more findings").model_dump(exclude_none=True))


def _entry(finding: Finding) -> DamageEntry:
    model = finding.layout.model if finding.layout else None
    return DamageEntry(
        path=finding.path,
        problem=finding.problem,
        model=model.name if model else None,
        version=model.version if model else None,
        foreign=finding.foreign,
        repaired=finding.repaired,
    )
