"""Which claim a cache gets: make it, use the one that is there, or say everything that stands against it. Pure.

A claim that Modelyard did not make is used as it is: it is never resized, relabelled or deleted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from modelyard.caches import AccessMode, CacheSpec
from modelyard.errors import Problem
from modelyard.plans.claim_facts import ClaimFacts
from modelyard.plans.expansion import expansion_problem
from modelyard.plans.nfs_volume import Export, ExportPlan, ExportVolume, export_of, plan_export
from modelyard.plans.storage_classes import StorageClassFacts, storage_class_verdict
from modelyard.quantities import format_bytes


class ClaimAction(StrEnum):
    """What becomes of a claim."""

    CREATE = "create"
    USE = "use"
    EXPAND = "expand"  # and use


@dataclass(frozen=True, slots=True)
class ClaimPlan:
    """The claim that a cache will stand on. ``storage_class`` None leaves the choice to the cluster's default.

    ``volume`` is the PersistentVolume that a new claim names, ``export`` what that volume is made of if it is ours to make.
    """

    action: ClaimAction
    namespace: str
    name: str
    storage_class: str | None
    access_mode: AccessMode
    size: int
    notes: tuple[str, ...] = ()
    volume: str | None = None
    export: Export | None = None


def plan_claim(
    cache: CacheSpec,
    claim: ClaimFacts | None,
    classes: Sequence[StorageClassFacts] | None,
    volumes: Sequence[ExportVolume] | None = (),
) -> ClaimPlan | tuple[Problem, ...]:
    """The claim that ``cache`` stands on, or all that stands against it. No side effects.

    ``claim`` is what has its name now; ``classes`` is None where the account may not list them, and so is ``volumes``: the
    PersistentVolumes of the NFS export that the cache names, if it names one.
    """
    if claim is not None:
        return _plan_existing(cache, claim, classes)
    if export := export_of(cache):
        return _plan_exported(cache, plan_export(cache, export, volumes))
    return _plan_unseen(cache) if classes is None else _plan_new(cache, classes)


def _plan_existing(cache: CacheSpec, claim: ClaimFacts, classes: Sequence[StorageClassFacts] | None) -> ClaimPlan | tuple[Problem, ...]:
    subject = _subject(cache)
    if claim.deleting:
        held = f", held by {', '.join(map(str, claim.mounted_by))}" if claim.mounted_by else ""
        return (Problem(subject, f"is being deleted{held}", _OTHER_SUFFIX),)
    if claim.phase == "Lost":
        return (Problem(subject, f"has lost its PersistentVolume {claim.volume_name}", _OTHER_SUFFIX),)
    larger = cache.storage_size > claim.bytes
    hindered = expansion_problem(cache, claim, classes) if larger else None
    problems = (*(Problem(subject, what, _OTHER_SUFFIX) for what in _differences(cache, claim)), *((hindered,) if hindered else ()))
    if problems:
        return problems
    notes = () if claim.created_by_us else ("the claim was not made by Modelyard: it is used as it is",)
    if larger:
        told = f"expanded in place from {format_bytes(claim.bytes)}; it can never be made smaller again"
        return _existing(cache, claim, ClaimAction.EXPAND, cache.storage_size, (*notes, told))
    if claim.expanding and claim.created_by_us:
        told = f"an expansion from {format_bytes(claim.capacity_bytes or 0)} is under way and waited for"
        return _existing(cache, claim, ClaimAction.EXPAND, claim.bytes, (*notes, told))
    return _existing(cache, claim, ClaimAction.USE, claim.bytes, notes)


def _existing(cache: CacheSpec, claim: ClaimFacts, action: ClaimAction, size: int, notes: tuple[str, ...]) -> ClaimPlan:
    return ClaimPlan(action, cache.namespace, cache.claim, claim.storage_class, cache.access_mode, size, notes)


def _plan_exported(cache: CacheSpec, chosen: ExportPlan | Problem) -> ClaimPlan | tuple[Problem, ...]:
    if isinstance(chosen, Problem):
        return (chosen,)
    return replace(_create(cache, cache.storage_class_name or "", *chosen.notes), volume=chosen.volume, export=chosen.export)


_OTHER_SUFFIX = "set another pvcNameSuffix for a new claim, or change the cache's settings to what is there"


def _differences(cache: CacheSpec, claim: ClaimFacts) -> list[str]:
    """What the settings ask for and the claim does not give; more than was asked for is no difference."""
    found = []
    if cache.storage_class_name is not None and cache.storage_class_name != claim.storage_class:
        found.append(
            f"has StorageClass {claim.storage_class!r}, storageClassName asks for {cache.storage_class_name!r}, which cannot change"
        )
    if not {cache.access_mode, AccessMode.READ_WRITE_MANY} & set(claim.access_modes):
        found.append(f"has access modes {', '.join(claim.access_modes)}, accessMode asks for {cache.access_mode}")
    if (export := export_of(cache)) and claim.volume_name and claim.export not in {None, str(export)}:
        found.append(f"is bound to NFS export {claim.export}, nfsServer and nfsPath name {export}")
    elif export and claim.volume_type not in {None, "nfs"}:
        found.append(f"is bound to a volume of type {claim.volume_type}, nfsServer and nfsPath name {export}")
    return found


def _plan_new(cache: CacheSpec, classes: Sequence[StorageClassFacts]) -> ClaimPlan | tuple[Problem, ...]:
    if cache.storage_class_name is None:
        return _plan_default(cache, classes)
    found = next((each for each in classes if each.name == cache.storage_class_name), None)
    if found is not None:
        return _plan_with(cache, found, classes)
    if cache.storage_class_name and not cache.bypass_storage_check:
        step = f"name one that does: {_names(classes)}; for a PersistentVolume made by hand with this class, set bypassStorageCheck"
        return (Problem(_subject(cache), f"StorageClass {cache.storage_class_name!r} does not exist", step),)
    note = f"only a PersistentVolume made by hand with storageClassName {cache.storage_class_name!r} can be bound"
    return _create(cache, cache.storage_class_name, note)


def _plan_unseen(cache: CacheSpec) -> ClaimPlan | tuple[Problem, ...]:
    if cache.storage_class_name is not None:
        return _create(cache, cache.storage_class_name, "classes cannot be read by this account; will be seen when bound")
    step = "set storageClassName, or grant the account the verb list on storageclasses.storage.k8s.io by a ClusterRole"
    return (Problem(_subject(cache), "no StorageClass is named, and this account may not list the classes", step),)


def _plan_default(cache: CacheSpec, classes: Sequence[StorageClassFacts]) -> ClaimPlan | tuple[Problem, ...]:
    defaults = [each for each in classes if each.is_default]
    if not defaults:
        table = "; ".join(_sentence(each, cache.access_mode) for each in classes) or "the cluster has none"
        return (Problem(_subject(cache), "no StorageClass is named and none is the default", f"set storageClassName: {table}"),)
    if len(defaults) == 1:
        return _plan_with(cache, defaults[0], classes)
    return _create(cache, None, f"several classes are the default ({_names(defaults)}); Kubernetes takes the newest")


def _plan_with(cache: CacheSpec, chosen: StorageClassFacts, classes: Sequence[StorageClassFacts]) -> ClaimPlan | tuple[Problem, ...]:
    verdict = storage_class_verdict(chosen, cache.access_mode, bypass=cache.bypass_storage_check)
    if verdict.ok:
        return _create(cache, chosen.name, f"StorageClass {chosen.name}: {verdict.reason}", *_policy_note(chosen))
    fit = [each for each in classes if storage_class_verdict(each, cache.access_mode).ok]
    step = f"classes that may: {_names(fit)}; or ask for ReadWriteOnce, or set bypassStorageCheck if you know better"
    return (Problem(_subject(cache), f"StorageClass {chosen.name} cannot serve {cache.access_mode} ({verdict.reason})", step),)


def _policy_note(chosen: StorageClassFacts) -> tuple[str, ...]:
    return ("deleting the claim deletes its models (reclaim policy Delete)",) if chosen.reclaim_policy == "Delete" else ()


def _create(cache: CacheSpec, storage_class: str | None, *notes: str) -> ClaimPlan:
    return ClaimPlan(ClaimAction.CREATE, cache.namespace, cache.claim, storage_class, cache.access_mode, cache.storage_size, notes)


def _sentence(storage_class: StorageClassFacts, access_mode: AccessMode) -> str:
    verdict = storage_class_verdict(storage_class, access_mode)
    return (
        f"{storage_class.name} ({storage_class.provisioner}, {storage_class.reclaim_policy}, {storage_class.binding_mode},"
        f" {access_mode} {'yes' if verdict.ok else 'no'}: {verdict.reason})"
    )


def _names(classes: Sequence[StorageClassFacts]) -> str:
    return ", ".join(sorted(each.name for each in classes)) or "none"


def _subject(cache: CacheSpec) -> str:
    return f"PersistentVolumeClaim/{cache.namespace}/{cache.claim}"
