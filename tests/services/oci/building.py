"""Building modelcars in tests: from a bucket of the S3 server into a registry, as the flow does it."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from modelyard.images.descriptors import Platform
from modelyard.images.references import Reference
from modelyard.modelcar.build import Built, build_layers
from modelyard.modelcar.publish import Modelcar, publish
from modelyard.modelcar.resolve import read_facts
from modelyard.modelcar.tuning import Tuning
from modelyard.models import S3Location
from modelyard.oci.access import Keychain
from modelyard.oci.http import Patience
from modelyard.plans.modelcar import ModelcarPlan, ModelcarRequest, plan_modelcar
from modelyard.sources.base import Source
from modelyard.sources.s3 import S3Source
from tests.services.oci.registries import Registry
from tests.services.s3_fixtures import Bucket

AMD64 = Platform.parse("linux/amd64")
ARM64 = Platform.parse("linux/arm64")
#: Short waits: what is tested is that it ends, not when.
QUICK = Tuning(retry_seconds=0.05)


def new_repository() -> str:
    """A name that no other test has."""
    return f"models/{secrets.token_hex(4)}"


@dataclass
class Builder:
    """Builds models of one bucket into one registry."""

    bucket: Bucket
    registry: Registry
    tuning: Tuning = QUICK
    url: str | None = None  # the source's, if not the server's own
    source: Source | None = None
    notes: list[str] = field(default_factory=list)

    def request(self, repository: str = "models/m", tag: str = "v1", prefix: str = "m/v1", **fields: Any) -> ModelcarRequest:
        told: dict[str, Any] = {"platforms": (AMD64,)} | fields
        image = Reference(host=self.registry.host, repository=repository, tag=tag)
        location = self.bucket.location(prefix, self.url)
        return ModelcarRequest(model="m", version=fields.pop("version", tag), source=location, image=image, **told)

    def open(self, request: ModelcarRequest) -> Source:
        """Listed through the server itself, read as the request says."""
        assert isinstance(request.source, S3Location)
        return self.source or S3Source(request.source, self.bucket.client)

    @property
    def keychain(self) -> Keychain:
        return self.registry.keychain

    @property
    def patience(self) -> Patience:
        return self.tuning.patience

    def plan(self, request: ModelcarRequest | None = None, **fields: Any) -> ModelcarPlan:
        request = request or self.request(**fields)
        with self.environment():
            return plan_modelcar(request, read_facts(request, self.open(request), self.keychain, self.patience))

    def layers(self, plan: ModelcarPlan) -> Built:
        with self.environment():
            return build_layers(plan, self.open(plan.request), self.keychain, self.tuning, lambda _: None, self.notes.append)

    def build(self, request: ModelcarRequest | None = None, **fields: Any) -> tuple[Modelcar, Built]:
        plan = self.plan(request, **fields)
        built = self.layers(plan)
        return publish(plan, built, self.keychain, self.patience), built

    @contextmanager
    def environment(self) -> Iterator[None]:
        """Of a process that may read the bucket."""
        with patch.dict(os.environ, self.bucket.server.environment()):
            yield
