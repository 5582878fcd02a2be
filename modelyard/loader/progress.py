"""How far a load is, told once a second as one JSON line in the pod's log; the flow shows it in its UI and terminal."""

import hashlib
import json
import sys
import time

from modelyard.orders import Entries, Progress
from modelyard.quantities import format_bytes
from modelyard.rates import Rate

INTERVAL_SECONDS = 1.0
#: A re-read of the volume moves no byte of the load, and may take hours: it is told this often.
REREAD_SECONDS = 15.0


class ProgressLog:
    """Counts bytes and files of one load and prints a line when one is due. ``bytes`` counts what is on the volume."""

    def __init__(self, total_bytes: int, total_files: int) -> None:
        self.total_bytes, self.total_files = total_bytes, total_files
        self._rate = Rate()
        self._last = 0.0

    def update(self, bytes_there: int, files_there: int, *, final: bool = False) -> None:
        """Take a sample, and print it if the last line is older than the interval or this is the final one."""
        now = time.monotonic()
        if now - self._last < INTERVAL_SECONDS and not final:
            return
        self._last = now
        there = Progress.at(bytes_there, self.total_bytes, files_there, self.total_files, self._rate.sample(bytes_there))
        say("progress", **there.model_dump())


class EntryLog:
    """Prints what is too long for a termination message, one entry a line, and counts and hashes what it printed."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._count = 0

    def add(self, **fields: object) -> None:
        """Print one entry."""
        line = json.dumps({"event": "entry", **fields})
        self._digest.update(f"{line}\n".encode())
        self._count += 1
        sys.stdout.write(line + "\n")

    @property
    def entries(self) -> Entries:
        """What was printed, for the result."""
        sys.stdout.flush()
        return Entries(count=self._count, digest=f"sha256:{self._digest.hexdigest()}")


class Reread:
    """Tells now and then how far a re-read of what is on the volume is; called with each count of bytes read."""

    def __init__(self, subject: str, total: int) -> None:
        self._subject, self._total = subject, total
        self._read = 0
        self._last = time.monotonic()

    def __call__(self, count: int) -> None:
        self._read += count
        if (now := time.monotonic()) - self._last >= REREAD_SECONDS:
            self._last = now
            say("note", message=f"{self._subject}: {format_bytes(self._read)} of {format_bytes(self._total)} on the volume read again")


def say(event: str, **fields: object) -> None:
    """One JSON line on standard output."""
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()
