"""Progress of a load where people look: one progress artifact and one log line every few seconds."""

import time
from contextlib import suppress
from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.logging import get_run_logger

from flows.catalogue import Catalogued
from modelyard.orders import Progress
from modelyard.quantities import format_bytes, format_duration

INTERVAL_SECONDS = 3.0
_WHOLE = 100.0


class LoadProgress:
    """Shows one load's progress under the key of its subject, and in the catalogue's ``entry`` where there is one."""

    def __init__(self, key: str, subject: str, entry: Catalogued | None = None) -> None:
        self._subject = subject
        self._entry = entry
        created = create_progress_artifact(progress=0.0, key=key, description=f"{subject}: waiting for the loader", _sync=True)  # type: ignore[call-arg]  # Prefect's async_dispatch adds _sync
        self._artifact = cast("UUID", created)
        self._last = self._share = 0.0

    def __call__(self, seen: Progress) -> None:
        """Show ``seen``, unless the last one was shown a moment ago and more is to come."""
        now = time.monotonic()
        whole = seen.bytes >= seen.total_bytes
        if now - self._last < INTERVAL_SECONDS and not whole:
            return
        self._last = now
        self._show(percent(seen), f"{self._subject}: {describe(seen)}")
        if self._entry:
            self._entry.progress(seen)

    def finish(self, text: str) -> None:
        """Show the end."""
        self._show(_WHOLE, f"{self._subject}: {text}")

    def note(self, text: str) -> None:
        """Show why nothing moves."""
        get_run_logger().warning(text)
        self._update(f"{self._subject}: {text}")
        if self._entry:
            self._entry.note(text)

    def _show(self, share: float, text: str) -> None:
        self._share = share
        get_run_logger().info("%5.1f %%  %s", share, text)
        self._update(text)

    def _update(self, text: str) -> None:
        """A Prefect server that is away for a while must not end a load: showing is a courtesy."""
        with suppress(Exception):
            update_progress_artifact(self._artifact, progress=self._share, description=text)


def percent(seen: Progress) -> float:
    """Bytes that are there, of 100; an empty model is whole."""
    return round(_WHOLE * seen.bytes / seen.total_bytes, 1) if seen.total_bytes else _WHOLE


def describe(seen: Progress) -> str:
    """Bytes, files, rate and time left in one line."""
    amount = f"{format_bytes(seen.bytes)} of {format_bytes(seen.total_bytes)}, {seen.files} of {seen.total_files} files"
    rate = f", {seen.bytes_per_second / 1e6:.1f} MB/s" if seen.bytes_per_second else ""
    left = f", {format_duration(seen.seconds_left)} left" if seen.seconds_left is not None else ""
    return amount + rate + left
