"""What a modelcar's build will do, decided without side effects: which layers, which of them are in the registry already, and where to.

The plan is JSON: it can be shown, compared, and carried out by another process.
"""

import hashlib
from collections.abc import Iterable, Sequence
from enum import StrEnum

from pydantic import Field

from modelyard.errors import Problem, Refused
from modelyard.images.build import CONTENT, SOURCE, BaseImage, Image, ModelLayer, annotations_size, build_image
from modelyard.images.descriptors import Platform
from modelyard.images.limits import MAX_LAYERS, limits_of
from modelyard.images.references import Reference, moving_tag_problem, repository_problem, tag_problem
from modelyard.images.tar import layer_size
from modelyard.models import BuildSource, ClaimLocation, FileRecord, SourceFile, Value, WeightPolicy, content_digest
from modelyard.names import name_problem
from modelyard.plans.archives import archive_problems
from modelyard.plans.digests import RIGHT_OR_WRONG, differing, missing_sums, sums_differences
from modelyard.plans.paths import MAX_PROBLEMS, path_problems, shown
from modelyard.plans.weight_formats import first_problems, weight_problems, weight_refusal
from modelyard.quantities import format_bytes

#: Files below this share layers: a request costs more than their bytes, and images may have about a hundred layers.
SMALL = 16 * 1024 * 1024
#: A layer of small files does not grow beyond this (GNU tar could; a broken upload costs at most a layer).
MAX_SHARED = 8 * 1024**3
#: Beside the base's few and the shared ones. More weight files than this share layers too, neighbours by name.
MAX_WEIGHT_LAYERS = 90
#: Registries take manifests of 4 MiB; the annotations are most of one.
MAX_ANNOTATIONS = 3_500_000
_DIGEST_CHARS = 12


class Action(StrEnum):
    """Where a layer comes from."""

    NEW = "new"  # read from the source and sent
    REUSED = "reused"  # in the repository already
    MOUNTED = "mounted"  # in another repository of the registry


class ModelcarRequest(Value):
    """What the user asked for."""

    model: str
    version: str
    source: BuildSource
    image: Reference  # with its tag, without digest
    base: Reference | None = None
    platforms: tuple[Platform, ...]
    previous: Reference | None = None
    believed: tuple[str, ...] | None = None  # digests of earlier images and records whose layers may be used again; None: all
    move_tag: bool = False
    weights: WeightPolicy = WeightPolicy.SCAN
    require_digests: bool = False


class KnownLayer(Value):
    """A layer that was found in the registry for a group of files, and in which of its repositories."""

    layer: ModelLayer
    repository: str


class ModelcarFacts(Value):
    """What is there now, read once. ``known`` has a place for each group of files; ``tag_digest`` is what the tag names, if anything."""

    groups: tuple[tuple[SourceFile, ...], ...]
    known: tuple[KnownLayer | None, ...]
    bases: tuple[BaseImage, ...]
    base_digest: str | None = None
    tag_digest: str | None = None
    sums: dict[str, str] | None = None  # the author's: SHA-256 by path, and that of SHA256SUMS itself
    problems: tuple[Problem, ...] = ()


class LayerPlan(Value):
    """One layer: its files in their order, its size, and the layer itself where it is known already."""

    files: tuple[SourceFile, ...]
    size: int
    action: Action
    known: ModelLayer | None = None
    origin: str | None = None  # the repository to mount it from

    @property
    def name(self) -> str:
        """What it is called in logs."""
        first = shown(self.files[0].path)
        return first if len(self.files) == 1 else f"{first} and {len(self.files) - 1} more"

    @property
    def file_bytes(self) -> int:
        return sum(file.size for file in self.files)


class ModelcarPlan(Value):
    """What will be done, or why nothing will be."""

    request: ModelcarRequest
    layers: tuple[LayerPlan, ...]
    bases: tuple[BaseImage, ...]
    base_digest: str | None
    tag_digest: str | None
    expected_digest: str | None  # None: some layer has to be read first
    digests: dict[str, str] = Field(default_factory=dict)  # SHA-256 (hex) that files must have, by path, where their author wrote it down
    problems: tuple[Problem, ...]

    @property
    def digest(self) -> str:
        """Changes with anything that would be done otherwise."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:_DIGEST_CHARS]

    @property
    def is_done(self) -> bool:
        """Whether the tag names this very image already."""
        return self.expected_digest is not None and self.expected_digest == self.tag_digest

    @property
    def new_bytes(self) -> int:
        """Bytes that will be read from the source."""
        return sum(layer.file_bytes for layer in self.layers if layer.action is Action.NEW)

    def approved(self) -> "ModelcarPlan":
        """The plan itself.

        Raises:
            Refused: with every problem of the plan.
        """
        if self.problems:
            raise Refused(self.problems)
        return self

    def image(self, layers: Sequence[ModelLayer]) -> Image:
        """The image of these layers, which are the plan's in its order."""
        request = self.request
        records = [record for layer in layers for record in layer.files]
        base = {"org.opencontainers.image.base.name": str(request.base)} if request.base else {}
        based = {"org.opencontainers.image.base.digest": self.base_digest} if self.base_digest else {}
        labels = {"org.opencontainers.image.title": request.model, "org.opencontainers.image.version": request.version}
        content = {CONTENT: content_digest(records), SOURCE: request.source.uri}
        return build_image(self.bases, layers, {**labels, **base, **based, **content}, labels)


def group_files(files: Iterable[SourceFile]) -> tuple[tuple[SourceFile, ...], ...]:
    """The files of each layer: small ones together, a weight file by itself; the same for the same files in any order."""
    ordered = sorted(files, key=lambda file: file.path.encode(errors="surrogateescape"))
    weights = [file for file in ordered if file.size >= SMALL]
    each = -(-len(weights) // MAX_WEIGHT_LAYERS) or 1
    grouped = [tuple(weights[start : start + each]) for start in range(0, len(weights), each)]
    return (*_shared([file for file in ordered if file.size < SMALL]), *grouped)


def _shared(small: Sequence[SourceFile]) -> list[tuple[SourceFile, ...]]:
    groups: list[list[SourceFile]] = []
    room = 0
    for file in small:
        room -= layer_size([file])
        if room < 0:
            groups.append([])
            room = MAX_SHARED - layer_size([file])
        groups[-1].append(file)
    return [tuple(group) for group in groups]


def same_files(layer: ModelLayer, files: Sequence[SourceFile]) -> bool:
    """Whether a layer holds files of these names and sizes in this order; whether their bytes are the same is another question."""
    return [(record.path, record.size) for record in layer.files] == [(file.path, file.size) for file in files]


def with_identities(layer: ModelLayer, files: Sequence[SourceFile]) -> ModelLayer:
    """The layer with the identities that its files have in this listing: as if it had been read from it."""
    records = [_identified(record, file) for record, file in zip(layer.files, files, strict=True)]
    return layer.model_copy(update={"files": tuple(records)})


def _identified(record: FileRecord, file: SourceFile) -> FileRecord:
    return record.model_copy(update={"etag": file.etag, "version_id": file.version_id})


def plan_modelcar(request: ModelcarRequest, facts: ModelcarFacts) -> ModelcarPlan:
    """The plan for ``request``, given what is there. All that stands against it is in ``problems``. No side effects."""
    layers = tuple(_layer(request, group, known) for group, known in zip(facts.groups, facts.known, strict=True))
    plan = ModelcarPlan(
        request=request,
        layers=layers,
        bases=facts.bases,
        base_digest=facts.base_digest,
        tag_digest=facts.tag_digest,
        expected_digest=None,
        digests=facts.sums or {},
        problems=(
            *request_problems(request),
            *facts.problems,
            *_file_problems(facts.groups),
            *_weight_problems(request, facts),
            *_digest_problems(request, facts),
            *_layer_problems(request, layers, facts.bases),
        ),
    )
    present = [layer.known for layer in layers if layer.known]
    expected = plan.image(present).digest if layers and len(present) == len(layers) and facts.bases else None
    taken = _tag_problems(request, facts.tag_digest, expected)
    return plan.model_copy(update={"expected_digest": expected, "problems": (*plan.problems, *taken)})


def _layer(request: ModelcarRequest, files: tuple[SourceFile, ...], known: KnownLayer | None) -> LayerPlan:
    if known is None:
        return LayerPlan(files=files, size=layer_size(files), action=Action.NEW)
    here = known.repository == request.image.repository
    action, origin = (Action.REUSED, None) if here else (Action.MOUNTED, known.repository)
    return LayerPlan(files=files, size=known.layer.size, action=action, known=known.layer, origin=origin)


# What stands against a plan ---------------------------------------------------------------------------------------------


def request_problems(request: ModelcarRequest) -> list[Problem]:
    """What is wrong with the request alone, before anything is asked of anybody."""
    names = [
        Problem("model or version", what, "choose another") for text in (request.model, request.version) if (what := name_problem(text))
    ]
    image, tag = request.image, request.image.tag
    found = [repository_problem(image.repository), tag_problem(tag) if tag else None, moving_tag_problem(tag)]
    named = [Problem(f"image {image}", what, "name another repository or tag") for what in found if what]
    previous = request.previous
    elsewhere = previous is not None and previous.host != image.host
    other = [Problem(f"previous {previous}", "is in another registry", "layers are shared within one registry only")] if elsewhere else []
    empty = [] if request.platforms else [Problem("platforms", "names none", "name at least one, for example linux/amd64")]
    return [*names, *named, *other, *empty]


def vouching_problems(source: BuildSource) -> list[Problem]:
    """What stands against a build that is to be signed, or that goes into a registry that demands signatures.

    A version on a claim is compared with its own manifest alone, in which whoever may write the volume may write what they like, also
    where each file came from. A signature over an image of it would say that those objects were read, and later signed builds would
    use its layers again without reading them. An image that is not signed says no more than that the claim held it.
    """
    if not isinstance(source, ClaimLocation):
        return []
    what = "is on a claim, whose files nobody vouches for: whoever may write there may have changed them and their manifest"
    return [
        Problem(
            f"path {source.uri}",
            what,
            "build from the bucket (with the cache's block in a Job beside it, if that is what you want), or unsigned, into a registry"
            " whose block trusts no keys in particular",
        )
    ]


def source_problems(files: Sequence[SourceFile], source: BuildSource) -> list[Problem]:
    """What is wrong with what the source lists, before it is made layers of."""
    problems = [*path_problems(files), *archive_problems(files, source)]
    if not files:
        problems.append(Problem(source.uri, "lists no file", "check the path; a model's files lie directly below it"))
    return problems


def _file_problems(groups: Iterable[Sequence[SourceFile]]) -> list[Problem]:
    """Names that cannot exist in an image: https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts"""
    paths = [file.path for group in groups for file in group]
    hidden = [path for path in paths if any(part.startswith(".wh.") for part in path.split("/"))]
    problems = [
        Problem(shown(path), "begins a name with .wh., which deletes files in an image", "rename or remove the object at the source")
        for path in hidden[:MAX_PROBLEMS]
    ]
    if (size := annotations_size(paths)) > MAX_ANNOTATIONS:
        what = f"has {len(paths):,} files, whose records need {format_bytes(size)}; a manifest has {format_bytes(MAX_ANNOTATIONS)} for them"
        problems.append(Problem("the model", what, "put the many small ones into archives"))
    return problems


def _weight_problems(request: ModelcarRequest, facts: ModelcarFacts) -> list[Problem]:
    """By their names, and by what a scanner found in layers that are there."""
    named = weight_problems((file for group in facts.groups for file in group), request.weights)
    found: dict[str, Problem] = {}
    for scan in (known.layer.scan for known in facts.known if known and known.layer.scan):
        harm = dict.fromkeys(scan.harmful, ("may do harm to whoever loads it, as was found when its layer was built",))
        refusals = {path: weight_refusal(path, harm.get(path, ()), request.weights, pickled=True) for path in scan.pickled}
        found |= {path: problem for path, problem in refusals.items() if problem}
    told = {problem.subject for problem in named}
    return [*named, *first_problems([problem for path, problem in found.items() if shown(path) not in told])]


def _digest_problems(request: ModelcarRequest, facts: ModelcarFacts) -> list[Problem]:
    """What the author's SHA256SUMS says of the files' names, and of layers that are there; the others are compared as they are read."""
    subject = request.source.uri
    paths = {file.path for group in facts.groups for file in group}
    if not paths:
        return []
    if facts.sums is None:
        return [missing_sums(subject)] if request.require_digests else []
    known = {record.path: record.sha256 for found in facts.known if found for record in found.layer.files}
    there = {path: known.get(path, facts.sums.get(path, "")) for path in paths}
    wrong = sums_differences(facts.sums, there, all_listed=request.require_digests)
    return [Problem(subject, differing(wrong), RIGHT_OR_WRONG)] if wrong else []


def _layer_problems(request: ModelcarRequest, layers: Sequence[LayerPlan], bases: Sequence[BaseImage]) -> list[Problem]:
    host = request.image.host
    limit = limits_of(host).max_layer or float("inf")
    too_large = [
        (layer.name, f"makes a layer of {format_bytes(layer.size)}; {host} takes {format_bytes(limit)}")
        for layer in layers
        if layer.size > limit
    ]
    counts = [(base.platform, len(base.layers) + len(layers)) for base in bases]
    too_many = [(f"base for {platform}", f"makes an image of {count} layers") for platform, count in counts if count > MAX_LAYERS]
    return [
        *(Problem(name, what, "split the file, or use another registry") for name, what in too_large),
        *(Problem(name, what, f"name a smaller base: {MAX_LAYERS} layers can be mounted everywhere") for name, what in too_many),
    ]


def _tag_problems(request: ModelcarRequest, now: str | None, expected: str | None) -> list[Problem]:
    if now is None or now == expected or request.move_tag:
        return []
    what = f"names {now} already, which is {'another image' if expected else 'not known to be this one'}"
    return [Problem(f"tag {request.image}", what, "choose another tag, or allow that it is moved")]


def describe(plan: ModelcarPlan) -> str:
    """The plan as Markdown, for the run's artifact."""
    request = plan.request
    total = sum(layer.size for layer in plan.layers)
    rows = [
        ("Model", f"`{request.model}@{request.version}`"),
        ("Source", f"`{request.source.uri}`"),
        ("Image", f"`{request.image}`"),
        ("Platforms", ", ".join(str(base.platform) for base in plan.bases) or "none"),
        ("Base", f"`{request.base}` ({plan.base_digest})" if request.base else "none: to be mounted, not started"),
        ("Layers", f"{len(plan.layers)}, {format_bytes(total)}; {format_bytes(plan.new_bytes)} to be read from the source"),
        ("Digest", f"`{plan.expected_digest}`" if plan.expected_digest else "known when the new layers were read"),
        ("Tag now", f"`{plan.tag_digest}`" if plan.tag_digest else "free"),
    ]
    head = "\n".join(f"| {name} | {text} |" for name, text in rows)
    lines = "\n".join(
        f"| {layer.name.replace('|', chr(92) + '|')} | {format_bytes(layer.size)} | {_told(layer)} |" for layer in plan.layers
    )
    refusals = "\n".join(f"- {problem}" for problem in plan.problems)
    verdict = f"\n\n**Refused**, nothing was changed:\n\n{refusals}" if plan.problems else ""
    done = "\n\nThe tag names this image already: nothing is to be done." if plan.is_done else ""
    table = f"\n\n| layer | size | |\n|---|---|---|\n{lines}" if plan.layers else ""
    return f"# Modelcar {request.model}@{request.version}\n\n| | |\n|---|---|\n{head}{done}{verdict}{table}\n"


def _told(layer: LayerPlan) -> str:
    return f"{layer.action} from {layer.origin}" if layer.origin else str(layer.action)
