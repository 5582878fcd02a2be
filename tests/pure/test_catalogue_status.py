"""A CachedModel's status, by whole values: what stays, what goes, and since when."""

from typing import Any

import pytest

from modelyard.orders import Progress
from modelyard.plans.catalogue_status import Content, Context, Finding, Phase, Usage, next_status, progress_status, ready

NOW = "2026-11-21T12:00:00Z"
CONTENT = Content(bytes=13 * 2**30, files=4, digest="sha256:0a", loaded_at="2026-11-21T11:00:00+01:00")
READY = ready(CONTENT, "cache", "llama/v1")
WORDS = "4 files, 13.0 GiB are on the volume; mount claim cache read-only, they are in llama/v1"


def condition(kind: str, status: str, reason: str, message: str, since: str = NOW) -> dict[str, Any]:
    words = {"type": kind, "status": status, "reason": reason, "message": message}
    return {**words, "lastTransitionTime": since, "observedGeneration": 1}


def test_the_whole_of_a_ready_one() -> None:
    assert next_status(READY, Context(now=NOW, usage=Usage(("Pod/web/a",)))) == {
        "observedGeneration": 1,
        "phase": "Ready",
        "message": WORDS,
        "bytes": 13 * 2**30,
        "size": "13.0 GiB",
        "files": 4,
        "digest": "sha256:0a",
        "loadedAt": "2026-11-21T10:00:00Z",
        "usedBy": ["Pod/web/a"],
        "lastUsedAt": NOW,
        "conditions": [condition("Ready", "True", "OnVolume", WORDS), condition("InUse", "True", "Referenced", "used by Pod/web/a")],
    }


def test_what_a_preload_does_not_look_at_stays() -> None:
    before = {"usedBy": ["Pod/web/a"], "lastUsedAt": "2026-11-01T00:00:00Z", "verifiedAt": "2026-11-02T00:00:00Z", "flowRun": "1"}
    in_use = condition("InUse", "True", "Referenced", "used by Pod/web/a", "2026-11-01T00:00:00Z")
    status = next_status(Finding(Phase.LOADING, "Loading", "w", flow_run="2"), Context({**before, "conditions": [in_use]}, 1, NOW))
    assert {key: status[key] for key in before} == {**before, "flowRun": "2"}
    assert status["conditions"][1] == in_use


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        pytest.param(
            Progress(bytes=999, total_bytes=1000, files=1, total_files=2, bytes_per_second=10.4, seconds_left=0.1),
            {"text": "99 %", "percent": 99, "bytes": 999, "totalBytes": 1000, "bytesPerSecond": 10, "secondsLeft": 0},
            id="nearly",
        ),
        pytest.param(
            Progress(bytes=0, total_bytes=0, files=0, total_files=1),
            {"text": "100 %", "percent": 100, "bytes": 0, "totalBytes": 0, "bytesPerSecond": 0},
            id="an empty model",
        ),
    ],
)
def test_progress(seen: Progress, told: dict[str, Any]) -> None:
    assert progress_status(seen) == told


def test_progress_stays_while_loading_and_goes_with_it() -> None:
    seen = Progress(bytes=1, total_bytes=2, files=0, total_files=1)
    loading = next_status(Finding(Phase.LOADING, "Loading", "w", progress=seen), Context(now=NOW))
    assert loading["progress"]["text"] == "50 %"
    assert next_status(Finding(Phase.LOADING, "Waiting", "image"), Context(loading, 1, NOW))["progress"]["text"] == "50 %"
    assert "progress" not in next_status(READY, Context(loading, 1, NOW))


@pytest.mark.parametrize(
    ("before", "usage", "last"),
    [
        pytest.param({}, Usage(), None, id="never used"),
        pytest.param({}, Usage(("Pod/a/b",)), NOW, id="use begins"),
        pytest.param(
            {"usedBy": ["Pod/a/b"], "lastUsedAt": "2026-11-21T11:30:00Z"},
            Usage(("Pod/a/b",)),
            "2026-11-21T11:30:00Z",
            id="goes on: not written at each look",
        ),
        pytest.param({"usedBy": ["Pod/a/b"], "lastUsedAt": "2026-11-21T11:00:00Z"}, Usage(("Pod/a/b",)), NOW, id="goes on for an hour"),
        pytest.param({"usedBy": ["Pod/a/b"], "lastUsedAt": "2026-11-21T11:30:00Z"}, Usage(), NOW, id="ends"),
        pytest.param({"lastUsedAt": "2026-11-01T00:00:00Z"}, Usage(), "2026-11-01T00:00:00Z", id="ended long ago"),
        pytest.param({"lastUsedAt": "2026-11-01T00:00:00Z"}, Usage(unknown=("403",)), NOW, id="not known counts as now"),
    ],
)
def test_last_use(before: dict[str, Any], usage: Usage, last: str | None) -> None:
    assert next_status(READY, Context(before, 1, NOW, usage)).get("lastUsedAt") == last


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    first = next_status(READY, Context(now="2026-11-01T00:00:00Z", usage=Usage()))
    later = next_status(READY, Context(first, 2, NOW, Usage(("Pod/a/b",))))
    assert [each["lastTransitionTime"] for each in later["conditions"]] == ["2026-11-01T00:00:00Z", NOW]
    assert [each["observedGeneration"] for each in later["conditions"]] == [2, 2]


def test_an_absent_one_has_no_content_and_many_users_are_counted() -> None:
    before = next_status(READY, Context(now=NOW))
    gone = next_status(Finding(Phase.ABSENT, "Removed", "w"), Context(before, 1, NOW))
    assert not {"bytes", "size", "files", "digest", "loadedAt"} & set(gone)
    many = next_status(READY, Context(now=NOW, usage=Usage(tuple(f"Pod/a/{number}" for number in range(25)))))
    assert (len(many["usedBy"]), many["usedBy"][-1]) == (21, "and 5 more")


def test_a_long_error_is_cut() -> None:
    status = next_status(Finding(Phase.FAILED, "Refused", "x" * 10_000), Context(now=NOW))
    assert len(status["message"]) == len(status["conditions"][0]["message"]) == 2000
