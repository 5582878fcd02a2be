"""When it is told that a claim is pending: at once if an event says why, and else only if it stays so."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from modelyard.errors import ClaimPending
from modelyard.kube import diagnosis, follow
from modelyard.kube.client import Kube
from modelyard.kube.diagnosis import Course, Diagnosis
from modelyard.kube.resources import ObjectRef
from modelyard.kube.wait import TimedOut
from modelyard.volumes import claims

KUBE = cast("Kube", None)  # nothing is asked of it here
SILENT = Diagnosis("provisioner p has made no volume yet", "no event says why", "see that a pod of provisioner p runs", usual=True)
SAID = Diagnosis("provisioner p has made no volume yet", "Throttled: try later", "see that a pod of provisioner p runs")
FAILED = Diagnosis("provisioner p could not make the volume", "access denied", "")
Clock = Callable[[float], None]


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Sets the clock."""
    now = [0.0]
    monkeypatch.setattr(diagnosis, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return lambda seconds: now.__setitem__(0, seconds)


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        pytest.param([(0.1, SILENT), (9.9, SILENT), (10.2, SILENT), (20.0, SILENT)], [10.2], id="silence that lasts, once"),
        pytest.param([(0.1, SILENT), (2.0, None), (11.0, SILENT)], [], id="silence anew"),
        pytest.param([(0.1, SAID), (20.0, SAID)], [0.1], id="an event that says why, at once"),
        pytest.param([(0.1, SILENT), (2.0, SAID), (20.0, SILENT)], [2.0], id="an event that comes later"),
        pytest.param([(0.1, SILENT), (2.0, FAILED), (4.0, SILENT), (15.0, SILENT)], [2.0, 15.0], id="another cause in between"),
    ],
)
def test_when_a_diagnosis_is_told(at: Clock, seen: list[tuple[float, Diagnosis | None]], told: list[float]) -> None:
    course, heard = Course(), []
    for seconds, found in seen:
        at(seconds)
        if course.see(found):
            heard.append(seconds)
    assert heard == told


def test_a_claim_just_made_raises_no_alarm(at: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    told: list[int] = []

    def wait_for(*_: Any, on_tick: Callable[[Any], None]) -> None:
        for seconds in (0.1, 5.0, 10.2):
            at(seconds)
            on_tick({})
            told.append(len(notes))
        raise TimedOut("waited")

    monkeypatch.setattr(claims, "explain_claim", lambda *_: SILENT)
    monkeypatch.setattr(claims, "wait_for", wait_for)
    with pytest.raises(ClaimPending, match=r"is not bound after 11 s: provisioner p has made no volume yet: no event says why"):
        claims.wait_bound(KUBE, "models", "cache", 11, on_note=notes.append)
    assert told == [0, 0, 1]


def test_a_pod_whose_claim_was_just_made_raises_no_alarm(at: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    monkeypatch.setattr(follow, "pods_of", lambda *_: [])
    monkeypatch.setattr(follow, "explain_job", lambda *_: SILENT)
    follower = follow.Follower(KUBE, ObjectRef("Job", "j", "models"), lambda _: None, notes.append, patience=60)
    follower.tick({})
    assert notes == []
    at(10.2)
    follower.tick({})
    assert notes == [f"Job/models/j: {SILENT}"]
