"""Many preloads at once on one claim: of different models, and of the same one."""

import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.faults.support import Audit, finish, preload
from tests.cluster.preload.conftest import Stack

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]


@pytest.fixture(autouse=True)
def _patient_with_the_prefect_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its SQLite database is locked for seconds while twenty processes begin at once on two cores; five tries of theirs are too few."""
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "30")


@pytest.mark.parametrize("number", [2, pytest.param(20, marks=pytest.mark.faults)])
def test_different_models_at_once(number: int, stack: Stack, audit: Callable[[], Audit]) -> None:
    files = {f"m{each}/v1": {"config.json": b"{}", "model.safetensors": os.urandom(1_000_000)} for each in range(number)}
    for version, bodies in files.items():
        for name, body in bodies.items():
            stack.s3.put_object(Bucket=stack.name, Key=f"{version}/{name}", Body=body)
    before = audit()
    runs = [preload(stack, model=version.partition("/")[0], path=version) for version in files]
    with ThreadPoolExecutor(number) as pool:
        list(pool.map(finish_late, runs))
    before.ends_ready(files)


@pytest.mark.faults
def test_the_same_model_twenty_times_at_once(stack: Stack, audit: Callable[[], Audit]) -> None:
    files = stack.put(config__json=b"{}", model__safetensors=os.urandom(1_000_000))
    before = audit()
    runs = [preload(stack) for _ in range(20)]
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(finish_late, runs))
    before.ends_ready({"m/v1": files})
    assert stack.reads() == len(files), "each object was read once"


def finish_late(run: "subprocess.Popen[str]") -> str:
    """Twenty Python processes on a small machine take their time."""
    return finish(run, seconds=900)
