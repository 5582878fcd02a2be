"""Which files a verification reads: each once in a round, about the share that was asked for, and never none for ever."""

import pytest

from modelyard.plans.sampling import chosen

FILES = [(f"m/v1/{number}", 10 * number) for number in range(101)]
BYTES = sum(size for _, size in FILES)


@pytest.mark.parametrize(("share", "runs"), [(1.0, 1), (0.5, 2), (0.25, 4), (0.1, 10), (0.01, 100)])
@pytest.mark.parametrize("first", [0, 7, 20_413])
def test_a_round_reads_each_file_once(share: float, runs: int, first: int) -> None:
    picked = [index for seed in range(first, first + runs) for index in chosen(FILES, share, seed)]
    assert set(picked) == set(range(len(FILES)))
    assert len(picked) == len(FILES)


def test_a_run_reads_about_its_share() -> None:
    read = [sum(FILES[index][1] for index in chosen(FILES, 0.1, seed)) for seed in range(10)]
    assert all(BYTES * 0.1 - 1000 <= count <= BYTES * 0.1 + 1000 for count in read)  # a file is read whole


def test_a_share_that_is_no_divisor_still_comes_round() -> None:
    assert {index for seed in range(4) for index in chosen(FILES, 0.3, seed)} == set(range(len(FILES)))


def test_one_large_file_is_read_once_a_round() -> None:
    assert sorted(index for seed in range(10) for index in chosen([("large", 10**12)], 0.1, seed)) == [0]


def test_files_without_bytes_are_all_read() -> None:
    assert sorted(chosen([("a", 0), ("b", 0)], 0.1, 3)) == [0, 1]
    assert chosen([], 0.1, 3) == []
