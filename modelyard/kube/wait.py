"""Waiting for one object: success, failure, deletion, time-out, and nothing else.

The object is listed and then watched from that version on, in watches as short as a tick. A server that restarts in
between costs nothing but time; only the deadline ends a wait that the object itself does not end.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from modelyard.errors import ClusterUnavailable, ModelyardError, Temporary
from modelyard.kube.client import Kube
from modelyard.kube.failures import Expired
from modelyard.kube.resources import Manifest, ObjectRef

T = TypeVar("T")
_LONGEST_PAUSE = 5.0


class TimedOut(Temporary):
    """The wait's time is over and nothing has gone wrong yet; the message holds the last status seen."""


@dataclass(frozen=True, slots=True)
class Ends(Generic[T]):
    """How a wait ends: each looks at the object and says whether, and as what, it is over."""

    done: Callable[[Manifest], T | None]
    failed: Callable[[Manifest], ModelyardError | None]
    deleted: Callable[[], ModelyardError]


def wait_for(
    kube: Kube,
    ref: ObjectRef,
    ends: Ends[T],
    timeout: float,
    *,
    on_tick: Callable[[Manifest], None] | None = None,
    tick_seconds: int = 2,
) -> T:
    """What ``ends.done`` makes of the object, as soon as it makes something of it.

    ``on_tick`` runs about every ``tick_seconds`` with the object as last seen, events or not; what it raises ends the wait.

    Raises:
        TimedOut: ``timeout`` seconds are over.
    """
    deadline = time.monotonic() + timeout
    follower = _Follower(kube, ref)
    while (left := deadline - time.monotonic()) > 0:
        for seen in follower.tick(max(1, min(tick_seconds, round(left)))):
            if (result := _result(seen, ends)) is not None:
                return result
        if on_tick and follower.last:
            on_tick(follower.last)
    raise TimedOut(f"waited {timeout:.0f} s for {ref}; last seen: {status_text(follower.last)}")


def _result(seen: Manifest | None, ends: Ends[T]) -> T | None:
    if seen is None:
        raise ends.deleted()
    if (result := ends.done(seen)) is not None:
        return result
    if error := ends.failed(seen):
        raise error
    return None


class _Follower:
    """One object over time, across watches that end, versions that expire and servers that restart."""

    def __init__(self, kube: Kube, ref: ObjectRef) -> None:
        self.last: Manifest | None = None
        self._kube = kube
        self._ref = ref
        self._version: str | None = None

    def tick(self, seconds: int) -> Iterator[Manifest | None]:
        """The object at each change within ``seconds``; None where it is gone."""
        try:
            yield from self._list() if self._version is None else self._watch(self._version, seconds)
        except Expired:
            self._version = None
        except ClusterUnavailable as error:
            time.sleep(min(error.delay, seconds))

    def _list(self) -> Iterator[Manifest | None]:
        found = self._kube.collection(self._ref.kind, self._ref.namespace, field_selector=self._selector)
        self._version = found.resource_version
        self.last = found.items[0] if found.items else None
        yield self.last

    def _watch(self, version: str, seconds: int) -> Iterator[Manifest | None]:
        events = self._kube.watch(
            self._ref.kind, self._ref.namespace, field_selector=self._selector, resource_version=version, timeout_seconds=seconds
        )
        for kind, seen in events:
            self._version = seen["metadata"]["resourceVersion"]
            if kind == "BOOKMARK":
                continue
            self.last = None if kind == "DELETED" else seen
            yield self.last

    @property
    def _selector(self) -> str:
        return f"metadata.name={self._ref.name}"


def status_text(live: Manifest | None) -> str:
    """The object's phase and conditions in one line."""
    if live is None:
        return "nothing"
    status: dict[str, Any] = live.get("status") or {}
    phase = [f"phase {status['phase']}"] if status.get("phase") else []
    counts = [f"{name} {status[name]}" for name in ("active", "succeeded", "failed") if status.get(name)]
    return ", ".join(phase + counts + [_condition_text(condition) for condition in status.get("conditions") or []]) or "no status"


def _condition_text(condition: dict[str, Any]) -> str:
    words = " ".join(part for part in (condition.get("reason"), condition.get("message")) if part)
    return f"{condition['type']}={condition['status']}" + (f" ({words})" if words else "")
