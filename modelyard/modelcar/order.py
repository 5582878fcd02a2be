"""The build as an order: what a Job beside the data is told, and what it tells.

It brings the layers into the registry. The image's few kilobytes of documents, its signature and its tag are left to the flow, which
holds the keys; what it needs for that comes as entries of the Job's log: the plan, and each layer with the records of its files.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from modelyard.modelcar.build import Built, BuiltLayer
from modelyard.models import ClaimLocation, Listing, SourceFile, Value, summarise
from modelyard.names import job_name
from modelyard.orders import Entries, Order, Report
from modelyard.plans.modelcar import LayerPlan, ModelcarPlan, ModelcarRequest

PLAN, LAYER = "plan", "layer"


class BuildResult(Value):
    """What a build's Job did. ``listing`` is what the source listed."""

    listing: Listing
    read_bytes: int = 0
    sent_bytes: int = 0
    seconds: float = 0.0
    entries: Entries


class BuildSpec(Order):
    """Build a modelcar's layers; without ``listing`` only plan it. With it, a source that lists anything else is refused."""

    command: ClassVar[str] = "build"

    request: ModelcarRequest
    listing: Listing | None = None
    plain_http: bool = False  # of the registry
    resume_uploads: bool = False  # there

    def job_name(self, claim: str, run_id: str) -> str:
        named = f"{self.request.model}-{self.request.version}"
        if self.listing is None:
            return job_name("plan", named, self.command, claim, str(self.request.image), run_id)
        return job_name(self.command, named, self.command, claim, str(self.request.image))

    @property
    def content(self) -> str:
        return f"sha256:{hashlib.sha256(self.model_dump_json().encode()).hexdigest()}"

    @property
    def about(self) -> dict[str, str]:
        return {"model": self.request.model, "version": self.request.version}

    @property
    def read_only(self) -> bool:
        return True

    @property
    def needs_volume(self) -> bool:
        return isinstance(self.request.source, ClaimLocation)

    @property
    def needs_scratch(self) -> bool:
        return False


def listing_of(plan: ModelcarPlan) -> Listing:
    """What the plan's source listed."""
    return summarise(_sorted(file for layer in plan.layers for file in layer.files))


def _sorted(files: Iterable[SourceFile]) -> list[SourceFile]:
    return sorted(files, key=lambda file: file.path.encode(errors="surrogateescape"))


def plan_entries(plan: ModelcarPlan, layers: Sequence[LayerPlan] | Sequence[BuiltLayer]) -> Iterable[dict[str, Any]]:
    """The plan, and its layers one by one: no line of the log is then longer than a layer's files need."""
    yield {PLAN: plan.model_copy(update={"layers": ()}).model_dump(mode="json")}
    for layer in layers:
        yield {LAYER: layer.model_dump(mode="json")}


def planned(report: Report[BuildResult]) -> ModelcarPlan:
    """The plan of a Job that only planned, with its layers."""
    plan = next(ModelcarPlan.model_validate(each[PLAN]) for each in report.entries if PLAN in each)
    return plan.model_copy(update={"layers": tuple(LayerPlan.model_validate(each[LAYER]) for each in report.entries if LAYER in each)})


def built(report: Report[BuildResult]) -> tuple[ModelcarPlan, Built]:
    """What a Job built, and by which plan: its own, made from what was there when it began."""
    plan = next(ModelcarPlan.model_validate(each[PLAN]) for each in report.entries if PLAN in each)
    layers = tuple(BuiltLayer.model_validate(each[LAYER]) for each in report.entries if LAYER in each)
    result = report.result
    return plan, Built(layers=layers, read_bytes=result.read_bytes, sent_bytes=result.sent_bytes, seconds=result.seconds)
