"""What a version's files must pass before they are called there: the author's digests, and no pickle that could do harm.

Run on the staged files before they are published, and where they lie on a version that was published under weaker rules. A refusal
publishes nothing; what is staged stays, so that a run under other rules fetches nothing twice.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modelyard.errors import Refused
from modelyard.loader.layout import Layout, refuse_links, write_durably
from modelyard.loader.progress import say
from modelyard.models import FileRecord, Manifest, WeightPolicy
from modelyard.orders import LoadSpec
from modelyard.plans.digests import SUMS_NAME, compare_sums, missing_sums, parse_sums, refuse_long_sums
from modelyard.plans.weight_formats import first_problems
from modelyard.weights.policy import refused_files

#: A scan may take minutes where a volume is slow; it is told this often.
_NOTE_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Passed:
    """What files passed, for their manifest."""

    weights: WeightPolicy
    digests_from: str | None


def pass_gates(spec: LoadSpec, directory: Path, records: Sequence[FileRecord]) -> Passed:
    """Hold the files below ``directory``, whose digests are known, against the order's rules.

    Raises:
        DigestMismatch: they are not those of the author's SHA256SUMS.
        Refused: there is no SHA256SUMS, and it is required; or files that pickle loads are against the policy.
    """
    digests_from = _pass_digests(spec, directory, records)
    _pass_weights(spec, directory, [record.path for record in records if record.size])
    return Passed(spec.weights, digests_from)


def uphold(layout: Layout, spec: LoadSpec, manifest: Manifest, marker: Path) -> Manifest:
    """The manifest at ``marker`` of files in their place, held against the order's rules as far as they did not pass them before."""
    known = manifest.weights.covers(spec.weights)
    if known and not spec.require_digests:
        return manifest
    rules = spec.model_copy(update={"weights": WeightPolicy.ANY}) if known else spec
    passed = pass_gates(rules, layout.target, manifest.files)
    weights = manifest.weights if known else passed.weights
    changed = manifest.model_copy(update={"weights": weights, "digests_from": passed.digests_from})
    if changed == manifest:
        return manifest
    write_durably(marker, changed.model_dump_json(by_alias=True))
    return changed


def _pass_digests(spec: LoadSpec, directory: Path, records: Sequence[FileRecord]) -> str | None:
    found = {record.path: record.sha256 for record in records}
    if SUMS_NAME not in found:
        if spec.require_digests:
            raise Refused([missing_sums(spec.source.uri)])
        return None
    path = directory / SUMS_NAME
    refuse_links(path, directory)
    refuse_long_sums(spec.source.uri, path.stat().st_size)
    compare_sums(parse_sums(path.read_bytes()), found, all_listed=spec.require_digests)
    return f"sha256:{found[SUMS_NAME]}"


def _pass_weights(spec: LoadSpec, directory: Path, paths: list[str]) -> None:
    began = told = time.monotonic()

    def tell(number: int) -> None:
        nonlocal told
        if (now := time.monotonic()) - told > _NOTE_SECONDS:
            told = now
            say("note", message=f"{spec.model}: weight formats of {number} of {len(paths)} files looked at")

    for path in paths:
        refuse_links(directory / path, directory)
    problems, pickled = refused_files(directory, paths, spec.weights, tell)
    if problems:
        raise Refused(first_problems(problems))
    if pickled:
        say("note", message=f"{spec.model}: {pickled} files that pickle loads were scanned in {time.monotonic() - began:.1f} s")
