"""``python -m tools.links FILE...``: every relative link and image of these Markdown files leads to a file of this repository."""

import re
import sys
from pathlib import Path

_LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")


def dead_links(document: Path) -> list[str]:
    """The relative targets in ``document`` that do not exist."""
    return [target for target in _LINK.findall(document.read_text(encoding="utf-8")) if not (document.parent / target).exists()]


def main(arguments: list[str]) -> int:
    """Print each dead link; exit code 1 if there is one."""
    dead = [(name, target) for name in arguments for target in dead_links(Path(name))]
    for name, target in dead:
        sys.stderr.write(f"{name}: dead link {target}\n")
    return 1 if dead else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
