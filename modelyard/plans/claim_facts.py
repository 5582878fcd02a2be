"""What is seen of a cache's claim, its volume and the pods that mount it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mount:
    """A pod that mounts the claim; ``node`` is None until one is chosen, ``loader`` the Job of one of ours, which ends by itself."""

    pod: str
    node: str | None = None
    loader: str | None = None

    def __str__(self) -> str:
        return self.pod


@dataclass(frozen=True, slots=True)
class ClaimFacts:
    """What is seen of a claim. ``volume_type`` is ``nfs``, ``hostPath``, ``csi:<driver>`` or another; None if not bound or not readable.

    ``export`` is ``server:path`` of an NFS volume, ``reachable_from`` the volume's node affinity in words.
    """

    name: str
    namespace: str
    phase: str
    storage_class: str | None
    access_modes: tuple[str, ...]
    requested_bytes: int
    capacity_bytes: int | None = None
    volume_name: str | None = None
    volume_type: str | None = None
    created_by_us: bool = False
    deleting: bool = False
    mounted_by: tuple[Mount, ...] = ()
    export: str | None = None
    reachable_from: str | None = None

    @property
    def bytes(self) -> int:
        """The size that counts: a bound volume may be larger than what was asked for."""
        return max(self.requested_bytes, self.capacity_bytes or 0)

    @property
    def expanding(self) -> bool:
        """Whether more was asked for than there is yet."""
        return self.phase == "Bound" and self.capacity_bytes is not None and self.capacity_bytes < self.requested_bytes
