"""How often a registry is asked again, by what it did in a row."""

import pytest

from modelyard.errors import RegistryUnavailable
from modelyard.oci.http import Failures, Patience

REFUSED, SILENT = (RegistryUnavailable("?", delay=0, silent=silent) for silent in (False, True))
SOON = Patience(first=0.0)


def tries(row: list[RegistryUnavailable], patience: Patience = SOON) -> int:
    """How many there are of what fails as ``row`` says, and on and on as its last."""
    done = 0

    def attempt() -> None:
        nonlocal done
        done += 1
        raise row[min(done, len(row)) - 1]

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
