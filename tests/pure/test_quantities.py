"""Amounts: what is read, what is refused with which words, and how amounts are told back."""

from datetime import timedelta

import pytest

from modelyard.quantities import format_bytes, format_duration, parse_bytes, parse_duration, same_amount


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1048576", 1048576),
        ("300Gi", 300 * 2**30),
        (" 1Ti ", 2**40),
        ("1.5G", 1_500_000_000),
        ("1k", 1000),
        ("1Ki", 1024),
        ("2Mi", 2 * 2**20),
        ("3Pi", 3 * 2**50),
        ("8E", 8 * 10**18),
        ("7Ei", 7 * 2**60),
        (".5Ki", 512),
        ("1.Ki", 1024),
        pytest.param("0.0001Ki", 1, id="a fraction of a byte is rounded up, as Kubernetes does"),
        pytest.param("9007199254740993", 9007199254740993, id="exact above 2**53, where a float is not"),
    ],
)
def test_parse_bytes(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "Gi", "300 Gi", "300gi", "300GB", "300K", "-1Gi", "+1Gi", "1e3", "100m", "1,5G", "٣Gi", "."])
def test_what_is_no_size_is_quoted_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a size; write a number with Ki, Mi, .* for example 300Gi") as refused:
        parse_bytes(text)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30s", timedelta(seconds=30)),
        ("10m", timedelta(minutes=10)),
        ("6h", timedelta(hours=6)),
        ("1d", timedelta(days=1)),
        ("1w", timedelta(weeks=1)),
        (" 2w ", timedelta(weeks=2)),
        ("1d12h", timedelta(hours=36)),
        ("90m30s", timedelta(minutes=90, seconds=30)),
        ("0s", timedelta(0)),
    ],
)
def test_parse_duration(text: str, expected: timedelta) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "7", "1.5d", "-1d", "1 d", "1D", "1mo", "1y", "d", "1d2", "٣d"],
)
def test_what_is_no_duration_is_quoted_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a duration; write a whole number with s, m, h, d or w") as refused:
        parse_duration(text)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize("text", ["1001w" * 60, "9" * 20 + "w"])
def test_a_duration_that_no_date_holds_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="longer than 1000 years"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (90_912_522, "86.7 MiB"),
        (300 * 2**30, "300.0 GiB"),
        (2**40, "1.0 TiB"),
        (2**50, "1.0 PiB"),
        (2**60, "1024.0 PiB"),
        (-2048, "-2.0 KiB"),
        pytest.param(2**20 - 1, "1.0 MiB", id="what rounds to 1024 is told in the next unit"),
        pytest.param(1023.9, "1.0 KiB", id="also from bytes, which a rate may be a fraction of"),
    ],
)
def test_format_bytes(count: float, expected: str) -> None:
    assert format_bytes(count) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0s"),
        (-3, "0s"),
        (42.4, "42s"),
        (59.6, "1m 0s"),
        (200, "3m 20s"),
        (7500, "2h 5m"),
        (86400, "24h 0m"),
    ],
)
def test_format_duration(seconds: float, expected: str) -> None:
    assert format_duration(seconds) == expected


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("0.05", "50m", True),
        ("1024Mi", "1Gi", True),
        ("2", "2000m", True),
        ("1e3", "1k", True),
        ("1E", "1000P", True),
        ("1E3", "1k", True),
        ("1G", "1Gi", False),
        ("50m", "51m", False),
        pytest.param("all", "all", True, id="no amount, and the same"),
        pytest.param("all", "1", False, id="no amount"),
    ],
)
def test_amounts_that_say_the_same(one: str, other: str, same: bool) -> None:  # noqa: FBT001
    assert same_amount(one, other) is same
