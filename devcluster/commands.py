"""Run programs, and say well what failed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from devcluster.errors import CommandError


def progress(message: str) -> None:
    """Tell the user; stderr, because stdout is for results."""
    print(f"devcluster: {message}", file=sys.stderr, flush=True)


def run(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    pass_fds: Sequence[int] = (),
    timeout: float | None = None,
) -> str:
    """Run to the end and return stdout; CommandError with the last output otherwise."""
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words, cwd=cwd, env=env, input=stdin, pass_fds=pass_fds, timeout=timeout, capture_output=True, text=True,
            stdin=None if stdin is not None else subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise CommandError(words, 127, str(error)) from error
    except subprocess.TimeoutExpired as error:
        raise CommandError(words, 124, f"no end after {timeout} s") from error
    if done.returncode:
        raise CommandError(words, done.returncode, done.stdout + done.stderr)
    return done.stdout


def succeeds(argv: Sequence[str | Path], *, pass_fds: Sequence[int] = ()) -> bool:
    """Whether the program ends well; for questions, where "no" is an answer."""
    try:
        run(argv, pass_fds=pass_fds)
    except CommandError:
        return False
    return True
