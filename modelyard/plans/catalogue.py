"""What the catalogue shall say and what shall be done, decided without side effects from what is declared and what is there.

    declared (state)      on the volume        becomes                          is done
    any                   a Job loads it       Loading
    Absent                nothing              Absent
    Absent                anything of ours     Removing; refused while in use   remove
    Present               ready | damaged      Ready | Damaged
    Present               less                 Pending                          load
    Present               less, failed lately  Failed                           load an hour later
    none (projection)     ready | damaged      Ready | Damaged
    none (projection)     less                 Failed | Removing | Absent
    no object             anything of ours     as a projection                  restore

An object that a person made means Present if it has no state; one that Modelyard made (a projection) then only shows what
is there, so that a volume that was emptied is not filled again without anybody having asked for it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from modelyard.orders import VersionEntry, VersionState
from modelyard.plans.catalogue_status import LOAD_FAILED, Content, Context, Finding, Phase, Usage, next_status, ready, removed, timestamp
from modelyard.plans.references import References
from modelyard.quantities import format_bytes

#: How the path of an image begins.
IMAGE = "oci://"
#: A preload says Loading before its Job is there: listing the source, making the claim and binding it take a while.
LOADING_GRACE = timedelta(minutes=15)
#: A load that failed for a reason that a person must remove is not tried again for so long: it may cost terabytes each time.
RETRY_PAUSE = timedelta(hours=1)
#: What a version is, where an inspection found several things of it: the first of these.
_ORDER = (
    VersionState.DAMAGED,
    VersionState.READY,
    VersionState.PUBLISHING,
    VersionState.REMOVING,
    VersionState.STAGING,
    VersionState.FOREIGN,
)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a version comes from: the name of a source block, and the path below its prefix; or of a registry's, and an image's ``oci://``."""

    block: str
    path: str


@dataclass(frozen=True, slots=True)
class CachedModel:
    """One object of the catalogue. ``projected``: Modelyard made it."""

    name: str
    namespace: str
    model: str
    version: str
    cache: str
    created: str = ""
    generation: int = 1
    projected: bool = False
    source: Source | None = None
    pinned: bool = False
    state: str | None = None
    status: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        """Model and version."""
        return self.model, self.version

    @property
    def declared(self) -> bool:
        """Whether a person asked for something by it."""
        return not self.projected or self.state is not None or self.pinned

    @property
    def to_be_removed(self) -> bool:
        """Whether a person wants its bytes gone, and does not hold them by ``pinned``."""
        return self.state == "Absent" and not self.pinned

    def __str__(self) -> str:
        return f"CachedModel/{self.namespace}/{self.name}"


def ruling(models: Iterable[CachedModel]) -> CachedModel:
    """The one of several that speak of the same: what a person declared before what Modelyard made, then the oldest."""
    return min(models, key=lambda each: (not each.declared, each.created, each.name))


@dataclass(frozen=True, slots=True)
class CacheFacts:
    """What is known of one cache. ``sources`` and ``registries``: blocks that exist, with the URIs of their prefixes, or hosts."""

    cache: str
    namespace: str
    claim: str
    models: tuple[CachedModel, ...]
    entries: tuple[VersionEntry, ...]
    loading: frozenset[tuple[str, str]]
    references: References
    sources: Mapping[str, str]
    now: str
    registries: Mapping[str, str] = field(default_factory=dict)


class Act(StrEnum):
    """What is done beside writing the status."""

    NONE = ""
    RESTORE = "restore"
    LOAD = "load"
    REMOVE = "remove"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Decision:
    """One object: what its status shall be, and what is done. ``entry`` is what lies on the volume."""

    target: CachedModel
    finding: Finding
    act: Act
    status: Mapping[str, Any]
    entry: VersionEntry | None = None

    @property
    def changes(self) -> bool:
        """Whether the status has to be written."""
        return self.act is not Act.DROP and self.status != self.target.status


def plan_catalogue(facts: CacheFacts) -> tuple[Decision, ...]:
    """A decision for every object of the cache and every version on its volume, by model and version. No side effects."""
    there: dict[tuple[str, str], VersionEntry] = {}
    for entry in sorted(facts.entries, key=lambda each: _ORDER.index(each.state), reverse=True):
        if entry.model and entry.version:
            there[entry.model, entry.version] = entry
    declared: dict[tuple[str, str], list[CachedModel]] = {}
    for model in facts.models:
        declared.setdefault(model.key, []).append(model)
    ours = {key for key, entry in there.items() if entry.state is not VersionState.FOREIGN}
    return tuple(each for key in sorted(ours | declared.keys()) for each in _of_key(facts, key, declared.get(key, []), there.get(key)))


def _of_key(facts: CacheFacts, key: tuple[str, str], models: list[CachedModel], entry: VersionEntry | None) -> Iterator[Decision]:
    if not models:
        yield _decide(facts, projection(facts, *key, entry), entry, restore=True)
        return
    first = ruling(models)
    yield _decide(facts, first, entry)
    for other in models:
        if other is not first:
            yield _second(facts, other, first)


def projection(facts: CacheFacts, model: str, version: str, entry: VersionEntry | None) -> CachedModel:
    """The object that Modelyard makes for what lies on the volume; volumes/catalogue gives it its name."""
    source = _source_of(entry.source if entry else None, facts)
    return CachedModel("", facts.namespace, model, version, facts.cache, projected=True, source=source)


def _source_of(uri: str | None, facts: CacheFacts) -> Source | None:
    """The block that a manifest's source belongs to, if exactly one comes into question."""
    if not uri:
        return None
    fitting = [Source(block, uri.removeprefix(prefix).strip("/")) for block, prefix in facts.sources.items() if uri.startswith(prefix)]
    fitting += [Source(block, uri) for block, host in facts.registries.items() if uri.startswith(f"{IMAGE}{host}/")]
    return fitting[0] if len(fitting) == 1 else None


def _second(facts: CacheFacts, model: CachedModel, first: CachedModel) -> Decision:
    """What becomes of an object that says the same as another: one of ours is superfluous, a person's is told."""
    words = f"{first} declares {model.model}@{model.version} on cache {model.cache} already; delete one of the two"
    finding = Finding(Phase.FAILED, "Conflict", words, conflict=words)
    return Decision(model, finding, Act.NONE if model.declared else Act.DROP, _status(facts, model, finding))


def _decide(facts: CacheFacts, model: CachedModel, entry: VersionEntry | None, *, restore: bool = False) -> Decision:
    finding, act = _Judge(facts, model, entry).judge()
    return Decision(model, finding, Act.RESTORE if restore else act, _status(facts, model, finding), entry)


def usage_of(facts: CacheFacts, model: CachedModel) -> Usage:
    """Who uses this version."""
    return Usage(facts.references.of(model.model, model.version), facts.references.unknown)


def _status(facts: CacheFacts, model: CachedModel, finding: Finding) -> dict[str, Any]:
    return next_status(finding, Context(model.status, model.generation, facts.now, usage_of(facts, model)))


@dataclass(frozen=True, slots=True)
class _Judge:
    """Judges one object against what lies on the volume."""

    facts: CacheFacts
    model: CachedModel
    entry: VersionEntry | None

    def judge(self) -> tuple[Finding, Act]:
        """Where it stands, and what is to be done."""
        if self.model.state == "Absent":
            return self._absent()
        if self.model.key in self.facts.loading:
            return self._loading(), Act.NONE
        if finding := self._there():
            return finding, Act.NONE
        if self.model.state == "Present" or not self.model.projected:
            return self._wanted()
        return self._left(), Act.NONE

    @property
    def _path(self) -> str:
        return f"{self.model.model}/{self.model.version}"

    @property
    def _content(self) -> Content | None:
        entry = self.entry
        return Content(entry.bytes, entry.files, entry.digest, entry.created) if entry and entry.digest else None

    def _there(self) -> Finding | None:
        """For a version that has its manifest, and for files that are not ours."""
        entry = self.entry
        if entry and entry.state is VersionState.READY:
            content = Content(entry.bytes, entry.files, entry.digest, entry.created)
            return ready(content, self.facts.claim, self._path)
        if entry and entry.state is VersionState.DAMAGED:
            step = f"run verify-cache with models {self.model.model}@{self.model.version} and repair, or set state Absent and load it again"
            return Finding(Phase.DAMAGED, "Damaged", f"{entry.problem or 'files are missing or of another size'}; {step}", self._content)
        if entry and entry.state is VersionState.FOREIGN:
            words = f"files that Modelyard did not put there lie in {entry.path} on the volume; move them away, or choose another version"
            return Finding(Phase.FAILED, "ForeignFiles", words)
        return None

    def _loading(self) -> Finding:
        """A Job is at work; what the preload that follows it wrote is newer than what we see, and stays."""
        previous = self.model.status
        if previous.get("phase") == Phase.LOADING:
            return _carried_on(previous)
        return Finding(Phase.LOADING, "Loading", "a loader's Job is writing it; see the preload's run for its progress")

    def _absent(self) -> tuple[Finding, Act]:
        entry, usage = self.entry, usage_of(self.facts, self.model)
        if self.model.key in self.facts.loading:
            words = "a preload is writing it; cancel that run, and the next reconciliation removes what it wrote"
            return _refused(self._loading(), "Loading", words), Act.NONE
        if entry is None:
            return removed(), Act.NONE
        if entry.state is VersionState.FOREIGN:
            return self._there() or self._left(), Act.NONE
        if self.model.pinned:
            return _refused(self._there() or self._left(), "Pinned", "it is pinned; set pinned to false first"), Act.NONE
        if usage.any:
            words = f"in use by {usage}; end that first" if usage.users else f"counts as in use: {usage}; grant the account these rights"
            return _refused(self._there() or self._left(), "InUse", words), Act.NONE
        return Finding(Phase.REMOVING, "Removing", "its bytes are being removed", self._content), Act.REMOVE

    def _wanted(self) -> tuple[Finding, Act]:
        """Declared Present, and not there."""
        source = self.model.source
        if source is None:
            words = "not on the volume, and spec.source does not say where it comes from; set source.block and source.path"
            return Finding(Phase.FAILED, "NoSource", words), Act.NONE
        image = source.path.startswith(IMAGE)
        kind, blocks = ("OCI Registry", self.facts.registries) if image else ("S3 Source", self.facts.sources)
        if source.block not in blocks:
            known = ", ".join(sorted(blocks)) or "none"
            words = f"there is no Modelyard {kind} block {source.block!r} (there are: {known}); create it in Prefect"
            return Finding(Phase.FAILED, "NoSourceBlock", words), Act.NONE
        if failure := self._failed_lately():
            return failure, Act.NONE
        words = f"will be loaded from {source.path} of source {source.block}"
        return Finding(Phase.PENDING, "Declared", words), Act.LOAD

    def _failed_lately(self) -> Finding | None:
        """A load of this very declaration that failed for a reason that a person must remove, and is not tried again yet."""
        failed = _condition(self.model.status, LOAD_FAILED)
        if failed.get("observedGeneration") != self.model.generation:
            return None
        again = datetime.fromisoformat(failed["lastTransitionTime"]) + RETRY_PAUSE
        if datetime.fromisoformat(self.facts.now) >= again:
            return None
        step = f"tried again after {timestamp(again)}, or at once when this object is changed or a preload is run"
        return Finding(Phase.FAILED, str(failed["reason"]), f"{failed['message']}; {step}", retold=True)

    def _left(self) -> Finding:
        """A projection of less than a whole version."""
        entry, previous = self.entry, self.model.status
        if previous.get("phase") == Phase.LOADING and not self._stale(previous):
            return _carried_on(previous)
        if entry and entry.state is VersionState.REMOVING:
            return Finding(Phase.REMOVING, "HalfRemoved", "its removal was cut short; set state Absent to finish it, or preload it again")
        if previous.get("phase") == Phase.FAILED and not _outdated(previous):
            return Finding(Phase.FAILED, _reason(previous), str(previous.get("message", "")), retold=True)
        if entry and entry.state in {VersionState.STAGING, VersionState.PUBLISHING}:
            kept = f"{format_bytes(entry.bytes)} of it are kept"
            words = f"its load was cut short, {kept}; preload it again to go on, or set state Absent to remove them"
            return Finding(Phase.FAILED, "Interrupted", words)
        if previous.get("phase") == Phase.LOADING:
            return Finding(Phase.FAILED, "Interrupted", "its load was cut short before it wrote anything; preload it again")
        return Finding(Phase.ABSENT, "Gone", "no longer on the volume; set state Present to load it again, or delete this object")

    def _stale(self, previous: Mapping[str, Any]) -> bool:
        since = _condition(previous, "Ready").get("lastTransitionTime")
        return since is None or datetime.fromisoformat(self.facts.now) - datetime.fromisoformat(since) > LOADING_GRACE


@dataclass(frozen=True, slots=True)
class KnownCaches:
    """The caches that blocks describe: name and namespace of those to work with, and why others cannot be."""

    usable: frozenset[tuple[str, str]]
    unusable: Mapping[str, str] = field(default_factory=dict)

    def problem(self, model: CachedModel) -> str | None:
        """Why an object speaks of no cache that there is."""
        name = model.cache
        if (name, model.namespace) in self.usable:
            return None
        if places := sorted(namespace for known, namespace in self.usable if known == name):
            return f"cache {name} lies in namespace {', '.join(places)}; declare the model there, and delete this object"
        if reason := self.unusable.get(name):
            return f"cache {name} cannot be used: {reason}"
        known = ", ".join(sorted({each for each, _ in self.usable})) or "none"
        return (
            f"there is no Modelyard Model Cache block for cache {name!r} (there are: {known}); create it in Prefect, or delete this object"
        )


def plan_strays(models: Iterable[CachedModel], known: KnownCaches, now: str) -> tuple[Decision, ...]:
    """A decision for each object that speaks of no cache that there is. No side effects."""
    told = [(model, Finding(Phase.FAILED, "NoCache", words)) for model in models if (words := known.problem(model))]
    return tuple(
        Decision(model, finding, Act.NONE, next_status(finding, Context(model.status, model.generation, now))) for model, finding in told
    )


def _carried_on(previous: Mapping[str, Any]) -> Finding:
    """Loading, as the preload itself told it."""
    return Finding(Phase.LOADING, _reason(previous), str(previous.get("message", "")))


def _outdated(previous: Mapping[str, Any]) -> bool:
    """Whether what a status says of its failure was our own judgement, which is made anew, and not the words of a preload."""
    return bool(_condition(previous, "RemovalRefused")) or _reason(previous) in {
        "Conflict",
        "ForeignFiles",
        "NoSource",
        "NoSourceBlock",
        "Interrupted",
        "NoCache",
    }


def _refused(finding: Finding, reason: str, words: str) -> Finding:
    return Finding(finding.phase, finding.reason, f"state Absent is not carried out: {words}", finding.content, refusal=(reason, words))


def _reason(status: Mapping[str, Any]) -> str:
    return str(_condition(status, "Ready").get("reason", "Unknown"))


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    return next((each for each in status.get("conditions") or () if each.get("type") == kind), {})
