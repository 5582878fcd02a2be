"""How a flow tells its plan: as an artifact, and in the run's log, where people look first."""

from collections.abc import Sequence

from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger

from modelyard.errors import Problem

#: A plan may list a thousand layers or nodes; its artifact has them all.
MOST_LINES = 200


def publish_plan(text: str, problems: Sequence[Problem], *, key: str, description: str, dry_run: bool) -> None:
    """A plan as an artifact, and in the log: the whole of it in a dry run, and in any run what it is refused for."""
    create_markdown_artifact(text, key=key, description=description)
    tell_plan(text, problems, dry_run=dry_run)


def tell_plan(text: str, problems: Sequence[Problem] = (), *, dry_run: bool) -> None:
    """A plan in the log of the run."""
    if dry_run:
        get_run_logger().info("%s", f"dry run, nothing is changed; the plan:\n{capped(text)}")
    if problems:
        get_run_logger().warning("%s", refusal(problems))


def capped(text: str) -> str:
    """The first lines of a plan, and where the others are."""
    lines = text.strip().splitlines()
    rest = len(lines) - MOST_LINES
    return "\n".join(lines if rest <= 0 else [*lines[:MOST_LINES], f"... {rest} more lines are in the run's artifact"])


def refusal(problems: Sequence[Problem]) -> str:
    """Why a plan is refused, a line each."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return "\n".join([f"refused: {count}, nothing was changed", *(f"- {problem}" for problem in problems)])
