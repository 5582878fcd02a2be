"""What the runs say: a table for people, and the figures that the project's claims are checked against."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from benchmarks.measure import Run


@dataclass(frozen=True, slots=True)
class Result:
    """One run of one tool on one dataset."""

    dataset: str
    tool: str
    repetition: int
    run: Run

    def as_data(self) -> dict[str, Any]:
        """One flat JSON object."""
        return {"dataset": self.dataset, "tool": self.tool, "repetition": self.repetition, **asdict(self.run)}


def table(results: list[Result], sizes: dict[str, int]) -> str:
    """Medians of each tool on each dataset; ``best`` is the shortest wall time, ``foreign`` the most that others used of the CPU."""
    heads = ("dataset", "tool", "wall s", "best", "MB/s", "cpu s", "user", "sys", "server cpu", "foreign", "peak MiB", "requests")
    rows = [heads, *(_row(dataset, tool, runs, sizes[dataset]) for (dataset, tool), runs in sorted(_grouped(results).items()))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _row(dataset: str, tool: str, runs: list[Run], size: int) -> tuple[str, ...]:
    wall = _median(run.wall_s for run in runs)
    numbers = (_median(run.cpu_s for run in runs), _median(run.user_s for run in runs), _median(run.sys_s for run in runs))
    others = (_median(run.server_cpu_s for run in runs), max(run.foreign_cpu_s for run in runs))
    return (
        dataset,
        tool,
        f"{wall:.2f}",
        f"{min(run.wall_s for run in runs):.2f}",
        f"{size / wall / 1e6:.0f}",
        *(f"{number:.2f}" for number in (*numbers, *others)),
        f"{max(run.peak_rss_mib for run in runs):.0f}",
        str(sum(runs[-1].requests.values())),
    )


def figures(results: list[Result]) -> dict[str, float | None]:
    """The ratios of medians; None where a side of the ratio did not run."""
    grouped = _grouped(results)

    def ratio(counter: str, dataset: str, other: str) -> float | None:
        ours, theirs = grouped.get((dataset, "loader")), grouped.get((dataset, other))
        if not ours or not theirs:
            return None
        return round(_median(getattr(run, counter) for run in ours) / _median(getattr(run, counter) for run in theirs), 3)

    loader = [result.run for result in results if result.tool == "loader"]
    return {
        "wall_vs_s5cmd_large_https": ratio("wall_s", "large", "s5cmd"),
        "cpu_vs_s5cmd_large_https": ratio("cpu_s", "large", "s5cmd"),
        "wall_vs_s5cmd_small_https": ratio("wall_s", "small", "s5cmd"),
        "cpu_vs_s5cmd_small_https": ratio("cpu_s", "small", "s5cmd"),
        "wall_vs_s5cmd_sha256_large_https": ratio("wall_s", "large", "s5cmd+sha256"),
        "wall_vs_boto3_large_https": ratio("wall_s", "large", "boto3"),
        "peak_rss_mib": max((run.peak_rss_mib for run in loader), default=None),
    }


def _grouped(results: list[Result]) -> dict[tuple[str, str], list[Run]]:
    grouped: dict[tuple[str, str], list[Run]] = {}
    for result in results:
        grouped.setdefault((result.dataset, result.tool), []).append(result.run)
    return grouped


def _median(values: Iterable[float]) -> float:
    return median(list(values))
