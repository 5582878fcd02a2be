"""The verify-cache flow on the real parts: rot on the claim fails the run, a repair mends it, and all of it is shown."""

import json
import os
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from blocks import ModelCache, load_block
from deployments.demo.check import check_files
from flows.preload import preload_model
from flows.reconcile import reconcile_caches
from flows.verify import verify_cache
from modelyard.errors import Refused, VolumeUnusable
from modelyard.names import artifact_key, cached_model_name
from modelyard.orders import VerifyResult
from tests.cluster.catalogue import cached, condition, install, kubectl, row
from tests.cluster.preload import conftest
from tests.cluster.preload.conftest import CLAIM, Stack
from tests.cluster.preload.test_flow import digests, wait_until
from tests.cluster.preload.test_measured import workload

pytestmark = pytest.mark.cluster
stack, image = conftest.stack, conftest.image


def run(stack: Stack, **more: Any) -> VerifyResult:
    parameters: dict[str, Any] = {"source": stack.name, "cache": stack.name, "cluster": stack.name, **more}
    result = verify_cache(**parameters)
    assert isinstance(result, VerifyResult)
    return result


def artifact(key: str) -> str:
    """The newest artifact of this key."""
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
    return str(max(found, key=lambda each: str(each.created)).data)


def test_rot_fails_the_run_and_a_repair_mends_it(stack: Stack, image: str) -> None:
    files = stack.put(config__json=b"{}", model__safetensors=os.urandom(5_000_000))
    preload_model(**stack.parameters())
    sound = run(stack)
    assert (sound.files, sound.read_bytes, sound.damaged, sound.foreign) == (2, sum(map(len, files.values())), 0, 0)
    model = stack.on_disk() / "m/v1"
    with (model / "model.safetensors").open("r+b") as file:
        file.seek(2_000_000)
        file.write(b"rot!")
    (model / "config.json").unlink()
    (model / "notes.txt").write_text("not ours")
    with pytest.raises(VolumeUnusable, match=r"2 of 2 files are damaged: m/v1/config.json is missing.*with repair"):
        run(stack)
    rows = json.loads(artifact(artifact_key("verify", stack.name, stack.name, part="findings")))
    assert [(row["state"], row["path"]) for row in rows] == [
        ("damaged", "m/v1/config.json"),
        ("damaged", "m/v1/model.safetensors"),
        ("foreign", "m/v1/notes.txt"),
    ]
    assert "is **damaged**" in artifact(artifact_key("verify", stack.name, stack.name))
    mended = run(stack, repair=True, models=["m@v1"])
    assert (mended.damaged, mended.repaired, mended.foreign) == (2, 2, 1)
    assert (model / "notes.txt").read_text() == "not ours"
    (model / "notes.txt").unlink()
    assert check_files(stack.kube, stack.name, CLAIM, image, "m/v1", digests(files)).startswith("2 files")
    assert stack.jobs() == []
    wait_until(lambda: not stack.kube.list("Secret", stack.name))  # it goes after its Job, by the garbage collector


def test_rot_stays_shown_until_it_is_mended(stack: Stack, image: str, kubeconfig: str) -> None:
    install(stack.cluster, kubeconfig)
    files = stack.put(config__json=b"{}", model__safetensors=os.urandom(1_000_000))
    preload_model(**stack.parameters())
    run(stack)
    assert (shown_of(stack)["phase"], verified(stack)["status"]) == ("Ready", "True")
    first = shown_of(stack)["verifiedAt"]
    flip_by_pod(stack, image, "m/v1/model.safetensors")
    with pytest.raises(VolumeUnusable, match="1 of 2 files are damaged"):
        run(stack)
    assert row(kubectl(stack.cluster, kubeconfig, "get", "cmodel", "-n", stack.name))["PHASE"] == "Damaged"
    message = shown_of(stack)["message"]
    assert all(words in message for words in ("m/v1/model.safetensors has SHA-256", "run verify-cache with models m@v1 and repair")), (
        message
    )
    reconcile_caches(cluster=stack.name, caches=[stack.name])
    preload_model(**stack.parameters())
    assert (shown_of(stack)["phase"], shown_of(stack)["message"], verified(stack)["status"]) == ("Damaged", message, "False")
    run(stack, repair=True)
    assert (shown_of(stack)["phase"], verified(stack)["status"], shown_of(stack)["verifiedAt"] >= first) == ("Ready", "True", True)
    reconcile_caches(cluster=stack.name, caches=[stack.name])
    assert (shown_of(stack)["phase"], verified(stack)["status"]) == ("Ready", "True")
    assert check_files(stack.kube, stack.name, CLAIM, image, "m/v1", digests(files)).startswith("2 files")


def shown_of(stack: Stack) -> dict[str, Any]:
    """What the catalogue says of m@v1."""
    status: dict[str, Any] = cached(stack.kube, stack.name, cached_model_name(stack.name, "m", "v1"))["status"]
    return status


def verified(stack: Stack) -> dict[str, Any]:
    return condition(cached(stack.kube, stack.name, cached_model_name(stack.name, "m", "v1")), "Verified")


def flip_by_pod(stack: Stack, image: str, path: str) -> None:
    """Change one byte of a file on the claim, as a pod that may write can; its size stays."""
    file = f"/models/{path}"
    change = "f.seek(5000); b = f.read(1)[0]; f.seek(5000); f.write(bytes([b ^ 1]))"
    code = f"import os; os.chmod({file!r}, 0o644); f = open({file!r}, 'r+b'); {change}; f.close()"
    cache = load_block(ModelCache, stack.name).spec()
    account = {"runAsNonRoot": True, "runAsUser": cache.uid, "runAsGroup": cache.gid, "seccompProfile": {"type": "RuntimeDefault"}}
    volume = {"name": "models", "persistentVolumeClaim": {"claimName": CLAIM}}
    container = {
        "name": "flip",
        "image": image,
        "command": ["python", "-c", code],
        "volumeMounts": [{"name": "models", "mountPath": "/models"}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec = {"restartPolicy": "Never", "securityContext": account, "containers": [container], "volumes": [volume]}
    stack.kube.create({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "flip", "namespace": stack.name}, "spec": spec})
    ended = {"Succeeded", "Failed"}
    wait_until(lambda: (stack.kube.get("Pod", "flip", stack.name) or {}).get("status", {}).get("phase") in ended)
    live = stack.kube.get("Pod", "flip", stack.name)
    assert live
    assert live["status"]["phase"] == "Succeeded", live["status"]
    stack.kube.delete("Pod", "flip", stack.name)


def test_a_repair_without_its_object_fails_and_says_why(stack: Stack) -> None:
    stack.put(config__json=b"{}")
    preload_model(**stack.parameters())
    (stack.on_disk() / "m/v1/config.json").write_text("{x}")
    for version in stack.s3.list_object_versions(Bucket=stack.name)["Versions"]:
        stack.s3.delete_object(Bucket=stack.name, Key=version["Key"], VersionId=version["VersionId"])
    with pytest.raises(VolumeUnusable, match="not repaired"):
        run(stack, repair=True)


def test_what_is_not_there_is_refused_with_all_reasons(stack: Stack) -> None:
    with pytest.raises(Refused) as refused:
        run(stack, models=["llama", "../m@v1"])
    told = str(refused.value)
    assert all(words in told for words in ("is not there", "'llama': names no version", "'../m'"))
    assert stack.jobs() == []


def test_a_claim_that_a_workload_holds_alone_is_refused_at_once(stack: Stack, image: str) -> None:
    stack.put(config__json=b"{}")
    stack.cache(accessMode="ReadWriteOncePod")
    preload_model(**stack.parameters())
    stack.kube.create(workload(stack.name, image))
    wait_until(lambda: ((stack.kube.get("Pod", "web", stack.name) or {}).get("status") or {}).get("phase") == "Running")
    with pytest.raises(Refused, match=f"is ReadWriteOncePod and mounted by Pod/{stack.name}/web"):
        run(stack)
    assert stack.jobs() == []
