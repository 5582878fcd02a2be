"""What the modelcar runs say: a table for people, and the figures that the project's claims are checked against."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from benchmarks.measure import Run

OURS = "modelyard"
#: The builder's second version, of which one weight file of four is another.
SECOND = "modelyard, version 2"


@dataclass(frozen=True, slots=True)
class Result:
    """One run of one contestant; ``objects`` are the keys that the S3 server's log names, with how often each was asked for."""

    tool: str
    repetition: int
    run: Run
    registry_cpu_s: float
    registry_received_bytes: int
    objects: dict[str, int]
    told: dict[str, Any] = field(default_factory=dict)

    def as_data(self) -> dict[str, Any]:
        """One flat JSON object."""
        data = asdict(self)
        counted: dict[str, Any] = data.pop("run")
        return counted | data


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the parts need alone, in seconds."""

    sha256_s: float
    registry_s: float
    registry_cpu_s: float


def table(results: list[Result]) -> str:
    """Medians of each contestant, the fastest first; ``foreign`` is the most that others used of the CPU."""
    heads = ("tool", "wall s", "best", "cpu s", "s3 cpu", "registry cpu", "foreign", "peak MiB", "disk MB", "read MB", "sent MB")
    rows = [heads, *(_row(tool, runs) for tool, runs in sorted(_grouped(results).items(), key=lambda item: _wall(item[1])))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _row(tool: str, results: list[Result]) -> tuple[str, ...]:
    runs = [result.run for result in results]
    numbers = (
        _wall(results),
        min(run.wall_s for run in runs),
        _median(run.cpu_s for run in runs),
        _median(run.server_cpu_s for run in runs),
        _median(result.registry_cpu_s for result in results),
        max(run.foreign_cpu_s for run in runs),
    )
    counted = (
        _median(run.disk_bytes for run in runs) / 1e6,
        _median(run.server_wrote_bytes for run in runs) / 1e6,
        _median(result.registry_received_bytes for result in results) / 1e6,
    )
    peak = max(run.peak_rss_mib for run in runs)
    return (tool, *(f"{number:.1f}" for number in numbers), f"{peak:.0f}", *(f"{number:,.1f}" for number in counted))


def figures(results: list[Result], bounds: list[Bounds], size: int, cpus: int) -> dict[str, Any]:
    """The ratios of medians and the builder's worst counts; None where a side did not run."""
    grouped = _grouped(results)
    ours, second = grouped.get(OURS, []), grouped.get(SECOND, [])
    return {
        "wall_vs_olot_skopeo": _ratio(ours, grouped.get("olot+skopeo")),
        "wall_vs_buildah": _ratio(ours, grouped.get("buildah")),
        "wall_vs_crane": _ratio(ours, grouped.get("crane")),
        "disk_bytes": max((result.run.disk_bytes for result in [*ours, *second]), default=None),
        "peak_rss_mib": max((result.run.peak_rss_mib for result in [*ours, *second]), default=None),
        "reread_bytes_second_version_ratio": _most(result.run.server_wrote_bytes / size for result in second),
        "resent_bytes_second_version_ratio": _most(result.registry_received_bytes / size for result in second),
        "image_digests": len({result.told.get("image", "").partition("@")[2] for result in ours}),
        **_bounds(grouped, bounds, cpus),
    }


def _bounds(grouped: dict[str, list[Result]], bounds: list[Bounds], cpus: int) -> dict[str, Any]:
    """The builder's wall time beside what its parts need, each alone and together on these cores.

    ``bound_cores_s`` spreads over all cores what nobody can do without: the least that the S3 server used for any contestant, what the
    registry uses for bytes from a sender's memory, and one SHA-256. ``cores_busy`` is the share of all cores' time that builder, S3
    server and registry had; what is missing to 1 went to others or to waiting.
    """
    ours = grouped.get(OURS)
    if not ours or not bounds:
        return {}
    sha256, registry = _median(each.sha256_s for each in bounds), _median(each.registry_s for each in bounds)
    served = min(_median(result.run.server_cpu_s for result in results) for tool, results in grouped.items() if tool != SECOND)
    cores = (served + _median(each.registry_cpu_s for each in bounds)) / cpus + sha256
    used = (result.run.cpu_s + result.run.server_cpu_s + result.registry_cpu_s for result in ours)
    busy = _median(each / (result.run.wall_s * cpus) for each, result in zip(used, ours, strict=True))
    return {
        "bound_sha256_s": sha256,
        "bound_registry_s": registry,
        "bound_cores_s": round(cores, 3),
        "bound_by": "cores" if cores > max(sha256, registry) else "sha256" if sha256 > registry else "registry",
        "wall_vs_slower_of_sha256_and_registry": round(_wall(ours) / max(sha256, registry), 3),
        "wall_vs_cores": round(_wall(ours) / cores, 3),
        "cores_busy": round(busy, 3),
    }


def _ratio(ours: list[Result], theirs: list[Result] | None) -> float | None:
    return round(_wall(ours) / _wall(theirs), 3) if ours and theirs else None


def _most(values: Iterable[float]) -> float | None:
    return max((round(value, 4) for value in values), default=None)


def _wall(results: list[Result]) -> float:
    return _median(result.run.wall_s for result in results)


def _grouped(results: list[Result]) -> dict[str, list[Result]]:
    grouped: dict[str, list[Result]] = {}
    for result in results:
        grouped.setdefault(result.tool, []).append(result)
    return grouped


def _median(values: Iterable[float]) -> float:
    return median(list(values))
