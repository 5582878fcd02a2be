"""Build a modelcar's layers beside the data: the builder of the flows, with what the pod has of sources and credentials."""

import os
from pathlib import Path

from modelyard.errors import SourceChanged
from modelyard.loader.progress import EntryLog, say
from modelyard.loader.sources import open_source
from modelyard.loader.volume_source import VolumeSource
from modelyard.modelcar.build import build_layers
from modelyard.modelcar.order import BuildResult, BuildSpec, listing_of, plan_entries
from modelyard.modelcar.records import RecordSecret
from modelyard.modelcar.resolve import read_facts, record_of
from modelyard.modelcar.tuning import Tuning
from modelyard.models import ClaimLocation
from modelyard.oci.access import Keychain
from modelyard.oci.environment import VOUCHER_VARIABLE, keychain_of
from modelyard.oci.registry import Repository
from modelyard.orders import Progress
from modelyard.plans.modelcar import ModelcarRequest, plan_modelcar, request_problems
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
    keychain = keychain_of(os.environ, request.image.host, plain_http=spec.plain_http, resume_uploads=spec.resume_uploads)
    secret = RecordSecret(bytes.fromhex(text)) if (text := os.environ.get(VOUCHER_VARIABLE)) else None
    if secret:
        request = _believing(request, keychain, secret)
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
    vouch = secret.vouch if secret else None
    made = build_layers(plan.approved(), source, keychain, Tuning(), _tell, lambda text: say("note", message=text), vouch=vouch)
    for entry in plan_entries(plan, made.layers):
        log.add(**entry)
    return BuildResult(listing=listing, read_bytes=made.read_bytes, sent_bytes=made.sent_bytes, seconds=made.seconds, entries=log.entries)


def _open(request: ModelcarRequest, root: Path) -> tuple[ModelcarRequest, Source]:
    """The source, and the request with where the files first came from: an image tells that, not which copy it was made of."""
    if isinstance(request.source, ClaimLocation):
        volume = VolumeSource(root, request.source.model)
        return request.model_copy(update={"source": volume.manifest.source}), volume
    return request, open_source(request.source)


def _believing(request: ModelcarRequest, keychain: Keychain, secret: RecordSecret) -> ModelcarRequest:
    """With the record that a Job before this one left, or this one's pod before: the flow cannot name it, for it changes all the time."""
    if request.believed is None or request_problems(request):
        return request
    record = record_of(request.image)
    with Repository.of(keychain.access(record), record) as repository:
        document = repository.find(record.selector)
    believed = (document.digest,) if document and secret.vouches(document) else ()
    return request.model_copy(update={"believed": (*request.believed, *believed)})


def _tell(progress: Progress) -> None:
    say("progress", **progress.model_dump())
