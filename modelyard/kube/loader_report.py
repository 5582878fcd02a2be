"""What a loader reported: its progress from the log, its result or its error from the termination message. Pure."""

import json
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from modelyard.errors import LoaderFailed, LoaderInterrupted, ModelyardError, from_data
from modelyard.kube.diagnose import diagnose_pod
from modelyard.kube.resources import Manifest, ref_of
from modelyard.models import Value
from modelyard.orders import ENTRY_LINE, Entries, Progress, Result
from modelyard.quantities import format_bytes, format_duration

_LOG_CHARS = 1500


def progress_in(log: str) -> Progress | None:
    """The newest progress among the lines of a log; lines that are none are passed over."""
    for line in reversed(log.splitlines()):
        data = _object(line)
        if data.pop("event", None) == "progress":
            try:
                return Progress.model_validate(data)
            except ValidationError:
                continue
    return None


def retries_in(log: str) -> list[str]:
    """What a log tells of things that are tried again, and why."""
    lines = map(_object, log.splitlines())
    return [str(data.get("message", "")) for data in lines if data.get("event") == "retry"]


def finished(job: Manifest) -> dict[str, Any] | None:
    """The condition that ended the Job (``Complete`` or ``Failed``), or None while it goes on."""
    conditions: list[dict[str, Any]] = (job.get("status") or {}).get("conditions") or []
    return next((each for each in conditions if each["type"] in {"Complete", "Failed"} and each["status"] == "True"), None)


def newest_pod(pods: list[Manifest]) -> Manifest | None:
    """The pod made last; of several made in one second, the one whose container ended last."""
    return max(pods, key=lambda pod: (pod["metadata"]["creationTimestamp"], _ended(pod).get("finishedAt") or ""), default=None)


def reported_result(job: Manifest, pods: list[Manifest], result: type[Result]) -> tuple[Manifest, Result]:
    """What the loader of a Job that is complete reported, and the pod that did.

    Raises:
        LoaderInterrupted: its pod is gone, and the report with it.
        LoaderFailed: it reported nothing that this release understands.
    """
    succeeded = newest_pod([pod for pod in pods if (pod.get("status") or {}).get("phase") == "Succeeded"])
    if succeeded is None:
        raise LoaderInterrupted(f"{ref_of(job)} is complete, but its pod and report are gone; run again, the loader checks what is there")
    text = _ended(succeeded).get("message") or ""
    data = _object(text)
    try:
        if data.pop("event", None) == "result":
            return succeeded, result.model_validate(data)
    except ValidationError as error:
        raise LoaderFailed(f"{ref_of(job)} reported a result of another release: {text[:_LOG_CHARS]}") from error
    raise LoaderFailed(f"{ref_of(job)} ended well without a result; its termination message: {text[:_LOG_CHARS]!r}")


def read_entries(pod: Manifest, result: Value, read_log: Callable[[], str]) -> tuple[dict[str, Any], ...]:
    """The entries that the result counts, from the pod's log; a result that counts none needs no log.

    Raises:
        LoaderInterrupted: the log lost some of them (the kubelet rotates logs); another run asks again.
    """
    told = getattr(result, "entries", None)
    if not isinstance(told, Entries) or not told.count:
        return ()
    lines = [line for line in read_log().splitlines() if line.startswith(ENTRY_LINE)]
    if Entries.of(lines) != told:
        raise LoaderInterrupted(f"{ref_of(pod)}: its log holds {len(lines)} of {told.count} entries, or others; run again")
    return tuple({key: value for key, value in _object(line).items() if key != "event"} for line in lines)


def load_error(job: Manifest, pods: list[Manifest], log: str, seen: Progress | None = None) -> ModelyardError:
    """Why a Job failed, in the loader's words where it had any, else by what is seen of its newest pod."""
    condition = finished(job) or {}
    if condition.get("reason") == "DeadlineExceeded":
        return _out_of_time(job, seen)
    pod = newest_pod([pod for pod in pods if _ended(pod) or diagnose_pod(pod)])
    if pod is None:
        return LoaderInterrupted(f"{ref_of(job)} failed and its pods are gone ({condition.get('reason')}: {condition.get('message')})")
    data = _object(_ended(pod).get("message") or "")
    return from_data(data) if "error" in data else _unreported(job, pod, log)


def _out_of_time(job: Manifest, seen: Progress | None) -> LoaderFailed:
    limit = format_duration(job["spec"]["activeDeadlineSeconds"])
    reached = f" with {format_bytes(seen.bytes)} of {format_bytes(seen.total_bytes)}" if seen else ""
    return LoaderFailed(f"{ref_of(job)} was stopped at its limit of {limit}{reached}; run it again, it goes on from there")


def _unreported(job: Manifest, pod: Manifest, log: str) -> ModelyardError:
    diagnosis = diagnose_pod(pod)
    tail = f"; end of its log: {log[-_LOG_CHARS:].strip()}" if log.strip() else ""
    message = f"{ref_of(job)}, pod {pod['metadata']['name']}: {diagnosis or 'no reason is known'}{tail}"
    return LoaderInterrupted(message) if diagnosis and diagnosis.interrupted else LoaderFailed(message)


def _ended(pod: Manifest) -> dict[str, Any]:
    """How the pod's container ended; empty while it has not."""
    for status in (pod.get("status") or {}).get("containerStatuses") or []:
        ended: dict[str, Any] = (status.get("state") or {}).get("terminated") or {}
        if ended:
            return ended
    return {}


def _object(text: str) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
