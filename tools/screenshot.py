"""``python -m tools.screenshot DIRECTORY``: the README's picture, taken of the demo's last run by headless Chromium."""

import json
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

_API = "http://127.0.0.1:4200"
_QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic", "--no-first-run")


def last_run() -> str:
    """The id of the newest completed run of the deployment."""
    query = {
        "flows": {"name": {"any_": ["preload-model"]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
        "sort": "EXPECTED_START_TIME_DESC",
        "limit": 1,
    }
    request = urllib.request.Request(  # noqa: S310 - loopback http, ours
        f"{_API}/api/flow_runs/filter", data=json.dumps(query).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - loopback http, ours
        runs = json.load(answer)
    if not runs:
        raise SystemExit("screenshot: no completed run of preload-model at 127.0.0.1:4200; run make demo first")
    return str(runs[0]["id"])


def take(path: str, picture: Path) -> None:
    """A picture of one page of the UI."""
    with tempfile.TemporaryDirectory() as profile:
        argv = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *_QUIET, f"--user-data-dir={profile}"]
        size = ["--window-size=1400,1560", "--virtual-time-budget=20000", f"--screenshot={picture}"]
        subprocess.run([*argv, *size, f"{_API}{path}"], check=True, capture_output=True, timeout=180)


def main() -> None:
    """Take it."""
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    take(f"/runs/flow-run/{last_run()}", directory / "preload-run.png")


if __name__ == "__main__":
    main()
