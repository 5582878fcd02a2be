"""A cache shared into other namespaces: on the real parts, from the S3 object to a pod that reads it there."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from blocks import ModelCache, load_block
from deployments.demo.check import check_files
from flows.preload import preload_model
from flows.share import ShareReport, share_cache, share_where_wanted, unshare_cache
from modelyard.errors import Refused
from modelyard.names import volume_copy_name
from modelyard.plans.claim import ClaimPlan, plan_claim
from modelyard.volumes.claims import ensure_claim, wait_bound
from modelyard.volumes.copies import PRIOR_POLICY
from modelyard.volumes.storage_classes import read_storage_classes
from tests.cluster.preload import conftest
from tests.cluster.preload.conftest import CLAIM, Stack
from tests.cluster.support import SECONDS, Manifest

pytestmark = pytest.mark.cluster
stack, image = conftest.stack, conftest.image


@pytest.fixture
def teams(stack: Stack) -> Iterator[tuple[str, str]]:
    """Two namespaces to share with, under restricted Pod Security, and no copy left behind."""
    names = (f"team-a-{stack.name}", f"team-b-{stack.name}")
    for name in names:
        make_namespace(stack, name)
    yield names
    if claimed := stack.kube.get("PersistentVolumeClaim", CLAIM, stack.name):  # a held volume would outlive the stack
        policy_back = {"metadata": {"annotations": {PRIOR_POLICY: None}}, "spec": {"persistentVolumeReclaimPolicy": "Delete"}}
        stack.kube.patch_merge("PersistentVolume", claimed["spec"]["volumeName"], None, policy_back)
    for name in names:
        stack.kube.delete("Namespace", name)
        stack.kube.delete("PersistentVolume", copy_name(stack, name))


def make_namespace(stack: Stack, name: str) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    stack.kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})


def copy_name(stack: Stack, namespace: str) -> str:
    return volume_copy_name(stack.name, CLAIM, namespace)


def share(stack: Stack, *namespaces: str, **more: Any) -> ShareReport:
    report = share_cache(namespaces=list(namespaces), cache=stack.name, cluster=stack.name, **more)
    assert isinstance(report, ShareReport)
    return report


def unshare(stack: Stack, *namespaces: str, **more: Any) -> ShareReport:
    report = unshare_cache(namespaces=list(namespaces), cache=stack.name, cluster=stack.name, **more)
    assert isinstance(report, ShareReport)
    return report


def preload(stack: Stack) -> dict[str, str]:
    """A model on the cache; its files' digests."""
    files = stack.put(config__json=b"{}", model__safetensors=safetensors())
    preload_model(**stack.parameters())
    return {name: hashlib.sha256(body).hexdigest() for name, body in files.items()}


def empty(stack: Stack) -> None:
    """The cache's claim, bound, with no model on it."""
    cache = load_block(ModelCache, stack.name).spec()
    planned = plan_claim(cache, None, read_storage_classes(stack.kube))
    assert isinstance(planned, ClaimPlan)
    ensure_claim(stack.kube, cache, planned)
    wait_bound(stack.kube, stack.name, CLAIM, timeout=SECONDS)


def safetensors() -> bytes:
    return (2).to_bytes(8, "little") + b"{}" + os.urandom(100_000)


def original(stack: Stack) -> Manifest:
    """The PersistentVolume of the cache's claim."""
    return volume(stack, claim(stack, stack.name)["spec"]["volumeName"])


def volume(stack: Stack, name: str) -> Manifest:
    live = stack.kube.get("PersistentVolume", name)
    assert live
    return live


def claim(stack: Stack, namespace: str) -> Manifest:
    live = stack.kube.get("PersistentVolumeClaim", CLAIM, namespace)
    assert live
    return live


def policy(stack: Stack) -> tuple[str, str | None]:
    """The original's reclaim policy, and the note of the one before."""
    live = original(stack)
    return live["spec"]["persistentVolumeReclaimPolicy"], live["metadata"].get("annotations", {}).get(PRIOR_POLICY)


def wait_until(true: Callable[[], object], seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.2)


def test_two_namespaces_read_the_model_and_the_copies_go_again(stack: Stack, image: str, teams: tuple[str, str]) -> None:
    digests = preload(stack)
    assert policy(stack) == ("Delete", None)
    planned = share(stack, *teams, dry_run=True)
    assert [each.action for each in planned.namespaces] == ["create", "create"]
    assert (stack.kube.list("PersistentVolumeClaim", teams[0]), policy(stack)) == ([], ("Delete", None))
    report = share(stack, *teams)
    assert [list(each.versions or ()) for each in report.namespaces] == [["m/v1"], ["m/v1"]]
    assert policy(stack) == ("Retain", "Delete")
    for team in teams:
        copy = volume(stack, copy_name(stack, team))["spec"]
        assert copy["hostPath"] == original(stack)["spec"]["hostPath"]
        assert (copy["persistentVolumeReclaimPolicy"], copy["accessModes"]) == ("Retain", ["ReadOnlyMany"])
        assert check_files(stack.kube, team, CLAIM, image, "m/v1", digests).startswith("2 files")
    again = share(stack, *teams)
    assert [(each.action, set(each.changes)) for each in again.namespaces] == [
        ("keep", {f"PersistentVolume/{copy_name(stack, team)} unchanged", f"PersistentVolumeClaim/{team}/{CLAIM} unchanged"})
        for team in teams
    ]
    unshare(stack, teams[0])
    assert (stack.kube.list("PersistentVolumeClaim", teams[0]), policy(stack)) == ([], ("Retain", "Delete"))
    last = unshare(stack)
    assert [each.namespace for each in last.namespaces] == [teams[1]]
    assert policy(stack) == ("Delete", None)
    assert [stack.kube.get("PersistentVolume", copy_name(stack, team)) for team in teams] == [None, None]
    assert check_files(stack.kube, stack.name, CLAIM, image, "m/v1", digests).startswith("2 files"), "the cache is whole"
    assert "the cache has no copies" in unshare(stack).notes


def test_everything_that_stands_against_it_is_told_at_once(stack: Stack, teams: tuple[str, str]) -> None:
    with pytest.raises(Refused, match=r"does not exist; preload a model first(?s:.*)no-such-namespace"):
        share(stack, "no-such-namespace")
    empty(stack)
    foreign = {"accessModes": ["ReadWriteMany"], "storageClassName": "none", "resources": {"requests": {"storage": "1Mi"}}}
    head: Manifest = {"apiVersion": "v1", "metadata": {"name": CLAIM, "namespace": teams[0]}}
    before = stack.kube.create({**head, "kind": "PersistentVolumeClaim", "spec": foreign})
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none", "namespace": teams[1]}}
    stack.kube.create({**quota, "spec": {"hard": {"persistentvolumeclaims": "0"}}})
    wait_until(lambda: (stack.kube.get("ResourceQuota", "none", teams[1]) or {}).get("status", {}).get("hard"))
    with pytest.raises(Refused) as caught:
        share(stack, "no-such-namespace", *teams, stack.name)
    told = [str(problem) for problem in caught.value.problems]
    assert [
        any(word in each for each in told) for word in ("no-such-namespace: does not exist", "is not this cache's claim", "exceeded quota")
    ] == [True] * 3
    assert f"Namespace/{stack.name}: is the cache's own" in "\n".join(told)
    assert claim(stack, teams[0])["metadata"]["uid"] == before["metadata"]["uid"]
    assert [stack.kube.get("PersistentVolume", copy_name(stack, team)) for team in teams] == [None, None]
    with pytest.raises(Refused, match="is not a copy of this cache's"):
        unshare(stack, teams[0])


def test_a_changed_copy_is_shown_and_left_alone(stack: Stack, teams: tuple[str, str]) -> None:
    empty(stack)
    share(stack, teams[0])
    name = copy_name(stack, teams[0])
    stack.kube.patch_merge("PersistentVolume", name, None, {"spec": {"persistentVolumeReclaimPolicy": "Delete", "mountOptions": ["ro"]}})
    with pytest.raises(
        Refused, match=r'persistentVolumeReclaimPolicy is "Delete", not "Retain"(?s:.*)mountOptions is \["ro"\], which no copy has'
    ):
        share(stack, teams[0])
    with pytest.raises(Refused, match="would delete the data of every namespace; set it back: `kubectl patch pv"):
        unshare(stack)
    assert volume(stack, name)["spec"]["mountOptions"] == ["ro"]
    stack.kube.patch_merge("PersistentVolume", name, None, {"spec": {"persistentVolumeReclaimPolicy": "Retain", "mountOptions": None}})
    assert [each.action for each in share(stack, teams[0]).namespaces] == ["keep"]


def test_a_copy_in_use_stays(stack: Stack, teams: tuple[str, str]) -> None:
    empty(stack)
    share(stack, teams[0])
    stack.kube.create(deployment(teams[0]))
    with pytest.raises(Refused, match=f"is used by Deployment/{teams[0]}/server"):
        unshare(stack)
    assert claim(stack, teams[0])["status"]["phase"] == "Bound"
    stack.kube.delete("Deployment", "server", teams[0])
    unshare(stack)
    assert policy(stack) == ("Delete", None)


def deployment(namespace: str, replicas: int = 0) -> Manifest:
    """A workload that names the claim."""
    labels = {"app": "server"}
    volume = {"name": "models", "persistentVolumeClaim": {"claimName": CLAIM, "readOnly": True}}
    pod = {"containers": [{"name": "server", "image": "busybox:1.36"}], "volumes": [volume]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "server", "namespace": namespace},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}},
    }


def test_a_namespace_that_was_deleted_is_shared_again(stack: Stack, image: str, teams: tuple[str, str]) -> None:
    digests = preload(stack)
    team, name = teams[0], copy_name(stack, teams[0])
    share(stack, team)
    uid = volume(stack, name)["metadata"]["uid"]
    stack.kube.delete("Namespace", team)
    wait_until(lambda: stack.kube.get("Namespace", team) is None)
    wait_until(lambda: volume(stack, name)["status"]["phase"] == "Released")
    with pytest.raises(Refused, match=f"Namespace/{team}: does not exist"):
        share(stack, team)
    make_namespace(stack, team)
    assert [each.action for each in share(stack, team).namespaces] == ["mend"]
    assert volume(stack, name)["metadata"]["uid"] == uid
    assert check_files(stack.kube, team, CLAIM, image, "m/v1", digests).startswith("2 files")
    stack.kube.delete("Namespace", team)
    wait_until(lambda: stack.kube.get("Namespace", team) is None)
    assert [each.namespace for each in unshare(stack).namespaces] == [team], "a copy without its namespace goes as well"
    assert policy(stack) == ("Delete", None)


def test_the_original_is_not_released_to_its_deletion(stack: Stack, teams: tuple[str, str]) -> None:
    empty(stack)
    share(stack, teams[0])
    name = original(stack)["metadata"]["name"]
    stack.kube.delete("PersistentVolumeClaim", CLAIM, stack.name)
    wait_until(lambda: volume(stack, name)["status"]["phase"] == "Released")
    report = unshare(stack)
    assert any("keeps reclaim policy Retain, for its claim is gone" in note for note in report.notes)
    assert volume(stack, name)["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
    stack.kube.patch_merge("PersistentVolume", name, None, {"spec": {"persistentVolumeReclaimPolicy": "Delete"}})  # the test's own clean-up


def test_copies_are_made_where_they_are_wanted(stack: Stack, teams: tuple[str, str]) -> None:
    empty(stack)
    settings = load_block(ModelCache, stack.name)
    settings.share_with = [teams[0]]
    settings.share_on_demand = [f"{teams[1][:-1]}?", "no-such-*"]
    settings.save(stack.name, overwrite=True)
    assert [each.namespace for each in share_where_wanted_in_a_flow(stack).namespaces] == [teams[0]]
    stack.kube.create(deployment(teams[1], replicas=1))
    report = share_where_wanted_in_a_flow(stack)
    assert [(each.namespace, each.action) for each in report.namespaces] == [(teams[0], "keep"), (teams[1], "create")]
    assert claim(stack, teams[1])["status"]["phase"] == "Bound"


def share_where_wanted_in_a_flow(stack: Stack) -> ShareReport:
    from prefect import flow  # noqa: PLC0415 - after the fixture has set the server

    report = flow(share_where_wanted)(stack.name, stack.name)
    assert isinstance(report, ShareReport)
    return report
