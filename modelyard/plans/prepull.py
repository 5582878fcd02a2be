"""On which nodes an image is put before traffic, in which form, or why not. Pure.

One Job a node, named by image and node: two runs share it, and Kubernetes itself ends it when its time is over. The image is held by
a volume (nothing of it runs, so it needs no shell) where the cluster has image volumes, and else by running it, which takes a shell.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import Field

from modelyard.errors import Problem, Refused
from modelyard.images.references import Reference
from modelyard.models import Value
from modelyard.names import job_name
from modelyard.plans.model_image import ImageFacts, reference_problems, runs_nowhere
from modelyard.plans.nodes import NodeFacts, unbearable
from modelyard.quantities import format_bytes


class Form(StrEnum):
    """What holds the image on a node."""

    VOLUME = "image volume"
    CONTAINER = "container"


class PrepullRequest(Value):
    """What the user asked for. ``keep_seconds``: the Job's life, its pull included."""

    image: Reference
    namespace: str
    node_selector: dict[str, str] = Field(default_factory=dict)
    nodes: tuple[str, ...] = ()
    tolerations: tuple[dict[str, Any], ...] = ()
    pull_secrets: tuple[str, ...] = ()
    service_account: str | None = None
    holder: str
    keep_seconds: int

    def job_name(self, node: str) -> str:
        """The name of the Job that holds the image on ``node``: the same for every run."""
        words = f"{self.image.repository.rpartition('/')[2]}-{self.image.tag or 'digest'}-{node}"
        return job_name("prepull", words, str(self.image), node)


@dataclass(frozen=True, slots=True)
class PrepullFacts:
    """What is there now, read once. ``nodes`` is None where the account may not list them."""

    image: ImageFacts | None
    nodes: tuple[NodeFacts, ...] | None
    image_volumes: bool


@dataclass(frozen=True, slots=True)
class PrepullPlan:
    """The nodes that get the image, or why none does."""

    request: PrepullRequest
    image: ImageFacts | None
    form: Form
    nodes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def digest(self) -> str:
        """What the registry has under the reference; empty if that was not read."""
        return self.image.digest if self.image else ""

    def approved(self) -> "PrepullPlan":
        """The plan itself.

        Raises:
            Refused: with every problem of the plan.
        """
        if self.problems:
            raise Refused(self.problems)
        return self


class NodeState(Value):
    """How far a node is."""

    node: str
    there: bool
    told: str


def plan_prepull(request: PrepullRequest, facts: PrepullFacts) -> PrepullPlan:
    """The plan for ``request``, given what is there. No side effects."""
    form = Form.VOLUME if facts.image_volumes else Form.CONTAINER
    nodes, left_out = _chosen(request, facts)
    problems = [
        *reference_problems(request.image),
        *_image_problems(request, facts, form),
        *_node_problems(request, facts, nodes, left_out),
    ]
    named = set(request.nodes)
    notes = [f"left out: {name} {why}" for name, why in left_out if name not in named]
    return PrepullPlan(request, facts.image, form, nodes, tuple(notes), tuple(problems))


def _image_problems(request: PrepullRequest, facts: PrepullFacts, form: Form) -> list[Problem]:
    subject = f"image {request.image}"
    if facts.image is None:
        if reference_problems(request.image):  # nothing was looked up
            return []
        return [Problem(subject, "is not in the registry", "build it (build-modelcar), or correct the name")]
    if form is Form.CONTAINER and facts.image.lacks and "sleep" in facts.image.lacks:
        step = (
            "use a cluster with image volumes (Kubernetes 1.33 and later, containerd 2.1 and later), or give the image a base with a shell"
        )
        return [Problem(subject, "has no sleep to run, and this cluster has no image volumes to mount it by", step)]
    return []


def _chosen(request: PrepullRequest, facts: PrepullFacts) -> tuple[tuple[str, ...], list[tuple[str, str]]]:
    """The nodes that get the image, and those that match and do not, each with the reason."""
    wanted = [node for node in facts.nodes or () if _matches(request, node)]
    foreign = set(runs_nowhere(facts.image, wanted)) if facts.image else set()
    reasons = [(node.name, _hindrance(request, node, foreign)) for node in sorted(wanted, key=lambda node: node.name)]
    return tuple(name for name, why in reasons if why is None), [(name, why) for name, why in reasons if why]


def _matches(request: PrepullRequest, node: NodeFacts) -> bool:
    return request.node_selector.items() <= node.labels.items() and (not request.nodes or node.name in request.nodes)


def _hindrance(request: PrepullRequest, node: NodeFacts, foreign: Iterable[str]) -> str | None:
    if node.name in foreign:
        return "is of a platform that the image is not for"
    if not node.ready:
        return "is not Ready"
    if not node.schedulable:
        return "is cordoned"
    taint = unbearable(node, request.tolerations)
    return f"has the taint {taint}, which is not tolerated (tolerations)" if taint else None


def _node_problems(
    request: PrepullRequest, facts: PrepullFacts, nodes: Sequence[str], left_out: Sequence[tuple[str, str]]
) -> list[Problem]:
    if facts.nodes is None:
        return [Problem("nodes", "may not be listed by this account", "grant it: deployments/kubernetes/accounts")]
    known = {node.name: node for node in facts.nodes}
    found = [Problem(f"node {name}", "is not there", "correct the name") for name in request.nodes if name not in known]
    found += [
        Problem(f"node {name}", "lacks labels of the node selector", "leave out one of the two")
        for name in request.nodes
        if name in known and not _matches(request, known[name])
    ]
    found += [Problem(f"node {name}", why, "correct that, or leave the node out") for name, why in left_out if name in request.nodes]
    if not nodes and not found:
        selector = ", ".join(f"{key}={value}" for key, value in request.node_selector.items()) or "any"
        why = "; ".join(f"{name} {reason}" for name, reason in left_out) or "none has these labels"
        found.append(Problem(f"nodes ({selector})", f"none can get the image: {why}", "choose others, or tolerate their taints"))
    return found


def describe_prepull(plan: PrepullPlan) -> str:
    """The plan as Markdown."""
    size = f", {format_bytes(plan.image.bytes)} a node at most, `{plan.image.digest}`" if plan.image else ""
    nodes = "".join(f"\n- {node}" for node in plan.nodes)
    notes = "".join(f"\n\n{note}." for note in plan.notes)
    refused = "".join(f"\n- {problem}" for problem in plan.problems)
    verdict = f"\n\n**Refused**, nothing was changed:\n{refused}" if refused else ""
    return f"# {plan.request.image}\n\nHeld as {plan.form} by Jobs in {plan.request.namespace}{size}, on:\n{nodes}{notes}{verdict}\n"
