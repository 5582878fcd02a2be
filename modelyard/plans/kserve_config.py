"""What enabling modelcars changes in KServe's configuration, and what undoing it puts back. Pure.

The settings are JSON in one key of a ConfigMap. Only the four keys of modelcars are ever touched; what they held before the first
change is noted beside them, on the ConfigMap itself, where a later day's undo finds it whoever made the change.
Keys: https://github.com/kserve/kserve/blob/v0.20.0/pkg/types/config.go
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any

from modelyard.errors import Problem, Refused
from modelyard.models import Value
from modelyard.quantities import parse_bytes

CONFIG_MAP = "inferenceservice-config"
SECTION = "storageInitializer"
ENABLE, UID, CPU, MEMORY = "enableModelcar", "uidModelcar", "cpuModelcar", "memoryModelcar"
#: What KServe takes instead where a key is not set.
DEFAULTS = {ENABLE: False, UID: None, CPU: "10m", MEMORY: "15Mi"}

#: https://kubernetes.io/docs/tasks/configure-pod-container/security-context: the API takes 31 bits.
MAX_UID = 2**31 - 1
_MAX_CPU = Decimal(64)
#: CRI-O starts no container whose memory limit is below this.
_MIN_MEMORY = 12 * 1024 * 1024
_MAX_MEMORY = 64 * 1024**3
_CPU = re.compile(r"(?P<milli>[1-9]\d{0,5})m|(?P<cores>\d{1,3}(?:\.\d{1,3})?)", re.ASCII)
#: Who puts back what it finds changed, by the label or annotation that it leaves.
_KEEPERS = {
    "argocd.argoproj.io/instance": "Argo CD",
    "argocd.argoproj.io/tracking-id": "Argo CD",
    "kustomize.toolkit.fluxcd.io/name": "Flux",
    "helm.toolkit.fluxcd.io/name": "Flux",
    "meta.helm.sh/release-name": "Helm (at its next upgrade)",
    "opendatahub.io/managed": "the Open Data Hub operator",
}


class ModelcarSettings(Value):
    """What is asked for; None leaves a value as it is."""

    uid: int | None = None
    cpu: str | None = None
    memory: str | None = None

    def values(self) -> dict[str, Any]:
        """The keys to set."""
        asked = {ENABLE: True, UID: self.uid, CPU: self.cpu, MEMORY: self.memory}
        return {key: value for key, value in asked.items() if value is not None}


class Noted(Value):
    """What the ConfigMap's annotation holds: the keys' values before the first change (absent ones are None), and what was set last."""

    before: dict[str, Any]
    set: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ConfigFacts:
    """The live ConfigMap, as far as it matters here."""

    namespace: str
    text: str | None  # of the section; None: there is no such key, or no such ConfigMap
    noted: str | None = None
    restart_due: bool = False
    marks: Mapping[str, str] = field(default_factory=dict)  # labels and annotations
    exists: bool = True


class ConfigAction(StrEnum):
    """What becomes of the configuration."""

    CHANGE = "change"
    RESTART = "only restart the controller"  # a run that was killed changed it
    NOTHING = "nothing to do"


@dataclass(frozen=True, slots=True)
class ConfigPlan:
    """What will be changed, or why nothing will be."""

    namespace: str
    action: ConfigAction
    changes: tuple[str, ...] = ()
    text: str | None = None  # of the section, to be written
    noted: Noted | None = None  # to be kept on the ConfigMap; None: no note is left
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()

    def approved(self) -> "ConfigPlan":
        """The plan itself.

        Raises:
            Refused: with every problem of the plan.
        """
        if self.problems:
            raise Refused(self.problems)
        return self


def settings_problems(settings: ModelcarSettings) -> list[Problem]:
    """What is wrong with the values that are asked for, before anything is read."""
    found = []
    if settings.uid is not None and not 0 <= settings.uid <= MAX_UID:
        found.append(Problem(UID, f"{settings.uid} is out of range", f"give 0 to {MAX_UID}"))
    if settings.cpu is not None and (what := _cpu_problem(settings.cpu)):
        found.append(Problem(CPU, what, "give 1m to 64, for example 10m"))
    if settings.memory is not None and (what := _memory_problem(settings.memory)):
        found.append(Problem(MEMORY, what, "give 12Mi to 64Gi, for example 15Mi"))
    return found


def _cpu_problem(text: str) -> str | None:
    if not (match := _CPU.fullmatch(text)):
        return f"{text!r} is no amount of CPU"
    cores = Decimal(match["milli"]) / 1000 if match["milli"] else Decimal(match["cores"])
    return None if 0 < cores <= _MAX_CPU else f"{text!r} is out of range"


def _memory_problem(text: str) -> str | None:
    try:
        count = parse_bytes(text)
    except ValueError as error:
        return str(error)
    if count < _MIN_MEMORY:
        return f"{text!r} is less than the 12Mi below which CRI-O starts no container"
    return None if count <= _MAX_MEMORY else f"{text!r} is out of range"


def plan_enable(settings: ModelcarSettings, facts: ConfigFacts) -> ConfigPlan:
    """How to have modelcars enabled with these settings. No side effects."""
    section, problems = read_section(facts)
    problems = [*settings_problems(settings), *problems]
    if problems:
        return ConfigPlan(facts.namespace, ConfigAction.NOTHING, problems=tuple(problems))
    wanted = settings.values()
    noted = _read_note(facts)
    earlier = noted.before if noted else {}
    note = Noted(
        before={**{key: section.get(key) for key in wanted}, **earlier},
        set={**(noted.set if noted else {}), **wanted},
    )
    notes = (*_notes(facts), *_mode_note(section))
    return _plan(facts, section, wanted, note, notes)


def plan_undo(facts: ConfigFacts) -> ConfigPlan:
    """How to have the keys as they were before the first change; a value that others changed since is theirs. No side effects."""
    section, problems = read_section(facts)
    noted = _read_note(facts)
    if problems:
        return ConfigPlan(facts.namespace, ConfigAction.NOTHING, problems=tuple(problems))
    if noted is None:
        action = ConfigAction.RESTART if facts.restart_due else ConfigAction.NOTHING
        return ConfigPlan(
            facts.namespace, action, notes=("there is nothing to undo: this configuration holds no change that Modelyard made",)
        )
    ours = {key: value for key, value in noted.before.items() if _same(section.get(key), noted.set.get(key))}
    kept = tuple(f"{key} is {section.get(key)!r} and was not set by Modelyard: it stays" for key in noted.before if key not in ours)
    return _plan(facts, section, ours, None, (*_notes(facts), *kept))


def _plan(facts: ConfigFacts, section: dict[str, Any], wanted: Mapping[str, Any], note: Noted | None, notes: tuple[str, ...]) -> ConfigPlan:
    differing = {key: value for key, value in wanted.items() if not _same(section.get(key), value)}
    changes = tuple(f"{key}: {_told(section.get(key))} -> {_told(value)}" for key, value in differing.items())
    if not differing and (note is not None or facts.noted is None):
        return ConfigPlan(facts.namespace, ConfigAction.RESTART if facts.restart_due else ConfigAction.NOTHING, notes=notes)
    merged = {key: value for key, value in {**section, **differing}.items() if key not in differing or value is not None}
    text = _written(merged, facts.text or "") if differing else facts.text
    return ConfigPlan(facts.namespace, ConfigAction.CHANGE, changes, text, note, notes)


def _same(one: Any, other: Any) -> bool:  # noqa: ANN401 - JSON values
    """Python holds True and 1 for equal, JSON does not."""
    return type(one) is type(other) and one == other


def _told(value: Any) -> str:  # noqa: ANN401 - a JSON value
    return "not set" if value is None else json.dumps(value)


def _written(section: dict[str, Any], like: str) -> str:
    """JSON in the shape that the text had: on one line, or indented."""
    return json.dumps(section, indent=4 if "\n" in like else None, ensure_ascii=False)


def read_section(facts: ConfigFacts) -> tuple[dict[str, Any], list[Problem]]:
    """The settings as they are, and what is wrong with them."""
    subject = f"ConfigMap/{facts.namespace}/{CONFIG_MAP}"
    if not facts.exists:
        return {}, [Problem(subject, "is not there", "install KServe, or name the namespace that its controller runs in")]
    if facts.text is None:
        return {}, [Problem(subject, f"has no key {SECTION}", "compare it with the one of your release of KServe")]
    try:
        section = json.loads(facts.text, parse_constant=_no_constant)
    except ValueError as error:
        step = "correct it first (KServe's controller cannot read it either), or restore it from its release"
        return {}, [Problem(f"{subject} {SECTION}", f"is not JSON: {error}", step)]
    if not isinstance(section, dict):
        return {}, [Problem(f"{subject} {SECTION}", "is JSON, but no object", "restore it from your release of KServe")]
    return section, _spelling_problems(section, subject)


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON value")


def _spelling_problems(section: Mapping[str, Any], subject: str) -> list[Problem]:
    """Go reads keys in any case: of two that differ in nothing else, one would win by chance."""
    known = {key.casefold(): key for key in DEFAULTS}
    return [
        Problem(f"{subject} {SECTION}", f"has the key {key!r}, which KServe takes for {known[key.casefold()]!r}", "rename it")
        for key in section
        if key.casefold() in known and key not in DEFAULTS
    ]


def _read_note(facts: ConfigFacts) -> Noted | None:
    try:
        return Noted.model_validate_json(facts.noted) if facts.noted else None
    except ValueError:  # a person's edit: what is not known cannot be put back
        return None


def _notes(facts: ConfigFacts) -> tuple[str, ...]:
    keepers = sorted({keeper for mark, keeper in _KEEPERS.items() if mark in facts.marks})
    return tuple(f"the ConfigMap is kept by {keeper}, which may put the values back: change them there, too" for keeper in keepers)


def _mode_note(section: Mapping[str, Any]) -> tuple[str, ...]:
    mode = section.get("ociModelMode")
    return (f"ociModelMode is {mode!r}: oci:// means that, and no modelcar",) if mode not in {None, "", "modelcar"} else ()


def oci_mode(section: Mapping[str, Any]) -> str | None:
    """What ``oci://`` means under these settings (modelcar, native, fetch); None: nothing, KServe would refuse or ignore it.

    ResolveOciModelMode in the file named above.
    """
    if mode := section.get("ociModelMode"):
        return str(mode)
    return "modelcar" if section.get(ENABLE) is True or section.get("enableOciModelSupport") is True else None


def describe_config(plan: ConfigPlan) -> str:
    """The plan as Markdown."""
    changes = "".join(f"\n- {change}" for change in plan.changes)
    notes = "".join(f"\n\n{note}." for note in plan.notes)
    refused = "".join(f"\n- {problem}" for problem in plan.problems)
    verdict = f"\n\n**Refused**, nothing was changed:\n{refused}" if refused else ""
    return f"# Modelcars in namespace {plan.namespace}\n\n{str(plan.action).capitalize()}.\n{changes}{notes}{verdict}\n"
