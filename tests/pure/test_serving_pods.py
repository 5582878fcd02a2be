"""Serving a modelcar: what is read back from its pods, who looks into them, and what is told of one that fails."""

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from modelyard.plans.model_image import ImageFile
from modelyard.plans.serving import Mode
from modelyard.plans.serving_pods import differences, digest_findings, digest_note, listing, parse_look, pod_findings, serves
from modelyard.serving.diagnose import diagnose_crash, diagnose_service
from modelyard.serving.look import twin_job
from modelyard.serving.service import is_served, lives
from tests.pure.test_serving_plan import DIGEST, FILES, IMAGE, request


def modelcar_pod(**changes: Any) -> dict[str, Any]:
    car = {"image": "registry.example/m:v1", "imagePullPolicy": "IfNotPresent"}
    mounts = [{"name": "kserve-provision-location", "mountPath": "/mnt"}]
    token = {"name": "kube-api-access-x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}
    spec = {
        "nodeName": "amd",
        "shareProcessNamespace": True,
        "serviceAccountName": "default",
        "initContainers": [{"name": "modelcar-init", **car, "volumeMounts": [token]}],
        "containers": [
            {
                "name": "kserve-container",
                "image": "runtime:1",
                "securityContext": {"runAsUser": 1010},
                "resources": {"limits": {"nvidia.com/gpu": "1"}},
                "env": [{"name": "SECRET", "value": "x"}],
                "volumeMounts": [*mounts, token],
            },
            {"name": "modelcar", **car, "volumeMounts": [*mounts, token]},
        ],
        "volumes": [{"name": "kserve-provision-location", "emptyDir": {}}, {"name": "kube-api-access-x", "projected": {}}],
        **changes,
    }
    return {"metadata": {"name": "llama-predictor-0", "namespace": "team"}, "spec": spec}


def native_pod(policy: str = "IfNotPresent", **mount: Any) -> dict[str, Any]:
    told = {"name": "mnt-models", "mountPath": "/mnt/models", "subPath": "models", **mount}
    volume = {"name": "mnt-models", "image": {"reference": "registry.example/m:v1", "pullPolicy": policy}}
    return {"spec": {"nodeName": "amd", "containers": [{"name": "kserve-container", "volumeMounts": [told]}], "volumes": [volume]}}


@pytest.mark.parametrize(
    ("pod", "mode", "findings"),
    [
        pytest.param(modelcar_pod(), Mode.MODELCAR, [], id="a modelcar"),
        pytest.param(
            modelcar_pod(shareProcessNamespace=False),
            Mode.MODELCAR,
            ["shareProcessNamespace is not true: the server cannot reach the files"],
            id="processes are not shared",
        ),
        pytest.param(modelcar_pod(initContainers=[]), Mode.MODELCAR, ["there is no container modelcar-init"], id="not fetched before"),
        pytest.param(native_pod(), Mode.NATIVE, [], id="mounted"),
        pytest.param(native_pod("Always"), Mode.NATIVE, ["the pull policy of volume mnt-models is Always, not IfNotPresent"], id="Always"),
        pytest.param(
            native_pod(subPath=None),
            Mode.NATIVE,
            ["container kserve-container does not mount the image's models directory at /mnt/models"],
            id="mounted whole",
        ),
    ],
)
def test_what_is_read_back_from_a_pod(pod: dict[str, Any], mode: Mode, findings: list[str]) -> None:
    assert serves(pod, request(mode=mode))
    assert pod_findings(pod, request(mode=mode)) == findings
    assert not serves(pod, request("registry.example/m:v2", mode))


@pytest.mark.parametrize(
    ("spec", "current"),
    [
        pytest.param({"serviceAccountName": "puller", "imagePullSecrets": [{"name": "regcred"}]}, True, id="as asked for"),
        pytest.param({"serviceAccountName": "puller", "imagePullSecrets": [{"name": "mesh"}, {"name": "regcred"}]}, True, id="and more"),
        pytest.param({"serviceAccountName": "default", "imagePullSecrets": [{"name": "regcred"}]}, False, id="the account of before"),
        pytest.param({"serviceAccountName": "puller"}, False, id="the secrets of before"),
    ],
)
def test_a_pod_of_other_credentials_is_one_of_before(spec: dict[str, Any], current: bool) -> None:  # noqa: FBT001
    asked = request(service_account="puller", pull_secrets=("regcred",))
    assert serves(modelcar_pod(**spec), asked) is current


def predictor(amount: str = "1", node_selector: dict[str, str] | None = None, *, ready: bool = True) -> dict[str, Any]:
    pod = modelcar_pod(nodeSelector={"of": "the runtime", **(node_selector or {})})
    pod["spec"]["containers"][0]["resources"] = {kind: {"cpu": amount, "memory": "1Gi"} for kind in ("requests", "limits")}
    return {**pod, "status": {"conditions": [{"type": "Ready", "status": str(ready)}]}}


POOL = {"pool": "gpu"}
ASKED = request(resources={"cpu": "0.5", "memory": "1024Mi"}, node_selector=POOL)
CURRENT = predictor(amount="500m", node_selector=POOL)


@pytest.mark.parametrize(
    ("pods", "changed", "served"),
    [
        pytest.param([CURRENT], True, True, id="as asked for, in other words"),
        pytest.param([CURRENT, CURRENT], True, True, id="more"),
        pytest.param([predictor(node_selector=POOL)], True, False, id="the resources of before"),
        pytest.param([predictor(amount="500m")], True, False, id="the nodes of before"),
        pytest.param([predictor(amount="500m")], False, False, id="the nodes of before, after a run that was killed"),
        pytest.param([CURRENT, predictor()], True, False, id="one of before is there yet"),
        pytest.param([CURRENT, predictor("500m", POOL, ready=False)], True, False, id="one is not Ready"),
        pytest.param([CURRENT, predictor("500m", POOL, ready=False)], False, True, id="one more is coming, and nothing was changed"),
        pytest.param([], True, False, id="none"),
    ],
)
def test_served_is_by_pods_as_asked_for(pods: list[dict[str, Any]], changed: bool, served: bool) -> None:  # noqa: FBT001
    assert is_served(pods, ASKED, changed=changed) is served


@pytest.mark.parametrize(("phase", "alive"), [("Running", True), ("Failed", False)])
def test_a_pod_that_was_evicted_is_not_waited_for(phase: str, alive: bool) -> None:  # noqa: FBT001
    assert lives({"metadata": {}, "status": {"phase": phase}}) is alive
    assert not lives({"metadata": {"deletionTimestamp": "x"}, "status": {"phase": phase}})


def test_a_node_with_another_image_of_the_tag_is_a_failure() -> None:
    pod, other = modelcar_pod(), f"sha256:{'b' * 64}"
    pod["status"] = {"containerStatuses": [{"name": "modelcar", "imageID": f"registry.example/m@{other}"}]}
    [found] = digest_findings(pod, request(), IMAGE)
    assert f"runs {other}, the registry has {DIGEST} now: the tag was moved" in found
    assert "serve it by digest, or under a new tag" in found
    by_digest = request(f"registry.example/m:v1@{DIGEST}")
    assert digest_findings(pod, by_digest, IMAGE) == [], "the same files, under another index that the node knows"
    pod["status"]["containerStatuses"][0]["imageID"] = f"registry.example/m@{DIGEST}"
    assert (digest_findings(pod, request(), IMAGE), digest_note(pod, request())) == ([], None)


def test_that_it_cannot_be_seen_which_image_is_mounted_is_told_of() -> None:
    wanted = request(mode=Mode.NATIVE)
    assert digest_findings(native_pod(), wanted, IMAGE) == []
    assert "serve it by digest to be sure" in (digest_note(native_pod(), wanted) or "")
    assert digest_note(native_pod(), request(f"registry.example/m@{DIGEST}", Mode.NATIVE)) is None


def test_a_twin_has_what_the_webhook_made_and_nothing_else_of_the_server() -> None:
    spec = twin_job(modelcar_pod(), "llama")["spec"]["template"]["spec"]
    looker, car = spec["containers"]
    assert (spec["shareProcessNamespace"], spec["automountServiceAccountToken"]) == (True, False)
    assert (looker["image"], looker["securityContext"]) == ("runtime:1", {"runAsUser": 1010})
    assert "env" not in looker
    assert "nvidia.com/gpu" not in looker["resources"]["limits"]
    assert [each["name"] for each in spec["volumes"]] == ["kserve-provision-location", "look"]
    assert [each["mountPath"] for each in looker["volumeMounts"]] == ["/mnt", "/tmp"]  # noqa: S108
    assert [each["name"] for each in car["volumeMounts"]] == ["kserve-provision-location"]


PROGRAMS = ("find", "head", "stat", "sort", "wc", "sha256sum", "cut", "sleep")


@pytest.mark.parametrize(("lacking", "code"), [(None, 0), *((name, 127) for name in PROGRAMS)])
def test_a_look_without_its_programs_says_nothing_of_the_files(tmp_path: Path, lacking: str | None, code: int) -> None:
    """The very script that a pod runs, with only what the image has on its path."""
    model, programs, told = tmp_path / "model", tmp_path / "bin", tmp_path / "told"
    for directory in (model, programs):
        directory.mkdir()
    (model / "config.json").write_bytes(b"{}")
    for name in PROGRAMS:
        if name != lacking:
            (programs / name).symlink_to(shutil.which(name) or name)
    look = twin_job(modelcar_pod(), "llama")["spec"]["template"]["spec"]["containers"][0]
    script = look["command"][2].replace("/tmp/", f"{tmp_path}/").replace("/dev/termination-log", str(told))  # noqa: S108
    command = [shutil.which("sh") or "sh", "-c", script, "look", str(model)]
    done = subprocess.run(command, env={"PATH": str(programs)}, check=False, capture_output=True)
    assert done.returncode == code, done.stderr
    if lacking:
        assert told.read_text() == f"the image has no {lacking}\n"
    else:
        assert differences((ImageFile(path="config.json", size=2),), parse_look(told.read_text())) == []


def message(files: tuple[ImageFile, ...], kept: int | None = None) -> str:
    text = listing(files)
    return f"{len(files)} {hashlib.sha256(text.encode()).hexdigest()}\n{text[:kept]}"


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        pytest.param(FILES, [], id="the same"),
        pytest.param(FILES[:1], ["sub/model.safetensors is not there"], id="one is missing"),
        pytest.param((*FILES, ImageFile(path="x", size=1)), ["x is there, and not in the image"], id="one too many"),
        pytest.param((FILES[0], ImageFile(path="sub/model.safetensors", size=6)), ["sub/model.safetensors has 6 bytes, not 7"], id="cut"),
    ],
)
def test_files_seen_in_a_pod(seen: tuple[ImageFile, ...], expected: list[str]) -> None:
    assert differences(FILES, parse_look(message(seen))) == expected


def test_a_listing_that_does_not_fit_is_compared_by_its_digest() -> None:
    many = tuple(ImageFile(path=f"part-{number}.bin", size=number) for number in range(500))
    assert differences(many, parse_look(message(many, kept=100))) == []
    other = (*many[:-1], ImageFile(path="part-499.bin", size=1))
    assert differences(many, parse_look(message(other, kept=100))) == ["500 files are there, 500 in the image, or their sizes differ"]


# Diagnoses --------------------------------------------------------------------------------------------------------------


def crashing(container: str, text: str, **more: Any) -> dict[str, Any]:
    ended = {"terminated": {"exitCode": 1, "reason": "Error", "message": text}}
    status = {"name": container, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": ended, "restartCount": 2, **more}
    return {"status": {"initContainerStatuses": [status]}}


@pytest.mark.parametrize(
    ("pod", "words", "permanent"),
    [
        pytest.param(crashing("modelcar-init", "NOK ... (/models does not exist or is empty)"), "build-modelcar", True, id="no models"),
        pytest.param(crashing("modelcar-init", 'exec: "sh": executable file not found in $PATH'), "has no shell", True, id="no shell"),
        pytest.param(crashing("kserve-container", "no model yet"), "once or twice", False, id="a server that came first"),
        pytest.param(crashing("kserve-container", "no model yet", restartCount=9), "again and again", True, id="a server that never comes"),
    ],
)
def test_a_container_that_ends_again_and_again(pod: dict[str, Any], words: str, permanent: bool) -> None:  # noqa: FBT001
    found = diagnose_crash(pod)
    assert found
    assert words in str(found)
    assert found.permanent is permanent


def test_a_missing_runtime() -> None:
    failure = {"reason": "NoSupportingRuntime", "message": "No runtime found to support predictor"}
    found = diagnose_service({"status": {"modelStatus": {"transitionStatus": "InvalidSpec", "lastFailureInfo": failure}}})
    assert found
    assert found.permanent
    assert "make a ServingRuntime for this format" in str(found)
    assert diagnose_service({"status": {"modelStatus": {"transitionStatus": "UpToDate", "lastFailureInfo": failure}}}) is None
