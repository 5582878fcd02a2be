"""Retries of tasks: the error decides (``modelyard.errors``), and this is how Prefect is told.

A failure is tried again at one level only: what the loader's Job has tried again in vain, its task does not.
"""

from collections.abc import Callable
from typing import Any

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from modelyard.errors import ModelyardError, Temporary

Condition = Callable[["Task[..., Any]", TaskRun, "State[Any]"], bool]


def retried(*kinds: type[Temporary]) -> dict[str, Any]:
    """A task's settings: tried again after errors of these kinds, and its result never taken from a cache.

    For every task that touches the world; each may run twice.
    """
    return {
        "retries": 4,
        "retry_delay_seconds": [2, 5, 15, 30],
        "retry_condition_fn": _only(kinds or (Temporary,)),
        "cache_policy": NO_CACHE,
    }


def _only(kinds: tuple[type[Temporary], ...]) -> Condition:
    def worth_another_try(_task: "Task[..., Any]", _run: TaskRun, state: "State[Any]") -> bool:
        try:
            state.result()
        except ModelyardError as error:
            return isinstance(error, kinds)
        except Exception:  # noqa: BLE001 - not ours: what it means is not known, so it is tried again
            return True
        return False

    return worth_another_try
