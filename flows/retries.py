"""Retries of tasks: the error decides (``modelyard.errors``), and this is how Prefect is told.

A failure is tried again at one level only: what the loader's Job, or a registry's client, has tried again in vain, a task does not.
Of errors that are not ours only those may pass that come from a network or a file system. All others are mistakes in a program or in
what it was given: they show at once.
"""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import botocore.exceptions
import httpx
import urllib3.exceptions
from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from modelyard.errors import ModelyardError, RegistryUnavailable, Temporary

Condition = Callable[["Task[..., Any]", TaskRun, "State[Any]"], bool]

#: Of the file system's errors, those that say what is wrong with a path.
_PATHS = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)
#: Of others, what may go away by itself.
_PASSING = (
    OSError,  # connections, time-outs and TLS among them
    httpx.TransportError,
    urllib3.exceptions.HTTPError,
    botocore.exceptions.ConnectionError,
    botocore.exceptions.HTTPClientError,
)


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
            return isinstance(error, kinds) and not isinstance(error, RegistryUnavailable)
        except Exception as error:  # noqa: BLE001 - not ours
            return _passes(error)
        return False

    return worth_another_try


def _passes(error: Exception) -> bool:
    if isinstance(error, (ValueError, *_PATHS)):  # an address that cannot be read is one of urllib3's errors too
        return False
    if isinstance(error, httpx.HTTPStatusError):  # of Prefect's API
        return error.response.is_server_error or error.response.status_code == HTTPStatus.TOO_MANY_REQUESTS
    return isinstance(error, _PASSING)
