"""Retries of tasks: the error decides (``modelyard.errors``), and this is how Prefect is told."""

from typing import Any, Final

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from modelyard.errors import ModelyardError


def is_temporary(_task: "Task[..., Any]", _run: TaskRun, state: "State[Any]") -> bool:
    """Whether another try could help. Errors that are not ours are tried again: what they mean is not known."""
    try:
        state.result()
    except ModelyardError as error:
        return error.retryable
    except Exception:  # noqa: BLE001 - whatever it is, the task failed with it
        return True
    return False


#: For every task that touches the world: it may run twice, so it is tried again, and its result is never taken from a cache.
RETRIED: Final[dict[str, Any]] = {
    "retries": 4,
    "retry_delay_seconds": [2, 5, 15, 30],
    "retry_condition_fn": is_temporary,
    "cache_policy": NO_CACHE,
}
