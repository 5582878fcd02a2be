"""What reading found of a version's bytes: how long the catalogue says it, and what ends it."""

from dataclasses import replace
from typing import Any

import pytest

from modelyard.orders import DamageEntry, Progress, VersionEntry, VersionState, VersionVerdict
from modelyard.plans.catalogue import CachedModel, CacheFacts, plan_catalogue
from modelyard.plans.catalogue_status import Content, Context, Finding, Phase, next_status, read_and_whole, ready, removed
from modelyard.plans.catalogue_verdicts import verdict_finding
from modelyard.plans.references import WHOLE, References, Use

BEFORE, NOW = "2026-11-20T12:00:00Z", "2026-11-21T12:00:00Z"
CONTENT = Content(bytes=2**20, files=3, digest="sha256:0a")
FOUND = ready(CONTENT, "cache", "llama/v1")
WHOLE_VERDICT = VersionVerdict(model="llama", version="v1", digest="sha256:0a", files=3, bytes=2**20)
ROTTEN = WHOLE_VERDICT.model_copy(update={"damaged": 1})
DAMAGE = (DamageEntry(path="llama/v1/a", problem="has SHA-256 1, was published with 2", model="llama", version="v1"),)
STEP = "run verify-cache with models llama@v1 and repair, or set state Absent and load it again"


def write(before: dict[str, Any], finding: Finding | None) -> dict[str, Any]:
    return next_status(finding, Context(before, 1, NOW)) if finding else before


def verify(before: dict[str, Any], verdict: VersionVerdict, share: float = 1.0) -> dict[str, Any]:
    damage = DAMAGE if verdict.damaged else ()
    return write(before, verdict_finding(verdict, damage, before, claim="cache", share=share))


def verified(status: dict[str, Any]) -> str | None:
    return next((str(each["status"]) for each in status["conditions"] if each["type"] == "Verified"), None)


def told(status: dict[str, Any]) -> tuple[str, str | None, str | None]:
    return status["phase"], verified(status), status.get("verifiedAt")


READY = next_status(FOUND, Context(now=BEFORE))
SOUND = {**verify(READY, WHOLE_VERDICT), "verifiedAt": BEFORE}
ROT = {**verify(READY, ROTTEN), "verifiedAt": BEFORE}


def test_damage_is_told_with_files_and_next_step() -> None:
    words = f"1 of 3 files are damaged: llama/v1/a has SHA-256 1, was published with 2. To mend it {STEP}"
    assert (ROT["phase"], ROT["message"], ROT["conditions"][0]["message"], ROT["digest"]) == ("Damaged", words, words, "sha256:0a")
    many = ROTTEN.model_copy(update={"damaged": 9})
    entry = DAMAGE[0].model_copy(update={"path": "llama/v1/" + "x" * 4000})
    message = write(READY, verdict_finding(many, [entry] * 9, READY, claim="cache", share=1))["message"]
    assert (len(message) < 1000, message.endswith(f"; and 6 more. To mend it {STEP}")) == (True, True)


@pytest.mark.parametrize(
    ("before", "verdict", "share", "after"),
    [
        pytest.param(READY, WHOLE_VERDICT, 1.0, ("Ready", "True", NOW), id="whole"),
        pytest.param(SOUND, WHOLE_VERDICT, 1.0, ("Ready", "True", NOW), id="whole again"),
        pytest.param(READY, ROTTEN, 1.0, ("Damaged", "False", NOW), id="rot"),
        pytest.param(SOUND, ROTTEN, 1.0, ("Damaged", "False", NOW), id="rot after all was well"),
        pytest.param(ROT, ROTTEN, 1.0, ("Damaged", "False", NOW), id="rot still"),
        pytest.param(ROT, WHOLE_VERDICT, 1.0, ("Ready", "True", NOW), id="whole after rot"),
        pytest.param(ROT, WHOLE_VERDICT.model_copy(update={"repaired": 1}), 1.0, ("Ready", "True", NOW), id="a repair mended it"),
        pytest.param(READY, WHOLE_VERDICT, 0.5, ("Ready", None, None), id="a part found nothing"),
        pytest.param(SOUND, WHOLE_VERDICT, 0.5, ("Ready", "True", BEFORE), id="a part found nothing, all was well"),
        pytest.param(ROT, WHOLE_VERDICT, 0.5, ("Damaged", "False", BEFORE), id="a part found nothing, and takes nothing back"),
        pytest.param(SOUND, ROTTEN, 0.5, ("Damaged", "False", BEFORE), id="a part found rot"),
        pytest.param(
            SOUND, ROTTEN.model_copy(update={"digest": None}), 1.0, ("Damaged", "False", NOW), id="a manifest that cannot be believed"
        ),
        pytest.param(
            SOUND, WHOLE_VERDICT.model_copy(update={"digest": "sha256:0b"}), 1.0, ("Damaged", "False", NOW), id="replaced, and whole"
        ),
        pytest.param(
            SOUND, WHOLE_VERDICT.model_copy(update={"digest": "sha256:0b"}), 0.5, ("Damaged", "False", BEFORE), id="replaced, a part read"
        ),
        pytest.param({}, ROTTEN, 1.0, ("Damaged", "False", NOW), id="an object made for it"),
        pytest.param(
            write(READY, Finding(Phase.LOADING, "Loading", "w")), ROTTEN, 1.0, ("Loading", "False", NOW), id="while a Job is at work"
        ),
        pytest.param(write(READY, removed()), ROTTEN, 1.0, ("Absent", None, None), id="removed since it was read"),
    ],
)
def test_verdicts(before: dict[str, Any], verdict: VersionVerdict, share: float, after: tuple[str, str | None, str | None]) -> None:
    assert told(verify(before, verdict, share)) == after


@pytest.mark.parametrize(
    ("before", "finding", "after"),
    [
        pytest.param(ROT, FOUND, ("Damaged", "False", BEFORE), id="sizes alone end no damage"),
        pytest.param(SOUND, FOUND, ("Ready", "True", BEFORE), id="sizes alone end no soundness"),
        pytest.param(SOUND, Finding(Phase.DAMAGED, "Damaged", "w", CONTENT), ("Damaged", None, BEFORE), id="sizes tell damage"),
        pytest.param(ROT, Finding(Phase.DAMAGED, "Damaged", "w", CONTENT), ("Damaged", "False", BEFORE), id="damage of both kinds"),
        pytest.param(ROT, Finding(Phase.LOADING, "Waiting", "w"), ("Loading", "False", BEFORE), id="a preload that only looks begins"),
        pytest.param(ROT, Finding(Phase.FAILED, "SourceMissing", "w"), ("Failed", "False", BEFORE), id="a preload failed"),
        pytest.param(ROT, replace(FOUND, anew=True), ("Ready", None, None), id="loaded anew"),
        pytest.param(ROT, replace(FOUND, verification=read_and_whole()), ("Ready", "True", NOW), id="a preload read all of it"),
        pytest.param(ROT, removed(), ("Absent", None, None), id="removed"),
        pytest.param(ROT, Finding(Phase.PENDING, "Declared", "w"), ("Pending", None, None), id="gone, and wanted"),
        pytest.param(
            ROT,
            Finding(Phase.LOADING, "Loading", "w", progress=Progress(bytes=1, total_bytes=2, files=0, total_files=1)),
            ("Loading", None, None),
            id="bytes are on their way",
        ),
    ],
)
def test_what_ends_it(before: dict[str, Any], finding: Finding, after: tuple[str, str | None, str | None]) -> None:
    assert told(write(before, finding)) == after


def test_a_preload_that_only_looked_ends_no_damage() -> None:
    looking = write(ROT, Finding(Phase.LOADING, "Waiting", "w"))
    failed = write(looking, Finding(Phase.FAILED, "SourceMissing", "w"))
    for before in (looking, failed):
        after = write(before, FOUND)
        assert (after["phase"], after["message"]) == ("Damaged", ROT["message"])


def other(finding: Finding) -> Finding:
    return replace(finding, content=replace(CONTENT, digest="sha256:0b"))


def test_another_digest_is_never_taken_over_silently() -> None:
    replaced = write(SOUND, other(FOUND))
    assert (replaced["phase"], replaced["digest"], verified(replaced)) == ("Damaged", "sha256:0a", "False")
    assert all(words in replaced["message"] for words in ("sha256:0b", "somebody replaced the version", "set state Absent"))
    assert write(replaced, other(FOUND)) == replaced
    assert write(replaced, other(replace(FOUND, verification=read_and_whole())))["phase"] == "Damaged"
    assert write(write(replaced, Finding(Phase.LOADING, "Waiting", "w")), other(FOUND))["phase"] == "Damaged"
    loaded = write(replaced, other(replace(FOUND, anew=True)))
    assert (loaded["phase"], loaded["digest"], verified(loaded)) == ("Ready", "sha256:0b", None)
    assert write(write(replaced, removed()), other(FOUND))["phase"] == "Ready", "what is gone has no digest to differ from"


def test_a_reconciliation_keeps_it_and_its_refusals() -> None:
    model = CachedModel("mine", "models", "llama", "v1", "main", status=ROT)
    fixed = {"path": "llama/v1", "model": "llama", "version": "v1", "files": 3, "bytes": 2**20}
    entry = VersionEntry(state=VersionState.READY, digest="sha256:0a", **fixed)
    facts = CacheFacts("main", "models", "cache", (model,), (entry,), frozenset(), References(), {}, NOW)
    (decision,) = plan_catalogue(facts)
    assert (decision.act, decision.status["phase"], decision.status["message"]) == ("", "Damaged", ROT["message"])
    settled = replace(model, status=decision.status)
    assert not plan_catalogue(replace(facts, models=(settled,)))[0].changes
    used = References((Use("Deployment/web/llm", frozenset({WHOLE})),))
    (refused,) = plan_catalogue(replace(facts, models=(replace(settled, state="Absent"),), references=used))
    assert refused.status["phase"] == "Damaged"
    assert all(words in refused.status["message"] for words in ("in use by Deployment/web/llm", STEP))
    again = verify(dict(refused.status), WHOLE_VERDICT)
    assert (again["phase"], [each["type"] for each in again["conditions"]]) == ("Ready", ["Ready", "InUse", "Verified", "RemovalRefused"])
