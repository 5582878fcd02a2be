"""What can go wrong, as types.

DevclusterError            anything a user can act on; the message says what, where and the next step
├── RequirementsError      the machine cannot run a cluster; lists every problem at once
├── CommandError           a program failed; carries its last output
├── NotRunningError        the cluster named is not up
└── StartError             a component did not become ready in time
"""

from __future__ import annotations

from collections.abc import Sequence


class DevclusterError(Exception):
    """Anything a user can act on."""


class RequirementsError(DevclusterError):
    """The machine lacks something; nothing was changed."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("this machine cannot run a devcluster:\n" + "\n".join(f"  - {problem}" for problem in problems))


class CommandError(DevclusterError):
    """A program ended with an error."""

    def __init__(self, argv: Sequence[str], returncode: int, output: str) -> None:
        self.returncode = returncode
        tail = "\n".join(f"    {line}" for line in output.strip().splitlines()[-15:])
        super().__init__(f"`{' '.join(argv)}` ended with {returncode}" + (f":\n{tail}" if tail else ""))


class NotRunningError(DevclusterError):
    """The cluster is not up."""

    def __init__(self, name: str) -> None:
        super().__init__(f"cluster {name!r} is not up; start it with `python -m devcluster --name {name} up`")


class StartError(DevclusterError):
    """A component did not become ready."""
