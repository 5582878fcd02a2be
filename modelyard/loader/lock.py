"""A version's lock on the volume: held by whoever changes the version."""

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from modelyard.errors import LoaderInterrupted
from modelyard.loader.layout import Layout, make_directories
from modelyard.loader.progress import say

#: What file systems without locks say: NFS with no lock daemon, some FUSE ones.
NO_LOCKS = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK})


@contextmanager
def alone(layout: Layout) -> Iterator[None]:
    """Hold the version's lock: two pods of one Job may meet when a node comes back from the dead.

    Raises:
        LoaderInterrupted: another process holds it.
    """
    make_directories(layout.lock.parent, layout.root)
    with layout.lock.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LoaderInterrupted(f"{layout.model}: another loader is writing this version; it is tried again", delay=15) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            say("note", message=f"{layout.lock}: the volume has no locks ({error.strerror}); going on without: only one Job may load it")
        yield
