"""A diagnosis as a value and over time, and the choice of the event that it speaks of."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from modelyard.kube.resources import Manifest

#: What is seen for a moment of every healthy start is told only if it lasts for so long.
USUAL_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is observed, in whose words, and what to do next."""

    summary: str
    detail: str
    next_step: str
    permanent: bool = False
    interrupted: bool = False
    usual: bool = False  # healthy ones look so as well, for some seconds

    def __str__(self) -> str:
        return "; ".join(part for part in (f"{self.summary}: {self.detail}" if self.detail else self.summary, self.next_step) if part)


class Course:
    """A diagnosis over time. Its summary names the cause and stays; the details under it come and go (ErrImagePull and its back-off)."""

    def __init__(self) -> None:
        self.last: Diagnosis | None = None
        self._since = time.monotonic()
        self._told = False

    def see(self, diagnosis: Diagnosis | None) -> bool:
        """Take what is diagnosed now; whether it is to be told: each cause once, and a usual one only if it stays."""
        if diagnosis is None or self.last is None or diagnosis.summary != self.last.summary:
            self._since, self._told = time.monotonic(), False
        self.last = diagnosis
        tell = diagnosis is not None and not self._told and not (diagnosis.usual and self.seconds < USUAL_SECONDS)
        self._told = self._told or tell
        return tell

    @property
    def seconds(self) -> float:
        """For how long the cause has been the same."""
        return time.monotonic() - self._since


def latest(events: Iterable[Manifest], reasons: frozenset[str] | None = None) -> Manifest | None:
    """The newest of ``events`` that has one of ``reasons`` (any, if None)."""
    matching = [event for event in events if reasons is None or event.get("reason") in reasons]
    return max(matching, key=_event_time, default=None)


def _event_time(event: Manifest) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or "")
