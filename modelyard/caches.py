"""A cache's settings as values: one claim that holds models, and how pods that write to it run."""

from datetime import timedelta
from enum import StrEnum
from typing import Any

from pydantic import Field, model_validator

from modelyard.models import Value, WeightPolicy
from modelyard.names import claim_name, claim_problem, name_problem


class AccessMode(StrEnum):
    """Access modes of a claim, as the API spells them."""

    READ_WRITE_MANY = "ReadWriteMany"
    READ_WRITE_ONCE = "ReadWriteOnce"
    READ_WRITE_ONCE_POD = "ReadWriteOncePod"


class LoaderResources(Value):
    """Requests and limits of the loader's container, as Kubernetes quantities."""

    cpu_request: str = "500m"
    memory_request: str = "256Mi"
    cpu_limit: str | None = None  # a limit on CPU only makes a load slower
    memory_limit: str = "512Mi"


class CacheSpec(Value):
    """One named cache. Sizes are bytes; the block that people fill in has the same fields as text."""

    name: str
    namespace: str = "default"
    base_name: str = "modelyard-models-cache"
    pvc_name_suffix: str = ""
    storage_size: int = Field(gt=0)
    storage_class_name: str | None = None
    access_mode: AccessMode = AccessMode.READ_WRITE_MANY
    bypass_storage_check: bool = False
    allow_expansion: bool = False
    nfs_server: str | None = None
    nfs_path: str | None = None
    check_unused_every: timedelta | None = None
    purge_unused_after: timedelta | None = None
    headroom: int = Field(default=0, ge=0)
    weight_formats: WeightPolicy = WeightPolicy.SCAN
    require_digests: bool = False
    uid: int = Field(default=10001, gt=0)  # restricted Pod Security refuses root
    gid: int = Field(default=10001, gt=0)
    loader_image: str
    loader_resources: LoaderResources = LoaderResources()
    service_account: str | None = None
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[dict[str, Any], ...] = ()
    share_with: tuple[str, ...] = ()
    share_on_demand: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _names_fit(self) -> "CacheSpec":
        if problem := name_problem(self.name):
            raise ValueError(problem)
        if problem := claim_problem(self.base_name, self.pvc_name_suffix):
            raise ValueError(problem)
        if problem := nfs_problem(self.nfs_server, self.nfs_path):
            raise ValueError(problem)
        return self

    @property
    def claim(self) -> str:
        """The name of the claim that these settings ask for."""
        return claim_name(self.base_name, self.pvc_name_suffix)


def nfs_problem(server: str | None, path: str | None) -> str | None:
    """Why these two do not name an NFS export, or None: also where both are None, for then none is named."""
    if bool(server) != bool(path):
        return "nfsServer and nfsPath belong together; set both or neither"
    if path and (not path.startswith("/") or ".." in path.split("/")):
        return f"nfsPath {path!r} must be an absolute path without '..', as the server exports it"
    return None
