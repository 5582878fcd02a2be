"""A StorageClass like another one, whose volumes outlive their claims. Pure.

The reclaim policy of a class cannot be changed, and applies to every volume that is made from it; so models that must survive
their claim need a class of their own. What decides how volumes are made is copied. Labels and annotations are not: they belong to
who manages the source (Helm, Argo CD, an add-on manager), who would take the copy for its own, and one default class is enough.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from modelyard.errors import Problem, Refused
from modelyard.names import object_name_problem

#: https://kubernetes.io/docs/reference/kubernetes-api/config-and-storage-resources/storage-class-v1/ with the API's defaults
_FIELDS: dict[str, Any] = {
    "provisioner": "",
    "parameters": {},
    "mountOptions": [],
    "allowVolumeExpansion": False,
    "volumeBindingMode": "Immediate",
    "allowedTopologies": [],
}
_POLICY = "reclaimPolicy"
RETAIN = "Retain"


class CloneAction(StrEnum):
    """What becomes of the new class."""

    CREATE = "create"
    NOTHING = "nothing to do"


@dataclass(frozen=True, slots=True)
class ClonePlan:
    """The class that will be made, or why not."""

    source: str
    name: str
    action: CloneAction
    manifest: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()

    def approved(self) -> dict[str, Any] | None:
        """The class to create; None if there is nothing to do.

        Raises:
            Refused: with every problem of the plan.
        """
        if self.problems:
            raise Refused(self.problems)
        return self.manifest if self.action is CloneAction.CREATE else None


def plan_clone(classes: list[dict[str, Any]], source: str, name: str | None = None) -> ClonePlan:
    """How to have ``source`` with reclaim policy Retain under ``name`` (``<source>-retain``), given all classes. No side effects."""
    by_name = {each["metadata"]["name"]: each for each in classes}
    wanted = name or f"{source}-retain"
    original, existing = by_name.get(source), by_name.get(wanted)
    problems = list(_name_problems(source, wanted))
    if original is None:
        problems.append(Problem(f"StorageClass/{source}", "is not there", f"classes that exist: {', '.join(sorted(by_name)) or 'none'}"))
    if problems or original is None:
        return ClonePlan(source, wanted, CloneAction.NOTHING, problems=tuple(problems))
    if name is None and original.get(_POLICY) == RETAIN:
        return ClonePlan(source, source, CloneAction.NOTHING, notes=(f"StorageClass {source} has reclaim policy Retain itself",))
    clone = _clone(original, wanted)
    if existing is None:
        return ClonePlan(source, wanted, CloneAction.CREATE, clone, _notes(original))
    return _beside(source, clone, existing)


def _name_problems(source: str, wanted: str) -> tuple[Problem, ...]:
    if source == wanted:
        return (Problem(f"StorageClass/{wanted}", "is the source itself, whose policy cannot be changed", "choose another name"),)
    problem = object_name_problem(wanted)
    return (Problem(f"StorageClass/{wanted}", problem, "choose another name"),) if problem else ()


def _clone(original: dict[str, Any], name: str) -> dict[str, Any]:
    copied = {key: original[key] for key in _FIELDS if key in original}
    return {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}, **copied, _POLICY: RETAIN}


def _beside(source: str, clone: dict[str, Any], existing: dict[str, Any]) -> ClonePlan:
    name = clone["metadata"]["name"]
    defaults = {**_FIELDS, _POLICY: "Delete"}
    differing = [key for key, default in defaults.items() if (existing.get(key) or default) != (clone.get(key) or default)]
    if not differing:
        return ClonePlan(source, name, CloneAction.NOTHING, notes=(f"StorageClass {name} is there already and the same",))
    told = "; ".join(f"{key} is {existing.get(key)!r}, the copy's would be {clone.get(key)!r}" for key in differing)
    step = "choose another name, or delete that class (its volumes and claims stay)"
    return ClonePlan(source, name, CloneAction.NOTHING, problems=(Problem(f"StorageClass/{name}", f"is there and differs: {told}", step),))


def _notes(original: dict[str, Any]) -> tuple[str, ...]:
    metadata = original["metadata"]
    left_out = sorted({*(metadata.get("labels") or {}), *(metadata.get("annotations") or {})})
    kept = "a volume stays, with its models and its costs, when its claim is deleted; it is then removed by hand"
    return (kept, *([f"not copied: {', '.join(left_out)}"] if left_out else []))


def describe_clone(plan: ClonePlan, text: str) -> str:
    """The plan as Markdown; ``text`` is the new class as YAML."""
    yaml = f"\n\n```yaml\n{text}```" if text else ""
    notes = "".join(f"\n- {note}" for note in plan.notes)
    refused = "".join(f"\n- {problem}" for problem in plan.problems)
    verdict = f"\n\n**Refused**, nothing was changed:\n{refused}" if refused else ""
    return f"# StorageClass {plan.name}\n\nFrom `{plan.source}`, with reclaim policy Retain: {plan.action}.{yaml}\n{notes}{verdict}\n"
