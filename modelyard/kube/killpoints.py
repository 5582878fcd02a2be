"""Where a test kills a flow: right after the API server answered one of its writes. Without the variable nothing happens."""

import os
import signal
from itertools import count

_VARIABLE = "MODELYARD_KUBE_DIE_AFTER"
_written = count(1)


def written() -> None:
    """Die by SIGKILL if this was the write whose number, counted from 1 in this process, the environment names."""
    wanted = os.environ.get(_VARIABLE)
    if wanted and next(_written) == int(wanted):
        os.kill(os.getpid(), signal.SIGKILL)
