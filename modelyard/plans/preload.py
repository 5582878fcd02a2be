"""What a preload will do, decided without side effects, so that a dry run, a test and the real run agree."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from modelyard.caches import CacheSpec
from modelyard.errors import Problem, Refused
from modelyard.models import Listing, ModelRef, Origin, Pin, SourceFile, summarise
from modelyard.names import name_problem, preload_job_name
from modelyard.orders import LoadSpec, VerifyLevel
from modelyard.plans.archives import archive_problems
from modelyard.plans.capacity import Capacity, VolumeSeen, capacity_table, plan_capacity
from modelyard.plans.claim import ClaimAction, ClaimPlan, plan_claim
from modelyard.plans.claim_facts import ClaimFacts
from modelyard.plans.digests import SUMS_NAME, missing_sums
from modelyard.plans.nfs_volume import ExportVolume
from modelyard.plans.paths import path_problems
from modelyard.plans.placement import Placement, plan_placement
from modelyard.plans.scheduling import Scheduling
from modelyard.plans.storage_classes import StorageClassFacts
from modelyard.plans.weight_formats import weight_problems
from modelyard.quantities import format_bytes

_DIGEST_CHARS = 12


@dataclass(frozen=True, slots=True)
class PreloadRequest:
    """What the user asked for."""

    model: str
    version: str | None
    source: Origin
    cache: CacheSpec
    verify: VerifyLevel = VerifyLevel.SIZES


@dataclass(frozen=True, slots=True)
class PreloadFacts:
    """What is there now, read once: the source's listing, the claim and the classes that it could have."""

    listing: Listing
    problems: tuple[Problem, ...]
    claim: ClaimFacts | None
    classes: tuple[StorageClassFacts, ...] | None  # None: the account may not list them
    pin: Pin | None = None  # how the listing was made
    exports: tuple[ExportVolume, ...] | None = ()  # the volumes of the NFS export that the cache names; None: not to be listed
    volume: VolumeSeen | None = None  # None: it was not looked at
    unmeasured: str | None = None  # why not, if it should have been
    source: Origin | None = None  # the request's, pinned by what was seen there
    digest: str | None = None  # of the files, where their SHA-256s are known already
    told: tuple[str, ...] = ()  # what is worth knowing of the source
    workloads: tuple[Scheduling, ...] = ()  # those that name the claim, where the loader's pod decides where its volume is made


@dataclass(frozen=True, slots=True)
class PreloadPlan:
    """What will be done, or why nothing will be."""

    request: PreloadRequest
    facts: PreloadFacts
    model: str
    claim: ClaimPlan | None
    spec: LoadSpec | None
    placement: Placement
    problems: tuple[Problem, ...]
    capacity: Capacity | None = None

    @property
    def digest(self) -> str:
        """Changes with anything that would be done otherwise."""
        told = self.spec.model_dump_json() if self.spec else repr(self.problems)
        pod = self.placement.on(self.request.cache)
        place = self.placement.node or ((pod.node_selector, pod.tolerations) if self.placement.selector else None)
        return hashlib.sha256(f"{told}\0{self.claim}\0{place}".encode()).hexdigest()[:_DIGEST_CHARS]

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth knowing and stands against nothing."""
        unmeasured = (f"free space was not measured: {self.facts.unmeasured}",) if self.facts.unmeasured else ()
        about_claim, about_space = self.claim.notes if self.claim else (), self.capacity.notes if self.capacity else ()
        return (*self.facts.told, *about_claim, *self.placement.notes, *about_space, *unmeasured)

    def approved(self) -> tuple[LoadSpec, ClaimPlan]:
        """The load to run, and the claim to run it on.

        Raises:
            Refused: with every problem of the plan.
        """
        if self.problems or self.spec is None or self.claim is None:
            raise Refused(self.problems)
        return self.spec, self.claim


def read_listing(files: Iterable[SourceFile], source: Origin, cache: CacheSpec) -> tuple[Listing, tuple[Problem, ...]]:
    """Sum a listing up, and say what is wrong with it, as far as names tell what the cache's gates would refuse."""
    try:
        listed = list(files)
    except Refused as refused:  # an image tells what is wrong with its layers while it is listed
        return summarise(()), refused.problems
    problems = [*path_problems(listed), *archive_problems(listed, source), *weight_problems(listed, cache.weight_formats)]
    if listed and cache.require_digests and not any(file.path == SUMS_NAME for file in listed):
        problems.append(missing_sums(source.uri))
    if not listed:
        problems.append(Problem(source.uri, "lists no file", "check the path; a model's files lie directly below it"))
    return summarise(listed), tuple(problems)


def plan_preload(request: PreloadRequest, facts: PreloadFacts) -> PreloadPlan:
    """The plan for ``request``, given what is there. All that stands against it is in ``problems``. No side effects."""
    request = replace(request, source=facts.source or request.source)
    version = request.version or default_version(request.model, request.source, facts.listing)
    names = [Problem("model or version", problem, "choose another") for text in (request.model, version) if (problem := name_problem(text))]
    planned = plan_claim(request.cache, facts.claim, facts.classes, facts.exports)
    claim, refused = (None, planned) if isinstance(planned, tuple) else (planned, ())
    job = preload_job_name(request.cache.claim, request.model, version)
    late = _binds_late(claim, facts)
    placement = plan_placement(request.cache, facts.claim, binds_late=late, own_job=job, workloads=facts.workloads)
    capacity = None if names else _capacity(request, version, facts, claim)
    size = _too_large(request, facts.listing, claim) if claim and not (capacity and not capacity.needed) else ()
    problems = (*names, *facts.problems, *refused, *placement.problems, *size, *(capacity.problems if capacity else ()))
    spec = None if problems else _spec(request, version, facts)
    return PreloadPlan(request, facts, f"{request.model}@{version}", claim, spec, placement, problems, capacity)


def _binds_late(claim: ClaimPlan | None, facts: PreloadFacts) -> bool:
    """Whether the loader's pod is the one that the claim is bound for."""
    if claim is None or claim.volume or (facts.claim and facts.claim.phase == "Bound"):
        return False
    return any(each.name == claim.storage_class and each.binding_mode == "WaitForFirstConsumer" for each in facts.classes or ())


def _capacity(request: PreloadRequest, version: str, facts: PreloadFacts, claim: ClaimPlan | None) -> Capacity | None:
    if facts.volume is None or facts.claim is None:
        return None
    seen = facts.volume
    if claim and claim.action is ClaimAction.EXPAND:
        more = max(0, claim.size - (facts.claim.capacity_bytes or 0))
        space = seen.space.model_copy(
            update={"total_bytes": seen.space.total_bytes + more, "free_bytes": seen.space.free_bytes + more, "total_inodes": 0}
        )
        seen = replace(seen, space=space)
    model, headroom = ModelRef(name=request.model, version=version), request.cache.headroom
    return plan_capacity(model, facts.listing, headroom, seen, facts.claim, facts.digest)


def _too_large(request: PreloadRequest, listing: Listing, claim: ClaimPlan) -> tuple[Problem, ...]:
    """A model that the whole claim could not hold; what is free on it is known only to a pod that mounts it."""
    needed = listing.bytes + request.cache.headroom
    if needed <= claim.size:
        return ()
    what = f"is {format_bytes(claim.size)}, the model and the headroom need {format_bytes(needed)}"
    step = "raise storageSize, with allowExpansion or a new pvcNameSuffix if the claim is there already"
    return (Problem(f"claim {claim.namespace}/{claim.name}", what, step),)


def _spec(request: PreloadRequest, version: str, facts: PreloadFacts) -> LoadSpec:
    return LoadSpec(
        model=ModelRef(name=request.model, version=version),
        source=request.source,
        listing=facts.listing,
        digest=facts.digest,
        headroom=request.cache.headroom,
        verify=request.verify,
        weights=request.cache.weight_formats,
        require_digests=request.cache.require_digests,
        pin=facts.pin,
    )


def default_version(model: str, source: Origin, listing: Listing) -> str:
    """The last directory of the source's path; where that is no name, or only the model's again, the listing's digest."""
    last = source.last_name
    if last and last != model and not name_problem(last):
        return last
    return listing.digest.removeprefix("sha256:")[:_DIGEST_CHARS]


def describe(plan: PreloadPlan) -> str:
    """The plan as Markdown, for the run's artifact."""
    request, listing = plan.request, plan.facts.listing
    cache = request.cache
    rows = [
        ("Model", f"`{plan.model}`"),
        ("Source", f"`{request.source.uri}`"),
        ("Files", f"{listing.files:,}, {format_bytes(listing.bytes)}"),
        ("Listing", f"`{listing.digest}`"),
        ("Gates", f"weightFormats `{cache.weight_formats}`, SHA256SUMS {'required' if cache.require_digests else 'honoured where there'}"),
        ("Claim", f"`{cache.namespace}/{cache.claim}`: {_claim(plan)}"),
        ("Job", f"`{preload_job_name(cache.claim, *plan.model.split('@'))}`" if plan.spec else "none"),
        ("Plan", f"`{plan.digest}`"),
    ]
    head = "\n".join(f"| {name} | {text} |" for name, text in rows)
    refusals = "\n".join(f"- {problem}" for problem in plan.problems)
    verdict = f"\n\n**Refused**, nothing was changed:\n\n{refusals}" if plan.problems else ""
    capacity = f"\n\n{capacity_table(plan.capacity)}" if plan.capacity else ""
    notes = "".join(f"\n- {note}" for note in plan.notes)
    return f"# Preload {plan.model}\n\n| | |\n|---|---|\n{head}{verdict}{capacity}\n{notes}\n"


def _claim(plan: PreloadPlan) -> str:
    if plan.claim is None:
        return "cannot be had"
    return f"{plan.claim.action}, {format_bytes(plan.claim.size)} {plan.claim.access_mode}"
