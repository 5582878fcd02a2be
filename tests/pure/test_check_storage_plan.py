"""What a storage check tries and where, and what its observations come to."""

import json
from dataclasses import replace
from typing import Any

import pytest

from modelyard.caches import AccessMode, CacheSpec
from modelyard.errors import Refused
from modelyard.loader.probes import lack
from modelyard.orders import VolumeSpace
from modelyard.plans.capacity import Neighbours
from modelyard.plans.check_storage import CheckFacts, CheckPlan, CheckRequest, Removal, VolumeEnd, plan_check, probe_claim_name
from modelyard.plans.claim_facts import ClaimFacts, Mount
from modelyard.plans.nodes import NodeFacts, Taint, eligible_nodes, hindrance
from modelyard.plans.storage_classes import StorageClassFacts
from modelyard.plans.storage_report import describe_storage, node_rows
from modelyard.plans.storage_verdict import _MEANINGS, Seen, Severity, Step, Verdict, judge
from modelyard.storage_orders import Ability, CheckResult, CheckSpec, CheckStep, Lack

GIB = 2**30
CACHE = CacheSpec(name="main", namespace="models", storage_size=GIB, loader_image="loader:1")
NONCE = "0123456789abcdef0123456789abcdef"
REQUEST = CheckRequest(CACHE, NONCE, bytes=2**20, size=GIB, storage_class="nfs")
NFS = StorageClassFacts("nfs", "cluster.local/nfs-subdir-external-provisioner")
EBS = StorageClassFacts("ebs", "ebs.csi.aws.com")
NODES = (NodeFacts("b"), NodeFacts("a"), NodeFacts("c", schedulable=False))
FACTS = CheckFacts(None, (NFS, EBS), NODES)
CLAIM = ClaimFacts("modelyard-models-cache", "models", "Bound", "nfs", ("ReadWriteMany",), GIB)


@pytest.mark.parametrize(
    ("node", "why"),
    [
        (NodeFacts("n", labels={"zone": "a"}), None),
        (NodeFacts("n", ready=False, labels={"zone": "a"}), "is not Ready"),
        (NodeFacts("n", schedulable=False, labels={"zone": "a"}), "is cordoned"),
        (NodeFacts("n"), "lacks zone=a of the cache's nodeSelector"),
        (NodeFacts("n", labels={"zone": "a"}, taints=(Taint("gpu", "true"),)), None),
        (NodeFacts("n", labels={"zone": "a"}, taints=(Taint("gpu", "false"),)), "has the taint gpu, which the cache does not tolerate"),
        (
            NodeFacts("n", labels={"zone": "a"}, taints=(Taint("gpu", "true", "NoExecute"),)),
            "has the taint gpu, which the cache does not tolerate",
        ),
        (NodeFacts("n", labels={"zone": "a"}, taints=(Taint("busy", effect="PreferNoSchedule"),)), None),
    ],
)
def test_which_nodes_take_the_pods(node: NodeFacts, why: str | None) -> None:
    toleration = {"key": "gpu", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
    assert hindrance(node, CACHE.model_copy(update={"node_selector": {"zone": "a"}, "tolerations": (toleration,)})) == why


@pytest.mark.parametrize("toleration", [{"operator": "Exists"}, {"key": "gpu", "operator": "Exists"}, {"key": "gpu", "value": "x"}])
def test_tolerations(toleration: dict[str, Any]) -> None:
    node = NodeFacts("n", taints=(Taint("gpu", "x"),))
    assert eligible_nodes([node], CACHE) == ()
    assert eligible_nodes([node], CACHE.model_copy(update={"tolerations": (toleration,)})) == ("n",)


def test_a_class_is_tried_on_a_claim_of_its_own_from_every_node() -> None:
    assert plan_check(REQUEST, FACTS) == CheckPlan(
        nonce=NONCE,
        namespace="models",
        claim=probe_claim_name(NONCE),
        temporary=True,
        storage_class="nfs",
        access_mode=AccessMode.READ_WRITE_MANY,
        size=GIB,
        bytes=2**20,
        write_nodes=("a", "b"),
        read_nodes=("a", "b"),
    )


def test_without_class_and_claim_it_is_the_caches_own() -> None:
    plan = plan_check(replace(REQUEST, storage_class=None), replace(FACTS, claim=CLAIM))
    assert (plan.claim, plan.temporary, plan.size) == ("modelyard-models-cache", False, GIB)


def test_one_node_at_a_time_is_one_node() -> None:
    plan = plan_check(replace(REQUEST, storage_class="ebs", access_mode=AccessMode.READ_WRITE_ONCE), FACTS)
    assert (plan.write_nodes, plan.read_nodes) == (("a", "b"), ())
    held = replace(CLAIM, access_modes=("ReadWriteOnce",), mounted_by=(Mount("Pod/models/x", "b"),))
    plan = plan_check(replace(REQUEST, storage_class=None), replace(FACTS, claim=held))
    assert (plan.write_nodes, plan.read_nodes) == (("b",), ())
    assert "one node at a time" in plan.notes[0]


def test_a_class_that_is_known_not_to_serve_the_mode_is_tried_all_the_same() -> None:
    plan = plan_check(replace(REQUEST, storage_class="ebs"), FACTS)
    assert "known not to serve ReadWriteMany" in plan.notes[0]


def test_without_the_right_to_list_nodes() -> None:
    plan = plan_check(REQUEST, replace(FACTS, nodes=None))
    assert (plan.write_nodes, plan.read_nodes) == ((None,), (None,))
    assert "may not list nodes" in plan.notes[0]
    assert plan_check(replace(REQUEST, nodes=("x",)), replace(FACTS, nodes=None)).read_nodes == ("x",)


@pytest.mark.parametrize(
    ("request_", "facts", "words"),
    [
        (replace(REQUEST, claim="x"), FACTS, ["names a StorageClass and a claim"]),
        (replace(REQUEST, storage_class="none", size=2**20), FACTS, ["too small to measure", "name one that does: ebs, nfs"]),
        (replace(REQUEST, bytes=1000), FACTS, ["measures with 1000 B"]),
        (replace(REQUEST, nodes=("c", "z")), FACTS, ["node c: is cordoned", "node z: does not exist"]),
        (REQUEST, replace(FACTS, nodes=(NODES[2],)), ["none of 1 takes the cache's pods: c is cordoned"]),
        (REQUEST, replace(FACTS, removal_refusal="not you"), ["would stay there: not you"]),
        (replace(REQUEST, storage_class=None, claim="x"), FACTS, ["PersistentVolumeClaim/models/x: is not there"]),
        (replace(REQUEST, storage_class=None), replace(FACTS, claim=replace(CLAIM, deleting=True)), ["is being deleted"]),
    ],
)
def test_refusals(request_: CheckRequest, facts: CheckFacts, words: list[str]) -> None:
    with pytest.raises(Refused) as refused:
        plan_check(request_, facts)
    assert len(refused.value.problems) == len(words)
    assert all(each in str(refused.value) for each in words)


def result(step: CheckStep, *lacks: Ability, total: int = GIB, **fields: Any) -> CheckResult:
    works = tuple(ability for ability in Ability if ability not in lacks)
    space = VolumeSpace(total_bytes=total, free_bytes=total // 2)
    told = tuple(Lack(ability=ability, seen="seen so") for ability in lacks)
    return CheckResult(step=step, file_system="nfs4 (s:/x)", space=space, works=works, lacks=told, **fields)


PLAN = plan_check(REQUEST, FACTS)
WRITTEN = Step("a", result(CheckStep.WRITE, write_bytes_per_second=2e8, written_direct=True))
READ_A = Step("a", result(CheckStep.READ, read_bytes_per_second=4e8))
READ_B = Step("b", result(CheckStep.READ, read_bytes_per_second=3e8))
SOUND = Seen((WRITTEN,), (READ_A, READ_B), Step(None, result(CheckStep.CLEAN)), claimed_bytes=GIB)
NO_MOUNT = "a volume cannot be mounted (FailedMount): access denied"


def test_all_is_well() -> None:
    report = judge(PLAN, replace(SOUND, removal=Removal(claim_gone=True, volume="pv", end=VolumeEnd.GONE)))
    assert (report.verdict, report.findings) == (Verdict.WORKS, ())
    assert node_rows(report.nodes) == [
        {"node": "a", "sees": "yes", "write": "200 MB/s (O_DIRECT)", "read": "400 MB/s (cache dropped)", "problem": ""},
        {"node": "b", "sees": "yes", "write": "", "read": "300 MB/s (cache dropped)", "problem": ""},
    ]
    assert describe_storage(report, PLAN).startswith("# StorageClass nfs works\n")


@pytest.mark.parametrize(
    ("ability", "verdict"),
    [
        (Ability.WRITE, Verdict.FAILS),
        (Ability.RENAME, Verdict.FAILS),
        (Ability.HARD_LINK, Verdict.WORKS),
        (Ability.DIRECT, Verdict.WORKS),
        (Ability.LOCK, Verdict.LIMITS),
        (Ability.OWNER, Verdict.LIMITS),
    ],
)
def test_what_a_missing_ability_means(ability: Ability, verdict: Verdict) -> None:
    report = judge(PLAN, replace(SOUND, writes=(Step("a", result(CheckStep.WRITE, ability)),)))
    assert report.verdict is verdict
    assert str(report.findings[0]).startswith(f"{ability}: seen so; ")


def test_every_ability_has_a_consequence() -> None:
    assert set(_MEANINGS) == set(Ability)
    assert all(meaning.consequence for meaning in _MEANINGS.values())


def test_one_node_that_cannot_mount_is_a_limit_and_all_of_them_are_a_failure() -> None:
    report = judge(PLAN, replace(SOUND, reads=(READ_A, Step("b", None, NO_MOUNT))))
    assert report.verdict is Verdict.LIMITS
    assert str(report.findings[0]) == f"node b: {NO_MOUNT}; no model can be loaded or served there"
    assert [node.problem for node in report.nodes] == [None, NO_MOUNT]
    failed = judge(PLAN, Seen((Step("a", None, NO_MOUNT), Step("b", None, NO_MOUNT))))
    assert failed.verdict is Verdict.FAILS
    assert [node.node for node in failed.nodes] == ["a", "b"]
    unseen = Step("b", result(CheckStep.READ, Ability.VISIBLE))
    assert judge(PLAN, replace(SOUND, reads=(READ_A, unseen))).verdict is Verdict.LIMITS
    assert judge(PLAN, replace(SOUND, reads=(unseen,))).verdict is Verdict.FAILS


def test_the_first_node_that_can_write_does() -> None:
    report = judge(PLAN, replace(SOUND, writes=(Step("c", None, NO_MOUNT), WRITTEN)))
    assert report.verdict is Verdict.LIMITS
    assert [node.node for node in report.nodes] == ["c", "a", "b"]


def test_a_claim_that_is_not_bound() -> None:
    report = judge(PLAN, Seen(claim_problem="no class"))
    assert (report.verdict, report.nodes) == (Verdict.FAILS, ())


def test_over_allocation_and_a_size_that_is_not_enforced() -> None:
    near = Neighbours("NFS s:/export", 9, 900 * GIB)
    written = Step("a", result(CheckStep.WRITE, total=500 * GIB))
    report = judge(PLAN, replace(SOUND, writes=(written,), neighbours=near))
    assert report.verdict is Verdict.LIMITS
    told = "\n".join(map(str, report.findings))
    assert "the size is not enforced: 1.0 GiB are claimed, pods see 500.0 GiB" in told
    assert "claimed 900.0 GiB by 9 volumes of NFS s:/export, of 500.0 GiB" in told


def test_a_directory_that_is_a_file_system_of_its_own_shares_nothing() -> None:
    near = Neighbours("directory /volumes of a node", 9, 900 * GIB)
    assert judge(PLAN, replace(SOUND, neighbours=near)).findings == ()
    small = Step("a", result(CheckStep.WRITE, total=GIB // 2))
    assert "over-allocated" in str(judge(PLAN, replace(SOUND, writes=(small,), neighbours=near)).findings[0])


@pytest.mark.parametrize(
    ("end", "severity", "words"),
    [
        (VolumeEnd.KEPT, Severity.NOTE, "kubectl delete pv pv-1"),
        (VolumeEnd.LEFT, Severity.LIMIT, "kubectl describe pv pv-1"),
        (VolumeEnd.UNSEEN, Severity.NOTE, "get on persistentvolumes"),
    ],
)
def test_what_becomes_of_the_volume_is_told(end: VolumeEnd, severity: Severity, words: str) -> None:
    report = judge(PLAN, replace(SOUND, removal=Removal(claim_gone=True, volume="pv-1", end=end)))
    [finding] = report.findings
    assert finding.severity is severity
    assert words in finding.next_step
    left = Removal(claim_gone=False, volume=None, end=VolumeEnd.NONE, refusal="not you")
    assert f"still there: not you; `kubectl -n models delete pvc {PLAN.claim}`" in str(
        judge(PLAN, replace(SOUND, removal=left)).findings[0]
    )


def test_a_result_with_every_lack_fits_a_termination_message() -> None:
    for text in ("x" * 1000, "é" * 1000, '"' * 1000):
        lacks = tuple(lack(ability, text) for ability in Ability)
        whole = CheckResult(step=CheckStep.WRITE, file_system="nfs4 (server.example:/exports/models)", lacks=lacks)
        assert len(json.dumps({"event": "result", **whole.model_dump()})) < 4096


def test_a_reader_mounts_read_only() -> None:
    assert [CheckSpec(step=step, nonce=NONCE).read_only for step in CheckStep] == [False, True, False]
