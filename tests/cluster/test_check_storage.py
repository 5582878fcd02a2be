"""The check-storage flow on the devcluster's classes: what is true of each is told, and nothing is left behind."""

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelled

from blocks import ModelCache, load_block
from flows.check_storage import check_storage, end_check
from modelyard.caches import AccessMode
from modelyard.errors import Refused
from modelyard.kube.run_loader import ensure_job
from modelyard.names import artifact_key
from modelyard.plans.check_storage import CheckFacts, CheckRequest, plan_check, probe_claim_name
from modelyard.plans.storage_verdict import Severity, StorageReport, Verdict
from modelyard.storage_orders import CheckSpec, CheckStep
from modelyard.volumes.nodes import read_nodes
from modelyard.volumes.probe_claims import make_probe_claim, remove_probe_claim
from tests.cluster.preload import conftest
from tests.cluster.preload.conftest import Stack
from tests.cluster.support import SECONDS, limited
from tests.cluster.test_verify_cache import artifact

pytestmark = pytest.mark.cluster
stack, image = conftest.stack, conftest.image
CLAIMS = "PersistentVolumeClaim"


def run(stack: Stack, **more: Any) -> StorageReport:
    report = check_storage(**{"cache": stack.name, "cluster": stack.name, "measured": "8Mi", "size": "128Mi", **more})
    assert isinstance(report, StorageReport)
    return report


def told(report: StorageReport, severity: Severity | None = None) -> str:
    return "\n".join(str(finding) for finding in report.findings if severity in {None, finding.severity})


def wait_until(true: Callable[[], object], seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.5)


def assert_nothing_left(stack: Stack) -> None:
    wait_until(lambda: not stack.jobs() and not stack.kube.list("Pod", stack.name))
    wait_until(lambda: not stack.kube.list(CLAIMS, stack.name, label_selector="modelyard.dev/check"))  # a claim goes after its pods


def volumes_of(stack: Stack, claim: str) -> list[dict[str, Any]]:
    return [
        live
        for live in stack.kube.list("PersistentVolume")
        if (live["spec"].get("claimRef") or {}).get("namespace") == stack.name and live["spec"]["claimRef"]["name"] == claim
    ]


def make_claim(stack: Stack, name: str = "theirs", storage_class: str = "devcluster-shared", **spec: Any) -> None:
    """A claim of somebody else's."""
    body = {"accessModes": ["ReadWriteMany"], "storageClassName": storage_class, "resources": {"requests": {"storage": "128Mi"}}, **spec}
    stack.kube.create({"apiVersion": "v1", "kind": CLAIMS, "metadata": {"name": name, "namespace": stack.name}, "spec": body})


def test_a_class_of_limited_volumes_works_without_a_word_about_its_size(stack: Stack) -> None:
    report = run(stack, storage_class="devcluster-limited")
    assert report.file_system.startswith("ext4 (")
    assert "not enforced" not in told(report)
    assert (report.verdict, told(report, Severity.FATAL), told(report, Severity.LIMIT)) == (Verdict.WORKS, "", "")
    [node] = report.nodes
    assert node.sees
    assert node.write_bytes_per_second
    assert node.read_bytes_per_second
    assert_nothing_left(stack)
    assert stack.kube.list(CLAIMS, stack.name) == []
    shown = artifact(artifact_key("check-storage", "devcluster-limited", stack.name, stack.name))
    assert shown.startswith("# StorageClass devcluster-limited works")
    assert node.node in shown


def test_a_class_of_directories_does_not_enforce_its_size(stack: Stack) -> None:
    report = run(stack, storage_class="devcluster-shared")
    assert report.verdict is Verdict.LIMITS
    assert "the size is not enforced: 128.0 MiB are claimed" in told(report, Severity.LIMIT)
    assert told(report, Severity.FATAL) == ""
    assert_nothing_left(stack)


def test_a_class_that_retains_says_what_it_kept(stack: Stack) -> None:
    report = run(stack, storage_class="devcluster-retain", access_mode=AccessMode.READ_WRITE_ONCE)
    [kept] = [finding for finding in report.findings if "Retain" in finding.what]
    volume = kept.what.split()[1]
    assert kept.next_step.startswith(f"`kubectl delete pv {volume}`")
    assert "one node at a time" in told(report, Severity.NOTE)
    live = stack.kube.get("PersistentVolume", volume)
    assert live
    assert list(Path(live["spec"]["hostPath"]["path"]).iterdir()) == []
    stack.kube.delete("PersistentVolume", volume)
    assert_nothing_left(stack)


def test_a_claim_of_others_is_checked_and_stays_as_it_was(stack: Stack) -> None:
    make_claim(stack)
    wait_until(lambda: volumes_of(stack, "theirs"))
    [volume] = volumes_of(stack, "theirs")
    root = Path(volume["spec"]["hostPath"]["path"])
    (root / "their-file").write_text("x")
    before = stack.kube.get(CLAIMS, "theirs", stack.name)
    assert before
    report = run(stack, claim="theirs")
    assert report.verdict is not Verdict.FAILS
    assert [path.name for path in root.iterdir()] == ["their-file"]
    after = stack.kube.get(CLAIMS, "theirs", stack.name)
    assert after
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["metadata"].get("labels") == before["metadata"].get("labels")
    assert_nothing_left(stack)


def test_a_volume_that_no_node_can_mount_is_the_answer_and_no_failure(stack: Stack) -> None:
    """A hostPath volume of a directory that is not there: FailedMount, in the kubelet's words."""
    name = f"broken-{stack.name}"
    source = {"hostPath": {"path": f"/nowhere/{name}", "type": "Directory"}}
    spec = {"accessModes": ["ReadWriteMany"], "capacity": {"storage": "128Mi"}, "storageClassName": name, **source}
    stack.kube.create({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec})
    try:
        make_claim(stack, "broken", name)
        report = run(stack, claim="broken")
        assert report.verdict is Verdict.FAILS
        [node] = report.nodes
        assert not node.sees
        assert "cannot be mounted" in str(node.problem)
        assert name in str(node.problem)
        assert_nothing_left(stack)
    finally:
        stack.kube.delete(CLAIMS, "broken", stack.name)
        stack.kube.delete("PersistentVolume", name)


def test_a_class_that_makes_no_volume_is_the_answer(stack: Stack) -> None:
    name = f"hollow-{stack.name}"
    hollow = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}}
    stack.kube.create({**hollow, "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "Immediate"})
    try:
        report = run(stack, storage_class=name, patience="20s")
        assert (report.verdict, report.nodes) == (Verdict.FAILS, ())
        assert "kubernetes.io/no-provisioner" in told(report, Severity.FATAL) or "makes no volumes" in told(report, Severity.FATAL)
        assert_nothing_left(stack)
    finally:
        stack.kube.delete("StorageClass", name)


def test_what_cannot_be_checked_is_refused_with_all_reasons(stack: Stack) -> None:
    with pytest.raises(Refused) as refused:
        run(stack, storage_class="no-such-class", claim="x", size="16Mi", nodes=["no-such-node"])
    assert len(refused.value.problems) == 4
    with pytest.raises(Refused, match="is not there; name a StorageClass"):
        run(stack)
    assert stack.kube.list(CLAIMS, stack.name) == []


def cancelled(stack: Stack, **parameters: Any) -> FlowRun:
    return FlowRun(id=uuid4(), flow_id=uuid4(), state=Cancelled(), parameters={"cache": stack.name, "cluster": stack.name, **parameters})


@pytest.fixture
def _unhurried_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the hook does is tried, and not whether a pod begins within a cancelled process's minute: on a busy machine it does not."""
    monkeypatch.setattr("flows.check_storage.HOOK_TIMEOUT", timedelta(seconds=SECONDS))


@pytest.mark.usefixtures("_unhurried_hook")
def test_a_cancelled_run_leaves_neither_job_nor_claim(stack: Stack) -> None:
    cancel = cancelled(stack, storage_class="devcluster-shared")
    cache, nonce = load_block(ModelCache, stack.name).spec(), cancel.id.hex
    request = CheckRequest(cache, nonce, 2**23, 2**27, storage_class="devcluster-shared")
    plan = plan_check(request, CheckFacts(None, None, read_nodes(stack.kube)))
    make_probe_claim(stack.kube, plan, cache)
    make_probe_claim(stack.kube, plan, cache)
    there = cache.model_copy(update={"base_name": plan.claim})
    ensure_job(stack.kube, CheckSpec(step=CheckStep.WRITE, nonce=nonce, bytes=2**23), there, {}, str(cancel.id))
    end_check(check_storage, cancel, Cancelled())
    assert_nothing_left(stack)
    wait_until(lambda: not volumes_of(stack, plan.claim))


@pytest.mark.usefixtures("_unhurried_hook")
def test_a_cancelled_run_leaves_no_file_on_a_claim_of_others(stack: Stack) -> None:
    make_claim(stack)
    wait_until(lambda: volumes_of(stack, "theirs"))
    [volume] = volumes_of(stack, "theirs")
    root, cancel = Path(volume["spec"]["hostPath"]["path"]), cancelled(stack, claim="theirs")
    place = root / ".modelyard/check" / cancel.id.hex
    place.mkdir(parents=True)
    (place / "data").write_text("x")
    for path in (root / ".modelyard", root / ".modelyard/check", place):
        path.chmod(0o777)
    end_check(check_storage, cancel, Cancelled())
    assert list(root.iterdir()) == []
    assert stack.kube.get(CLAIMS, "theirs", stack.name)
    assert_nothing_left(stack)


def test_a_claim_that_the_check_did_not_make_is_never_deleted(stack: Stack) -> None:
    name = probe_claim_name("0123456789abcdef")
    make_claim(stack, name)
    assert not remove_probe_claim(stack.kube, stack.name, name, 5).claim_gone
    assert stack.kube.get(CLAIMS, name, stack.name)


def _let_delete_claims(stack: Stack) -> None:
    """What checking a class needs beside the rights of a preload."""
    group, metadata = "rbac.authorization.k8s.io", {"name": "check", "namespace": stack.name}
    rule = {"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["delete"]}
    stack.kube.create({"apiVersion": f"{group}/v1", "kind": "Role", "metadata": metadata, "rules": [rule]})
    subject = {"apiGroup": group, "kind": "User", "name": f"limited-{stack.name}"}
    role = {"apiGroup": group, "kind": "Role", "name": "check"}
    stack.kube.create({"apiVersion": f"{group}/v1", "kind": "RoleBinding", "metadata": metadata, "roleRef": role, "subjects": [subject]})


def test_an_account_that_may_not_list_nodes_checks_one_and_says_so(stack: Stack, kubeconfig: str, monkeypatch: pytest.MonkeyPatch) -> None:
    account = limited(stack.kube, kubeconfig, stack.name)
    _let_delete_claims(stack)
    monkeypatch.setattr("flows.cache_blocks.Kube", lambda _: account)
    report = run(stack, storage_class="devcluster-limited")
    notes = told(report, Severity.NOTE)
    assert "may not list nodes" in notes
    assert "this account may not read it" in notes
    assert report.verdict is Verdict.WORKS
    assert_nothing_left(stack)
