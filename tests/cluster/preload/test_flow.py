"""The preload flow on the real parts: what a user gets, what a user is told, and what survives a kill."""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect_aws.credentials import AwsCredentials

from blocks import S3Source, load_block
from deployments.demo.check import check_files
from flows.preload import PreloadReport, preload_model
from modelyard.errors import NotEnoughSpace, Refused, SourceDenied, SourceMissing
from modelyard.names import preload_job_name
from tests.cluster.preload.conftest import CLAIM, FrozenLoader, Stack
from tests.cluster.support import SECONDS

pytestmark = pytest.mark.cluster
JOB = preload_job_name(CLAIM, "m", "v1")


def run(stack: Stack, **more: Any) -> PreloadReport:
    report = preload_model(**stack.parameters(**more))
    assert isinstance(report, PreloadReport)
    return report


def in_background(stack: Stack) -> "subprocess.Popen[str]":
    """The flow in a process of its own, as a worker would start it."""
    code = f"from flows.preload import preload_model; print(preload_model(**{stack.parameters()!r}).model_dump_json())"
    return subprocess.Popen([sys.executable, "-c", code], env=os.environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def wait_until(true: Callable[[], object], seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.2)


def digests(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(body).hexdigest() for name, body in files.items()}


def test_the_model_lies_on_the_claim_and_a_second_run_reads_nothing(stack: Stack, image: str) -> None:
    files = stack.put(config__json=b"{}", model__safetensors=os.urandom(20_000_000), empty=b"")
    report = run(stack)
    assert report.result is not None
    assert (report.model, report.result.files, report.result.fetched_bytes) == ("m@v1", 3, sum(map(len, files.values())))
    said = check_files(stack.kube, stack.name, CLAIM, image, "m/v1", digests(files))
    assert said.startswith("3 files")
    assert stack.jobs() == []
    wait_until(lambda: not stack.kube.list("Secret", stack.name))  # it goes after its Job, by the garbage collector
    before = stack.reads()
    again = run(stack)
    assert again.result is not None
    assert (again.result.digest, again.result.fetched_bytes) == (report.result.digest, 0)
    assert stack.reads() == before


def test_a_dry_run_shows_the_plan_and_changes_nothing(stack: Stack) -> None:
    stack.put(config__json=b"{}")
    report = run(stack, dry_run=True)
    assert (report.problems, report.result) == ((), None)
    assert stack.kube.list("PersistentVolumeClaim", stack.name) == []


def test_a_dry_run_without_a_class_lists_the_classes(stack: Stack) -> None:
    stack.put(config__json=b"{}")
    stack.cache(storageClassName=None)
    report = run(stack, dry_run=True)
    told = "\n".join(report.problems)
    assert all(name in told for name in ("devcluster-shared", "devcluster-retain", "devcluster-limited"))


@pytest.mark.parametrize(
    ("more", "error", "words"),
    [
        pytest.param({"path": "nothing/here"}, Refused, "lists no file", id="empty prefix"),
        pytest.param({"source": "missing-block"}, Refused, "missing-block", id="no such block"),
        pytest.param({"model": "../m"}, Refused, "'../m'", id="hostile model name"),
    ],
)
def test_refusals(stack: Stack, more: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        run(stack, **more)
    assert stack.kube.list("PersistentVolumeClaim", stack.name) == []


def test_missing_bucket_and_wrong_keys(stack: Stack) -> None:
    source = load_block(S3Source, stack.name)
    source.model_copy(update={"bucket": "no-such-bucket"}).save(f"{stack.name}-missing")
    with pytest.raises(SourceMissing, match="no-such-bucket"):
        run(stack, source=f"{stack.name}-missing")
    wrong = AwsCredentials.model_validate({"aws_access_key_id": "nobody", "aws_secret_access_key": "wrong-key"})
    source.model_copy(update={"credentials": wrong}).save(f"{stack.name}-denied")
    with pytest.raises(SourceDenied, match="check the credentials"):
        run(stack, source=f"{stack.name}-denied")


def test_a_changed_prefix_is_not_put_in_the_place_of_a_version(stack: Stack) -> None:
    stack.put(config__json=b"{}")
    first = run(stack)
    stack.put(config__json=b"{1}")
    with pytest.raises(Refused, match="new version"):  # by the plan, which looked at the volume
        run(stack)
    second = run(stack, version="v2")
    assert first.result is not None
    assert second.result is not None
    assert first.result.digest != second.result.digest


def test_a_killed_run_is_picked_up_by_the_next(stack: Stack, frozen: FrozenLoader) -> None:
    files = stack.put(model__safetensors=os.urandom(5_000_000))
    first = in_background(stack)
    frozen.freeze()
    [killed] = loads(stack)
    first.kill()
    first.communicate()
    second = in_background(stack)
    wait_until(lambda: run_of(loads(stack)[0]) != run_of(killed))
    assert [job["metadata"]["uid"] for job in loads(stack)] == [killed["metadata"]["uid"]]
    frozen.thaw()
    output, _ = second.communicate(timeout=SECONDS)
    assert second.returncode == 0, output
    assert f'"fetched_bytes":{sum(map(len, files.values()))}' in output
    assert "joined" in output


def loads(stack: Stack) -> list[dict[str, Any]]:
    """The Jobs that load; a plan that looks at the volume has one as well."""
    return [job for job in stack.jobs() if job["metadata"]["labels"]["modelyard.dev/command"] == "preload"]


def run_of(job: dict[str, Any]) -> str:
    """The flow run that the Job is of now: the one that made it, or adopted it."""
    return str(job["metadata"]["labels"]["modelyard.dev/flow-run"])


def test_the_same_preload_started_twice_works_once(stack: Stack, frozen: FrozenLoader) -> None:
    stack.put(a=os.urandom(1_000_000), b=os.urandom(1_000_000))
    runs = [in_background(stack), in_background(stack)]
    frozen.freeze()
    time.sleep(5)  # both have come as far as they can
    assert [job["metadata"]["name"] for job in loads(stack)] == [JOB]
    frozen.thaw()
    outputs = [each.communicate(timeout=SECONDS)[0] for each in runs]
    assert [each.returncode for each in runs] == [0, 0], outputs
    assert stack.reads() == 2, "each object was read once"


def test_a_killed_loader_is_started_again_by_its_job(stack: Stack, frozen: FrozenLoader) -> None:
    stack.put(model__safetensors=os.urandom(1_000_000))
    running = in_background(stack)
    frozen.freeze()
    frozen.kill()
    output, _ = running.communicate(timeout=SECONDS)
    assert running.returncode == 0, output


def test_a_volume_that_is_too_small_is_refused_with_numbers(stack: Stack) -> None:
    stack.put(model__safetensors=os.urandom(40_000_000))
    stack.cache(storageClassName="devcluster-limited", storageSize="32Mi")
    with pytest.raises(Refused, match=r"32\.0 MiB.* need 38\.1 MiB.*storageSize"):
        run(stack)
    assert stack.kube.list("PersistentVolumeClaim", stack.name) == []
    stack.cache(storageClassName="devcluster-limited", storageSize="40Mi")  # less than that once it has a file system
    with pytest.raises(NotEnoughSpace, match=r"needs 38\.1 MiB .* free"):
        run(stack)
    with pytest.raises(Refused, match=r"free of .*; the model needs .* more.* are missing"):  # bound by now: the plan measures it
        run(stack)
    assert stack.jobs() == []
    wait_until(lambda: not stack.kube.list("Secret", stack.name))  # it goes after its Job, by the garbage collector


def test_the_api_shows_progress_and_no_secret(stack: Stack) -> None:
    stack.put(model__safetensors=os.urandom(3_000_000))
    run(stack)
    with get_client(sync_client=True) as client:
        artifacts = client.request("POST", "/artifacts/filter", json={"limit": 200}).json()
    mine = [each for each in artifacts if (each["key"] or "").startswith("preload-m")]
    assert {each["type"] for each in mine} >= {"progress", "markdown"}
    assert max(each["data"] for each in mine if each["type"] == "progress") == 100.0
    _, secret = stack.cluster.s3_keys()
    assert secret not in str(artifacts)
