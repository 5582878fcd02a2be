"""How fast something goes now."""

import time
from collections import deque

#: The rate is that of the last seconds, so that a stall shows and an old burst is forgotten.
WINDOW_SECONDS = 15.0


class Rate:
    """Bytes a second over the last seconds, from counts that are told now and then."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def sample(self, count: int) -> float:
        """Take the count of now; the rate since the oldest count of the window, 0 at the first.

        A count may fall, as when a file is fetched again; the rate is never below 0.
        """
        now = time.monotonic()
        self._samples.append((now, count))
        while len(self._samples) > 2 and now - self._samples[0][0] > WINDOW_SECONDS:  # noqa: PLR2004 - a rate needs two
            self._samples.popleft()
        then, before = self._samples[0]
        return max(0.0, (count - before) / (now - then)) if now > then else 0.0
