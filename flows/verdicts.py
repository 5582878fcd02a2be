"""What a verification tells the catalogue. A courtesy: where the catalogue may not be written, the run says so once and goes on."""

from collections.abc import Sequence

from prefect.logging import get_run_logger

from modelyard.caches import CacheSpec
from modelyard.errors import ModelyardError
from modelyard.kube.client import Kube
from modelyard.kube.failures import NotFound
from modelyard.orders import DamageEntry, VersionVerdict
from modelyard.plans.catalogue import CachedModel
from modelyard.plans.catalogue_verdicts import verdict_finding
from modelyard.volumes.catalogue import Entry, find, project, read_catalogue, write_judgement


def tell_catalogue(kube: Kube, cache: CacheSpec, verdicts: Sequence[VersionVerdict], entries: Sequence[DamageEntry], share: float) -> None:
    """Write each version's verdict into its object. An object is made for a damaged version alone: that must not be lost."""
    left: dict[tuple[str | None, str | None], list[DamageEntry]] = {}
    for entry in entries:
        if not entry.foreign and not entry.repaired:
            left.setdefault((entry.model, entry.version), []).append(entry)
    try:
        known = read_catalogue(kube, cache.namespace)
        for verdict in verdicts:
            _tell(kube, cache, known, verdict, left.get((verdict.model, verdict.version), []), share)
    except ModelyardError as error:
        get_run_logger().warning("the catalogue does not show this verification, which goes on: %s", error)


def _tell(
    kube: Kube, cache: CacheSpec, known: Sequence[Entry], verdict: VersionVerdict, damage: Sequence[DamageEntry], share: float
) -> None:
    wanted = CachedModel("", cache.namespace, verdict.model, verdict.version, cache.name, projected=True)
    entry = find(known, wanted)
    if entry is None and verdict.damaged and verdict.digest:
        entry = project(kube, wanted)
    if entry is None:
        return
    try:
        write_judgement(kube, entry, lambda model: verdict_finding(verdict, damage, model.status, claim=cache.claim, share=share))
    except NotFound:  # deleted by a person meanwhile; the next reconciliation restores it
        get_run_logger().warning("%s was deleted while %s@%s was verified", entry.model, verdict.model, verdict.version)
