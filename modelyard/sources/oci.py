"""An image in a registry as a source: a modelcar of ours, or any image or artifact whose layers hold files below ``models/``.

A modelcar's annotations tell its files, so it is listed by its manifest alone; a loader (``whole``) sees that its archives name the same.
Any other image is read to be listed; by a loader to the last byte, so that each layer is held against its digest, and each file is known
by its SHA-256 before it is fetched.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from modelyard.errors import ModelyardError, Problem, Refused, RegistryMissing, SourceChanged, SourceUnavailable
from modelyard.images.build import CONTENT, ModelLayer, read_layers
from modelyard.images.descriptors import Descriptor, Document, Platform
from modelyard.images.entries import Links
from modelyard.images.references import Reference
from modelyard.images.tar import ROOT
from modelyard.models import Checksum, FileRecord, OciLocation, SourceFile, content_digest
from modelyard.oci.access import Keychain
from modelyard.oci.downloads import Download
from modelyard.oci.http import Patience
from modelyard.oci.registry import Repository
from modelyard.plans.paths import shown
from modelyard.quantities import format_bytes
from modelyard.sources.base import Done, Sink
from modelyard.sources.layer_index import MAX_BASE_LAYER, MOST_ENTRIES, Indexed, Place, demand_told, is_as_told, read_index, told_index
from modelyard.sources.layer_stream import Forward, Gunzip

#: Which of an index's images is taken where it lists it: the model's files are the same in all of them.
_FIRST_CHOICE = Platform(os="linux", architecture="amd64")
#: Runtimes mount about a hundred and twenty; each that is not ours is read to be listed.
_MOST_LAYERS = 1000

_MOST_PLATFORMS = 64


class OciSource:
    """The model's files in one image. ``location`` is pinned to a digest once anything was asked."""

    def __init__(
        self,
        location: OciLocation,
        keychain: Keychain,
        *,
        whole: bool = False,
        patience: Patience | None = None,
        on_note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.location = location
        self._whole, self._note = whole, on_note
        reference = Reference(host=location.host, repository=location.repository)
        self._repository = Repository.of(keychain.access(reference), reference, patience)
        self._places: dict[str, tuple[SourceFile, Place]] | None = None
        self._listing = threading.Lock()

    @property
    def digest(self) -> str | None:
        """The digest that the files will have on a volume, where all their SHA-256s are known."""
        return _content(self._index())

    def close(self) -> None:
        """Close the connections."""
        self._repository.close()

    def list(self) -> Iterator[SourceFile]:
        """The image's files, each pinned to its SHA-256 (in a modelcar of ours) or to its layer's digest.

        Raises:
            RegistryMissing: there is no such image.
            SourceChanged: the tag names another image than the location is pinned to.
            Refused: the image holds what a model may not hold: whiteouts, links, names that lead elsewhere or come twice.
        """
        for file, _ in sorted(self._index().values(), key=lambda found: found[0].path.encode(errors="surrogateescape")):
            yield file

    def stat(self, file: SourceFile) -> Checksum | None:
        """Its SHA-256, if it is known before the file is read."""
        known, _ = self._find(file)
        return Checksum.of_sha256(known.sha256) if known.sha256 else None

    def fetch(self, file: SourceFile, sink: Sink, start: int, done: Done) -> "OciTransfer":
        """Push the file's bytes from ``start`` on into ``sink``, from a thread of its own."""
        transfer = OciTransfer(self, file, sink, start, done)
        transfer.begin()
        return transfer

    def download(self, file: SourceFile, start: int) -> "FileDownload":
        """The file's bytes from ``start`` on."""
        known, place = self._find(file)
        return FileDownload(self._repository, place, place.offset + start, place.offset + known.size)

    def _find(self, file: SourceFile) -> tuple[SourceFile, Place]:
        found = self._index().get(file.path)
        if found is None or (found[0].size, found[0].etag) != (file.size, file.etag):
            raise SourceChanged(f"{self.location.uri}: does not hold {file.path} as it was listed")
        return found

    # Listing --------------------------------------------------------------------------------------------------------

    def _index(self) -> dict[str, tuple[SourceFile, Place]]:
        with self._listing:
            if self._places is None:
                self._places = self._read()
            return self._places

    def _read(self) -> dict[str, tuple[SourceFile, Place]]:
        manifest = self._manifest(self._document())
        found = self._layers(manifest)
        places = {file.path: (file, place) for file, place in found}
        if len(places) != len(found):
            raise Refused(_twice(found))
        told = manifest.annotations.get(CONTENT)
        if told and _content(places) not in {None, told}:
            what = f"does not hold the files whose digest it is annotated with ({told})"
            raise Refused([Problem(self.location.uri, what, "build the image anew")])
        return places

    def _document(self) -> Document:
        """What the location names, which it is pinned to from now on."""
        place = self.location
        document = self._repository.find(place.tag or place.digest or "latest")
        if document is None and place.digest and place.tag:
            raise SourceChanged(f"{place.uri}: the tag is gone since it was planned; plan again")
        if document is None:
            raise RegistryMissing(f"{place.uri}: is not there; check the registry, the repository and the tag")
        if place.digest and document.digest != place.digest:
            raise SourceChanged(f"{place.uri}: the tag names {document.digest} now; nothing was written: plan again")
        self.location = place.model_copy(update={"digest": document.digest})
        return document

    def _manifest(self, document: Document) -> Document:
        if not document.is_index:
            return document
        listed = [each for each in document.descriptors("manifests") if each.platform and each.platform.os != "unknown"]
        if not listed:
            raise RegistryMissing(f"{self.location.uri}: is an index that lists no image")
        taken = next((each for each in listed if each.platform and each.platform.serves(_FIRST_CHOICE)), listed[0])
        self._note(f"{self.location.uri}: of {', '.join(str(each.platform) for each in listed)} the image for {taken.platform} is taken")
        manifest = self._repository.find(taken.digest)
        if manifest is None or manifest.is_index:
            raise RegistryMissing(f"{self.location.uri}: lists {taken.digest} for {taken.platform}, which is no image that is there")
        if problems := [*self._others_problems(manifest, [each for each in listed if each.digest != taken.digest])]:
            raise Refused(problems)
        return manifest

    def _others_problems(self, manifest: Document, others: Sequence[Descriptor]) -> Iterator[Problem]:
        """Where another platform's node would get another model than the one that is loaded, as far as the manifests tell."""
        if len(others) > _MOST_PLATFORMS:
            yield Problem(self.location.uri, f"is an index of more than {_MOST_PLATFORMS} images", "load one of them, by its digest")
            return
        records = _records(manifest)
        for each in others:
            other = self._repository.find(each.digest)
            if other and _records(other) != records:
                what = f"has other files of the model for {each.platform} than for the one that is loaded"
                yield Problem(self.location.uri, what, "build the image anew, or load one platform's, by its digest")

    def _layers(self, manifest: Document) -> Indexed:
        """The files of all layers; what stands below the first layer of a modelcar of ours is its base, which has no part of the model."""
        ours = {layer.digest: layer for layer in read_layers(manifest)}
        layers = manifest.descriptors("layers")
        if len(layers) > _MOST_LAYERS:
            raise Refused([Problem(self.location.uri, f"has more than {_MOST_LAYERS} layers", "no runtime takes so many; build it anew")])
        first = next((number for number, layer in enumerate(layers) if layer.digest in ours), 0)
        links = self._links_of_base(layers[:first])
        found: Indexed = []
        for layer in layers[first:]:
            if layer.digest in ours:
                found += self._told(ours[layer.digest], layer)
                continue
            read, links = self._read_layer(layer, links)
            found += read
            if len(found) > MOST_ENTRIES:
                raise Refused([Problem(self.location.uri, f"holds more than {MOST_ENTRIES} files", "split the model into images")])
        return found

    def _told(self, layer: ModelLayer, descriptor: Descriptor) -> Indexed:
        told = told_index(layer, descriptor)
        if self._whole and not (self._is_as_told(told, descriptor) or self._is_as_told(told, descriptor)):
            self._note(f"{self.location.uri}: layer {descriptor.digest} does not look as its annotations tell: all of it is read")
            demand_told(told, self._repository, descriptor)
        return told

    def _is_as_told(self, told: Indexed, descriptor: Descriptor) -> bool:
        return self._repository.patience.through(lambda: is_as_told(told, self._repository, descriptor))

    def _links_of_base(self, layers: Sequence[Descriptor]) -> Links:
        """The links in the base's layers. A node that mounts the image would find the base's files among the model's; the index has none.

        Raises:
            Refused: there are files of a model, or a layer is too large to be looked into.
        """
        links, problems = Links(), list[Problem]()
        for layer in layers:
            subject = f"{self.location.uri}: layer {layer.digest} of its base"
            if layer.size > MAX_BASE_LAYER:
                what = f"has {format_bytes(layer.size)}; up to {format_bytes(MAX_BASE_LAYER)} are looked into for files of a model"
                problems.append(Problem(subject, what, "build the image on a smaller base, or load the model from where it was built from"))
                continue
            found, links = self._read_layer(layer, links, "is its base's: it is read to see that no file of the model is there")
            problems += [
                Problem(subject, f"holds {shown(ROOT + file.path)}, which nothing records", "do not use it") for file, _ in found[:1]
            ]
        if problems:
            raise Refused(problems)
        return links

    def _read_layer(
        self, layer: Descriptor, links: Links, why: str = "is not one of ours: it is read to be listed"
    ) -> tuple[Indexed, Links]:
        self._note(f"{self.location.uri}: layer {layer.digest} ({format_bytes(layer.size)}) {why}")
        return self._repository.patience.through(lambda: read_index(self._repository, layer, links, whole=self._whole))


def _records(manifest: Document) -> dict[str, str]:
    """What the layers of ours record; nothing, where none is of ours."""
    return {record.path: record.sha256 for layer in read_layers(manifest) for record in layer.files}


def _twice(found: Indexed) -> list[Problem]:
    seen: set[str] = set()
    twice = [file.path for file, _ in found if file.path in seen or seen.add(file.path)]  # type: ignore[func-returns-value]
    return [Problem(path, "is in the image twice", "build the image anew, each file in one layer") for path in twice]


def _content(places: dict[str, tuple[SourceFile, Place]]) -> str | None:
    """The digest of the files, as far as their SHA-256s are known."""
    files = [file for file, _ in places.values()]
    if not all(file.sha256 for file in files):
        return None
    return content_digest(FileRecord(path=file.path, size=file.size, sha256=file.sha256 or "") for file in files)


@dataclass(slots=True)
class FileDownload:
    """The bytes ``begin`` to ``end`` of a layer's archive."""

    repository: Repository
    place: Place
    begin: int
    end: int
    _blob: Download | None = None
    _cancelled: bool = False

    def chunks(self) -> Iterator[bytes]:
        """The bytes in order.

        Raises:
            ModelyardError: why they ended early.
        """
        if self.place.is_plain:
            yield from self._open(self.begin, self.end).chunks()
            return
        mark = self.place.mark_before(self.begin)
        inflater = Gunzip.at(mark) if mark else Gunzip()
        produced = inflater.produced
        stream = Forward(inflater.through(self._open(inflater.consumed, self.place.layer.size).chunks()))
        stream.seek(self.begin - produced)
        for part in stream.parts(self.end - self.begin):
            yield bytes(part)

    def _open(self, begin: int, end: int) -> Download:
        self._blob = Download(self.repository, self.place.layer, begin, end)
        if self._cancelled:
            self._blob.cancel()
        return self._blob

    def cancel(self) -> None:
        """End ``chunks`` soon."""
        self._cancelled = True
        if self._blob:
            self._blob.cancel()


@dataclass(slots=True)
class OciTransfer:
    """One file on its way, in a thread of its own."""

    source: OciSource
    file: SourceFile
    sink: Sink
    start: int
    done: Done
    _download: FileDownload | None = None
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def begin(self) -> None:
        """Start the thread; it keeps no process alive."""
        threading.Thread(target=self._run, daemon=True, name=f"fetch-{self.file.path}").start()

    def cancel(self) -> None:
        self._cancelled.set()
        if self._download:
            self._download.cancel()

    def _run(self) -> None:
        error: ModelyardError | None = None
        try:
            self._push()
        except ModelyardError as failure:
            error = failure
        except Exception as failure:  # noqa: BLE001 - a full volume, above all: whoever waits must hear of it
            error = SourceUnavailable(f"{self.file.path}: {failure}")
        self.done(error)

    def _push(self) -> None:
        self.sink.expect(self.source.stat(self.file))
        self._download = self.source.download(self.file, self.start)
        if self._cancelled.is_set():
            self._download.cancel()
        offset = self.start
        for chunk in self._download.chunks():
            self.sink.write(chunk, offset)
            offset += len(chunk)
