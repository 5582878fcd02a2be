"""Counting over all layers of a build, from any thread: what was read, what was sent, how far it is."""

import threading
from dataclasses import dataclass, field

from modelyard.orders import Progress
from modelyard.plans.modelcar import LayerPlan
from modelyard.rates import Rate


@dataclass(slots=True)
class Meter:
    """One build's counts. A layer counts for the bytes of its files, as far as they were sent; one that begins anew takes them back."""

    total_bytes: int
    total_files: int
    read: int = 0
    sent: int = 0
    _files: int = 0
    _done: int = 0
    _under_way: dict[str, int] = field(default_factory=dict)
    _rate: Rate = field(default_factory=Rate)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add_read(self, count: int) -> None:
        """Bytes came from the source."""
        with self._lock:
            self.read += count

    def add_sent(self, layer: LayerPlan, count: int, position: int) -> None:
        """Bytes went into the registry; the layer is at ``position`` now."""
        with self._lock:
            self.sent += count
            self._under_way[layer.files[0].path] = min(layer.file_bytes, position)

    def add_blob(self, count: int) -> None:
        """Bytes of something that is not the model's went into the registry."""
        with self._lock:
            self.sent += count

    def finish(self, layer: LayerPlan) -> None:
        """A layer is in the registry."""
        with self._lock:
            self._under_way.pop(layer.files[0].path, None)
            self._files += len(layer.files)
            self._done += layer.file_bytes

    def progress(self) -> Progress:
        """How far the build is; for one thread, which asks now and then."""
        with self._lock:
            there, files = self._done + sum(self._under_way.values()), self._files
        return Progress.at(there, self.total_bytes, files, self.total_files, self._rate.sample(there))
