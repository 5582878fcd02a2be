"""Amounts as people write them: Kubernetes quantities, the durations of the Helm values, and how both are told back."""

import re
from datetime import timedelta
from decimal import Decimal

_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
_DECIMAL = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18}
_SUFFIXES = _BINARY | _DECIMAL
_QUANTITY = re.compile(r"(?P<number>\d+(?:\.\d*)?|\.\d+)(?P<suffix>[KMGTPE]i|[kMGTPE]?)", re.ASCII)
_SMALL = {"n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3")}
_AMOUNT = re.compile(
    r"(?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+))(?:(?P<exponent>[eE][+-]?\d{1,3})|(?P<suffix>[KMGTPE]i|[numkMGTPE]?))", re.ASCII
)
_STEP = 1024
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_LONGEST = 1000 * 365 * _UNITS["d"]  # a timedelta holds more, but now minus it must still be a date
_DURATION = re.compile(r"(?:\d+[smhdw])+", re.ASCII)
_DURATION_PART = re.compile(r"(\d+)([smhdw])")


def parse_bytes(text: str) -> int:
    """Bytes of a Kubernetes quantity such as ``300Gi``, ``1.5G`` or ``1048576``; a fraction of a byte is rounded up.

    Grammar: k8s.io/apimachinery/pkg/api/resource/quantity.go, without exponents and milli-units, which no storage size uses.

    Raises:
        ValueError: not such a quantity.
    """
    if not (match := _QUANTITY.fullmatch(text.strip())):
        raise ValueError(f"{text!r} is not a size; write a number with Ki, Mi, Gi, Ti or k, M, G, T, for example 300Gi")
    exact = Decimal(match["number"]) * _SUFFIXES[match["suffix"]]
    return int(exact.to_integral_value(rounding="ROUND_CEILING"))


def same_amount(one: str, other: str) -> bool:
    """Whether two Kubernetes quantities say the same, as ``0.05`` and ``50m`` or ``1024Mi`` and ``1Gi``; what is none is only itself."""
    amounts = _amount(one), _amount(other)
    return one == other if None in amounts else amounts[0] == amounts[1]


def _amount(text: str) -> Decimal | None:
    """The whole grammar: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/"""
    if not (match := _AMOUNT.fullmatch(text)):
        return None
    if match["exponent"]:
        return Decimal(match["number"] + match["exponent"])
    return Decimal(match["number"]) * (_SMALL | _SUFFIXES)[match["suffix"]]


def parse_duration(text: str) -> timedelta:
    """The duration of ``30s``, ``10m``, ``6h``, ``1d``, ``1w`` or a sum of such (``1d12h``).

    The units are those of MLIS's ``purgeUnusedCachedModelsAfter``.

    Raises:
        ValueError: no unit, or one that is not s, m, h, d, w; or longer than 1000 years.
    """
    if not _DURATION.fullmatch(text.strip()):
        raise ValueError(f"{text!r} is not a duration; write a whole number with s, m, h, d or w, for example 1w")
    seconds = sum(int(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(text))
    if seconds > _LONGEST:
        raise ValueError(f"{text!r} is longer than 1000 years; leave it out if you mean for ever")
    return timedelta(seconds=seconds)


def format_bytes(count: float) -> str:
    """``count`` bytes for a person, in powers of 1024: ``86.7 MiB``."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        digits = 0 if unit == "B" else 1
        if abs(round(size, digits)) < _STEP:  # rounded first: never "1024.0 KiB"
            return f"{size:.{digits}f} {unit}"
        size /= _STEP
    return f"{size:.1f} PiB"


def format_duration(seconds: float) -> str:
    """``seconds`` for a person, two units at most: ``42s``, ``3m 20s``, ``2h 5m``."""
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {rest}s" if minutes else f"{rest}s"
