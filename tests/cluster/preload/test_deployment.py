"""The deployment as users run it: registered by prefect.yaml, run by a worker, cancelled from the API."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.states import Cancelling

from deployments.demo.prefect_side import start_run
from tests.cluster.preload.conftest import FrozenLoader, Stack
from tests.cluster.support import SECONDS

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]
PROJECT = Path(__file__).resolve().parents[3]


def prefect(*arguments: str) -> None:
    environment = os.environ | {"MODELYARD_PROJECT": str(PROJECT)}
    command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def worker(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A process worker for the deployments of prefect.yaml; its log."""
    assert prefect_server
    prefect("work-pool", "create", "modelyard", "--type", "process", "--overwrite")
    prefect("deploy", "--all")
    log = tmp_path_factory.mktemp("worker") / "worker.log"
    environment = os.environ | {
        "MODELYARD_PROJECT": str(PROJECT),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_LOGGING_TO_API_ENABLED": "true",
    }
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "modelyard", "--type", "process"]
    with log.open("w") as output, subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=output, stderr=output) as process:
        yield log
        process.terminate()
        time.sleep(2)
        process.kill()


def state_of(run: UUID) -> str:
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(run).state
        return (state and state.name) or "none"


def wait_for_state(run: UUID, names: set[str], log: Path, seconds: float = SECONDS) -> str:
    deadline = time.monotonic() + seconds
    while (name := state_of(run)) not in names:
        assert time.monotonic() < deadline, f"{name} after {seconds} s\n{log.read_text()[-4000:]}"
        time.sleep(0.5)
    return name


def test_cancelling_a_run_ends_its_job_and_the_next_run_completes(stack: Stack, worker: Path, frozen: FrozenLoader) -> None:
    stack.put(model__safetensors=os.urandom(2_000_000))
    run = start_run(stack.parameters())
    frozen.freeze()
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run.id, Cancelling())
    assert wait_for_state(run.id, {"Cancelled", "Crashed", "Failed", "Completed"}, worker) == "Cancelled"
    deadline = time.monotonic() + SECONDS
    while stack.jobs() or stack.kube.list("Secret", stack.name):
        assert time.monotonic() < deadline, worker.read_text()[-4000:]
        time.sleep(0.5)
    again = start_run(stack.parameters())
    assert wait_for_state(again.id, {"Completed", "Failed", "Crashed"}, worker) == "Completed"
