"""A flow killed after its k-th write to the cluster, for every k: the next run ends clean."""

import signal
from collections.abc import Callable, Mapping

import pytest

from tests.auditor import Expected
from tests.cluster.faults.support import Audit, finish, preload, run_flow, spec_of, volume_of
from tests.cluster.preload.conftest import Stack

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]
PRELOAD = "flows.preload:preload_model"
MOST_WRITES = 60


def die_after(k: int) -> dict[str, str]:
    return {"MODELYARD_KUBE_DIE_AFTER": str(k)}


def test_a_preload_killed_after_its_second_write(stack: Stack, bystander: str) -> None:
    """The Job is made, suspended and without its Secret."""
    assert killed_and_run_again(stack, bystander, 2)


@pytest.mark.faults
def test_a_preload_killed_after_each_of_its_writes(stack: Stack, bystander: str) -> None:
    k = 1
    while killed_and_run_again(stack, bystander, k):
        k += 1
        assert k < MOST_WRITES, "a preload that writes this often is not the one that we know"
    assert k > 4, "the claim, the Job, its Secret, its start, its end"


def killed_and_run_again(stack: Stack, bystander: str, k: int) -> bool:
    """Preload onto a claim of its own, killed after write ``k``; whether it came to that write."""
    files = stack.put(config__json=b"{}", model__safetensors=b"weights" * 1000)
    stack.cache(pvcNameSuffix=f"k{k}")
    before = Audit(stack, {"bystander": bystander})
    killed = killed_and_repeated(PRELOAD, stack.parameters(), k)
    claim = spec_of(stack).claim
    volume = volume_of(stack, claim, stack.name)
    before.volumes["cache"] = volume
    made = [f"PersistentVolumeClaim/{stack.name}/{claim}", f"PersistentVolume/{volume}"]
    before.ends_ready({"m/v1": files}, more=Expected(appeared=made))
    return killed


@pytest.mark.faults
def test_sharing_and_unsharing_killed_after_each_of_their_writes(stack: Stack, audit: Callable[[], Audit]) -> None:
    """Shared and unshared again, all is as it was before, wherever both were killed."""
    stack.put(config__json=b"{}")
    begun = audit()
    finish(preload(stack))
    target = f"{stack.name}-target"
    stack.kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": target}})
    before = Audit(stack, begun.volumes)
    names = {"namespaces": [target], "cache": stack.name, "cluster": stack.name}
    k, killed = 1, True
    while killed:
        killed = killed_and_repeated("flows.share:share_cache", names, k)
        claim = stack.kube.get("PersistentVolumeClaim", spec_of(stack).claim, target)
        assert claim
        assert claim["status"]["phase"] == "Bound"
        killed |= killed_and_repeated("flows.share:unshare_cache", names, k)
        before.ends(Expected(ignored=[f"CachedModel/{stack.name}/*"]))
        k += 1
        assert k < MOST_WRITES
    stack.kube.delete("Namespace", target)


def killed_and_repeated(flow: str, parameters: Mapping[str, object], k: int) -> bool:
    """Run the flow, killed after write ``k``, and again if it came to that write; whether it did."""
    code, output = run_flow(flow, parameters, **die_after(k))
    assert code in {0, -signal.SIGKILL}, output
    if code:
        again, output = run_flow(flow, parameters)
        assert again == 0, f"killed after write {k}:\n{output}"
    return bool(code)
