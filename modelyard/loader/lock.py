"""A version's lock on the volume: held by whoever changes the version. With it a model's is shared, so that nobody removes the
directories that the model's versions have in common.
"""

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
    with layout.lock.open("a") as lock, layout.model_lock.open("a+") as shared:  # NFS shares no lock of a file not opened to read
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LoaderInterrupted(f"{layout.model}: another loader is writing this version; it is tried again", delay=15) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            say("note", message=f"{layout.lock}: the volume has no locks ({error.strerror}); going on without: only one Job may load it")
        with _where_there_are_locks():
            fcntl.flock(shared, fcntl.LOCK_SH)  # whoever has it alone has it for moments
        yield


@contextmanager
def model_unused(layout: Layout) -> Iterator[bool]:
    """Whether nobody works on any version of the model, and keep it so. A file system without locks says that nobody does."""
    with layout.model_lock.open("a+") as lock:
        try:
            with _where_there_are_locks():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@contextmanager
def _where_there_are_locks() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
