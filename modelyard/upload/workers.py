"""Work that threads do beside each other for one purpose, so many at once, and that ends as one: done whole, or stopped."""

from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass, field
from threading import BoundedSemaphore
from typing import Generic, TypeVar

Result = TypeVar("Result")


@dataclass(slots=True)
class Batch(Generic[Result]):
    """What one thread submits to ``pool``. ``slots`` bounds what waits in memory, for all batches that share it."""

    pool: Executor
    slots: BoundedSemaphore
    _futures: list[Future[Result]] = field(default_factory=list)
    _failed: Future[Result] | None = None

    def submit(self, work: Callable[..., Result], *arguments: object) -> None:
        """Have it done as soon as a slot is free. Raises what an earlier piece of this batch failed with, as far as that is known."""
        self.slots.acquire()
        if self._failed:
            self.slots.release()
            self._failed.result()
        future = self.pool.submit(work, *arguments)
        self._futures.append(future)
        future.add_done_callback(self._ended)

    def results(self) -> list[Result]:
        """What each piece gave, in the order of their submission; raises the first error."""
        return [future.result() for future in self._futures]

    def stop(self) -> None:
        """Begin nothing more, and wait for what is under way."""
        for future in self._futures:
            future.cancel()
        wait(self._futures)

    def _ended(self, future: Future[Result]) -> None:
        # Told here, by the piece itself: to ask all pieces at each submission is quadratic in the number of files.
        if not future.cancelled() and future.exception():
            self._failed = future
        self.slots.release()
