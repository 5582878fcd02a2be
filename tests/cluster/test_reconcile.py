"""Reconcile-caches on the real parts: declared is loaded, absent is removed unless in use, deleted is restored, and each says why."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelled

import devcluster
import flows.reconcile
from blocks import ModelCache, load_block
from flows.preload import preload_model
from flows.reconcile import ReconcileReport, end_own_jobs, reconcile_caches
from flows.reconcile_tasks import Catalogue, Planned, correct
from flows.share import unshare_cache
from modelyard.errors import Refused
from modelyard.kube.client import Kube
from modelyard.kube.run_loader import ensure_job
from modelyard.models import FileRecord, Manifest, ModelRef, S3Location
from modelyard.names import cached_model_name
from modelyard.orders import InspectSpec
from tests.cluster.catalogue import cached, change, condition, declaration, install, kubectl, row, shown
from tests.cluster.preload import conftest
from tests.cluster.preload.conftest import CLAIM, FrozenLoader, Stack
from tests.cluster.preload.test_flow import in_background, wait_until
from tests.cluster.shared_cluster import COMPONENTS, run_directory, steady
from tests.cluster.test_references import pod_spec, selected, workload

pytestmark = pytest.mark.cluster
stack, image, frozen = conftest.stack, conftest.image, conftest.frozen
MANY = 500


@pytest.fixture(scope="module", autouse=True)
def crd(cluster: devcluster.Cluster | None, kubeconfig: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The kind. No test that kills the API server comes between."""
    with steady(run_directory(tmp_path_factory), COMPONENTS):
        install(cluster, kubeconfig)


def run(stack: Stack, **more: Any) -> ReconcileReport:
    report = reconcile_caches(**{"cluster": stack.name, "caches": [stack.name], **more})
    assert isinstance(report, ReconcileReport)
    return report


def declare(stack: Stack, name: str = "mine", **spec: Any) -> None:
    source = {"block": stack.name, "path": "m/v1"}
    stack.kube.create(declaration(stack.name, name, **{"cache": stack.name, "source": source, **spec}))


def told(stack: Stack, name: str = "mine") -> tuple[str, str]:
    status = cached(stack.kube, stack.name, name)["status"]
    return status["phase"], status["message"]


def objects(stack: Stack) -> list[str]:
    return [each["metadata"]["name"] for each in stack.kube.list("CachedModel", stack.name)]


def test_the_life_of_a_declared_model(stack: Stack) -> None:
    stack.put(config__json=b"{}", model__safetensors=os.urandom(1_000_000))
    declare(stack)
    what = f"{stack.name}/m@v1"
    assert run(stack, dry_run=True).planned == (f"load {what}",)
    assert "status" not in cached(stack.kube, stack.name, "mine")
    assert run(stack).loaded == (what,)
    live = cached(stack.kube, stack.name, "mine")
    assert (live["status"]["phase"], live["status"]["files"], live["status"]["bytes"]) == ("Ready", 2, 1_000_002)
    assert objects(stack) == ["mine"], "the declared object has the status; no second one is made"
    run(stack)  # tells when it was loaded by the manifest on the volume
    version = cached(stack.kube, stack.name, "mine")["metadata"]["resourceVersion"]
    assert run(stack).written == 0
    assert cached(stack.kube, stack.name, "mine")["metadata"]["resourceVersion"] == version

    stack.kube.create(workload("Deployment", stack.name, "llm", selected(pod_spec("m/v1", claim=CLAIM), replicas=0)))
    change(stack.kube, stack.name, "mine", state="Absent")
    assert run(stack).removed == ()
    live = cached(stack.kube, stack.name, "mine")
    assert live["status"]["usedBy"] == [f"Deployment/{stack.name}/llm"], shown(live)
    assert live["status"]["phase"] == "Ready"
    refused = condition(live, "RemovalRefused")
    assert (refused["reason"], f"in use by Deployment/{stack.name}/llm" in refused["message"]) == ("InUse", True)
    assert (stack.on_disk() / "m/v1/config.json").exists()

    stack.kube.delete("Deployment", "llm", stack.name)
    assert run(stack).removed == (what,)
    phase, message = told(stack)
    assert (phase, "delete this object, or set state Present" in message) == ("Absent", True)
    assert not (stack.on_disk() / "m").exists()
    assert "size" not in cached(stack.kube, stack.name, "mine")["status"]
    assert run(stack).written == 0
    change(stack.kube, stack.name, "mine", state="Present")
    assert run(stack).loaded == (what,)
    assert stack.jobs() == []


def test_a_deleted_object_takes_no_bytes_with_it_and_comes_back(stack: Stack) -> None:
    stack.put(config__json=b"{}")
    preload_model(**stack.parameters())
    name = cached_model_name(stack.name, "m", "v1")
    before = cached(stack.kube, stack.name, name)
    assert before["status"]["phase"] == "Ready", shown(before)
    assert before["spec"] == {"model": "m", "version": "v1", "cache": stack.name, "source": {"block": stack.name, "path": "m/v1"}}
    stack.kube.delete("CachedModel", name, stack.name)
    run(stack)
    after = cached(stack.kube, stack.name, name)
    assert (after["spec"], after["status"]["digest"]) == (before["spec"], before["status"]["digest"])
    assert (stack.on_disk() / "m/v1/config.json").exists()
    (stack.on_disk() / "m/v1/config.json").write_text("")
    run(stack)
    phase, message = told(stack, name)
    assert (phase, "verify-cache" in message) == ("Damaged", True)
    declare(stack)
    run(stack)
    assert objects(stack) == ["mine"], "what a person declares takes the place of what Modelyard made"
    declare(stack, "again")
    run(stack)
    phase, message = told(stack, "again")
    assert (phase, f"CachedModel/{stack.name}/mine declares m@v1" in message) == ("Failed", True)
    assert condition(cached(stack.kube, stack.name, "again"), "Conflict")["status"] == "True"


@pytest.mark.parametrize("spec", [{"state": "Present"}, {"state": None, "pinned": True}, None])
def test_what_is_taken_back_before_its_removal_begins_stays(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, spec: dict[str, Any] | None
) -> None:
    stack.put(config__json=b"{}")
    preload_model(**stack.parameters())
    name = cached_model_name(stack.name, "m", "v1")
    change(stack.kube, stack.name, name, state="Absent")

    def meanwhile(kube: Kube, plan: Planned) -> int:  # between the look and the removal
        change(stack.kube, stack.name, name, **spec) if spec else stack.kube.delete("CachedModel", name, stack.name)
        return int(correct(kube, plan))

    monkeypatch.setattr(flows.reconcile, "correct", meanwhile)
    report = run(stack)
    assert (report.removed, report.failed) == ((), (f"{stack.name}/m@v1",))
    assert (stack.on_disk() / "m/v1/config.json").exists()


def test_a_cache_that_no_pod_can_look_at_leaves_no_job(stack: Stack) -> None:
    stack.put(config__json=b"{}")
    preload_model(**stack.parameters())
    stack.cache(nodeSelector={"modelyard.dev/nowhere": "true"})
    with pytest.raises(ExceptionGroup, match="could not be reconciled") as group:
        run(stack)
    assert "no node takes the pod" in str(group.value.exceptions)
    assert stack.jobs() == []


def test_progress_is_shown_while_it_loads(stack: Stack, frozen: FrozenLoader, kubeconfig: str) -> None:
    stack.put(model__safetensors=os.urandom(3_000_000))
    running = in_background(stack)
    frozen.freeze()
    line = row(kubectl(stack.cluster, kubeconfig, "get", "cmodel", "-n", stack.name))
    assert (line["PHASE"], line["MODEL"]) == ("Loading", "m")
    run(stack)
    name = cached_model_name(stack.name, "m", "v1")
    assert told(stack, name)[0] == "Loading", "a look at it meanwhile changes nothing"
    change(stack.kube, stack.name, name, state="Absent")
    run(stack)
    assert condition(cached(stack.kube, stack.name, name), "RemovalRefused")["reason"] == "Loading"
    change(stack.kube, stack.name, name, state=None)
    frozen.thaw()
    output, _ = running.communicate(timeout=300)
    assert running.returncode == 0, output
    assert told(stack, name)[0] == "Ready"


def test_while_a_load_runs_another_run_does_the_rest(stack: Stack, frozen: FrozenLoader) -> None:
    stack.put(model__safetensors=os.urandom(3_000_000))
    stack.s3.put_object(Bucket=stack.name, Key="other/v1/config.json", Body=b"{}", ChecksumAlgorithm="CRC64NVME")
    declare(stack)
    code = f"from flows.reconcile import reconcile_caches; reconcile_caches(cluster={stack.name!r}, caches=[{stack.name!r}])"
    running = subprocess.Popen([sys.executable, "-c", code], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    frozen.freeze()
    (load,) = stack.jobs()
    declare(stack, "other", model="other", source={"block": stack.name, "path": "other/v1"})
    report = run(stack)
    assert (report.loaded, report.failed) == ((f"{stack.name}/other@v1",), ())
    assert told(stack)[0] == "Loading"
    assert [job["metadata"]["uid"] for job in stack.jobs()] == [load["metadata"]["uid"]]
    frozen.thaw()
    output, _ = running.communicate(timeout=300)
    assert running.returncode == 0, output
    assert told(stack)[0] == "Ready"


def test_what_is_no_longer_wanted_when_its_turn_comes_is_not_loaded(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.put(config__json=b"{}")
    declare(stack)

    def meanwhile(kube: Kube, plan: Planned) -> int:  # between the status Pending and the load
        written = int(correct(kube, plan))
        change(stack.kube, stack.name, "mine", state="Absent")
        return written

    monkeypatch.setattr(flows.reconcile, "correct", meanwhile)
    report = run(stack)
    assert (report.loaded, report.failed) == ((), ())
    assert stack.kube.get("PersistentVolumeClaim", CLAIM, stack.name) is None


def test_a_killed_preload_is_told_once_its_job_is_gone(stack: Stack, frozen: FrozenLoader) -> None:
    stack.put(model__safetensors=os.urandom(3_000_000))
    running = in_background(stack)
    frozen.freeze()
    name = cached_model_name(stack.name, "m", "v1")
    running.kill()
    running.communicate()
    (job,) = stack.jobs()
    stack.kube.delete("Job", job["metadata"]["name"], stack.name, propagation="Foreground")
    frozen.kill()
    wait_until(lambda: not stack.jobs())
    long_ago = [
        {**each, "lastTransitionTime": "2026-01-01T00:00:00Z"} for each in cached(stack.kube, stack.name, name)["status"]["conditions"]
    ]
    stack.kube.patch_merge("CachedModel", name, stack.name, {"status": {"conditions": long_ago}}, subresource="status")
    run(stack)
    phase, message = told(stack, name)
    assert (phase, "preload it again" in message) == ("Failed", True)


def test_each_failure_stands_in_its_object_and_stops_no_other(stack: Stack) -> None:
    stack.put(config__json=b"{}")
    declare(stack, "empty", model="a", source={"block": stack.name, "path": "nothing/here"})
    declare(stack, "no-block", model="b", source={"block": "no-such-block", "path": "m/v1"})
    declare(stack, "no-source", model="c", source=None)
    declare(stack, "good")
    report = run(stack)
    assert (report.failed, report.loaded) == ((f"{stack.name}/a@v1",), (f"{stack.name}/m@v1",))
    assert "lists no file" in told(stack, "empty")[1]
    assert "no Modelyard S3 Source block 'no-such-block'" in told(stack, "no-block")[1]
    assert "set source.block and source.path" in told(stack, "no-source")[1]
    assert {told(stack, name)[0] for name in ("empty", "no-block", "no-source")} == {"Failed"}
    assert told(stack, "good")[0] == "Ready"


def test_a_version_that_is_ready_stays_so_when_another_load_of_it_is_refused(stack: Stack) -> None:
    stack.put(config__json=b"{}")
    preload_model(**stack.parameters())
    stack.put(config__json=b"{1}")
    with pytest.raises(Exception, match="new version"):
        preload_model(**stack.parameters())
    assert told(stack, cached_model_name(stack.name, "m", "v1"))[0] == "Ready"


def test_who_wants_a_copy_gets_it_and_starts(stack: Stack, image: str) -> None:
    stack.put(config__json=b"{}")
    team, missing = f"{stack.name}-team", f"{stack.name}-none"
    settings = load_block(ModelCache, stack.name)
    settings.share_with, settings.share_on_demand = [missing], [f"{stack.name}-te*"]
    settings.save(stack.name, overwrite=True)
    stack.kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": team}})
    try:
        declare(stack)
        report = run(stack)
        (refused,) = report.shared
        assert report.loaded == (f"{stack.name}/m@v1",)
        assert f"Namespace/{missing}: does not exist" in refused
        stack.kube.create(reader(team, image))
        made = f"{stack.name}: create {team}"
        assert {made, refused} <= set(run(stack, dry_run=True).planned)
        assert stack.kube.get("PersistentVolumeClaim", CLAIM, team) is None
        assert run(stack).shared == (made, refused)
        wait_until(lambda: (stack.kube.get("Pod", "reader", team) or {}).get("status", {}).get("phase") == "Succeeded")
        assert run(stack).shared == (refused,)
        a_cancelled_run_leaves_no_job(stack, team)
        release(stack, team)
    finally:
        stack.kube.delete("Namespace", team)


def a_cancelled_run_leaves_no_job(stack: Stack, team: str) -> None:
    """Also where it looked at a copy."""
    cancelled, there = uuid4(), load_block(ModelCache, stack.name).spec().model_copy(update={"namespace": team})
    job = ensure_job(stack.kube, InspectSpec(), there, {}, str(cancelled))
    end_own_jobs(reconcile_caches, FlowRun(id=cancelled, flow_id=uuid4(), parameters={"cluster": stack.name}), Cancelled())
    wait_until(lambda: stack.kube.get("Job", job.name, team) is None)


def test_a_cache_whose_objects_cannot_be_read_is_shared_all_the_same(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_block(ModelCache, stack.name)
    settings.share_with = [f"{stack.name}-none"]
    settings.save(stack.name, overwrite=True)
    monkeypatch.setattr(flows.reconcile, "read_all", lambda *_: Catalogue(unread={stack.name: "the cluster has no kind CachedModel"}))
    report = run(stack, dry_run=True)
    assert report.note == "the cluster has no kind CachedModel"
    assert f"Namespace/{stack.name}-none: does not exist" in " ".join(report.planned)


def reader(namespace: str, image: str) -> dict[str, Any]:
    """A pod that waits for a claim that is not there yet, and reads the model."""
    code = "assert open('/models/m/v1/config.json').read() == '{}'"
    spec = pod_spec("", claim=CLAIM)
    volume = spec["volumes"][0]["name"]
    mounts = [{"name": volume, "mountPath": "/models", "readOnly": True}]
    container = {"name": "reader", "image": image, "command": ["python", "-c", code], "volumeMounts": mounts}
    head = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "reader", "namespace": namespace}}
    return {**head, "spec": {"restartPolicy": "Never", "containers": [container], "volumes": spec["volumes"]}}


def release(stack: Stack, team: str) -> None:
    """Take the copy away, so that the cache's volume goes with its claim."""
    stack.kube.delete("Pod", "reader", team)
    wait_until(lambda: stack.kube.get("Pod", "reader", team) is None)
    unshare_cache(namespaces=[team], cache=stack.name, cluster=stack.name)


def test_an_object_of_a_cache_that_there_is_not(stack: Stack, kubeconfig: str) -> None:
    with get_client(sync_client=True) as client:  # of other tests, whose namespaces are gone
        for document in client.read_block_documents_by_type("modelyard-model-cache", limit=200):
            if document.name != stack.name:
                client.delete_block_document(document.id)
    declare(stack, "typo", cache="no-such-cache")
    stack.cache(enabled=False)
    declare(stack)
    dry = run(stack, caches=None, dry_run=True)
    assert {"status no-such-cache/m@v1", f"status {stack.name}/m@v1"} <= set(dry.planned)
    with pytest.raises(ExceptionGroup, match="could not be reconciled") as group:
        run(stack)
    assert isinstance(group.value.exceptions[0], Refused)
    assert load_block(ModelCache, stack.name).enabled is False
    assert kubeconfig


def test_many_models_are_restored_and_then_left_alone(stack: Stack) -> None:
    stack.put(config__json=b"{}")
    preload_model(**stack.parameters())
    plant(stack.on_disk(), MANY)
    first = run(stack)
    assert (first.seen, first.written >= MANY) == (MANY + 1, True)
    assert {each["status"]["phase"] for each in stack.kube.list("CachedModel", stack.name)} == {"Ready"}
    again = run(stack)
    assert (again.seen, again.written) == (MANY + 1, 0)


def plant(root: Path, count: int) -> None:
    """Versions as a loader leaves them."""
    for number in range(count):
        ref, record = ModelRef(name=f"many-{number}", version="v1"), FileRecord(path="a", size=1, sha256="0" * 64)
        manifest = Manifest.of(ref, S3Location(bucket="bucket", prefix=ref.name), "sha256:0a", [record], datetime.now(UTC))
        marker = root / ".modelyard/manifests" / ref.name / "v1.json"
        for path, text in ((root / ref.name / "v1/a", "a"), (marker, manifest.model_dump_json(by_alias=True))):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
