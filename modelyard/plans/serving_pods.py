"""What a pod that serves a model's image must look like, as KServe's webhook made it: read back, never presumed. Pure."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelyard.models import Value
from modelyard.plans.model_image import ImageFacts, ImageFile
from modelyard.plans.serving import Mode, ServeRequest
from modelyard.quantities import same_amount

MODEL_PATH = "/mnt/models"
SERVER = "kserve-container"
MODELCAR, MODELCAR_INIT = "modelcar", "modelcar-init"
_POLICY = "IfNotPresent"
Pod = Mapping[str, Any]


class ServingPod(Value):
    """One pod that serves the image. ``files`` and ``bytes`` are what a look at its mounts saw; None: it was not looked at."""

    name: str
    node: str
    files: int | None = None
    bytes: int | None = None
    notes: tuple[str, ...] = ()


def serves(pod: Pod, request: ServeRequest) -> bool:
    """Whether the pod is one of the request: the service's pods of before have another image, or other nodes, resources or credentials."""
    return _has_image(pod, request) and _is_placed(pod["spec"], request) and _has_credentials(pod["spec"], request)


def _has_image(pod: Pod, request: ServeRequest) -> bool:
    image = str(request.image)
    if request.mode is Mode.MODELCAR:
        return any(each["name"] == MODELCAR and each["image"] == image for each in pod["spec"]["containers"])
    return any((each.get("image") or {}).get("reference") == image for each in pod["spec"].get("volumes", []))


def _has_credentials(spec: Pod, request: ServeRequest) -> bool:
    """Whether it runs as asked: what its account has had added since it was made, it does not have."""
    named = {each["name"] for each in spec.get("imagePullSecrets") or ()}
    return spec.get("serviceAccountName", "default") == request.account and named >= set(request.pull_secrets)


def _is_placed(spec: Pod, request: ServeRequest) -> bool:
    """Whether what was asked for is there; a runtime, or the namespace, may ask for more beside it."""
    resources = _server(spec).get("resources") or {}
    amounts = [(resources.get(kind) or {}).get(name) for kind in ("requests", "limits") for name in request.resources]
    asked = [*request.resources.values()] * 2
    return request.node_selector.items() <= (spec.get("nodeSelector") or {}).items() and all(
        there is not None and same_amount(str(there), amount) for there, amount in zip(amounts, asked, strict=True)
    )


def _server(spec: Pod) -> Pod:
    return next((each for each in spec["containers"] if each["name"] == SERVER), {})


def pod_findings(pod: Pod, request: ServeRequest) -> list[str]:
    """What of the pod's spec keeps the model from being served as it should be."""
    return _modelcar_findings(pod) if request.mode is Mode.MODELCAR else _native_findings(pod, str(request.image))


def _modelcar_findings(pod: Pod) -> list[str]:
    spec = pod["spec"]
    found = [] if spec.get("shareProcessNamespace") is True else ["shareProcessNamespace is not true: the server cannot reach the files"]
    containers = {each["name"]: each for each in (*spec.get("initContainers", ()), *spec["containers"])}
    for name in (MODELCAR_INIT, MODELCAR):
        if name not in containers:
            found.append(f"there is no container {name}")
        elif (policy := containers[name].get("imagePullPolicy")) != _POLICY:
            found.append(f"the pull policy of container {name} is {policy}, not {_POLICY}")
    return found


def _native_findings(pod: Pod, image: str) -> list[str]:
    volumes = {
        each["name"]: each["image"] for each in pod["spec"].get("volumes", ()) if (each.get("image") or {}).get("reference") == image
    }
    found = [
        f"the pull policy of volume {name} is {volume.get('pullPolicy')}, not {_POLICY}"
        for name, volume in volumes.items()
        if volume.get("pullPolicy") != _POLICY
    ]
    mounts = [each for each in _server(pod["spec"]).get("volumeMounts", ()) if each["name"] in volumes]
    if not any(each.get("subPath") == "models" and each["mountPath"] == MODEL_PATH for each in mounts):
        found.append(f"container {SERVER} does not mount the image's models directory at {MODEL_PATH}")
    return found


def digest_findings(pod: Pod, request: ServeRequest, image: ImageFacts) -> list[str]:
    """What is wrong if the node serves, under a tag, another image than the registry holds now. By a digest it can serve no other."""
    digest = _digest_run(pod)
    if request.image.digest or not digest or digest in image.digests:
        return []
    node, step = pod["spec"].get("nodeName"), "serve it by digest, or under a new tag"
    return [f"node {node} runs {digest}, the registry has {image.digest} now: the tag was moved after the node pulled it; {step}"]


def digest_note(pod: Pod, request: ServeRequest) -> str | None:
    """What to know where the pod does not tell which image it has, as none does of a mounted one."""
    if request.image.digest or _digest_run(pod):
        return None
    return (
        f"which image node {pod['spec'].get('nodeName')} has under the tag cannot be seen: if the tag was moved, it may be"
        " the one of before; serve it by digest to be sure"
    )


def _digest_run(pod: Pod) -> str:
    """The digest of the modelcar that runs; empty if the pod does not tell."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    ids = [each.get("imageID", "") for each in statuses if each["name"] == MODELCAR]
    return ids[0].rpartition("@")[2] if ids and "@" in ids[0] else ""


# A look at the mounts ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seen:
    """What a container sees below the model's path: the listing, as far as it fitted into a message, and its digest."""

    files: int
    digest: str
    listing: tuple[ImageFile, ...]
    whole: bool


def parse_look(message: str) -> Seen:
    """What the look's script wrote: ``<count> <SHA-256 of the listing>``, then lines of the listing, ``<size> ./<path>``.

    Raises:
        ValueError: it is something else.
    """
    head, _, rest = message.partition("\n")
    count, _, digest = head.partition(" ")
    lines = rest.split("\n")[:-1]  # the last one may be cut
    files = []
    for line in lines:
        size, _, path = line.partition(" ")
        files.append(ImageFile(path=path.removeprefix("./"), size=int(size)))
    return Seen(int(count), digest.strip(), tuple(files), whole=len(files) == int(count))


def listing(files: tuple[ImageFile, ...]) -> str:
    """The listing that a container sees that has these files: sorted as ``LC_ALL=C sort`` does."""
    return "".join(sorted((f"{file.size} ./{file.path}\n" for file in files), key=lambda line: line.encode(errors="surrogateescape")))


def differences(files: tuple[ImageFile, ...], seen: Seen) -> list[str]:
    """In what the files that a container sees differ from the image's; empty if in nothing."""
    if seen.whole:
        held, there = {file.path: file.size for file in files}, {file.path: file.size for file in seen.listing}
        return [
            *(f"{path} is not there" for path in sorted(held.keys() - there.keys())),
            *(f"{path} is there, and not in the image" for path in sorted(there.keys() - held.keys())),
            *(
                f"{path} has {there[path]} bytes, not {held[path]}"
                for path in sorted(held.keys() & there.keys())
                if held[path] != there[path]
            ),
        ]
    expected = hashlib.sha256(listing(files).encode(errors="surrogateescape")).hexdigest()
    return [] if seen.digest == expected else [f"{seen.files} files are there, {len(files)} in the image, or their sizes differ"]
