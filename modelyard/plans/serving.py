"""How a model's image is served by KServe, decided here without side effects: the InferenceService, or all that stands against it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any

from pydantic import Field

from modelyard.errors import Problem, Refused
from modelyard.images.references import Reference
from modelyard.models import Value
from modelyard.plans.kserve_config import oci_mode
from modelyard.plans.model_image import ImageFacts, program_problems, reference_problems, runs_nowhere
from modelyard.plans.nodes import NodeFacts

#: KServe's own rule (inference_service_validation.go); names of Deployments and hosts are made from it.
_NAME = re.compile(r"[a-z](?:[-a-z0-9]*[a-z0-9])?")
_LONGEST_NAME = 50
#: One registry; the first is what images are named by, the second what docker login writes.
_HUB = frozenset({"docker.io", "index.docker.io"})
#: Registries whose clouds give nodes credentials of their own.
_CLOUDS = re.compile(r".+\.dkr\.ecr(-fips)?\..+\.amazonaws\.com(\.cn)?|.+-docker\.pkg\.dev|(.+\.)?gcr\.io|.+\.azurecr\.(io|cn|us)")


class Mode(StrEnum):
    """How KServe brings the files to the server."""

    MODELCAR = "modelcar"  # the image runs beside the server, which reaches its files through /proc
    NATIVE = "native"  # the image is mounted; nothing of it runs

    @property
    def scheme(self) -> str:
        """Before the image in a storageUri."""
        return "oci" if self is Mode.MODELCAR else "oci+native"


class ServeRequest(Value):
    """What the user asked for."""

    name: str
    namespace: str
    image: Reference
    mode: Mode
    model_format: str
    runtime: str | None = None
    service_account: str | None = None
    pull_secrets: tuple[str, ...] = ()
    nodes_have_credentials: bool = False
    resources: dict[str, str] = Field(default_factory=dict)
    node_selector: dict[str, str] = Field(default_factory=dict)
    replicas: int = 1

    @property
    def uri(self) -> str:
        """The storageUri."""
        return f"{self.mode.scheme}://{self.image}"

    @property
    def account(self) -> str:
        """The service account that the pods run as."""
        return self.service_account or "default"


@dataclass(frozen=True, slots=True)
class PullSecret:
    """A pull secret of the service account or of the request. ``hosts``: registries that it covers, also as patterns; None: not known."""

    name: str
    hosts: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class ServeFacts:
    """What is there now, read once. None stands for what is not there (image), or is not known to this account (the others)."""

    image: ImageFacts | None
    section: Mapping[str, Any] | None = None
    config_problems: tuple[Problem, ...] = ()
    account_exists: bool | None = None
    pull_secrets: tuple[PullSecret, ...] = ()
    nodes: tuple[NodeFacts, ...] | None = None
    live: Mapping[str, Any] | None = None
    live_is_ours: bool = False
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class ServePlan:
    """What will be applied, or why nothing will be."""

    request: ServeRequest
    image: ImageFacts | None
    manifest: dict[str, Any]
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()

    def approved(self) -> ImageFacts:
        """The image that will be served.

        Raises:
            Refused: with every problem of the plan.
        """
        if self.problems or self.image is None:
            raise Refused(self.problems)
        return self.image


def request_problems(request: ServeRequest) -> list[Problem]:
    """What is wrong with the request alone, before anything is asked of anybody."""
    found = reference_problems(request.image)
    if not _NAME.fullmatch(request.name) or len(request.name) > _LONGEST_NAME:
        rule = f"must be 1 to {_LONGEST_NAME} lower-case letters, digits or '-', begin with a letter and end with a letter or digit"
        found.append(Problem(f"name {request.name!r}", rule, "choose another"))
    return found


def plan_serving(request: ServeRequest, facts: ServeFacts) -> ServePlan:
    """The plan for ``request``, given what is there. No side effects."""
    secrets = _secret_findings(request, facts)
    problems = (
        *request_problems(request),
        *_image_problems(request, facts),
        *facts.config_problems,
        *_config_problems(request, facts),
        *_account_problems(request, facts),
        *(each for each in secrets if isinstance(each, Problem)),
        *_live_problems(request, facts),
    )
    notes = (*facts.notes, *(each for each in secrets if isinstance(each, str)), *_image_notes(request, facts))
    return ServePlan(request, facts.image, inference_service(request), notes, tuple(dict.fromkeys(problems)))


def inference_service(request: ServeRequest) -> dict[str, Any]:
    """The InferenceService. Pure."""
    amounts = {"requests": dict(request.resources), "limits": dict(request.resources)} if request.resources else None
    model = {
        "modelFormat": {"name": request.model_format},
        "storageUri": request.uri,
        **({"runtime": request.runtime} if request.runtime else {}),
        **({"resources": amounts} if amounts else {}),
    }
    predictor = {
        "minReplicas": request.replicas,
        "model": model,
        **({"serviceAccountName": request.service_account} if request.service_account else {}),
        **({"imagePullSecrets": [{"name": name} for name in request.pull_secrets]} if request.pull_secrets else {}),
        **({"nodeSelector": dict(request.node_selector)} if request.node_selector else {}),
    }
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": request.name, "namespace": request.namespace, "labels": {"app.kubernetes.io/name": request.name}},
        "spec": {"predictor": predictor},
    }


def _image_problems(request: ServeRequest, facts: ServeFacts) -> list[Problem]:
    if facts.image is None:
        if reference_problems(request.image):  # nothing was looked up
            return []
        return [Problem(f"image {request.image}", "is not in the registry", "build it (build-modelcar), or correct the name")]
    found = program_problems(facts.image, request.image) if request.mode is Mode.MODELCAR else []
    nodes = _eligible(request, facts)
    if nodes and len(runs_nowhere(facts.image, nodes)) == len(nodes):
        platforms = ", ".join(map(str, facts.image.platforms)) or "no platform"
        found.append(
            Problem(f"image {request.image}", f"is for {platforms}, which none of the nodes is", "build it for theirs (platforms)")
        )
    return found


def _image_notes(request: ServeRequest, facts: ServeFacts) -> list[str]:
    if facts.image is None:
        return []
    notes = []
    if request.mode is Mode.MODELCAR and facts.image.lacks is None:
        notes.append("whether the image has a shell is not known: its layers are too large, or not to be read, to look for one")
    if facts.image.files is None:
        notes.append("the image was not built by build-modelcar: what files it holds is not known, and they cannot be compared")
    nodes = _eligible(request, facts)
    if (elsewhere := runs_nowhere(facts.image, nodes)) and len(elsewhere) < len(nodes):
        notes.append(f"the image is not for the platform of {', '.join(elsewhere)}: a pod that is put there does not start")
    return notes


def _eligible(request: ServeRequest, facts: ServeFacts) -> list[NodeFacts]:
    wanted = request.node_selector.items()
    return [node for node in facts.nodes or () if node.ready and node.schedulable and wanted <= node.labels.items()]


def _config_problems(request: ServeRequest, facts: ServeFacts) -> list[Problem]:
    if facts.section is None:
        return []
    mode = oci_mode(facts.section)
    if mode is None:
        return [Problem("KServe", "has modelcars disabled in its configuration", "run enable-modelcars first")]
    if request.mode is Mode.MODELCAR and mode != Mode.MODELCAR:
        step = "serve it in the mode native, or set ociModelMode to modelcar"
        return [Problem("KServe", f"takes oci:// for {mode} here (ociModelMode), not for a modelcar", step)]
    return []


def _account_problems(request: ServeRequest, facts: ServeFacts) -> list[Problem]:
    if facts.account_exists is not False:
        return []
    subject = f"ServiceAccount/{request.namespace}/{request.account}"
    return [Problem(subject, "is not there", "make it, name another (service_account), or check the namespace")]


def _secret_findings(request: ServeRequest, facts: ServeFacts) -> list[Problem | str]:
    """Whether the kubelet has what it needs to pull. Only what is known to fail is a problem."""
    if facts.image is None or facts.image.public or request.nodes_have_credentials:
        return []
    host, named = request.image.host, ", ".join(each.name for each in facts.pull_secrets)
    if any(_covers(pattern, host) for each in facts.pull_secrets for pattern in each.hosts or ()):
        return []
    if unread := [each.name for each in facts.pull_secrets if each.hosts is None]:
        return [f"whether {', '.join(unread)} has credentials for {host} is not known: this account may not read it, or cannot make it out"]
    if _CLOUDS.fullmatch(host):
        return [f"{host} gives its images to known accounts only; the nodes need credentials of their cloud"]
    if facts.account_exists is None and not facts.pull_secrets:
        return [f"whether pods can pull from {host} is not known: this account may not read their service account"]
    what = f"has pull secrets ({named}), and none for {host}" if named else f"has no pull secret, and {host} asks for one"
    step = "add an imagePullSecret to it, name one (pull_secrets), or say that the nodes have credentials (nodes_have_credentials)"
    return [Problem(f"ServiceAccount/{request.namespace}/{request.account}", what, step)]


def _covers(pattern: str, host: str) -> bool:
    """Whether the kubelet takes the credentials under ``pattern`` for ``host``: each part between dots may be a glob.

    https://kubernetes.io/docs/concepts/containers/images/#config-json
    """
    if host in _HUB and pattern in _HUB:
        return True
    globs, parts = pattern.split("."), host.split(".")
    return len(globs) == len(parts) and all(fnmatchcase(part, glob) for part, glob in zip(parts, globs, strict=True))


def _live_problems(request: ServeRequest, facts: ServeFacts) -> list[Problem]:
    subject = f"InferenceService/{request.namespace}/{request.name}"
    if facts.live is None:
        return []
    if not facts.live_is_ours:
        return [Problem(subject, "is there and was not made by Modelyard, so it is not changed", "choose another name, or delete it")]
    if facts.live["metadata"].get("deletionTimestamp"):
        return [Problem(subject, "is being deleted", "run again when it is gone")]
    return []


def describe_serving(plan: ServePlan, text: str) -> str:
    """The plan as Markdown; ``text`` is the InferenceService as YAML."""
    notes = "".join(f"\n- {note}" for note in plan.notes)
    refused = "".join(f"\n- {problem}" for problem in plan.problems)
    verdict = f"\n\n**Refused**, nothing was changed:\n{refused}" if refused else ""
    digest = f"\n\nImage `{plan.image.digest}`." if plan.image else ""
    return f"# {plan.request.name} in {plan.request.namespace}\n\n`{plan.request.uri}`{digest}\n\n```yaml\n{text}```\n{notes}{verdict}\n"
