"""Carrying out an order beside a volume, for the tasks of all procedures."""

from collections.abc import Mapping
from datetime import timedelta

from prefect.logging import get_run_logger
from prefect.runtime import flow_run as this_run
from pydantic import ValidationError

from modelyard.caches import CacheSpec
from modelyard.errors import ClusterUnavailable, LoaderFailed, ModelyardError
from modelyard.kube.client import Kube
from modelyard.kube.follow import OnNote, OnProgress
from modelyard.kube.run_loader import ensure_job, remove_job, wait_for_job
from modelyard.kube.wait import TimedOut
from modelyard.orders import InspectResult, Order, Progress, Report, Result, VersionEntry


def carry_out(  # noqa: PLR0913 - an order, where, and who hears of it
    kube: Kube,
    order: Order,
    cache: CacheSpec,
    result: type[Result],
    *,
    timeout: timedelta,
    secret_data: Mapping[str, str] | None = None,
    on_progress: OnProgress | None = None,
    on_note: OnNote | None = None,
    node: str | None = None,
    hurried: bool = False,
) -> Report[Result]:
    """Run the order's Job on the cache's claim to its end, or join the one that runs; the Job and its Secret are gone afterwards.

    ``hurried`` is for an order that its caller can do without: any hindrance that holds for a minute ends it, not only one that
    a person must remove, and so does the time-out.

    Raises:
        ClusterUnavailable, TimedOut: the Job may well go on (unless it is hurried); another try, or the next run, joins it.
        ModelyardError: what the loader reported, or why it never ran.
    """
    log = get_run_logger()
    handle = ensure_job(kube, order, cache, secret_data or {}, str(this_run.id), node=node)
    log.info("%s %s", "joined" if handle.adopted else "started", handle.ref)
    try:
        report = wait_for_job(
            kube, handle, result, on_progress or _silent, timeout.total_seconds(), on_note=on_note or log.warning, hurried=hurried
        )
    except (ClusterUnavailable, TimedOut):
        if hurried:
            remove_job(kube, handle)
        raise
    except ModelyardError:
        remove_job(kube, handle)  # its report is read; a Secret is not left behind
        raise
    remove_job(kube, handle)
    return report


def versions_seen(report: Report[InspectResult]) -> tuple[VersionEntry, ...]:
    """The versions that an inspection told of.

    Raises:
        LoaderFailed: its entries are not of this release.
    """
    try:
        return tuple(VersionEntry.model_validate(entry) for entry in report.entries)
    except ValidationError as error:
        raise LoaderFailed(f"the loader told of the volume in another release's words; set loaderImage to this one's: {error}") from error


def _silent(_: Progress) -> None:
    """For orders that end too soon to tell how far they are."""
