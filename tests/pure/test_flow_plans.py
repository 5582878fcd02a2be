"""What flows say of their plans in the run's log: a dry run all of it, and any run why it is refused."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prefect import Flow

import flows
from flows import enable_modelcars, modelcar, plans, preload, prepull, reconcile, serve_modelcar, share, storage_class
from flows.plans import MOST_LINES, capped, refusal, tell_plan
from flows.reconcile_tasks import Catalogue
from modelyard.caches import CacheSpec
from modelyard.errors import Problem, Refused
from modelyard.kube.client import Kube
from modelyard.models import S3Location
from modelyard.plans.clone_class import CloneAction, ClonePlan
from modelyard.plans.kserve_config import ConfigAction, ConfigFacts, ConfigPlan, plan_undo
from modelyard.plans.modelcar import ModelcarPlan
from modelyard.plans.prepull import Form, PrepullPlan
from modelyard.plans.serving import ServePlan
from modelyard.plans.sharing import SharePlan, SourceFacts
from modelyard.plans.unsharing import UnsharePlan

PROBLEM = Problem("Thing/one", "is not there", "make it")
REFUSED = "refused: 1 problem, nothing was changed\n- Thing/one: is not there; make it"
CACHE = CacheSpec(name="main", namespace="models", base_name="cache", storage_size=2**20, loader_image="loader:1")
KUBE = cast("Kube", None)  # nothing is asked of it here
SOURCE = S3Location(bucket="models", prefix="m/v1")


@dataclass
class Told:
    """What the log and the artifacts got."""

    infos: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    artifacts: list[str] = field(default_factory=list)

    def info(self, text: str, *arguments: object) -> None:
        self.infos.append(text % arguments)

    def warning(self, text: str, *arguments: object) -> None:
        self.warnings.append(text % arguments)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """What is told while a test runs; no server is asked for anything."""
    seen = Told()
    for module in (plans, enable_modelcars):
        monkeypatch.setattr(module, "get_run_logger", lambda: seen)
    monkeypatch.setattr(plans, "create_markdown_artifact", lambda text, **_: seen.artifacts.append(text))
    return seen


def test_a_plan_that_is_carried_out_stands_in_its_artifact_alone(told: Told) -> None:
    plans.publish_plan("# Plan", (), key="k", description="d", dry_run=False)
    assert told == Told(artifacts=["# Plan"])


def test_a_refused_plan_warns_in_any_run(told: Told) -> None:
    tell_plan("# Plan", (PROBLEM,), dry_run=False)
    assert told == Told(warnings=[REFUSED])


def test_each_problem_has_its_line() -> None:
    assert refusal((PROBLEM, PROBLEM)).splitlines()[0] == "refused: 2 problems, nothing was changed"
    assert len(refusal((PROBLEM, PROBLEM)).splitlines()) == 3


def test_a_long_plan_is_cut_and_says_so() -> None:
    lines = [f"line {number}" for number in range(MOST_LINES + 5)]
    assert capped("\n".join(lines[:MOST_LINES]) + "\n").splitlines() == lines[:MOST_LINES]
    assert capped("\n".join(lines)).splitlines() == [*lines[:MOST_LINES], "... 5 more lines are in the run's artifact"]


# The flows ---------------------------------------------------------------------------------------------------------------


def modelcar_plan(request: Any) -> ModelcarPlan:
    empty: dict[str, Any] = dict.fromkeys(("base_digest", "tag_digest", "expected_digest"))
    return ModelcarPlan(request=request, layers=(), bases=(), problems=(PROBLEM,), **empty)


BLOCK = SimpleNamespace(
    get_client=lambda: None,
    spec=lambda: CACHE,
    host="registry.example",
    keychain=lambda: None,
    weight_formats=CACHE.weight_formats,
    require_digests=False,
)
SITE = SimpleNamespace(location=SOURCE, plan=modelcar_plan)
#: A flow, its parameters, and what stands in for the world around it: each plan has one problem.
Case = tuple[Any, "Flow[..., Any]", dict[str, Any], dict[str, Any]]
SERVED: dict[str, Any] = {"image": "registry.example/m:v1", "namespace": "team"}
REFUSALS: dict[str, Case] = {
    "clone-storage-class": (
        storage_class,
        storage_class.clone_storage_class,
        {"storage_class": "fast"},
        {"read_and_plan": lambda *_: ClonePlan("fast", "fast-retain", CloneAction.NOTHING, problems=(PROBLEM,))},
    ),
    "enable-modelcars": (
        enable_modelcars,
        enable_modelcars.enable_modelcars,
        {},
        {"resolve": lambda *_: None, "plan_enable": lambda *_: ConfigPlan("kserve", ConfigAction.NOTHING, problems=(PROBLEM,))},
    ),
    "share-cache": (
        share,
        share.share_cache,
        {},
        {"load_cache": lambda *_: (None, CACHE), "resolve_sharing": lambda *_: SharePlan(CACHE, SourceFacts(None), (PROBLEM,), ())},
    ),
    "unshare-cache": (
        share,
        share.unshare_cache,
        {},
        {"load_cache": lambda *_: (None, CACHE), "resolve_unsharing": lambda *_: UnsharePlan(CACHE, (), (PROBLEM,))},
    ),
    "prepull-image": (
        prepull,
        prepull.prepull_image,
        SERVED,
        {
            "demand_signature": lambda image, _: image,
            "find_image": lambda *_: None,
            "resolve": lambda request, *_: PrepullPlan(request, None, Form.VOLUME, (), problems=(PROBLEM,)),
        },
    ),
    "serve-modelcar": (
        serve_modelcar,
        serve_modelcar.serve_modelcar,
        {**SERVED, "name": "llama", "model_format": "sklearn"},
        {
            "demand_signature": lambda image, _: image,
            "find_image": lambda *_: None,
            "resolve": lambda request, *_: ServePlan(request, None, {}, problems=(PROBLEM,)),
        },
    ),
    "build-modelcar": (
        modelcar,
        modelcar.build_modelcar,
        {"model": "m", "path": "m/v1", "repository": "m", "base": "none"},
        {"site_of": lambda *_: SITE, "trust_of": lambda *_: None, "believing": lambda request, *_, **__: request},
    ),
    "preload-model": (
        preload,
        preload.preload_model,
        {"model": "m", "path": "m/v1"},
        {"model_source": lambda *_: SITE, "resolve": lambda *_: None, "measure": lambda *_: None, "describe": lambda _: "# Preload m@v1\n"},
    ),
}


class Preloaded(SimpleNamespace):
    """A plan of a preload, as far as the flow looks at it."""

    def approved(self) -> None:
        raise Refused(self.problems)


def preload_plan(request: Any, _: Any) -> Preloaded:
    return Preloaded(model="m@v1", request=request, digest="0", problems=(PROBLEM,), notes=(), facts=SimpleNamespace(classes=None))


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refused_dry_run_says_so_in_its_log_with_the_plan(told: Told, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    module, flow, parameters, world = REFUSALS[name]
    for each, stand_in in {"load_block": lambda *_: BLOCK, "Kube": lambda _: None, "plan_preload": preload_plan, **world}.items():
        monkeypatch.setattr(module, each, stand_in, raising=each in world)
    report = flow.fn(**defaults(flow.fn) | parameters, dry_run=True)
    assert report.problems == (str(PROBLEM),)
    assert told.warnings == [REFUSED]
    (artifact,) = told.artifacts
    assert told.infos == [f"dry run, nothing is changed; the plan:\n{artifact.strip()}"]


def defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """The values that Prefect would give; dry_run is left out."""
    given = inspect.signature(function).parameters.items()
    return {name: each.default for name, each in given if each.default is not each.empty and name != "dry_run"}


def test_every_flow_with_a_dry_run_is_tried_here() -> None:
    modules = [import_module(f"flows.{path.stem}") for path in Path(str(flows.__path__[0])).glob("*.py") if path.stem != "__init__"]
    found = {each.name: each for module in modules for each in vars(module).values() if isinstance(each, Flow)}
    with_dry_run = {name for name, flow in found.items() if "dry_run" in inspect.signature(flow.fn).parameters}
    assert with_dry_run == {*REFUSALS, "reconcile-caches"}


def test_a_reconciliation_tells_what_it_would_do(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = SimpleNamespace(namespaces=frozenset(), specs={"main": CACHE})
    world: dict[str, Any] = {
        "load_block": lambda *_: BLOCK,
        "Kube": lambda _: None,
        "read_cache_blocks": lambda _: blocks,
        "read_all": lambda *_: Catalogue(),
        "plan_all": lambda *_: ([], []),
        "forecast": lambda _: reconcile.ReconcileReport(planned=("load main/m@v1",)),
        "share": lambda *_, **__: ["main: create team"],
    }
    for each, stand_in in world.items():
        monkeypatch.setattr(reconcile, each, stand_in)
    assert reconcile.reconcile_caches.fn(dry_run=True).planned == ("load main/m@v1", "main: create team")
    assert told.infos == ["dry run, nothing is changed; the plan:\nmain: create team\nload main/m@v1"]


def test_letting_an_image_go_is_told_in_a_dry_run(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepull, "load_block", lambda *_: BLOCK)
    monkeypatch.setattr(prepull, "Kube", lambda _: None)
    prepull.prepull_image.fn(**SERVED, remove=True, dry_run=True)
    assert "Jobs in team that hold registry.example/m:v1 go" in told.infos[0]


# Enabling modelcars ------------------------------------------------------------------------------------------------------


def test_an_undo_of_nothing_says_so(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_undo(ConfigFacts("kserve", "{}"))
    monkeypatch.setattr(enable_modelcars, "write_config", lambda *_: plan)
    done = enable_modelcars.change.fn("kserve", plan_undo, KUBE)
    said = "there is nothing to undo: this configuration holds no change that Modelyard made"
    assert told.infos == ["nothing to do", said]
    assert (enable_modelcars.report_of(done).action, enable_modelcars.report_of(done).notes) == ("nothing to do", (said,))
