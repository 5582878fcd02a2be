"""A model's image as those see it who serve or pull it: its digests, platforms, files, and the programs that a modelcar runs. Pure."""

from collections.abc import Iterable

from modelyard.errors import Problem
from modelyard.images.descriptors import Platform
from modelyard.images.references import Reference, moving_tag_problem
from modelyard.models import Value
from modelyard.plans.nodes import NodeFacts

#: What KServe's webhook makes a modelcar run (pkg/utils/storage.go); ``[`` is the shell's own.
PROGRAMS = ("sh", "ln", "ls", "sleep")
_STEP = "build-modelcar makes such an image"


class ImageFile(Value):
    """A file below ``models/``."""

    path: str
    size: int


class ImageFacts(Value):
    """What a registry holds under a reference. ``digests`` are the index's or manifest's own and those of its platforms."""

    digest: str
    digests: tuple[str, ...]
    platforms: tuple[Platform, ...]
    bytes: int  # of one platform's layers
    files: tuple[ImageFile, ...] | None = None  # None: the image was made by something else, and tells nothing of them
    lacks: tuple[str, ...] | None = None  # of PROGRAMS; None: not known
    public: bool = False  # whether it can be pulled without a name


def reference_problems(image: Reference) -> list[Problem]:
    """Why the image cannot be served under this reference: pods must find the node's own copy good enough."""
    if image.digest or not (what := moving_tag_problem(image.tag)):
        return []
    return [Problem(f"image {image}", what, "name a specific tag or a digest, for example :v1")]


def runs_nowhere(image: ImageFacts, nodes: Iterable[NodeFacts]) -> tuple[str, ...]:
    """The nodes whose platform the image is not for; what a node does not say is not held against it."""
    return tuple(node.name for node in nodes if (there := platform_of(node)) and not any(each.serves(there) for each in image.platforms))


def platform_of(node: NodeFacts) -> Platform | None:
    """What the node's kubelet says that it is: https://kubernetes.io/docs/reference/labels-annotations-taints/#kubernetes-io-arch"""
    architecture = node.labels.get("kubernetes.io/arch")
    return Platform(os=node.labels.get("kubernetes.io/os", "linux"), architecture=architecture) if architecture else None


def program_problems(image: ImageFacts, reference: Reference) -> list[Problem]:
    """Why KServe cannot run the image beside a server."""
    if not image.lacks:
        return []
    step = f"serve it natively (oci+native://), or give it a base with a shell; {_STEP} (base)"
    return [Problem(f"image {reference}", f"has no {', '.join(image.lacks)}, which a modelcar runs", step)]
