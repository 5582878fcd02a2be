"""Expansion, NFS exports and placement, by table."""

from dataclasses import replace
from typing import Any

import pytest

from modelyard.caches import AccessMode, CacheSpec
from modelyard.errors import Problem, Refused
from modelyard.models import ModelRef
from modelyard.orders import RemoveSpec
from modelyard.plans.claim import ClaimAction, ClaimPlan, plan_claim
from modelyard.plans.claim_facts import ClaimFacts, Mount
from modelyard.plans.nfs_volume import Export, ExportVolume
from modelyard.plans.placement import node_for, plan_placement
from modelyard.plans.scheduling import Scheduling, scheduling_of
from modelyard.plans.storage_classes import StorageClassFacts
from modelyard.volumes.expansion import expanded

RWX, RWO, RWOP = AccessMode.READ_WRITE_MANY, AccessMode.READ_WRITE_ONCE, AccessMode.READ_WRITE_ONCE_POD
FAST = StorageClassFacts("fast", "acme.example/fs", allow_expansion=True)
CLAIM = ClaimFacts(
    "cache", "ml", "Bound", "fast", ("ReadWriteMany",), requested_bytes=100, capacity_bytes=100, volume_type="csi:acme", created_by_us=True
)
EXPORT = Export("10.0.0.9", "/exports/models")


def cache(**settings: Any) -> CacheSpec:
    fixed = {
        "name": "main",
        "namespace": "ml",
        "base_name": "cache",
        "storage_size": 200,
        "storage_class_name": "fast",
        "loader_image": "l",
    }
    return CacheSpec.model_validate({**fixed, **settings})


@pytest.mark.parametrize(
    ("settings", "claim", "storage_class", "what", "step"),
    [
        pytest.param({"allow_expansion": False}, {}, {}, "storageSize asks for 200 B", "set allowExpansion", id="not allowed"),
        pytest.param({}, {"volume_type": "nfs"}, {}, "a volume of type nfs cannot", "new pvcNameSuffix", id="NFS"),
        pytest.param({}, {"volume_type": "hostPath"}, {}, "whatever allowVolumeExpansion says", "new pvcNameSuffix", id="hostPath"),
        pytest.param(
            {},
            {},
            {"provisioner": "k8s-sigs.io/nfs-subdir-external-provisioner"},
            "cannot expand volumes",
            "pvcNameSuffix",
            id="nfs-subdir",
        ),
        pytest.param(
            {},
            {},
            {"provisioner": "cluster.local/models-nfs-subdir-external-provisioner"},
            "cannot expand volumes",
            "pvcNameSuffix",
            id="nfs-subdir of any release",
        ),
        pytest.param({}, {}, {"provisioner": "rancher.io/local-path"}, "cannot expand volumes", "pvcNameSuffix", id="local-path"),
        pytest.param({}, {"created_by_us": False}, {}, "Modelyard did not make it", "its owner", id="another's"),
        pytest.param({}, {}, {"allow_expansion": False}, "allowVolumeExpansion false", "set to true", id="the class says no"),
        pytest.param({}, {}, {"name": "other"}, "not to be seen", "grant the verbs", id="the class is not to be seen"),
        pytest.param({}, {"phase": "Pending", "capacity_bytes": None}, {}, "not bound yet", "wait", id="not bound"),
    ],
)
def test_expansion_refused(settings: dict[str, Any], claim: dict[str, Any], storage_class: dict[str, Any], what: str, step: str) -> None:
    planned = plan_claim(cache(**{"allow_expansion": True, **settings}), replace(CLAIM, **claim), [replace(FAST, **storage_class)])
    assert isinstance(planned, tuple)
    (problem,) = planned
    assert what in problem.what
    assert step in problem.next_step


def test_expansion_planned() -> None:
    planned = plan_claim(cache(allow_expansion=True), CLAIM, [FAST])
    assert isinstance(planned, ClaimPlan)
    assert (planned.action, planned.size) == (ClaimAction.EXPAND, 200)


def test_an_expansion_that_a_killed_run_asked_for_is_waited_for() -> None:
    planned = plan_claim(cache(), replace(CLAIM, requested_bytes=300), [FAST])
    assert isinstance(planned, ClaimPlan)
    assert (planned.action, planned.size) == (ClaimAction.EXPAND, 300)


@pytest.mark.parametrize(
    ("status", "done"),
    [
        pytest.param({"capacity": {"storage": "200"}}, True, id="there"),
        pytest.param({"capacity": {"storage": "100"}}, False, id="not there"),
        pytest.param({"capacity": {"storage": "100"}, "conditions": [{"type": "Resizing", "status": "True"}]}, False, id="under way"),
        pytest.param(
            {"capacity": {"storage": "100"}, "conditions": [{"type": "FileSystemResizePending", "status": "True"}]},
            True,
            id="at the next mount",
        ),
        pytest.param(
            {"capacity": {"storage": "100"}, "allocatedResourceStatuses": {"storage": "NodeResizePending"}},
            True,
            id="the node's part is left",
        ),
    ],
)
def test_expanded(status: dict[str, Any], done: bool) -> None:  # noqa: FBT001 - a table's column
    assert expanded({"status": status}, 200) is done


def nfs_cache(**settings: Any) -> CacheSpec:
    return cache(**{"storage_class_name": None, "nfs_server": EXPORT.server, "nfs_path": EXPORT.path, **settings})


VOLUME = ExportVolume("nfs-pv", "Available", "", ("ReadWriteMany",), 500)


@pytest.mark.parametrize(
    ("volumes", "name", "made"),
    [
        pytest.param((), "modelyard-cache-", True, id="none there: made"),
        pytest.param(None, "modelyard-cache-", True, id="not to be listed: made"),
        pytest.param((VOLUME,), "nfs-pv", False, id="one that fits"),
        pytest.param((VOLUME, replace(VOLUME, name="a", bytes=300)), "a", False, id="the smallest that fits"),
        pytest.param((replace(VOLUME, bytes=100),), "modelyard-cache-", True, id="too small"),
        pytest.param((replace(VOLUME, storage_class="x"),), "modelyard-cache-", True, id="of another class"),
        pytest.param((replace(VOLUME, access_modes=("ReadWriteOnce",)),), "modelyard-cache-", True, id="for one node"),
        pytest.param((replace(VOLUME, claim="other/cache"),), "modelyard-cache-", True, id="for another claim"),
        pytest.param((replace(VOLUME, claim="ml/cache"),), "nfs-pv", False, id="kept for this claim by hand"),
        pytest.param((replace(VOLUME, phase="Bound", claim="ml/other"),), "modelyard-cache-", True, id="bound"),
    ],
)
def test_export(volumes: tuple[ExportVolume, ...] | None, name: str, made: bool) -> None:  # noqa: FBT001 - a table's column
    planned = plan_claim(nfs_cache(), None, [], volumes)
    assert isinstance(planned, ClaimPlan)
    assert (planned.volume or "").startswith(name)
    assert (planned.export, planned.storage_class) == (EXPORT if made else None, "")


def test_a_volume_of_ours_is_taken_again_or_told_why_not() -> None:
    first = plan_claim(nfs_cache(), None, [])
    assert isinstance(first, ClaimPlan)
    ours = replace(VOLUME, name=first.volume or "", phase="Released", claim="ml/cache", created_by_us=True)
    again = plan_claim(nfs_cache(), None, [], (ours,))
    assert isinstance(again, ClaimPlan)
    assert (again.volume, again.export) == (first.volume, EXPORT)
    for odd, words in ((replace(ours, bytes=100), "does not fit any more"), (replace(ours, created_by_us=False), "not made by Modelyard")):
        refused = plan_claim(nfs_cache(), None, [], (odd,))
        assert isinstance(refused, tuple)
        assert words in str(refused[0])


def test_a_claim_on_another_export_is_refused() -> None:
    claim = replace(
        CLAIM, storage_class="", requested_bytes=200, capacity_bytes=200, volume_name="pv", volume_type="nfs", export="10.0.0.9:/old"
    )
    refused = plan_claim(nfs_cache(), claim, [])
    assert isinstance(refused, tuple)
    assert "is bound to NFS export 10.0.0.9:/old" in refused[0].what
    assert isinstance(plan_claim(nfs_cache(), replace(claim, export=str(EXPORT)), []), ClaimPlan)


def test_server_and_path_belong_together() -> None:
    with pytest.raises(ValueError, match="belong together"):
        cache(nfs_server="a")
    with pytest.raises(ValueError, match="absolute path"):
        cache(nfs_server="a", nfs_path="exports/../x")


WEB = Mount("Pod/ml/web-0", "node-a")
LOADER, OWN = Mount("Pod/ml/preload-x-0", "node-b", "preload-x"), Mount("Pod/ml/preload-own-0", "node-a", "own")


@pytest.mark.parametrize(
    ("modes", "mounts", "node", "words"),
    [
        pytest.param((RWX,), (WEB,), None, "", id="many nodes"),
        pytest.param((RWO,), (WEB,), "node-a", "the loader runs on node node-a, where Pod/ml/web-0 mounts it", id="where the workload is"),
        pytest.param((RWO,), (), None, "nor, while the loader runs, can any pod on another node", id="nobody yet"),
        pytest.param((RWO,), (LOADER,), "node-b", "where Pod/ml/preload-x-0 mounts it", id="where another load is"),
        pytest.param((RWO,), (LOADER, WEB), "node-a", "where Pod/ml/web-0 mounts it", id="a workload stays, a load ends"),
        pytest.param((RWO,), (OWN,), None, "one node at a time", id="its own Job is joined where it is"),
        pytest.param((RWO,), (Mount("Pod/ml/web-1"),), None, "one node at a time", id="a pod without a node"),
        pytest.param((RWOP,), (LOADER,), None, "the workload can start when the loader is gone", id="one pod"),
    ],
)
def test_placement(modes: tuple[AccessMode, ...], mounts: tuple[Mount, ...], node: str | None, words: str) -> None:
    placed = plan_placement(cache(), replace(CLAIM, access_modes=modes, mounted_by=mounts), binds_late=False, own_job="own")
    assert (placed.node, placed.problems) == (node, ())
    assert words in " ".join(placed.notes)


def test_one_pod_at_a_time_is_refused_beside_another() -> None:
    placed = plan_placement(cache(), replace(CLAIM, access_modes=(RWOP,), mounted_by=(WEB,)), binds_late=False)
    subject = "PersistentVolumeClaim/ml/cache"
    what = "is ReadWriteOncePod and mounted by Pod/ml/web-0, so no loader can mount it"
    assert placed.problems == (Problem(subject, what, "stop that pod first (scale its workload to 0), then run again"),)


def test_the_first_pod_decides_the_zone() -> None:
    bare = plan_placement(cache(access_mode=RWO), None, binds_late=True)
    assert "set nodeSelector to where the workload will run" in " ".join(bare.notes)
    told = plan_placement(cache(access_mode=RWO, node_selector={"zone": "a"}), None, binds_late=True)
    assert "the loader's nodeSelector says where" in " ".join(told.notes)
    zoned = plan_placement(cache(), replace(CLAIM, access_modes=(RWO,), reachable_from="zone In a"), binds_late=False)
    assert "the volume can be reached from zone In a only" in zoned.notes


def workload(kind: str, spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": "web", "namespace": "ml", **metadata}, "spec": spec}


def pod_spec(**more: Any) -> dict[str, Any]:
    return {"volumes": [{"name": "m", "persistentVolumeClaim": {"claimName": "cache"}}], **more}


ZONE_A: dict[str, Any] = {"nodeSelector": {"zone": "a"}}
GPU = {"key": "gpu", "operator": "Exists"}
DEPLOYMENT = workload("Deployment", {"replicas": 0, "template": {"spec": pod_spec(**ZONE_A, tolerations=[GPU])}})


@pytest.mark.parametrize(
    ("manifest", "selector"),
    [
        pytest.param(DEPLOYMENT, {"zone": "a"}, id="scaled to 0"),
        pytest.param(workload("Pod", pod_spec(**ZONE_A)), {"zone": "a"}, id="a pod of nobody's"),
        pytest.param(workload("Pod", pod_spec(**ZONE_A), ownerReferences=[{"uid": "1"}]), None, id="an owner's pod"),
        pytest.param(
            workload("InferenceService", {"predictor": {**ZONE_A, "model": {"storageUri": "pvc://cache/m/v1"}}}), {"zone": "a"}, id="KServe"
        ),
        pytest.param(
            workload("InferenceService", {"predictor": {**ZONE_A, "model": {"storageUri": "pvc://other/m"}}}), None, id="another's"
        ),
        pytest.param(workload("CronJob", {"jobTemplate": {"spec": {"template": {"spec": pod_spec()}}}}), {}, id="anywhere"),
        pytest.param(
            workload(
                "Job", pod_spec(**ZONE_A), labels={"app.kubernetes.io/managed-by": "modelyard", "app.kubernetes.io/component": "loader"}
            ),
            None,
            id="our own",
        ),
        pytest.param({**workload("Pod", pod_spec(**ZONE_A)), "status": {"phase": "Succeeded"}}, None, id="ended"),
        pytest.param(workload("LLMInferenceService", {"model": {"uri": "pvc://cache/m/v1"}, "template": ZONE_A}), {}, id="not made out"),
    ],
)
def test_where_a_workload_may_run(manifest: dict[str, Any], selector: dict[str, str] | None) -> None:
    found = scheduling_of([manifest], "cache")
    assert [each.node_selector for each in found] == ([] if selector is None else [selector])


def test_the_first_pod_goes_where_the_workload_will() -> None:
    [told] = scheduling_of([DEPLOYMENT], "cache")
    rwo = cache(access_mode=RWO, tolerations=({"key": "own", "operator": "Exists"},))
    placed = plan_placement(rwo, None, binds_late=True, workloads=(told,))
    assert "as Deployment/ml/web will, on a node with zone=a" in " ".join(placed.notes)
    assert (
        'set its tolerations in the cache, too: later loaders must come there ([{"key": "gpu", "operator": "Exists"}])' in placed.notes[-1]
    )
    settings = placed.on(rwo)
    assert (settings.node_selector, settings.tolerations) == ({"zone": "a"}, (*rwo.tolerations, GPU))
    assert (
        "its affinity or topology is not followed"
        in plan_placement(rwo, None, binds_late=True, workloads=(replace(told, more=True),)).notes[-1]
    )


@pytest.mark.parametrize(
    ("settings", "claim", "zones", "late"),
    [
        pytest.param({"node_selector": {"zone": "c"}}, None, ("a",), True, id="the cache says where"),
        pytest.param({}, None, ("a", "b"), True, id="they differ"),
        pytest.param({}, None, (), True, id="nobody"),
        pytest.param({}, replace(CLAIM, access_modes=(RWO,), mounted_by=(WEB,)), ("a",), True, id="a pod runs"),
        pytest.param({}, replace(CLAIM, access_modes=(RWX,)), ("a",), True, id="many nodes"),
        pytest.param({}, replace(CLAIM, access_modes=(RWO,)), ("a",), False, id="bound already"),
    ],
)
def test_no_workload_is_followed(settings: dict[str, Any], claim: ClaimFacts | None, zones: tuple[str, ...], late: bool) -> None:  # noqa: FBT001
    rwo = cache(access_mode=RWO, **settings)
    workloads = tuple(Scheduling(f"Deployment/ml/{zone}", {"zone": zone}) for zone in zones)
    assert plan_placement(rwo, claim, binds_late=late, workloads=workloads).on(rwo) == rwo


def test_the_node_of_a_pod_beside_a_claim() -> None:
    order = RemoveSpec(model=ModelRef(name="m", version="v1"))
    running = Mount("Pod/ml/remove-x-0", "node-b", order.job_name(cache().claim, "any"))
    beside = replace(CLAIM, access_modes=(RWO,), mounted_by=(WEB,))
    assert node_for(cache(), beside) == WEB.node
    assert node_for(cache(), replace(beside, mounted_by=(running,)), order) is None, "it is joined where it runs"
    assert node_for(cache(), replace(CLAIM, mounted_by=(WEB,))) is None
    with pytest.raises(Refused, match="is ReadWriteOncePod and mounted by"):
        node_for(cache(), replace(CLAIM, access_modes=(RWOP,), mounted_by=(WEB,)))
