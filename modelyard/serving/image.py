"""Reading a model's image in its registry: enough to say whether it can be served, and what a pod will see of it."""

import tarfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import partial

from modelyard.errors import ModelyardError
from modelyard.images.build import read_layers
from modelyard.images.descriptors import Descriptor, Document, Platform, parsed
from modelyard.images.references import Reference
from modelyard.oci.access import Access, Keychain
from modelyard.oci.http import Patience
from modelyard.oci.registry import Repository
from modelyard.plans.model_image import PROGRAMS, ImageFacts, ImageFile
from modelyard.sources.layer_index import MAX_BASE_LAYER
from modelyard.sources.layer_stream import Forward

_DIRECTORIES = {"bin", "usr/bin"}


def read_image(reference: Reference, keychain: Keychain, *, programs: bool = True) -> ImageFacts | None:
    """What the registry holds under ``reference``; None if nothing. ``programs``: look for those that a modelcar runs.

    Raises:
        ModelyardError: the registry does not answer, or denies it.
    """
    access = keychain.access(reference)
    with Repository.of(access, reference) as repository:
        document = repository.find(reference.selector)
        if document is None:
            return None
        manifests = dict(_manifests(document, repository))
        first = next(iter(manifests.values()), document)
        layers = [] if first.is_index else first.descriptors("layers")
        ours = {} if first.is_index else {layer.digest: layer for layer in read_layers(first)}
        others = [layer for layer in layers if layer.digest not in ours]
        files = [ImageFile(path=record.path, size=record.size) for layer in ours.values() for record in layer.files]
        return ImageFacts(
            digest=document.digest,
            digests=tuple(dict.fromkeys((document.digest, *(each.digest for each in manifests.values())))),
            platforms=tuple(manifests),
            bytes=sum(layer.size for layer in layers),
            files=tuple(sorted(files, key=lambda file: file.path)) if ours else None,
            lacks=_lacking(others, repository) if programs else None,
            public=access.credentials is None or _is_public(access, reference),
        )


def _manifests(document: Document, repository: Repository) -> Iterator[tuple[Platform, Document]]:
    """The manifest of each platform. Attestations, which builders list as of unknown platforms, are no images."""
    if not document.is_index:
        yield Platform.model_validate(parsed(repository.get_blob(document.config))), document
        return
    for each in document.descriptors("manifests"):
        if each.platform and each.platform.os != "unknown" and (found := repository.find(each.digest)):
            yield each.platform, found


def _is_public(access: Access, reference: Reference) -> bool:
    """Whether the registry gives the image to anyone."""
    anonymous = Access(access.host, access.plain_http, access.authority)
    with Repository.of(anonymous, reference, Patience(attempts=1)) as repository:
        try:
            return repository.find(reference.selector) is not None
        except ModelyardError:
            return False


def _lacking(layers: Iterable[Descriptor], repository: Repository) -> tuple[str, ...] | None:
    """The programs that no layer holds; None where a layer could not be looked through."""
    left, unread = set(PROGRAMS), False
    for layer in layers:
        if layer.size > MAX_BASE_LAYER:
            unread = True
        elif left:
            try:
                left -= repository.patience.through(partial(_programs, layer, repository))
            except (tarfile.TarError, EOFError, zlib.error):  # compressed otherwise, or no archive
                unread = True
    return None if left and unread else tuple(name for name in PROGRAMS if name in left)


def _programs(layer: Descriptor, repository: Repository) -> set[str]:
    with (
        closing(repository.stream_blob(layer)) as chunks,
        tarfile.open(fileobj=Forward(chunks), mode="r|*") as archive,  # type: ignore[call-overload]  # it asks for more than reading
    ):
        paths = [member.name.removeprefix("./").rpartition("/") for member in archive]
        return {name for directory, _, name in paths if directory in _DIRECTORIES}
