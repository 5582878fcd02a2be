"""One devcluster for all of a run's workers (pytest-xdist): the first that asks starts it, the last that lets go stops it."""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

import devcluster

#: The processes of shared clusters, which few tests kill.
COMPONENTS = "components"


def run_directory(factory: pytest.TempPathFactory) -> Path:
    """A directory that all workers of this run see, and no other run."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@contextmanager
def shared_cluster(name: str, directory: Path, extras: Sequence[str] = ()) -> Iterator[devcluster.Cluster]:
    """The devcluster ``name``, up and with ``extras``; stopped and purged by its last user if this run started it.

    One that is up is used as it is. The data of one that is not were left by a killed run, whose tests may have changed anything
    (KServe's configuration), and are purged first. Users hold a shared lock on a file in ``directory``, which dies with them: a
    killed worker keeps nothing up for the others.
    """
    with (directory / f"users-of-{name}").open("w") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        started = directory / f"{name}-was-started-here"
        with steady(directory, COMPONENTS), one_at_a_time(directory, f"start-of-{name}"):
            fresh = not started.exists() and not _is_up(name)
            if fresh:
                started.touch()
            cluster = devcluster.up(name, extras=extras, fresh=fresh)
        yield cluster
        if started.exists() and _is_last(users):
            devcluster.down(name, purge=True)


@contextmanager
def one_at_a_time(directory: Path, what: str) -> Iterator[None]:
    """What two workers must not do at the same moment."""
    with (directory / f"{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def steady(directory: Path, what: str, *, alone: bool = False) -> Iterator[None]:
    """Meanwhile no other worker changes ``what``; ``alone``: nor does any other use it, because this one will change it.

    Who waits to be alone holds the turn, so that no others come in before it.
    """
    with (directory / f"uses-of-{what}.lock").open("w") as uses:
        with one_at_a_time(directory, f"turn-at-{what}"):
            fcntl.flock(uses, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


def _is_last(users: IO[str]) -> bool:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_up(name: str) -> bool:
    try:
        devcluster.connect(name)
    except devcluster.DevclusterError:
        return False
    return True
