"""Which files an image holds: as its manifests record them, and as its layers have them.

The records stand in the manifests, so the image's digest covers them; who signs it vouches for them. Layers without records are the
base's. They are read, for nothing of them may lie where the model is.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from modelyard.errors import ContentMismatch, Problem, Refused, RegistryMissing, RegistryRefused
from modelyard.images.build import read_layer as recorded_layer
from modelyard.images.descriptors import Descriptor, Document
from modelyard.images.entries import Links
from modelyard.images.tar import ROOT
from modelyard.models import FileRecord, SourceFile
from modelyard.oci.registry import Repository
from modelyard.sources.layer_index import MAX_BASE_LAYER, read_index

_TOO_LARGE = f"is a base's layer of more than {MAX_BASE_LAYER // 1024**2} MiB, which is not looked into here"


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of a manifest; ``files`` is None where nothing is recorded of them."""

    descriptor: Descriptor
    files: tuple[FileRecord, ...] | None


@dataclass(frozen=True, slots=True)
class SignedImage:
    """An image's documents: what its reference names, and each platform's manifest (the same one, where there is no index)."""

    document: Document
    manifests: tuple[Document, ...]
    platforms: tuple[str, ...]

    @property
    def digests(self) -> tuple[str, ...]:
        """Its own, and its manifests'."""
        return tuple(dict.fromkeys([self.document.digest, *(each.digest for each in self.manifests)]))

    @property
    def files(self) -> dict[str, FileRecord]:
        """The records of the first platform; ``record_problems`` says whether the others agree."""
        return recorded_files(self.manifests[0])


def read_image(repository: Repository, selector: str) -> SignedImage:
    """The image's documents, each compared with its digest.

    Raises:
        RegistryMissing: it, or a manifest that it lists, is not there.
        RegistryRefused: it is an index that lists nothing.
    """
    document = _find(repository, selector)
    if not document.is_index:
        return SignedImage(document, (document,), ())
    listed = document.descriptors("manifests")
    if not listed:
        raise RegistryRefused(f"{repository}@{document.digest}: lists no image for any platform")
    manifests = tuple(_find(repository, each.digest) for each in listed)
    return SignedImage(document, manifests, tuple(str(each.platform) for each in listed if each.platform))


def layers_of(manifest: Document) -> list[Layer]:
    """A manifest's layers, lowest first."""
    return [Layer(each, ours.files if (ours := recorded_layer(each)) else None) for each in manifest.descriptors("layers")]


def recorded_files(manifest: Document) -> dict[str, FileRecord]:
    """What a manifest records, by path."""
    return {record.path: record for layer in layers_of(manifest) for record in layer.files or ()}


def record_problems(image: SignedImage, subject: str) -> list[Problem]:
    """What is wrong with the records of the image's files."""
    first = {path: record.sha256 for path, record in image.files.items()}
    problems = []
    if not first:
        problems.append(Problem(subject, "records nothing of its files", "build it with build-modelcar"))
    for manifest in image.manifests:
        if {path: record.sha256 for path, record in recorded_files(manifest).items()} != first:
            problems.append(Problem(f"{subject}, manifest {manifest.digest}", "has other files than the first platform", _NOT_USED))
        known = [layer.files is not None for layer in layers_of(manifest)]
        if known != sorted(known):
            problems.append(Problem(f"{subject}, manifest {manifest.digest}", "has layers without records above the model's", _NOT_USED))
    return problems


def layer_problems(repository: Repository, image: SignedImage, subject: str, *, read_all: bool) -> list[Problem]:
    """What layers hold that nothing records, and with ``read_all`` also whether each file is what its record says.

    A base is read as a whole for each platform, for links in a layer change what the layers above it do; the model's layers, which
    platforms share, once.
    """
    reading = _Reading(repository, subject, read_all=read_all)
    for manifest in {each.digest: each for each in image.manifests}.values():
        reading.add(manifest)
    return reading.problems


_NOT_USED = "do not use it; build it anew"


class _Reading:
    """What is wrong with the layers of one image."""

    def __init__(self, repository: Repository, subject: str, *, read_all: bool) -> None:
        self._repository, self._subject, self._read_all = repository, subject, read_all
        self._models = set[tuple[str, tuple[FileRecord, ...]]]()
        self._problems = dict[Problem, None]()

    @property
    def problems(self) -> list[Problem]:
        return list(self._problems)

    def add(self, manifest: Document) -> None:
        """Read a platform's layers, the lowest first."""
        links = Links()
        for layer in layers_of(manifest):
            named = f"{self._subject}, layer {layer.descriptor.digest}"
            if layer.files is not None:
                known = (layer.descriptor.digest, layer.files)
                if self._read_all and known not in self._models:
                    self._models.add(known)
                    self._read(layer, named, None)
            elif not self._read_all and layer.descriptor.size > MAX_BASE_LAYER:
                self._note([Problem(named, _TOO_LARGE, "use a smaller base, or verify with read_layers")])
            else:
                links = self._read(layer, named, links) or links

    def _read(self, layer: Layer, named: str, links: Links | None) -> Links | None:
        try:
            read = self._repository.patience.through(lambda: read_index(self._repository, layer.descriptor, links, whole=True))
        except (ContentMismatch, RegistryRefused) as error:
            self._note([Problem(named, f"cannot be read as what it is said to be ({error})", _NOT_USED)])
            return None
        except Refused as error:
            self._note(Problem(f"{self._subject}, {each.subject}", each.what, _NOT_USED) for each in error.problems)
            return None
        found, above = read
        self._note(_compared((file for file, _ in found), {record.path: record for record in layer.files or ()}, named))
        return above

    def _note(self, problems: Iterable[Problem]) -> None:
        self._problems.update(dict.fromkeys(problems))


def _compared(files: Iterable[SourceFile], records: dict[str, FileRecord], named: str) -> Iterator[Problem]:
    seen = set[str]()
    for file in files:
        record = records.get(file.path)
        if record is None or file.path in seen:
            yield Problem(named, f"holds {ROOT + file.path!r}, which nothing records", _NOT_USED)
        elif (file.size, file.sha256) != (record.size, record.sha256):
            yield Problem(named, f"holds another {ROOT + file.path!r} than its record says", _NOT_USED)
        seen.add(file.path)
    for path in sorted(records.keys() - seen):
        yield Problem(named, f"lacks {ROOT + path!r}, which it records", _NOT_USED)


def _find(repository: Repository, selector: str) -> Document:
    found = repository.find(selector)
    if found is None:
        mark = "@" if ":" in selector else ":"
        raise RegistryMissing(f"{repository}{mark}{selector}: is not there; check the repository and the tag")
    return found
