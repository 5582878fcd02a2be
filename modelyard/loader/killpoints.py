"""Places where a test kills the loader, to prove that the next one recovers. Without the variable they do nothing."""

import os
import signal

_VARIABLE = "MODELYARD_KILL_AT"
#: In the order in which a load passes them.
POINTS = ("listing", "first-byte", "mid-file", "before-fsync", "pending-written", "renamed", "published")
#: In the order in which a removal does.
REMOVAL_POINTS = ("marked", "moved", "unstaged", "deleting", "deleted", "unmarked")


def kill_point(name: str) -> None:
    """Die here by SIGKILL if the environment asks for it."""
    if os.environ.get(_VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)
