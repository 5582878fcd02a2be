"""Who names a claim: pods, and workloads whose pods will. For what must not be taken away, and for what is wanted.

The kinds, and what counts as naming, are those by which models are kept from removal (volumes.references).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from modelyard.caches import CacheSpec
from modelyard.errors import ClusterRefused, Problem
from modelyard.kube.apply import OWNERSHIP, is_owned, patiently
from modelyard.kube.client import Kube
from modelyard.kube.loader_report import finished
from modelyard.kube.resources import GROUP, Manifest, ref_of
from modelyard.orders import InspectSpec
from modelyard.plans.references import used_paths, uses_in
from modelyard.plans.scheduling import Scheduling, scheduling_of
from modelyard.volumes.references import list_users

_ENDED = frozenset({"Succeeded", "Failed"})
_PATTERN = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Users:
    """Those who name the claim, and why some kinds could not be looked at."""

    named: tuple[str, ...] = ()
    unseen: tuple[Problem, ...] = ()


def users_of(kube: Kube, namespace: str, claim: str) -> Users:
    """Pods that have not ended and workloads in ``namespace`` that name ``claim``; a kind that the cluster lacks has none."""
    found, refused = list_users(kube, namespace)
    unseen = tuple(
        Problem(
            f"{kind}s of namespace {namespace}",
            f"cannot be looked at for users of claim {claim} ({error})",
            "grant the account the verb list there",
        )
        for kind, error in refused.items()
    )
    return Users(users_among(found, namespace, claim), unseen)


def scheduling_for(kube: Kube, namespace: str, claim: str) -> tuple[Scheduling, ...]:
    """Where the workloads that name ``claim`` may run, of the kinds that this account may list."""
    found, _ = list_users(kube, namespace)
    return scheduling_of(found, claim)


def users_among(objects: Iterable[Manifest], namespace: str, claim: str) -> tuple[str, ...]:
    """Who of a namespace's ``objects``, owners first, names ``claim``. What an owner says already is not told again."""
    active = [live for live in objects if is_active(live)]
    ours = (str(ref_of(live)) for live in active if is_owned(live) and used_paths(live, {claim}))  # loaders, which uses_in leaves out
    return tuple(dict.fromkeys((*(use.who for use in uses_in(active, {namespace: frozenset({claim})})), *ours)))


#: Labels of the Jobs and pods by which Modelyard looks at a volume, which never keep a claim.
INSPECTION = {**OWNERSHIP, f"{GROUP}/command": InspectSpec.command}


def is_active(live: Manifest) -> bool:
    """Whether it has or will have pods of its own: not ended, and no inspection of ours."""
    if INSPECTION.items() <= (live["metadata"].get("labels") or {}).items():
        return False
    if live["kind"] == "Pod":
        return (live.get("status") or {}).get("phase") not in _ENDED
    return not (live["kind"] == "Job" and finished(live))


@dataclass(frozen=True, slots=True)
class Wanted:
    """The namespaces that are to have a copy, and why of others it is not known."""

    namespaces: tuple[str, ...]
    problems: tuple[Problem, ...] = ()


def wanted_namespaces(kube: Kube, cache: CacheSpec) -> Wanted:
    """The namespaces that are to have a copy of the cache's claim: those of ``share_with``, and those of ``share_on_demand``
    where a workload names a claim of this name that is not there. What may not be looked at is told, and holds up no other.
    """
    names, problems = _candidates(kube, cache)
    on_demand = []
    for name in names:
        try:
            on_demand += [name] if _lacks_it(kube, name, cache.claim) else []
        except ClusterRefused as error:
            what = f"whether a copy is wanted there is not known: {error}"
            problems.append(
                Problem(f"Namespace/{name}", what, "grant the rights of a shared namespace there, or take it out of shareOnDemand")
            )
    return Wanted((*cache.share_with, *on_demand), tuple(problems))


def _candidates(kube: Kube, cache: CacheSpec) -> tuple[list[str], list[Problem]]:
    """The other namespaces of ``share_on_demand``, and why those of its patterns are not among them."""
    patterns = [name for name in cache.share_on_demand if _PATTERN & set(name)]
    names, problems = set(cache.share_on_demand) - {*patterns}, []
    try:
        names |= _matching(kube, patterns) if patterns else set()
    except ClusterRefused as error:
        step = "grant the verb list on namespaces by a ClusterRole, or name the namespaces without patterns"
        problems.append(Problem(f"shareOnDemand {', '.join(patterns)}", f"namespaces cannot be listed ({error})", step))
    return sorted(names - {cache.namespace, *cache.share_with}), problems


def _matching(kube: Kube, patterns: Sequence[str]) -> set[str]:
    live = patiently(lambda: kube.list("Namespace"))
    names = [each["metadata"]["name"] for each in live if not each["metadata"].get("deletionTimestamp")]
    return {name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)}


def _lacks_it(kube: Kube, namespace: str, claim: str) -> bool:
    if patiently(lambda: kube.get("PersistentVolumeClaim", claim, namespace)) is not None:
        return False
    users = users_of(kube, namespace, claim)
    if not users.named and users.unseen:
        raise ClusterRefused("; ".join(map(str, users.unseen)))
    return bool(users.named)
