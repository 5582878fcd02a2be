"""How often a registry is asked again, by what it did in a row."""

from copy import copy

import pytest

from modelyard.errors import RegistryUnavailable
from modelyard.oci.http import Failures, Patience

REFUSED = RegistryUnavailable("?", delay=0)
SILENT = RegistryUnavailable("?", delay=0, silent=True)
LONG = RegistryUnavailable("?", delay=0, silent=True, long=True)
SOON = Patience(first=0.0)


def tries(row: list[RegistryUnavailable], patience: Patience = SOON) -> int:
    """How many there are of what fails as ``row`` says, and on and on as its last."""
    done = 0

    def attempt() -> None:
        nonlocal done
        done += 1
        raise copy(row[min(done, len(row)) - 1])  # it is marked where there is no other try

    with pytest.raises(RegistryUnavailable):
        patience.through(attempt)
    return done


@pytest.mark.parametrize(
    ("row", "count"),
    [
        pytest.param([REFUSED], 8, id="nobody listens"),
        pytest.param([SILENT], 4, id="silence"),
        pytest.param([*[REFUSED] * 3, SILENT], 7, id="one that restarts, and then is silent"),
        pytest.param([*[REFUSED] * 3, SILENT, REFUSED], 8, id="silent once"),
        pytest.param([*[SILENT] * 3, REFUSED, SILENT], 8, id="silent in two rows"),
    ],
)
def test_tries_in_a_row(row: list[RegistryUnavailable], count: int) -> None:
    assert tries(row) == count


def test_few_tries_are_few_of_silences_too() -> None:
    assert tries([SILENT], Patience(attempts=2, first=0.0)) == 2


def test_the_limit_that_is_named_is_the_one_that_applies() -> None:
    failures = Failures(SOON)
    told = []
    for error in [REFUSED, SILENT, REFUSED, *[SILENT] * 3]:
        failures.add(error)
        told.append(failures.next_try)
    assert told == ["try 2 of 8", "try 2 of 4", "try 4 of 8", "try 2 of 4", "try 3 of 4", "try 4 of 4"]


# Silence where a registry may work long, and within what is itself tried again ------------------------------------------------


def test_long_silences_are_two() -> None:
    assert tries([LONG]) == 2
    assert tries([SILENT, LONG, LONG]) == 3
    assert tries([LONG, REFUSED, LONG]) == 4
    failures = Failures(SOON)
    failures.add(LONG)
    assert failures.next_try == "try 2 of 2"


@pytest.mark.parametrize(("error", "count"), [pytest.param(SILENT, 4, id="silence"), pytest.param(LONG, 2, id="long silence")])
def test_what_ended_by_silence_is_not_tried_again_around(error: RegistryUnavailable, count: int) -> None:
    done = []

    def attempt() -> None:
        done.append(1)
        raise RegistryUnavailable("?", delay=0, silent=error.silent, long=error.long)

    with pytest.raises(RegistryUnavailable) as caught:
        SOON.through(lambda: SOON.through(attempt))
    assert (len(done), caught.value.spent) == (count, True)


def test_what_ended_otherwise_is() -> None:
    assert tries([REFUSED], Patience(attempts=2, first=0.0)) == 2
    done = []

    def attempt() -> None:
        done.append(1)
        raise REFUSED

    few = Patience(attempts=2, first=0.0)
    with pytest.raises(RegistryUnavailable):
        few.through(lambda: few.through(attempt))
    assert len(done) == 4
