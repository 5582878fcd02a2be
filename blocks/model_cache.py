"""The settings of one cache, under the names that the Helm values ``modelsCacheStorage`` gave them.

Python sees snake_case; documents, forms and validation errors show the camelCase of the values, which users know. The
block only says what is wanted: which claim is active at this moment stands in the cache's record in the cluster.
"""

import re
from collections.abc import Callable
from typing import Any, ClassVar, Self, TypeVar

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, HttpUrl, field_validator, model_validator
from pydantic.alias_generators import to_camel

from modelyard.caches import AccessMode, CacheSpec, LoaderResources, nfs_problem
from modelyard.errors import Problem, Refused
from modelyard.models import WeightPolicy
from modelyard.names import claim_problem, name_problem
from modelyard.quantities import parse_bytes, parse_duration

Parsed = TypeVar("Parsed")

#: Kubernetes quantity of processors: whole, decimal, or thousandths.
_CPU = re.compile(r"\d+m|\d+(\.\d+)?")
_OFF = "leave it empty to turn this off"


class ModelCache(Block):
    """A claim that holds models for many workloads: how big, of which StorageClass, and when unused models go."""

    _block_type_name: ClassVar[str | None] = "Modelyard Model Cache"
    _block_type_slug: ClassVar[str | None] = "modelyard-model-cache"
    _logo_url = HttpUrl(
        "https://raw.githubusercontent.com/PrefectHQ/prefect/420d0d6a78bb6df1fc18bcf188fdad43c1d22ea9/assets/block-logos/kubernetes.png"
    )
    _documentation_url = HttpUrl("https://kubernetes.io/docs/concepts/storage/persistent-volumes/#persistentvolumeclaims")
    _description = "A claim that holds models for many workloads: how big, of which StorageClass, and when unused models go."

    model_config: ClassVar[ConfigDict] = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        field_title_generator=lambda name, _: to_camel(name),  # the form shows the name that the Helm values have
    )

    enabled: bool = Field(default=True, description="Whether procedures may use this cache; off refuses them and removes nothing.")
    storage_size: str = Field(description="Size that the claim asks for, as a Kubernetes quantity such as 300Gi.")
    storage_class_name: str | None = Field(
        default=None, description="StorageClass of the claim, for example nfs-client; empty: the cluster's default."
    )
    pvc_name_suffix: str = Field(
        default="", description="End of the claim's name; a new suffix makes a new claim, which is how a StorageClass is switched."
    )
    bypass_storage_check: bool = Field(
        default=False, description="Take the StorageClass as it is, also where it is known not to offer the access mode."
    )
    allow_expansion: bool = Field(
        default=False, description="Whether raising storageSize may expand the claim in place, where its StorageClass and provisioner can."
    )
    nfs_server: str | None = Field(
        default=None, description="NFS server of a PersistentVolume that Modelyard makes for the claim, where no class does; with nfsPath."
    )
    nfs_path: str | None = Field(default=None, description="Path that the NFS server exports, such as /exports/models; with nfsServer.")
    check_unused_cached_models_every: str | None = Field(
        default=None,
        description="How often to look for unused models, once there is a purge: a whole number with s, m, h, d or w, such as 1d.",
    )
    purge_unused_cached_models_after: str | None = Field(
        default=None, description="How long an unused model stays, once there is a purge: a whole number with s, m, h, d or w, such as 1w."
    )
    cache_name: str | None = Field(default=None, description="Name of the cache in records and labels; empty: the name of this block.")
    base_name: str = Field(
        default="modelyard-models-cache", description="Claim's name before the suffix; name an existing claim here to adopt it."
    )
    namespace: str = Field(default="default", description="Namespace of the claim, and of the Jobs that load models.")
    access_mode: AccessMode = Field(default=AccessMode.READ_WRITE_MANY, description="Access mode that the claim asks for.")
    headroom: str = Field(default="0", description="Free space that a load must leave on the volume, as a quantity such as 10Gi.")
    weight_formats: WeightPolicy = Field(
        default=WeightPolicy.SCAN,
        description="Files that pickle loads: any; scan (refused if they import what is not known as harmless); no-pickle (refused).",
    )
    require_digests: bool = Field(
        default=False, description="Whether a model must bring a SHA256SUMS that lists all of its files (`modelyard upload` writes it)."
    )
    uid: int = Field(default=10001, gt=0, description="User that writes to the volume, never 0: restricted Pod Security refuses root.")
    gid: int = Field(default=10001, gt=0, description="Group that owns the files; workloads read them as members of it or as others.")
    loader_image: str | None = Field(
        default=None, description="Image of the loader, which writes models to the volume; procedures that load need it."
    )
    loader_cpu_request: str = Field(default="500m", description="Processors that a loader asks for, such as 500m or 2.")
    loader_cpu_limit: str | None = Field(
        default=None, description="Processors that a loader is held to; empty: no limit, for one only makes loads slower."
    )
    loader_memory_request: str = Field(default="256Mi", description="Memory that a loader asks for.")
    loader_memory_limit: str = Field(default="512Mi", description="Memory that a loader is killed above.")
    service_account: str | None = Field(
        default=None, description="Service account of loaders, for EKS Pod Identity or IRSA; empty: the namespace's default."
    )
    node_selector: dict[str, str] = Field(default_factory=dict, description="Labels of the nodes that loaders may run on.")
    tolerations: list[dict[str, Any]] = Field(
        default_factory=list, description="Taints that loaders tolerate, as in a pod: key, operator, value, effect."
    )
    share_with: list[str] = Field(default_factory=list, description="Namespaces that always get a read-only copy of the claim.")
    share_on_demand: list[str] = Field(
        default_factory=list,
        description="Namespaces, or patterns such as team-*, that get a copy as soon as a workload there names the claim.",
    )

    @field_validator("storage_size", "headroom", "check_unused_cached_models_every", "purge_unused_cached_models_after", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:  # noqa: ANN401 (anything that YAML or a form holds)
        """YAML reads an unquoted amount such as 1073741824 as a number."""
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator(
        "storage_class_name", "cache_name", "loader_image", "service_account", "loader_cpu_limit", "nfs_server", "nfs_path", mode="after"
    )
    @classmethod
    def _none_if_empty(cls, value: str | None) -> str | None:
        return value or None

    @field_validator("storage_size")
    @classmethod
    def _is_positive_size(cls, text: str) -> str:
        if parse_bytes(text) == 0:
            raise ValueError(f"{text!r} is nothing; ask for more than 0 bytes, for example 300Gi")
        return text

    @field_validator("headroom", "loader_memory_request", "loader_memory_limit")
    @classmethod
    def _is_size(cls, text: str) -> str:
        parse_bytes(text)
        return text

    @field_validator("loader_cpu_request", "loader_cpu_limit")
    @classmethod
    def _is_cpu(cls, text: str | None) -> str | None:
        if text is not None and not _CPU.fullmatch(text):
            raise ValueError(f"{text!r} is no amount of processors; write 500m (thousandths) or 2")
        return text

    @field_validator("check_unused_cached_models_every", "purge_unused_cached_models_after")
    @classmethod
    def _is_positive_duration(cls, text: str | None) -> str | None:
        if not text:
            return None
        if not parse_duration(text):
            raise ValueError(f"{text!r} is no time at all; write more than 0, for example 1d, or {_OFF}")
        return text

    @field_validator("cache_name")
    @classmethod
    def _is_cache_name(cls, text: str | None) -> str | None:
        if text and (problem := name_problem(text)):
            raise ValueError(problem)
        return text

    @field_validator("namespace")
    @classmethod
    def _is_namespace(cls, text: str) -> str:
        if problem := claim_problem(text):  # a namespace is a DNS label, too
            raise ValueError(problem)
        return text

    @field_validator("share_with")
    @classmethod
    def _are_namespaces(cls, names: list[str]) -> list[str]:
        for name in names:
            if problem := claim_problem(name):
                raise ValueError(f"{problem}; patterns belong in shareOnDemand")
        return names

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if problem := claim_problem(self.base_name, self.pvc_name_suffix):
            raise ValueError(f"baseName and pvcNameSuffix make the claim's name, and {problem}; respell or shorten them")
        if problem := nfs_problem(self.nfs_server, self.nfs_path):
            raise ValueError(problem)
        if (limit := parse_bytes(self.loader_memory_limit)) < (request := parse_bytes(self.loader_memory_request)):
            raise ValueError(f"loaderMemoryLimit ({limit} bytes) is below loaderMemoryRequest ({request} bytes); raise the limit")
        return self

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """All fields: Prefect's own looks for the attributes' names among the schema's, which are the aliases here."""
        return [(name, getattr(self, name)) for name in type(self).model_fields]

    @property
    def name(self) -> str | None:
        """The cache's name: ``cacheName``, else that of the saved block; None for a block that has neither."""
        return self.cache_name or self._block_document_name

    def spec(self) -> CacheSpec:
        """These settings as the value that procedures take, amounts parsed.

        Raises:
            Refused: the cache is disabled, has no name, or has no loader image.
        """
        name, image = self.name, self.loader_image
        if not self.enabled or not name or not image:
            raise Refused(self._problems())
        return CacheSpec(
            name=name,
            namespace=self.namespace,
            base_name=self.base_name,
            pvc_name_suffix=self.pvc_name_suffix,
            storage_size=parse_bytes(self.storage_size),
            storage_class_name=self.storage_class_name,
            access_mode=self.access_mode,
            bypass_storage_check=self.bypass_storage_check,
            allow_expansion=self.allow_expansion,
            nfs_server=self.nfs_server,
            nfs_path=self.nfs_path,
            check_unused_every=_parsed(parse_duration, self.check_unused_cached_models_every),
            purge_unused_after=_parsed(parse_duration, self.purge_unused_cached_models_after),
            headroom=parse_bytes(self.headroom),
            weight_formats=self.weight_formats,
            require_digests=self.require_digests,
            uid=self.uid,
            gid=self.gid,
            loader_image=image,
            loader_resources=self._loader_resources(),
            service_account=self.service_account,
            node_selector=self.node_selector,
            tolerations=tuple(self.tolerations),
            share_with=tuple(self.share_with),
            share_on_demand=tuple(self.share_on_demand),
        )

    def _loader_resources(self) -> LoaderResources:
        return LoaderResources(
            cpu_request=self.loader_cpu_request,
            memory_request=self.loader_memory_request,
            cpu_limit=self.loader_cpu_limit,
            memory_limit=self.loader_memory_limit,
        )

    def _problems(self) -> list[Problem]:
        """Why these settings make no cache to work with, all of them."""
        subject = f"cache {self.name or '(unnamed)'}"
        checks = (
            (not self.enabled, "caching is disabled (enabled: false)", "set enabled to true in its block and save it"),
            (not self.name, "it has no name", "save the block under a name, or set cacheName"),
            (not self.loader_image, "no loaderImage is set", "name the image of the loader in its block"),
        )
        return [Problem(subject, what, next_step) for wrong, what, next_step in checks if wrong]


def _parsed(parse: Callable[[str], Parsed], text: str | None) -> Parsed | None:
    return parse(text) if text else None
