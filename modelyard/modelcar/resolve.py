"""What is there before a build: the source's files, the base image, the tag, and layers that earlier builds left in the registry."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from modelyard.errors import ModelyardError, Problem, RegistryDenied, RegistryMissing, RegistryRefused, RegistryUnavailable
from modelyard.images.build import SOURCE, BaseImage, read_layers
from modelyard.images.descriptors import Document, Platform, parsed
from modelyard.images.references import Reference
from modelyard.modelcar.records import unfinished_tag
from modelyard.modelcar.source_bytes import read_range
from modelyard.models import Checksum, FileRecord, SourceFile
from modelyard.oci.access import Keychain
from modelyard.oci.http import Patience
from modelyard.oci.registry import Repository
from modelyard.plans.digests import SUMS_NAME, compare_sums, parse_sums, refuse_long_sums
from modelyard.plans.modelcar import (
    SMALL,
    KnownLayer,
    ModelcarFacts,
    ModelcarRequest,
    group_files,
    request_problems,
    same_files,
    source_problems,
    with_identities,
)
from modelyard.sources.base import Source

#: Gives the source's checksum of a file.
Ask = Callable[[SourceFile], Checksum | None]


def read_facts(request: ModelcarRequest, source: Source, keychain: Keychain, patience: Patience | None = None) -> ModelcarFacts:
    """Read once all that a plan needs; nothing is changed anywhere.

    Raises:
        ModelyardError: the source or the registry does not answer, or denies it.
    """
    files = list(source.list())
    problems = tuple(source_problems(files, request.source))
    groups = () if problems else group_files(files)
    if request_problems(request):  # what is asked for cannot be asked of a registry
        return ModelcarFacts(groups=groups, known=(None,) * len(groups), bases=(), problems=problems)
    sums = None if problems else read_sums(files, source, request.source.uri, patience or Patience())
    bases, base_digest, lacking = read_bases(request, keychain, patience)
    with Repository(keychain.main, request.image.repository, patience) as target:
        earlier = _earlier_builds(request, target)
        known = tuple(_find(group, earlier, target, request, source.stat) for group in groups)
        tag_digest = target.digest(request.image.tag or "")
    return ModelcarFacts(
        groups=groups,
        known=known,
        bases=bases,
        base_digest=base_digest,
        tag_digest=tag_digest,
        sums=sums,
        problems=(*problems, *lacking),
    )


def read_sums(files: Iterable[SourceFile], source: Source, subject: str, patience: Patience) -> dict[str, str] | None:
    """What the author's SHA256SUMS lists, and its own SHA-256; None if there is no such file.

    Raises:
        DigestMismatch: it is none of sha256sum's.
    """
    found = next((file for file in files if file.path == SUMS_NAME), None)
    if found is None:
        return None
    refuse_long_sums(subject, found.size)
    content = patience.through(lambda: read_range(source, found, 0, found.size))
    sums, own = parse_sums(content), {SUMS_NAME: hashlib.sha256(content).hexdigest()}
    compare_sums({path: digest for path, digest in sums.items() if path == SUMS_NAME}, own, all_listed=False)
    return sums | own


# Bases ------------------------------------------------------------------------------------------------------------------

_OTHER_BASE = "or name another base, or none for an image that is only mounted"


def read_bases(
    request: ModelcarRequest, keychain: Keychain, patience: Patience | None = None
) -> tuple[tuple[BaseImage, ...], str | None, list[Problem]]:
    """The base for each platform, its digest, and what is wrong with it.

    Raises:
        ModelyardError: its registry does not answer, or denies it; the error names the base.
    """
    if request.base is None:
        return tuple(BaseImage(platform=platform) for platform in request.platforms), None, []
    try:
        return _read_bases(request, request.base, keychain, patience)
    except RegistryUnavailable as error:
        raise RegistryUnavailable(f"base {request.base}: {error}; {_OTHER_BASE}", delay=error.delay, silent=error.silent) from error
    except (RegistryDenied, RegistryMissing, RegistryRefused) as error:
        raise type(error)(f"base {request.base}: {error}; {_OTHER_BASE}") from error


def _read_bases(
    request: ModelcarRequest, base: Reference, keychain: Keychain, patience: Patience | None
) -> tuple[tuple[BaseImage, ...], str | None, list[Problem]]:
    with Repository.of(keychain.access(base), base, patience) as repository:
        document = repository.find(base.selector)
        if document is None:
            return (), None, [Problem(f"base {base}", "is not there", "name another, or none for an image that is only mounted")]
        bases = [_base_for(platform, document, repository, base) for platform in request.platforms]
    problems = [base for base in bases if isinstance(base, Problem)]
    return tuple(base for base in bases if isinstance(base, BaseImage)), document.digest, problems


def _base_for(platform: Platform, document: Document, repository: Repository, base: Reference) -> BaseImage | Problem:
    manifest = _manifest_for(platform, document, repository)
    if manifest is None:
        return Problem(f"base {base}", f"has no image for {platform}", "name another base, or leave the platform out")
    config = parsed(repository.get_blob(manifest.config))
    layers = tuple(manifest.descriptors("layers"))
    its_own = Platform.model_validate(config)
    if not its_own.serves(platform):
        return Problem(f"base {base}", f"is for {its_own}, not for {platform}", "name another base, or leave the platform out")
    if len((config.get("rootfs") or {}).get("diff_ids") or ()) != len(layers):
        return Problem(f"base {base}", f"has another number of layers than of diffIDs for {platform}", "name another base")
    return BaseImage(platform=platform, config=config, layers=layers)


def _manifest_for(platform: Platform, document: Document, repository: Repository) -> Document | None:
    if not document.is_index:
        return document
    for each in document.descriptors("manifests"):
        if each.platform and each.platform.serves(platform):
            found = repository.find(each.digest)
            if found is None:
                raise RegistryMissing(f"{repository}: the index lists {each.digest} for {platform}, which is not there")
            return found
    return None


# Layers of earlier builds -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Earlier:
    """The layers that one earlier image tells of, and where their files came from."""

    source: str
    layers: tuple[KnownLayer, ...] = field(default=())


def record_of(image: Reference) -> Reference:
    """Where the record of a build of ``image`` is, if it did not end."""
    return image.at(tag=unfinished_tag(image.tag or ""))


def earlier_builds(request: ModelcarRequest, *, records: bool = True) -> list[Reference]:
    """Where layers are looked for, the first first: the tag itself, a build of it that did not end, the previous version."""
    record = [record_of(request.image)] if records else []
    return [request.image.at(tag=request.image.tag or ""), *record, *([request.previous] if request.previous else [])]


def _earlier_builds(request: ModelcarRequest, target: Repository) -> list[_Earlier]:
    found = []
    for each in earlier_builds(request):
        repository = Repository.of(target.http.access, each, target.patience, target.http)
        found.append(_read(repository, each.selector, request.believed))
    return [each for each in found if each]


def _read(repository: Repository, selector: str, believed: Collection[str] | None) -> _Earlier | None:
    document = repository.find(selector)
    if document and believed is not None and document.digest not in believed:
        return None
    if document and document.is_index:  # the platforms share the model's layers
        first = next(iter(document.descriptors("manifests")), None)
        document = repository.find(first.digest) if first else None
    if document is None:
        return None
    layers = tuple(KnownLayer(layer=layer, repository=repository.name) for layer in read_layers(document))
    return _Earlier(document.annotations.get(SOURCE, ""), layers)


def _find(
    files: Sequence[SourceFile], earlier: Iterable[_Earlier], target: Repository, request: ModelcarRequest, ask: Ask
) -> KnownLayer | None:
    """A layer that holds these very files, which a scanner has seen, in the registry still."""
    for build in earlier:
        here = build.source == request.source.uri
        for known in build.layers:
            if (
                known.layer.scan
                and same_files(known.layer, files)
                and _same_bytes(known.layer.files, files, ask, here=here)
                and _is_there(known, target)
            ):
                return known.model_copy(update={"layer": with_identities(known.layer, files)})
    return None


def _same_bytes(records: Sequence[FileRecord], files: Sequence[SourceFile], ask: Ask, *, here: bool) -> bool:
    """Whether the source says that the files hold the bytes that the records were made from.

    The very same object, or another one whose ETag and checksum of the whole are both those of the record: a CRC alone is easily met
    by other bytes, and an ETag need not be made from the bytes at all. Small files of another prefix are read rather than asked for.
    """
    for record, file in zip(records, files, strict=True):
        if here and _same_object(record, file):
            continue
        if file.size < SMALL or file.etag is None or file.etag != record.etag:
            return False
        if record.checksum is None or record.checksum.algorithm == "MD5" or _asked(ask, file) != record.checksum:
            return False
    return True


def _same_object(record: FileRecord, file: SourceFile) -> bool:
    if file.version_id:
        return record.version_id == file.version_id
    return record.version_id is None and file.etag is not None and record.etag == file.etag


def _asked(ask: Ask, file: SourceFile) -> Checksum | None:
    try:
        return ask(file)
    except ModelyardError:  # the read meets it as well, and says what to do
        return None


def _is_there(known: KnownLayer, target: Repository) -> bool:
    """Whether the registry has the layer still: garbage collection may have taken it."""
    reference = (
        target if known.repository == target.name else Repository(target.http.access, known.repository, target.patience, target.http)
    )
    return reference.has(known.layer.digest, known.layer.size)
