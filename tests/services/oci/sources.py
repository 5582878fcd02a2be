"""Images as sources of loads: where they are, and what a plan would order."""

from modelyard.models import ModelRef, OciLocation, summarise
from modelyard.oci.access import Keychain
from modelyard.oci.environment import keychain_of
from modelyard.oci.http import Patience
from modelyard.orders import LoadSpec
from modelyard.sources.oci import OciSource
from tests.services.oci.registries import Registry
from tests.services.oci.registry_proxy import RegistryProxy

QUICK = Patience(attempts=8, first=0.05)


def location(registry: Registry | RegistryProxy, repository: str, tag: str | None = "v1", digest: str | None = None) -> OciLocation:
    """Where a loader finds the image."""
    return OciLocation(host=registry.host, repository=repository, tag=tag, digest=digest, plain_http=True)


def source_of(place: OciLocation, keychain: Keychain | None = None) -> OciSource:
    """It, as a source."""
    return OciSource(place, keychain or keychain_of({}, place.host, plain_http=True), patience=QUICK)


def order(place: OciLocation, keychain: Keychain | None = None, version: str = "v1") -> LoadSpec:
    """What a plan would tell a loader now."""
    source = source_of(place, keychain)
    listing = summarise(source.list())
    source.close()
    return LoadSpec(model=ModelRef(name="m", version=version), source=source.location, listing=listing)
