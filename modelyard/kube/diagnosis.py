"""A diagnosis as a value, and the choice of the event that it speaks of."""

from collections.abc import Iterable
from dataclasses import dataclass

from modelyard.kube.resources import Manifest


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is observed, in whose words, and what to do next."""

    summary: str
    detail: str
    next_step: str
    permanent: bool = False
    interrupted: bool = False

    def __str__(self) -> str:
        return "; ".join(part for part in (f"{self.summary}: {self.detail}" if self.detail else self.summary, self.next_step) if part)


def latest(events: Iterable[Manifest], reasons: frozenset[str] | None = None) -> Manifest | None:
    """The newest of ``events`` that has one of ``reasons`` (any, if None)."""
    matching = [event for event in events if reasons is None or event.get("reason") in reasons]
    return max(matching, key=_event_time, default=None)


def _event_time(event: Manifest) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or "")
