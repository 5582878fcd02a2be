"""Which copies of a cache's claim go, and which are held because something uses them. Pure."""

from dataclasses import dataclass

from modelyard.caches import CacheSpec
from modelyard.errors import Problem, Refused
from modelyard.plans.sharing import CopyFacts, Owner

_AGAIN = "shareWith of the cache's block names it, so reconcile-caches will make the copy again: take it out there first"


@dataclass(frozen=True, slots=True)
class SharedFacts:
    """One namespace with something of a copy in it, or asked about. ``users`` are pods and workloads that name the claim."""

    namespace: str
    volume: CopyFacts
    claim: CopyFacts
    retained: bool = True  # the volume's reclaim policy is Retain
    users: tuple[str, ...] = ()
    unseen: tuple[Problem, ...] = ()  # what could not be looked at, and therefore counts as in use


@dataclass(frozen=True, slots=True)
class UnsharePlan:
    """The namespaces whose copies go, or why none does."""

    cache: CacheSpec
    namespaces: tuple[str, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()

    def approved(self) -> tuple[str, ...]:
        """The namespaces to unshare.

        Raises:
            Refused: with every problem of the plan.
        """
        if self.problems:
            raise Refused(self.problems)
        return self.namespaces


def plan_unsharing(cache: CacheSpec, found: tuple[SharedFacts, ...]) -> UnsharePlan:
    """The plan to remove the copies that ``found`` tells of. No side effects."""
    problems = [problem for facts in found for problem in _problems(facts)]
    there = tuple(facts.namespace for facts in found if Owner.COPY in {facts.volume.owner, facts.claim.owner})
    nothing = [f"{facts.namespace}: no copy is there" for facts in found if facts.namespace not in there and not _problems(facts)]
    again = [f"{name}: {_AGAIN}" for name in there if name in cache.share_with]
    return UnsharePlan(cache, there, tuple(problems), (*nothing, *again, *(() if found else ("the cache has no copies",))))


def _problems(facts: SharedFacts) -> list[Problem]:
    foreign = [
        Problem(copy.subject, "is not a copy of this cache's and is not removed", "leave this namespace out")
        for copy in (facts.volume, facts.claim)
        if copy.owner is Owner.FOREIGN
    ]
    if facts.claim.owner is Owner.COPY and facts.users:
        step = "delete them or let them use another claim, then run again"
        foreign.append(Problem(facts.claim.subject, f"is used by {', '.join(facts.users)}", step))
    if facts.volume.owner is Owner.COPY and not facts.retained:
        what = "its reclaim policy is no longer Retain: removing the claim would delete the data of every namespace"
        name = facts.volume.subject.rpartition("/")[2]
        patch = f"""`kubectl patch pv {name} -p '{{"spec":{{"persistentVolumeReclaimPolicy":"Retain"}}}}'`"""
        foreign.append(Problem(facts.volume.subject, what, f"set it back: {patch}"))
    return [*foreign, *(facts.unseen if facts.claim.owner is Owner.COPY else ())]


def describe_unsharing(plan: UnsharePlan) -> str:
    """The plan as Markdown, for the run's artifact."""
    lines = [f"- remove the copy in `{namespace}`" for namespace in plan.namespaces] + [f"- {note}" for note in plan.notes]
    refusals = [f"- {problem}" for problem in plan.problems]
    verdict = ["", "**Refused**, nothing was changed:", "", *refusals] if refusals else []
    return "\n".join([f"# Unshare cache {plan.cache.name}", "", *lines, *verdict, ""])
