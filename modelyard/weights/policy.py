"""Holding files against a policy of weight formats: by the loader before it publishes, by an upload before it sends."""

from collections.abc import Callable, Sequence
from pathlib import Path

from modelyard.errors import Problem
from modelyard.models import WeightPolicy
from modelyard.plans.weight_formats import weight_refusal
from modelyard.weights.scan import scan_file


def refused_files(
    root: Path, paths: Sequence[str], policy: WeightPolicy, on_file: Callable[[int], None] = lambda _: None
) -> tuple[list[Problem], int]:
    """What speaks against the files below ``root``, and how many of them pickle loads; ``on_file`` hears each file's number."""
    problems, pickled = list[Problem](), 0
    if policy is WeightPolicy.ANY:
        return problems, pickled
    for number, path in enumerate(paths, 1):
        verdict = scan_file(root / path)
        pickled += verdict.pickled
        if problem := weight_refusal(path, verdict.dangers, policy, pickled=verdict.pickled):
            problems.append(problem)
        on_file(number)
    return problems, pickled
