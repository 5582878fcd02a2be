"""What a verification will read, and what its findings mean for people. Pure."""

from collections.abc import Sequence
from datetime import date

from modelyard.caches import CacheSpec
from modelyard.errors import Problem, Refused
from modelyard.models import ModelRef, S3Location
from modelyard.names import name_problem
from modelyard.orders import DamageEntry, RegistryAddress, VerifyResult, VerifySpec
from modelyard.plans.claim_facts import ClaimFacts
from modelyard.quantities import format_bytes, format_duration

_SHOWN = 5


def plan_verification(
    cache: CacheSpec,
    claim: ClaimFacts | None,
    models: Sequence[str],
    share: float,
    today: date,
    source: S3Location | RegistryAddress | None,
) -> VerifySpec:
    """The order; ``source`` is given where damage is to be repaired. The day is the seed, so that daily runs come round to all files.

    Raises:
        Refused: with all that stands against it.
    """
    problems = [*_claim_problems(cache, claim), *(problem for text in models if (problem := _model_problem(text)))]
    if problems:
        raise Refused(problems)
    return VerifySpec(
        models=tuple(_model(text) for text in models),
        share=share,
        seed=today.toordinal(),
        repair=source is not None,
        source=source if isinstance(source, S3Location) else None,
        registry=source if isinstance(source, RegistryAddress) else None,
    )


def _claim_problems(cache: CacheSpec, claim: ClaimFacts | None) -> list[Problem]:
    subject = f"PersistentVolumeClaim/{cache.namespace}/{cache.claim}"
    if claim is None:
        return [Problem(subject, "is not there", "preload a model first, or name the block of another cache")]
    if claim.deleting:
        return [Problem(subject, "is being deleted", "name the block of another cache")]
    return []


def _model_problem(text: str) -> Problem | None:
    name, at, version = text.partition("@")
    if not at:
        return Problem(repr(text), "names no version", "write <model>@<version>, for example llama@v1")
    what = name_problem(name) or name_problem(version)
    return Problem(repr(text), what, "write <model>@<version>, for example llama@v1") if what else None


def _model(text: str) -> ModelRef:
    name, _, version = text.partition("@")
    return ModelRef(name=name, version=version)


def unrepaired(result: VerifyResult) -> int:
    """How many files are damaged still."""
    return result.damaged - result.repaired


def summary(result: VerifyResult) -> str:
    """What a verification came to, in one line."""
    rate = f", {result.read_bytes / result.seconds / 1e6:.0f} MB/s" if result.seconds and result.read_bytes else ""
    parts = [
        f"{result.versions} versions, {result.files} files, {format_bytes(result.bytes)}",
        f"read {result.read_files} files, {format_bytes(result.read_bytes)} in {format_duration(result.seconds)}{rate}",
        f"{result.damaged} damaged" + (f", {result.repaired} repaired" if result.repaired else "") if result.damaged else "no damage",
    ]
    return "; ".join([*parts, *([f"{result.foreign} foreign"] if result.foreign else [])])


def describe_verification(claim: str, spec: VerifySpec, result: VerifyResult) -> str:
    """The result as Markdown, for the run's artifact."""
    verdict = "**damaged**" if unrepaired(result) else "repaired" if result.repaired else "sound, as far as it was read"
    which = ", ".join(f"`{model}`" for model in spec.models) or "all versions"
    lines = [f"# `{claim}` is {verdict}", summary(result), f"Looked at: {which}. Kind and size of every file; {_share(spec)}."]
    if unrepaired(result):
        lines.append(next_step(spec))
    if result.foreign:
        lines.append("Foreign files were put there by others. They take space and are otherwise harmless; Modelyard never touches them.")
    return "\n\n".join(lines) + "\n"


def _share(spec: VerifySpec) -> str:
    if spec.share >= 1:
        return "all bytes were read"
    return (
        f"{spec.share:.0%} of the bytes were read: day {spec.seed}'s part, daily runs come round to all in {-(-1 // spec.share):.0f} days"
    )


def next_step(spec: VerifySpec) -> str:
    """What to do about damage."""
    if spec.repair:
        return "What could not be repaired says why in the table; remove that version and preload it again where its source has changed."
    return (
        "Run verify-cache with repair to fetch the damaged files anew; replicas that have them open keep the old bytes until they restart."
    )


def damage_error(claim: str, spec: VerifySpec, result: VerifyResult, entries: Sequence[DamageEntry]) -> str:
    """The error of a run that leaves damage behind."""
    worst = [entry for entry in entries if not entry.foreign and not entry.repaired]
    shown = "; ".join(f"{entry.path} {entry.problem}" for entry in worst[:_SHOWN])
    more = f"; and {unrepaired(result) - _SHOWN} more" if unrepaired(result) > _SHOWN else ""
    return f"{claim}: {unrepaired(result)} of {result.files} files are damaged: {shown}{more}. {next_step(spec)}"


def finding_rows(entries: Sequence[DamageEntry]) -> list[dict[str, str]]:
    """The findings as rows of a table, damage first."""
    ordered = sorted(entries, key=lambda entry: (entry.foreign, entry.repaired, entry.path))
    return [_row(entry) for entry in ordered]


def _row(entry: DamageEntry) -> dict[str, str]:
    state = "foreign" if entry.foreign else "repaired" if entry.repaired else "damaged"
    model = f"{entry.model}@{entry.version}" if entry.model else ""
    return {"state": state, "version": model, "path": entry.path, "problem": entry.problem}
