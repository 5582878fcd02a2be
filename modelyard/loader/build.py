"""Build a modelcar's layers beside the data: the builder of the flows, with what the pod has of sources and credentials."""

import os
from pathlib import Path

from modelyard.errors import SourceChanged
from modelyard.loader.progress import EntryLog, say
from modelyard.loader.sources import open_source
from modelyard.loader.volume_source import VolumeSource
from modelyard.modelcar.build import build_layers
from modelyard.modelcar.order import BuildResult, BuildSpec, listing_of, plan_entries
from modelyard.modelcar.resolve import read_facts
from modelyard.modelcar.tuning import Tuning
from modelyard.models import ClaimLocation
from modelyard.oci.environment import keychain_of
from modelyard.orders import Progress
from modelyard.plans.modelcar import ModelcarRequest, plan_modelcar
from modelyard.quantities import format_bytes
from modelyard.sources.base import Source


def build(spec: BuildSpec, root: Path) -> BuildResult:
    """Plan the build from what is there now, and bring its layers into the registry unless only the plan was asked for.

    Raises:
        SourceChanged: the source does not list what the plan saw.
        Refused: the plan holds problems.
        ModelyardError: the first failure that no retry cured. Finished layers are written down; the next build uses them.
    """
    request, source = _open(spec.request, root)
    keychain = keychain_of(os.environ, request.image.host, plain_http=spec.plain_http)
    plan = plan_modelcar(request, read_facts(request, source, keychain))
    listing, log = listing_of(plan), EntryLog()
    if spec.listing is None:
        for entry in plan_entries(plan, plan.layers):
            log.add(**entry)
        return BuildResult(listing=listing, entries=log.entries)
    if not plan.problems and listing != spec.listing:
        raise SourceChanged(
            f"{request.source.uri}: lists {listing.files} files of {format_bytes(listing.bytes)} ({listing.digest}), the plan saw"
            f" {spec.listing.files} of {format_bytes(spec.listing.bytes)} ({spec.listing.digest}); nothing was sent: plan again"
        )
    made = build_layers(plan.approved(), source, keychain, Tuning(), _tell, lambda text: say("note", message=text))
    for entry in plan_entries(plan, made.layers):
        log.add(**entry)
    return BuildResult(listing=listing, read_bytes=made.read_bytes, sent_bytes=made.sent_bytes, seconds=made.seconds, entries=log.entries)


def _open(request: ModelcarRequest, root: Path) -> tuple[ModelcarRequest, Source]:
    """The source, and the request with where the files first came from: an image tells that, not which copy it was made of."""
    if isinstance(request.source, ClaimLocation):
        volume = VolumeSource(root, request.source.model)
        return request.model_copy(update={"source": volume.manifest.source}), volume
    return request, open_source(request.source)


def _tell(progress: Progress) -> None:
    say("progress", **progress.model_dump())
