"""The PersistentVolume of an NFS export that a cache names itself (nfsServer, nfsPath): one that is there, or one to be made. Pure.

It takes the place of a provisioner where no class makes volumes for many nodes. The claim names the volume, so no other is
bound to it; a volume of ours names the claim as well, so no other claim takes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from modelyard.caches import AccessMode, CacheSpec
from modelyard.errors import Problem
from modelyard.names import export_volume_name
from modelyard.quantities import format_bytes


@dataclass(frozen=True, slots=True)
class Export:
    """What an NFS server exports."""

    server: str
    path: str

    def __str__(self) -> str:
        return f"{self.server}:{self.path}"


@dataclass(frozen=True, slots=True)
class ExportVolume:
    """A PersistentVolume of an export; ``claim`` is the ``namespace/name`` that it is for, None if it is anyone's."""

    name: str
    phase: str
    storage_class: str
    access_modes: tuple[str, ...]
    bytes: int
    claim: str | None = None
    created_by_us: bool = False


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """The volume that the claim names; ``export`` only where Modelyard makes or made it."""

    volume: str
    export: Export | None = None
    notes: tuple[str, ...] = ()


def export_of(cache: CacheSpec) -> Export | None:
    """The export that the cache's settings name."""
    return Export(cache.nfs_server, cache.nfs_path) if cache.nfs_server and cache.nfs_path else None


def plan_export(cache: CacheSpec, export: Export, volumes: Sequence[ExportVolume] | None) -> ExportPlan | Problem:
    """Which PersistentVolume of ``export`` the cache's new claim is bound to; ``volumes`` are those that exist, None if not readable."""
    name, claim = export_volume_name(cache.namespace, cache.claim, str(export)), f"{cache.namespace}/{cache.claim}"
    if ours := next((each for each in volumes or () if each.name == name), None):
        return _ours(cache, export, ours)
    others = tuple(
        f"{export} is also PersistentVolume {each.name} of claim {each.claim}: both hold the same files"
        for each in volumes or ()
        if each.claim not in {None, claim}
    )
    fitting = [each for each in volumes or () if each.phase == "Available" and each.claim in {None, claim} and _fits(cache, each)]
    if fitting:
        chosen = min(fitting, key=lambda each: (each.bytes, each.name))
        return ExportPlan(chosen.name, notes=(f"PersistentVolume {chosen.name} of {export} is there and fits", *others))
    unseen = ("PersistentVolumes cannot be listed by this account, so one that is there is not looked for",) if volumes is None else ()
    return ExportPlan(name, export, (f"PersistentVolume {name} is made for {export}", *unseen, *others))


def _ours(cache: CacheSpec, export: Export, volume: ExportVolume) -> ExportPlan | Problem:
    subject = f"PersistentVolume/{volume.name}"
    if not volume.created_by_us:
        return Problem(subject, "has the name of ours and was not made by Modelyard", "rename it, or set another pvcNameSuffix")
    if not _fits(cache, volume):
        what = (
            f"was made for {export} with {format_bytes(volume.bytes)} and StorageClass {volume.storage_class!r}, and does not fit any more"
        )
        return Problem(subject, what, "delete it (its files stay), or set storageSize and storageClassName back")
    return ExportPlan(volume.name, export, (f"PersistentVolume {volume.name} of {export} is there from before",))


def _fits(cache: CacheSpec, volume: ExportVolume) -> bool:
    modes = {AccessMode.READ_WRITE_MANY, cache.access_mode}
    return (
        volume.storage_class == (cache.storage_class_name or "")
        and modes <= set(volume.access_modes)
        and volume.bytes >= cache.storage_size
    )
