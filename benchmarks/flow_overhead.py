"""``python -m benchmarks.flow_overhead``: where the seconds of the demo's last preload went that were not the load itself.

Read from the Prefect API of ``make demo``: the run's and its tasks' own times, and the loader's seconds from the log line
that tells its result. Nothing is run.
"""

import json
import re
import urllib.request
from datetime import datetime
from typing import Any

API = "http://127.0.0.1:4200/api"


def ask(path: str, query: dict[str, Any]) -> list[dict[str, Any]]:
    """One filter request."""
    request = urllib.request.Request(  # noqa: S310 - loopback http, ours
        f"{API}{path}", data=json.dumps(query).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - loopback http, ours
        found: list[dict[str, Any]] = json.load(answer)
    return found


def seconds(later: str, earlier: str) -> float:
    """Between two times of the API."""
    return round((datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds(), 2)


def main() -> None:
    """Print the parts as one JSON object, in seconds."""
    completed = {"flows": {"name": {"any_": ["preload-model"]}}, "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    run = ask("/flow_runs/filter", {**completed, "sort": "START_TIME_DESC", "limit": 1})[0]
    tasks = {each["name"].partition("-")[0]: each for each in ask("/task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})}
    lines = ask("/logs/filter", {"logs": {"flow_run_id": {"any_": [run["id"]]}}, "sort": "TIMESTAMP_ASC", "limit": 200, "offset": 0})
    started = next(line["timestamp"] for line in lines if re.match(r"(started|joined) Job/", line["message"]))
    whole = [line["timestamp"] for line in lines if line["message"].startswith("100.0 %")]
    print(
        json.dumps(
            {
                "scheduled_to_flow_start": seconds(run["start_time"], run["expected_start_time"]),
                "flow_start_to_job_start": seconds(started, run["start_time"]),
                "of_which_resolve": seconds(tasks["resolve"]["end_time"], tasks["resolve"]["start_time"]),
                "of_which_claim": seconds(tasks["claim"]["end_time"], tasks["claim"]["start_time"]),
                "job_start_to_all_bytes_there": seconds(whole[0], started),
                "all_bytes_there_to_flow_end": seconds(run["end_time"], whole[0]),
            }
        )
    )


if __name__ == "__main__":
    main()
