"""The demo's Prefect: server with UI, blocks, work pool, deployments, a process worker, and a run to follow."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast
from uuid import UUID

from deployments.demo.processes import Background
from deployments.demo.settings import DemoTarget
from modelyard.errors import Permanent

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

#: Takes one line for the terminal.
Show = Callable[[str], None]

POOL = "modelyard"
DEPLOYMENT = "preload-model/preload-model"
_START_SECONDS = 180
_PROJECT = Path(__file__).resolve().parents[2]


class PrefectFailed(Permanent):
    """A command or process of Prefect's did not do its work."""


@dataclass(frozen=True, slots=True)
class PrefectSide:
    """Prefect on this machine, listening on loopback only."""

    state: Path
    port: int

    @property
    def url(self) -> str:
        """The UI's address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def server(self) -> Background:
        """The API server and UI."""
        return Background("prefect-server", self.state)

    @property
    def worker(self) -> Background:
        """The worker that runs the flows."""
        return Background("prefect-worker", self.state)

    def environment(self) -> dict[str, str]:
        """What every Prefect process of the demo gets. The user's own profile and server are left alone."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        return own | {
            "PREFECT_HOME": str(self.state / "prefect"),
            "PREFECT_API_URL": f"{self.url}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PREFECT_LOGGING_COLORS": "false",
            "MODELYARD_PROJECT": str(_PROJECT),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def start_server(self) -> None:
        """Start the server unless it runs, and wait until it answers."""
        if not self.server.pid() and self._answers():
            raise PrefectFailed(f"port {self.port} is taken by another server; free it, or choose another: make demo PREFECT_PORT=4300")
        argv = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        self.server.start(argv, self.environment(), self.state)
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if not self.server.pid() or time.monotonic() > deadline:
                raise PrefectFailed(f"the Prefect server does not answer at {self.url}; its output is in {self.server.log}")
            time.sleep(0.5)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/api/health", timeout=2) as answer:  # noqa: S310 - loopback http, ours
                return bool(answer.status == 200)  # noqa: PLR2004 - HTTP
        except (urllib.error.URLError, OSError):
            return False

    def start_worker(self) -> None:
        """Start a process worker for the pool unless one runs."""
        argv = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", "demo"]
        self.worker.start(argv, self.environment(), _PROJECT)

    def command(self, *arguments: str) -> None:
        """Run one prefect command.

        Raises:
            PrefectFailed: with the end of what it printed.
        """
        argv = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
        done = subprocess.run(
            argv, env=self.environment(), cwd=_PROJECT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        if done.returncode:
            raise PrefectFailed(f"prefect {' '.join(arguments)} failed:\n{(done.stdout + done.stderr)[-2000:]}")

    def stop(self) -> None:
        """End worker and server."""
        self.worker.stop()
        self.server.stop()

    @contextmanager
    def settings(self) -> Iterator[None]:
        """Let this process's Prefect client speak to the demo's server."""
        from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings  # noqa: PLC0415 - 3 s, not for `down`

        with temporary_settings({PREFECT_API_URL: f"{self.url}/api", PREFECT_HOME: self.state / "prefect"}):
            yield


def save_blocks(target: DemoTarget, cache_options: Mapping[str, object]) -> None:
    """Save the three blocks of the demo under the name that the flow's parameters default to."""
    from prefect_aws.credentials import AwsCredentials  # noqa: PLC0415 - see settings()
    from pydantic import SecretStr  # noqa: PLC0415

    from blocks import Cluster, ModelCache, S3Source  # noqa: PLC0415

    secret = SecretStr(target.s3_keys.secret_key)
    keys = AwsCredentials(aws_access_key_id=target.s3_keys.access_key, aws_secret_access_key=secret, region_name=target.s3_region)
    keys.save("demo-s3", overwrite=True)
    cluster = Cluster(kubeconfig=SecretStr(target.kubeconfig.read_text()), context=target.context)
    source = S3Source(
        bucket=target.s3_bucket,
        endpoint_url=target.s3_endpoint,
        region=target.s3_region,
        ca_certificate=target.ca_certificate,
        credentials=AwsCredentials.load("demo-s3"),
    )
    cache = ModelCache.model_validate(cache_options)
    for block in (cluster, source, cache):
        block.save("default", overwrite=True)


def carry_out(prefect: PrefectSide, parameters: Mapping[str, object], show: Show, deployment: str = DEPLOYMENT) -> UUID:
    """Start a deployment and show its log until it ends; the flow run.

    Raises:
        PrefectFailed: the run did not complete.
    """
    from prefect.client.orchestration import get_client  # noqa: PLC0415 - see settings()

    run = start_run(parameters, deployment)
    show(f"flow run {run.name}: {prefect.url}/runs/flow-run/{run.id}")
    with get_client(sync_client=True) as client:
        seen = 0
        while True:
            state = client.read_flow_run(run.id).state
            seen += _show_logs(client, run.id, seen, show)
            if state and state.is_final():
                break
            if not prefect.worker.pid():
                raise PrefectFailed(f"the worker ended; its output is in {prefect.worker.log}")
            time.sleep(1)
        time.sleep(3)  # the API's log handler sends in batches
        _show_logs(client, run.id, seen, show)
    if not state.is_completed():
        raise PrefectFailed(f"flow run {run.name} ended {state.name}: {state.message}")
    return UUID(str(run.id))


def start_run(parameters: Mapping[str, object], deployment: str = DEPLOYMENT) -> "FlowRun":
    """Have a deployment run with these parameters; returns at once."""
    from prefect.deployments import run_deployment  # noqa: PLC0415 - see settings()

    return cast("FlowRun", run_deployment(deployment, parameters=dict(parameters), timeout=0, as_subflow=False))


def _show_logs(client: "SyncPrefectClient", run: UUID, offset: int, show: Show) -> int:
    """Show what the run logged after the first ``offset`` lines; how many those were."""
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId  # noqa: PLC0415 - see settings()
    from prefect.client.schemas.sorting import LogSort  # noqa: PLC0415

    lines = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run])), limit=200, offset=offset, sort=LogSort.TIMESTAMP_ASC)
    for line in lines:
        show(f"  {line.message}")
    return len(lines)
