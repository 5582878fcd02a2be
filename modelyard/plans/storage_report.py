"""A storage check's report for people: Markdown for the run's artifact, and rows of a table. Pure."""

from collections.abc import Sequence

from modelyard.plans.check_storage import CheckPlan
from modelyard.plans.storage_verdict import NodeResult, Severity, StorageReport
from modelyard.quantities import format_bytes


def describe_storage(report: StorageReport, plan: CheckPlan) -> str:
    """The report as Markdown, for the run's artifact."""
    head = f"# {report.subject} {report.verdict}"
    facts = f"{plan.access_mode}, measured with {format_bytes(plan.bytes)} a pod; file system {report.file_system or 'not seen'}."
    parts = [head, facts, _rates(report.nodes)]
    for severity, title in ((Severity.FATAL, "Does not work"), (Severity.LIMIT, "Limits"), (Severity.NOTE, "Notes")):
        if found := [f"- {finding}" for finding in report.findings if finding.severity is severity]:
            parts.append(f"## {title}\n\n" + "\n".join(found))
    parts.append(
        "Rates are of one stream at an otherwise idle moment, nodes one after the other. Writes include the last fsync. Reads go past"
        " the node's page cache, or after dropping the file from it; what a storage server itself holds in memory is not excluded."
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def _rates(nodes: Sequence[NodeResult]) -> str:
    if not nodes:
        return ""
    rows = [f"| {' | '.join(row.values())} |" for row in node_rows(nodes)]
    return "\n".join(["| node | sees | write | read | problem |", "|---|---|---|---|---|", *rows])


def node_rows(nodes: Sequence[NodeResult]) -> list[dict[str, str]]:
    """The nodes as rows of a table."""
    return [
        {
            "node": node.node,
            "sees": "yes" if node.sees else "no",
            "write": _rate(node.write_bytes_per_second, "O_DIRECT" if node.written_direct else "page cache"),
            "read": _rate(node.read_bytes_per_second, "O_DIRECT" if node.read_direct else "cache dropped"),
            "problem": " ".join((node.problem or "").split()).replace("|", "\\|"),
        }
        for node in nodes
    ]


def _rate(rate: float | None, how: str) -> str:
    return f"{rate / 1e6:.0f} MB/s ({how})" if rate else ""
