"""How far an upload is: one line that is written over in a terminal, a line now and then anywhere else."""

import sys
import threading
import time
from typing import TextIO

from modelyard.quantities import format_bytes, format_duration
from modelyard.rates import Rate

_TERMINAL_SECONDS = 0.2
_FILE_SECONDS = 10.0


class Meter:
    """Counts what is done of so many bytes and files, from any thread."""

    def __init__(self, total_bytes: int, total_files: int, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._total_bytes, self._total_files = total_bytes, total_files
        self._bytes = self._files = 0
        self._lock = threading.Lock()
        self._terminal = self._stream.isatty()
        self._rate = Rate()
        self._rate.sample(0)
        self._last = 0.0

    def add(self, count: int = 0, files: int = 0) -> None:
        """So many bytes and files more are there."""
        with self._lock:
            self._bytes += count
            self._files += files
            now = time.monotonic()
            if now - self._last >= (_TERMINAL_SECONDS if self._terminal else _FILE_SECONDS):
                self._last = now
                self._show()

    def end(self) -> None:
        """Tell the last state, whatever was told before."""
        with self._lock:
            self._show()
            if self._terminal:
                self._stream.write("\n")
                self._stream.flush()

    def _show(self) -> None:
        rate = self._rate.sample(self._bytes)
        left = f", {format_duration((self._total_bytes - self._bytes) / rate)} left" if rate > 0 and self._bytes < self._total_bytes else ""
        line = (
            f"{format_bytes(self._bytes)} of {format_bytes(self._total_bytes)}, {self._files} of {self._total_files} files,"
            f" {format_bytes(rate)}/s{left}"
        )
        self._stream.write(f"\r\x1b[2K{line}" if self._terminal else f"{line}\n")
        self._stream.flush()
