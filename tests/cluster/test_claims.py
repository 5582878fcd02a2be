"""Claims against real StorageClasses, quotas and a provisioner."""

from dataclasses import replace
from typing import Any

import pytest

from modelyard.caches import AccessMode
from modelyard.errors import ClaimPending, ClaimUnusable, ClusterRefused
from modelyard.kube.apply import Action, Change, apply
from modelyard.kube.client import Kube
from modelyard.plans.claim import ClaimAction, ClaimPlan, plan_claim
from modelyard.plans.claim_facts import ClaimFacts
from modelyard.volumes.claims import claim_manifest, ensure_claim, read_claim, wait_bound
from modelyard.volumes.storage_classes import read_storage_classes
from tests.cluster.support import SECONDS, Manifest, cache_spec, limited, until_refused, wait_until

pytestmark = pytest.mark.cluster

RWX = AccessMode.READ_WRITE_MANY


def plan(namespace: str, storage_class: str | None = "devcluster-shared", size: int = 2**20) -> ClaimPlan:
    return ClaimPlan(ClaimAction.CREATE, namespace, "cache", storage_class, RWX, size)


def make(kube: Kube, namespace: str, storage_class: str | None, **spec: Any) -> None:
    manifest = claim_manifest(cache_spec(namespace), plan(namespace, storage_class))
    kube.create({**manifest, "spec": {**manifest["spec"], **spec}})


def test_planned_made_bound_and_planned_again(kube: Kube, namespace: str) -> None:
    cache = cache_spec(namespace)
    subject = f"PersistentVolumeClaim/{namespace}/cache"
    classes = read_storage_classes(kube)
    assert read_claim(kube, namespace, "cache") is None
    planned = plan_claim(cache, None, classes)
    assert isinstance(planned, ClaimPlan)
    assert ensure_claim(kube, cache, planned) == Change(subject, Action.CREATED)
    bound = wait_bound(kube, namespace, "cache", timeout=SECONDS)
    assert bound.volume_name
    facts = ClaimFacts("cache", namespace, "Bound", "devcluster-shared", ("ReadWriteMany",), requested_bytes=2**20, created_by_us=True)
    assert bound == replace(facts, capacity_bytes=2**20, volume_name=bound.volume_name, volume_type="hostPath")
    assert read_claim(kube, namespace, "cache") == bound
    again = plan_claim(cache, bound, classes)
    assert again == replace(plan(namespace), action=ClaimAction.USE)
    assert ensure_claim(kube, cache, planned) == Change(subject, Action.UNCHANGED)
    assert ensure_claim(kube, cache, again) == Change(subject, Action.UNCHANGED)


def test_anothers_claim_is_not_touched(kube: Kube, namespace: str) -> None:
    manifest = claim_manifest(cache_spec(namespace), plan(namespace))
    del manifest["metadata"]["labels"]
    before = kube.create(manifest)["metadata"]
    assert ensure_claim(kube, cache_spec(namespace), plan(namespace)).action is Action.UNCHANGED
    facts = wait_bound(kube, namespace, "cache", timeout=SECONDS)
    assert not facts.created_by_us
    live = kube.get("PersistentVolumeClaim", "cache", namespace)
    assert live
    assert (live["metadata"].get("labels"), live["metadata"]["uid"]) == (None, before["uid"])


def test_a_class_that_does_not_exist_is_told_with_those_that_do(kube: Kube, namespace: str) -> None:
    make(kube, namespace, "devcluster-sharde")
    notes: list[str] = []
    words = r"cannot be bound: there is no StorageClass 'devcluster-sharde'.*classes that exist: .*devcluster-limited, .*devcluster-shared"
    with pytest.raises(ClaimUnusable, match=words):
        wait_bound(kube, namespace, "cache", timeout=60, patience=3, on_note=notes.append)
    assert len(notes) == 1


def test_a_claim_that_waits_for_its_first_pod_is_not_waited_for(kube: Kube, namespace: str) -> None:
    make(kube, namespace, "devcluster-limited")
    facts = wait_bound(kube, namespace, "cache", timeout=SECONDS)
    assert (facts.phase, facts.volume_name) == ("Pending", None)


def test_a_volume_that_is_not_there_is_named(kube: Kube, namespace: str) -> None:
    make(kube, namespace, "", volumeName="pv-nowhere")
    with pytest.raises(ClaimPending, match="not bound after 4 s: the claim names PersistentVolume pv-nowhere and is not bound to it"):
        wait_bound(kube, namespace, "cache", timeout=4)


def test_a_volume_that_does_not_fit_is_told_in_the_controllers_words(kube: Kube, namespace: str) -> None:
    name = f"pv-{namespace}"
    apply(kube, volume(name))
    try:
        # A claim that the controller meets before its volume is looked at again a quarter of a minute later.
        wait_until(lambda: (kube.get("PersistentVolume", name) or {}).get("status", {}).get("phase") == "Available")
        make(kube, namespace, "", volumeName=name)
        wait_until(lambda: any(event["reason"] == "VolumeMismatch" for event in kube.list("Event", namespace)))
        with pytest.raises(ClaimPending, match=f'VolumeMismatch: Cannot bind to requested volume "{name}": requested PV is too small'):
            wait_bound(kube, namespace, "cache", timeout=4)
    finally:
        kube.delete("PersistentVolume", name)


def volume(name: str) -> Manifest:
    spec = {"capacity": {"storage": "1Ki"}, "accessModes": ["ReadWriteMany"], "hostPath": {"path": f"/tmp/{name}"}}  # noqa: S108
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}


def test_a_quota_is_told_when_the_claim_is_made(kube: Kube, namespace: str) -> None:
    hard = {"requests.storage": "1Ki"}
    apply(kube, {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": namespace}, "spec": {"hard": hard}})
    until_refused(kube, claim_manifest(cache_spec(namespace), plan(namespace)), "exceeded quota")
    words = rf"exceeded quota: q.*; ask for less, or raise the ResourceQuota of namespace {namespace}"
    with pytest.raises(ClusterRefused, match=words):
        ensure_claim(kube, cache_spec(namespace), plan(namespace))


def test_an_account_of_one_namespace_makes_a_claim_of_a_class_that_it_cannot_read(kube: Kube, kubeconfig: str, namespace: str) -> None:
    account = limited(kube, kubeconfig, namespace)
    assert read_storage_classes(account) is None
    planned = plan_claim(cache_spec(namespace), read_claim(account, namespace, "cache"), None)
    assert isinstance(planned, ClaimPlan)
    assert ensure_claim(account, cache_spec(namespace), planned).action is Action.CREATED
    wait_bound(account, namespace, "cache", timeout=SECONDS)  # at once: it may bind at its first pod only
    wait_bound(kube, namespace, "cache", timeout=SECONDS)
    again = read_claim(account, namespace, "cache")
    assert again
    assert (again.phase, again.volume_type) == ("Bound", None)
    assert plan_claim(cache_spec(namespace), again, None) == replace(plan(namespace), action=ClaimAction.USE)


def test_a_claim_that_is_gone(kube: Kube, namespace: str) -> None:
    with pytest.raises(ClaimUnusable, match="is not there"):
        wait_bound(kube, namespace, "cache", timeout=5)


def test_classes_are_read_as_facts(kube: Kube) -> None:
    facts = {each.name: each for each in read_storage_classes(kube) or ()}
    assert (facts["devcluster-limited"].binding_mode, facts["devcluster-limited"].is_default) == ("WaitForFirstConsumer", False)
    assert facts["devcluster-shared"].binding_mode == "Immediate"
