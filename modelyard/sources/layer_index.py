"""Which of a model's files lie where in a layer: told by the annotations of our own builder, or found by reading the archive."""

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from modelyard.errors import ContentMismatch, LoaderFailed, Problem, Refused
from modelyard.images.build import ModelLayer
from modelyard.images.descriptors import Descriptor
from modelyard.images.entries import Links, entry_problem, global_problem, model_path
from modelyard.images.tar import BLOCK, layer_size, segments
from modelyard.models import SourceFile
from modelyard.oci.downloads import Download, whole_blob
from modelyard.oci.registry import Repository
from modelyard.plans.paths import MAX_PROBLEMS, shown
from modelyard.sources.layer_headers import strict_headers
from modelyard.sources.layer_stream import BadArchive, Forward, Gunzip, Mark

_NEXT_STEP = "build the image anew: files below models/, in layers of tar or tar+gzip"
#: Files, links and problems of an image are kept until it is read. A model has thousands of files, a base's system tens of thousands of
#: links; a small layer that unpacks to millions of entries is an attack on the memory: this many take some 50 MB.
MOST_ENTRIES = 100_000
#: Base layers up to this are looked into, each time; a base with a shell has a few MB.
MAX_BASE_LAYER = 64 * 1024 * 1024
_PLAIN, _GZIP = (".tar", "tar"), ("gzip",)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file's bytes are: from ``offset`` of the layer's archive on. ``marks``: of a compressed one, where it can be begun."""

    layer: Descriptor
    offset: int
    marks: tuple[Mark, ...] | None = None

    @property
    def is_plain(self) -> bool:
        return self.marks is None

    def mark_before(self, position: int) -> Mark | None:
        """The last one from which ``position`` of the archive can be reached; None is its beginning."""
        return max((mark for mark in self.marks or () if mark.produced <= position), key=lambda mark: mark.produced, default=None)


Indexed = list[tuple[SourceFile, Place]]


def told_index(layer: ModelLayer, descriptor: Descriptor) -> Indexed:
    """The files of a layer of ours: its annotations tell them, and each file is compared with the SHA-256 that is told of it.

    Raises:
        Refused: the layer cannot be what its annotations say.
    """
    files = [SourceFile(record.path, record.size, f"sha256:{record.sha256}", sha256=record.sha256) for record in layer.files]
    if layer_size(files) != descriptor.size:
        raise Refused([Problem(f"layer {descriptor.digest}", "is not what its annotations say", "build the image anew")])
    return [(segment.file, Place(descriptor, segment.body)) for segment in segments(files)]


def is_as_told(told: Indexed, repository: Repository, layer: Descriptor) -> bool:
    """Whether the archive of a layer of ours names the files that its annotations tell, where they tell them: a node that mounts the
    image goes by the archive. The files' own bytes are passed over, so what differs may have been broken on its way.
    """
    try:
        return _frame(read_index(repository, layer, None, whole=False)[0]) == _frame(told)
    except Refused:
        return False


def demand_told(told: Indexed, repository: Repository, layer: Descriptor) -> None:
    """Like ``is_as_told``, by reading all of the layer, whose digest tells whether it was broken on its way.

    Raises:
        Refused: it names others, or is no archive that is understood.
        ContentMismatch: what arrived has another digest.
    """
    found, _ = read_index(repository, layer, None, whole=True)
    if _frame(found) != _frame(told):
        names = ", ".join(shown(file.path) for file, _ in found[:MAX_PROBLEMS])
        what = f"does not hold what its annotations tell: its archive names {names or 'no file'}"
        raise Refused([Problem(f"layer {layer.digest}", what, _NEXT_STEP)])


def _frame(files: Indexed) -> list[tuple[str, int, int]]:
    return [(file.path, file.size, place.offset) for file, place in files]


def read_index(repository: Repository, layer: Descriptor, links: Links | None, *, whole: bool) -> tuple[Indexed, Links]:
    """The files of any layer, by reading its archive; each is pinned to the layer's digest. And the image's links so far.

    ``whole``: read all of it, compare it with its digest, and tell the SHA-256 of each file. Else the files' own bytes are passed
    over where the archive is not compressed. ``links``: those of the layers below, which are left as they are; None for
    a layer that is a model's alone, where nothing may lie elsewhere.

    Raises:
        Refused: it is no archive that is understood, or holds what a model may not hold: all of it, by name.
        ContentMismatch: what arrived has another digest.
    """
    kind = layer.media_type.rpartition("+")[2] if "+" in layer.media_type else layer.media_type
    gzip = kind.endswith(_GZIP)
    if not gzip and not kind.endswith(_PLAIN):
        raise Refused([Problem(f"layer {layer.digest}", f"is {layer.media_type}, neither tar nor tar+gzip", _NEXT_STEP)])
    hasher = hashlib.sha256()
    blob = _hashed(whole_blob(repository, layer), hasher.update) if whole or gzip else whole_blob(repository, layer)
    inflater = Gunzip() if gzip else None
    jump = None if whole or gzip else lambda position: Download(repository, layer, position, layer.size).chunks()
    stream = Forward(inflater.through(blob) if inflater else blob, jump)
    walk = _Walk(stream, layer, links, hash_files=whole)
    try:
        walk.run()
    except (ValueError, tarfile.TarError) as error:  # BadArchive, and what tarfile raises for texts that are no numbers
        if whole and _ended(blob) and f"sha256:{hasher.hexdigest()}" != layer.digest:
            raise _mismatch(repository, layer) from error  # broken on its way, perhaps
        raise Refused([Problem(f"layer {layer.digest}", str(error), _NEXT_STEP)]) from error
    finally:
        stream.close()
    if (whole or gzip) and f"sha256:{hasher.hexdigest()}" != layer.digest:
        raise _mismatch(repository, layer)
    marks = tuple(inflater.marks) if inflater else None
    return [(file, Place(layer, offset, marks)) for file, offset in walk.found], walk.links


def _mismatch(repository: Repository, layer: Descriptor) -> ContentMismatch:
    return ContentMismatch(f"{repository}@{layer.digest}: what arrived has another digest")


def _ended(blob: Iterator[bytes]) -> bool:
    """Read to the end, so that its digest is that of all of it."""
    for _ in blob:
        pass
    return True


def _hashed(chunks: Iterator[bytes], update: Callable[[bytes], None]) -> Iterator[bytes]:
    for chunk in chunks:
        update(chunk)
        yield chunk


class _Walk:
    """One layer's entries, from the first to the last."""

    def __init__(self, stream: Forward, layer: Descriptor, links: Links | None, *, hash_files: bool) -> None:
        self._stream, self._layer, self._hash_files, self._alone = stream, layer, hash_files, links is None
        self.links = Links() if links is None else links.copy()
        self.found, self._problems = list[tuple[SourceFile, int]](), list[Problem]()

    def run(self) -> None:
        """Read the archive to its end."""
        archive = tarfile.TarFile(
            fileobj=self._stream,  # type: ignore[arg-type]
            mode="r",
            tarinfo=strict_headers(self._stream),
            encoding="utf-8",
            errors="surrogateescape",
        )
        entry = archive.firstmember  # type: ignore[attr-defined]
        archive.firstmember = None  # type: ignore[attr-defined]
        while entry is not None:
            if what := global_problem(archive.pax_headers):
                raise BadArchive(what)
            self._add(entry)
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep all of them
            entry = archive.next()
        _require_end(self._stream)
        if self._problems:
            raise Refused(_first(self._problems, self._layer))

    def _add(self, entry: tarfile.TarInfo) -> None:
        if not getattr(entry, "was_looked_at", False):
            raise LoaderFailed("this Python's tarfile reads headers past the checks of layers; use the loader's image, or another Python")
        if what := entry_problem(entry) or self.links.problem(entry):
            self._problems.append(Problem(f"layer {self._layer.digest}: {shown(entry.name)}", what, _NEXT_STEP))
        elif (path := model_path(entry)) is not None:
            self.found.append((_file(path, entry, self._stream, self._layer, hash_files=self._hash_files), entry.offset_data))
        elif self._alone:
            self._problems.append(Problem(f"layer {self._layer.digest}: {shown(entry.name)}", "is no file of the model", _NEXT_STEP))
        if len(self.found) + len(self._problems) + len(self.links) > MOST_ENTRIES:
            raise BadArchive(f"holds more than {MOST_ENTRIES} files and links, which no model needs")


def _first(problems: list[Problem], layer: Descriptor) -> list[Problem]:
    left = len(problems) - MAX_PROBLEMS
    more = [Problem(f"layer {layer.digest}", f"{left} more entries", _NEXT_STEP)] if left > 0 else []
    return [*problems[:MAX_PROBLEMS], *more]


def _file(path: str, entry: tarfile.TarInfo, stream: Forward, layer: Descriptor, *, hash_files: bool) -> SourceFile:
    if not hash_files:
        return SourceFile(path, entry.size, layer.digest)
    digest, count = hashlib.sha256(), 0
    for part in stream.parts(entry.size):
        digest.update(part)
        count += len(part)
    if count != entry.size:
        raise BadArchive(f"ends inside of {shown(path)}")
    return SourceFile(path, entry.size, layer.digest, sha256=digest.hexdigest())


def _require_end(stream: Forward) -> None:
    """An archive ends in zeros. ``tarfile`` takes a header that it cannot read for the end, others go on behind it: neither is right."""
    if stream.last != bytes(BLOCK):
        raise BadArchive(f"has no archive's header at byte {max(0, stream.tell() - BLOCK)}")
    if any(any(part) for part in stream.rest()):
        raise BadArchive("goes on behind its end")
