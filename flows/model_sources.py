"""Where a preload reads a model: below a path of a bucket, or in an image of a registry. The path says which: ``oci://`` is an image."""

from contextlib import closing
from dataclasses import dataclass

from blocks import OciRegistry, S3Source, load_block
from flows.keychains import keychain_of_block
from flows.parameters import parse_image
from flows.signing import demand_signature
from modelyard.caches import CacheSpec
from modelyard.errors import Problem, Refused
from modelyard.images.references import Reference
from modelyard.models import Listing, OciLocation, Origin, Pin, S3Location
from modelyard.oci.access import Keychain
from modelyard.oci.environment import secret_of
from modelyard.plans.catalogue import IMAGE
from modelyard.plans.preload import read_listing
from modelyard.sources.oci import OciSource
from modelyard.sources.s3 import S3Source as S3Files


@dataclass(frozen=True, slots=True)
class Listed:
    """What a source lists, and what is wrong with it; ``source`` pinned, ``digest`` of the files where it is known by now."""

    listing: Listing
    problems: tuple[Problem, ...]
    source: Origin
    pin: Pin | None = None
    digest: str | None = None
    told: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BucketSource:
    """Files of a bucket."""

    block: S3Source
    location: S3Location

    def list(self, cache: CacheSpec) -> Listed:
        """What is there now."""
        with closing(self.block.client()) as client:
            files = S3Files(self.location, client)
            listing, problems = read_listing(files.list(), self.location, cache)
        return Listed(listing, problems, self.location, files.pin)

    def secret_data(self) -> dict[str, str]:
        """What a loader reads them with."""
        return self.block.secret_data()


@dataclass(frozen=True, slots=True)
class ImageSource:
    """Files of an image."""

    keychain: Keychain
    location: OciLocation

    def list(self, cache: CacheSpec) -> Listed:
        """What is there now; of an image that is not ours, its compressed layers are read for that."""
        told: list[str] = []
        with closing(OciSource(self.location, self.keychain, on_note=told.append)) as image:
            listing, problems = read_listing(image.list(), self.location, cache)
            digest = None if problems else image.digest
        return Listed(listing, problems, image.location, digest=digest, told=tuple(told))

    def secret_data(self) -> dict[str, str]:
        """What a loader reads them with: of all that the block holds, what this registry asks for."""
        return secret_of(self.keychain)


def model_source(block: str, path: str) -> BucketSource | ImageSource:
    """The source that ``path`` means, with the block of that kind.

    Raises:
        Refused: the path names no image, or one that nobody signed whom the registry's block trusts.
    """
    if not path.startswith(IMAGE):
        files = load_block(S3Source, block)
        return BucketSource(files, files.location(path))
    registry = load_block(OciRegistry, block)
    image = demand_signature(_reference(path), registry)
    access = keychain_of_block(registry).access(image)
    tag = None if image.digest else image.tag  # a digest decides alone, wherever the tag is by now
    location = OciLocation(host=image.host, repository=image.repository, tag=tag, digest=image.digest, plain_http=access.plain_http)
    return ImageSource(Keychain(access), location)


def version_of(path: str) -> str | None:
    """The version that the path of an image names: its tag, unless that is ``latest``."""
    tag = _reference(path).tag if path.startswith(IMAGE) else None
    return tag if tag != "latest" else None


def _reference(path: str) -> Reference:
    image = parse_image(path.removeprefix(IMAGE), "path")
    if image.tag or image.digest:
        return image
    raise Refused([Problem("path", f"{path} names neither a tag nor a digest", "name one: a version never changes")])
