"""What the catalogue shall say and what is done, by table: what is declared, what lies on the volume, who uses it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from modelyard.names import MAX_LABEL, cached_model_name
from modelyard.orders import VersionEntry, VersionState
from modelyard.plans.catalogue import (
    Act,
    CachedModel,
    CacheFacts,
    Decision,
    KnownCaches,
    Source,
    plan_catalogue,
    plan_strays,
    ruling,
)
from modelyard.plans.catalogue_status import LOAD_FAILED, Context, Finding, Phase, next_status
from modelyard.plans.references import WHOLE, References, Use

NOW = "2026-11-21T12:00:00Z"
SOURCE = Source("s3", "llama/v1")
USED = References((Use("Deployment/web/llm", frozenset({WHOLE})),))
UNKNOWN = References(unknown=("Pods of namespace web cannot be listed (403)",))


def entry(state: VersionState, **more: Any) -> VersionEntry:
    whole = {"digest": "sha256:0a", "source": "s3://bucket/models/llama/v1/"} if state in {VersionState.READY, VersionState.DAMAGED} else {}
    fixed = {"path": "llama/v1", "model": "llama", "version": "v1", "files": 3, "bytes": 2**20, "created": "2026-11-20T10:00:00.5+00:00"}
    return VersionEntry.model_validate({**fixed, **whole, "state": state, **more})


def declared(**more: Any) -> CachedModel:
    fixed: dict[str, Any] = {"name": "mine", "namespace": "models", "model": "llama", "version": "v1", "cache": "main", "source": SOURCE}
    return CachedModel(**{**fixed, "created": "2026-11-20T10:00:00Z", **more})


def projected(**more: Any) -> CachedModel:
    return declared(**{"name": "llama-v1-x", "projected": True, "source": None, **more})


def loading(since: str = "2026-11-21T11:59:00Z") -> dict[str, Any]:
    condition = {"type": "Ready", "status": "False", "reason": "Loading", "message": "on its way", "lastTransitionTime": since}
    return {"phase": "Loading", "message": "on its way", "progress": {"text": "42 %", "percent": 42}, "conditions": [condition]}


def failed(reason: str = "SourceMissing") -> dict[str, Any]:
    condition = {"type": "Ready", "status": "False", "reason": reason, "message": "no such bucket", "lastTransitionTime": NOW}
    return {"phase": "Failed", "message": "no such bucket", "conditions": [condition]}


def facts(*models: CachedModel, on_volume: VersionEntry | None = None, **more: Any) -> CacheFacts:
    fixed: dict[str, Any] = {"cache": "main", "namespace": "models", "claim": "cache", "models": models, "now": NOW}
    known = {"loading": frozenset(), "references": References(), "sources": {"s3": "s3://bucket/models/"}}
    return CacheFacts(**{**fixed, **known, "entries": (on_volume,) if on_volume else (), **more})


def one(model: CachedModel | None, on_volume: VersionEntry | None, **more: Any) -> Decision:
    (decision,) = plan_catalogue(facts(*([model] if model else []), on_volume=on_volume, **more))
    return decision


READY, DAMAGED = entry(VersionState.READY), entry(VersionState.DAMAGED, problem="a.bin is 3 bytes, not 4")
STAGING, REMOVING = entry(VersionState.STAGING), entry(VersionState.REMOVING)
FOREIGN, PUBLISHING = entry(VersionState.FOREIGN), entry(VersionState.PUBLISHING)
JOB = {"loading": frozenset({("llama", "v1")})}


@pytest.mark.parametrize(
    ("model", "on_volume", "more", "phase", "act", "words"),
    [
        pytest.param(declared(), READY, {}, "Ready", "", "mount claim cache read-only, they are in llama/v1", id="there"),
        pytest.param(
            declared(), DAMAGED, {}, "Damaged", "", "a.bin is 3 bytes, not 4; run verify-cache", id="damaged is told, not repaired"
        ),
        pytest.param(declared(), FOREIGN, {}, "Failed", "", "move them away", id="another's files in its place"),
        pytest.param(declared(), None, {}, "Pending", "load", "will be loaded from llama/v1 of source s3", id="declared and not there"),
        pytest.param(declared(state="Present"), STAGING, {}, "Pending", "load", "will be loaded", id="half loaded"),
        pytest.param(declared(), PUBLISHING, {}, "Pending", "load", "will be loaded", id="killed while publishing"),
        pytest.param(declared(), REMOVING, {}, "Pending", "load", "will be loaded", id="half removed, wanted again"),
        pytest.param(declared(source=None), None, {}, "Failed", "", "set source.block and source.path", id="no source"),
        pytest.param(declared(), None, {"sources": {"other": "s3://o/"}}, "Failed", "", "no Modelyard S3 Source block 's3'", id="no block"),
        pytest.param(declared(), None, JOB, "Loading", "", "loader's Job", id="a Job is at it"),
        pytest.param(declared(status=loading()), STAGING, JOB, "Loading", "", "on its way", id="a preload tells of it"),
        pytest.param(declared(status=failed()), None, {}, "Pending", "load", "will be loaded", id="a failed load is tried again"),
        pytest.param(projected(), READY, {}, "Ready", "", "3 files, 1.0 MiB", id="projection, there"),
        pytest.param(projected(), None, {}, "Absent", "", "no longer on the volume", id="projection, bytes gone: not loaded again"),
        pytest.param(projected(state="Present", source=SOURCE), None, {}, "Pending", "load", "will be", id="projection, declared Present"),
        pytest.param(projected(), STAGING, {}, "Failed", "", "1.0 MiB of it are kept; preload it again", id="projection, half loaded"),
        pytest.param(projected(), REMOVING, {}, "Removing", "", "set state Absent to finish it", id="projection, half removed"),
        pytest.param(projected(status=failed()), None, {}, "Failed", "", "no such bucket", id="projection, the preload's words stay"),
        pytest.param(projected(status=failed()), READY, {}, "Ready", "", "on the volume", id="projection, failed and then loaded"),
        pytest.param(projected(status=failed("Conflict")), None, {}, "Absent", "", "no longer", id="projection, a judgement is made anew"),
        pytest.param(projected(status=loading()), None, {}, "Loading", "", "on its way", id="projection, before its Job is there"),
        pytest.param(
            projected(status=loading("2026-11-21T11:00:00Z")), None, {}, "Failed", "", "cut short", id="projection, died long ago"
        ),
        pytest.param(declared(state="Absent"), None, {}, "Absent", "", "delete this object", id="absent"),
        pytest.param(declared(state="Absent"), READY, {}, "Removing", "remove", "being removed", id="to be removed"),
        pytest.param(projected(state="Absent"), DAMAGED, {}, "Removing", "remove", "being removed", id="damaged, to be removed"),
        pytest.param(declared(state="Absent"), STAGING, {}, "Removing", "remove", "being removed", id="half loaded, to be removed"),
        pytest.param(declared(state="Absent"), REMOVING, {}, "Removing", "remove", "being removed", id="half removed, to be finished"),
        pytest.param(declared(state="Absent"), FOREIGN, {}, "Failed", "", "move them away", id="another's files are not removed"),
        pytest.param(declared(state="Absent"), READY, {"references": USED}, "Ready", "", "in use by Deployment/web/llm", id="in use"),
        pytest.param(declared(state="Absent"), READY, {"references": UNKNOWN}, "Ready", "", "counts as in use", id="perhaps in use"),
        pytest.param(declared(state="Absent", pinned=True), READY, {}, "Ready", "", "pinned", id="pinned"),
        pytest.param(declared(state="Absent"), STAGING, JOB, "Loading", "", "cancel that run", id="being loaded"),
        pytest.param(None, READY, {}, "Ready", "restore", "on the volume", id="no object: restored"),
        pytest.param(None, STAGING, {}, "Failed", "restore", "cut short", id="no object, half loaded: shown"),
    ],
)
def test_one(model: CachedModel | None, on_volume: VersionEntry | None, more: dict[str, Any], phase: str, act: str, words: str) -> None:
    decision = one(model, on_volume, **more)
    assert (str(decision.status["phase"]), str(decision.act)) == (phase, act)
    assert words in decision.status["message"]


@pytest.mark.parametrize("model", [declared(), projected(), declared(state="Absent"), declared(source=None), projected(status=loading())])
@pytest.mark.parametrize("on_volume", [READY, DAMAGED, STAGING, REMOVING, FOREIGN, None])
@pytest.mark.parametrize("more", [{}, {"references": USED}, {"references": UNKNOWN}, JOB])
def test_what_was_decided_is_not_decided_otherwise_a_moment_later(
    model: CachedModel, on_volume: VersionEntry | None, more: dict[str, Any]
) -> None:
    first = one(model, on_volume, **more)
    again = one(replace(model, status=first.status), on_volume, **{**more, "now": "2026-11-21T12:10:00Z"})
    assert again.status == first.status
    assert (again.changes, again.act) == (False, first.act)


def test_foreign_files_alone_have_no_object() -> None:
    assert plan_catalogue(facts(on_volume=FOREIGN)) == ()
    assert plan_catalogue(facts(on_volume=VersionEntry(state=VersionState.FOREIGN, path="stray.txt"))) == ()


def test_of_several_things_on_the_volume_the_whole_version_counts() -> None:
    (decision,) = plan_catalogue(facts(declared(), entries=(STAGING, READY)))
    assert decision.status["phase"] == "Ready"


def test_what_is_restored_knows_its_source_if_one_block_alone_fits() -> None:
    assert one(None, READY).target.source == Source("s3", "llama/v1")
    assert one(None, READY, sources={"a": "s3://bucket/", "b": "s3://bucket/models/"}).target.source is None
    assert one(None, READY, sources={}).target.source is None
    image = "oci://registry.example:5000/models/llama:v1@sha256:0a"
    from_image, blocks = READY.model_copy(update={"source": image}), {"own": "registry.example:5000", "other": "registry.example"}
    assert one(None, from_image, registries=blocks).target.source == Source("own", image)


def test_what_is_declared_to_come_from_an_image_needs_a_registry_s_block() -> None:
    wanted = replace(declared(), source=Source("hub", "oci://registry.example/models/llama:v1"))
    assert one(wanted, None, registries={"hub": "registry.example"}).act is Act.LOAD
    assert "no Modelyard OCI Registry block 'hub'" in one(wanted, None, sources={"hub": "s3://b/"}).status["message"]


def test_a_refused_removal_says_by_whom_in_a_condition() -> None:
    status = one(declared(state="Absent"), READY, references=USED).status
    (refused,) = (each for each in status["conditions"] if each["type"] == "RemovalRefused")
    assert (refused["status"], refused["reason"], "Deployment/web/llm" in refused["message"]) == ("True", "InUse", True)
    ended = one(declared(status=status), READY).status
    assert [each["type"] for each in ended["conditions"]] == ["Ready", "InUse"]


@pytest.mark.parametrize(
    ("models", "first"),
    [
        pytest.param([declared(name="b", created="2"), declared(name="a", created="1")], "a", id="the older"),
        pytest.param([declared(name="b", created="1"), declared(name="a", created="1")], "a", id="of one second, by name"),
        pytest.param([projected(name="a", created="1"), declared(name="b", created="2")], "b", id="a person's before ours"),
        pytest.param([projected(name="a", created="1", pinned=True), declared(name="b", created="2")], "a", id="ours that a person pinned"),
    ],
)
def test_who_rules(models: list[CachedModel], first: str) -> None:
    assert ruling(models).name == first


def test_a_second_declaration_is_told_and_a_second_projection_goes() -> None:
    newer, ours = declared(name="newer", created="2026-11-21T10:00:00Z"), projected()
    rules, second, third = plan_catalogue(facts(newer, ours, declared(), on_volume=READY))
    assert (rules.target.name, rules.status["phase"]) == ("mine", "Ready")
    assert (second.target.name, second.status["phase"], second.act) == ("newer", "Failed", Act.NONE)
    assert "CachedModel/models/mine declares llama@v1" in second.status["message"]
    assert [each["type"] for each in second.status["conditions"]] == ["Ready", "InUse", "Conflict"]
    assert (third.target.name, third.act, third.changes) == ("llama-v1-x", Act.DROP, False)


def test_five_hundred_that_are_as_they_should_be_are_not_written() -> None:
    names = [f"m{number}" for number in range(500)]
    entries = tuple(entry(VersionState.READY, model=name, path=f"{name}/v1") for name in names)
    first = plan_catalogue(facts(entries=entries))
    assert [each.act for each in first] == [Act.RESTORE] * 500
    models = tuple(replace(each.target, name=f"o-{each.target.model}", status=each.status) for each in first)
    assert not any(each.changes or each.act for each in plan_catalogue(facts(*models, entries=entries)))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        pytest.param(declared(), None, id="known"),
        pytest.param(declared(namespace="web"), "cache main lies in namespace models", id="elsewhere"),
        pytest.param(declared(cache="off"), "cache off cannot be used: disabled", id="disabled"),
        pytest.param(declared(cache="typo"), "no Modelyard Model Cache block for cache 'typo' (there are: main)", id="unknown"),
    ],
)
def test_strays(model: CachedModel, words: str | None) -> None:
    known = KnownCaches(frozenset({("main", "models")}), {"off": "disabled"})
    told = [each.status for each in plan_strays([model], known, NOW)]
    assert [status["phase"] for status in told] == (["Failed"] if words else [])
    assert not words or words in told[0]["message"]


def test_names_fit_and_never_meet() -> None:
    worst = cached_model_name("c", "A" * 100, "B" * 100)
    assert len(worst) <= MAX_LABEL
    assert cached_model_name("main", "llama", "v1").startswith("llama-v1-")
    keys = [("c", "a-b", "c"), ("c", "a", "b-c"), ("d", "a", "b-c"), ("c", "A", "b-c")]
    assert len({cached_model_name(*key) for key in keys}) == len(keys)


@pytest.mark.parametrize(
    ("state", "pinned", "gone"), [("Absent", False, True), ("Absent", True, False), ("Present", False, False), (None, False, False)]
)
def test_what_is_to_be_removed(state: str | None, pinned: bool, gone: bool) -> None:  # noqa: FBT001
    assert declared(state=state, pinned=pinned).to_be_removed is gone


def tried(status: Mapping[str, Any], since: str, now: str, **more: Any) -> tuple[Decision, str]:
    """What becomes of a declared version whose load failed at ``since``, and since when that is told."""
    previous = next_status(Finding(Phase.FAILED, "DigestMismatch", "a.bin is not what its author says"), Context(status, 1, since))
    decision = one(declared(status=previous, **more), None, now=now)
    return decision, next((each["lastTransitionTime"] for each in decision.status["conditions"] if each["type"] == LOAD_FAILED), "")


def test_a_load_that_failed_for_good_is_tried_again_an_hour_later_or_when_the_object_is_changed() -> None:
    since, at_once, next_run = "2026-11-21T12:00:00Z", "2026-11-21T12:00:01Z", "2026-11-21T12:10:00Z"
    pending = one(declared(), None, now="2026-11-21T09:00:00Z").status  # not Ready for three hours already
    decision, told = tried(pending, since, at_once)
    assert (decision.act, decision.status["phase"], told) == (Act.NONE, "Failed", since)
    message = decision.status["message"]
    assert message.startswith("a.bin is not what its author says; tried again after 2026-11-21T13:00:00Z, or at once when this object is")
    later = one(declared(status=decision.status), None, now=next_run)
    assert (later.act, later.changes) == (Act.NONE, False), "the same words, and no write"
    over = one(declared(status=later.status), None, now="2026-11-21T13:00:00Z")
    assert (over.act, over.status["phase"]) == (Act.LOAD, "Pending")
    assert all(each["type"] != LOAD_FAILED for each in over.status["conditions"])
    again, told = tried(over.status, "2026-11-21T13:05:00Z", "2026-11-21T13:10:00Z")
    assert (again.act, told) == (Act.NONE, "2026-11-21T13:05:00Z"), "each failure begins a pause of its own"
    assert tried(pending, since, next_run, generation=2)[0].act is Act.LOAD


def test_a_load_that_failed_for_a_while_is_tried_again_by_the_next_run() -> None:
    previous = next_status(Finding(Phase.FAILED, "SourceUnavailable", "503"), Context({}, 1, NOW))
    assert one(declared(status=previous), None).act is Act.LOAD
