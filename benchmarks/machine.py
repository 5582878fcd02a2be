"""What the benchmarks tell about where they ran, and what each begins from."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

_READ_SIZE = 4 * 1024 * 1024


def default_work() -> Path:
    """Where datasets and scratch are, if the caller names nothing else."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "modelyard" / "benchmarks"


def read_all(root: Path) -> None:
    """Bring what a server will read into the page cache."""
    for path in root.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.read(_READ_SIZE):
                    pass


def commit() -> str:
    """The commit that ran, and whether there was more than that."""
    described = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], check=False, capture_output=True, text=True)
    return described.stdout.strip() or "unknown"


def machine() -> dict[str, Any]:
    """Kernel and CPUs."""
    return {"kernel": platform.release(), "cpus": os.cpu_count(), "cpu": _cpu()}


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
