"""The caches and sources that blocks describe, for procedures that look at all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from prefect.logging import get_run_logger

from blocks import Cluster, ModelCache, OciRegistry, S3Source, block_names, load_block
from modelyard.caches import CacheSpec
from modelyard.errors import ModelyardError
from modelyard.kube.client import Kube
from modelyard.plans.catalogue import KnownCaches


@dataclass(frozen=True, slots=True)
class CacheBlocks:
    """The settings of caches by their blocks' names; ``complete`` if no block was left out by choice."""

    specs: Mapping[str, CacheSpec]
    known: KnownCaches
    complete: bool
    failures: tuple[ModelyardError, ...] = field(default=())

    @property
    def namespaces(self) -> frozenset[str]:
        """Where the caches lie."""
        return frozenset(cache.namespace for cache in self.specs.values())


def load_cache(cache: str, cluster: str) -> tuple[Kube, CacheSpec]:
    """The cluster that one block names, and the cache that the other describes."""
    return Kube(load_block(Cluster, cluster).get_client()), load_block(ModelCache, cache).spec()


def read_cache_blocks(chosen: Sequence[str] | None = None) -> CacheBlocks:
    """The blocks named, or all. One that cannot be used is a failure if it was named, and else passed over."""
    specs: dict[str, CacheSpec] = {}
    unusable: dict[str, str] = {}
    failures = []
    for name in chosen or block_names(ModelCache):
        try:
            specs[name] = load_block(ModelCache, name).spec()
        except (ModelyardError, ValueError, RuntimeError) as error:  # the latter two: a document that is no longer valid
            unusable[name] = str(error)
            failures += [error] if chosen and isinstance(error, ModelyardError) else []
    usable = frozenset((cache.name, cache.namespace) for cache in specs.values())
    return CacheBlocks(specs, KnownCaches(usable, unusable), not chosen, tuple(failures))


def registry_hosts() -> dict[str, str]:
    """The registry blocks that there are, each with its host."""
    found = {}
    for name in block_names(OciRegistry):
        try:
            found[name] = load_block(OciRegistry, name).host
        except (ModelyardError, ValueError, RuntimeError) as error:
            get_run_logger().warning("registry block %s cannot be read: %s", name, error)
    return found


def source_uris() -> dict[str, str]:
    """The source blocks that there are, each with the URI of its prefix."""
    found = {}
    for name in block_names(S3Source):
        try:
            found[name] = load_block(S3Source, name).location().uri
        except (ModelyardError, ValueError, RuntimeError) as error:
            get_run_logger().warning("source block %s cannot be read: %s", name, error)
    return found
