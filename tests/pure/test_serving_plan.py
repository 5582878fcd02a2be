"""Serving a modelcar: what is refused, with its reason, what is only noted, and what is read back from pods."""

import base64
import hashlib
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelyard.errors import Refused
from modelyard.images.descriptors import Platform
from modelyard.images.references import Reference
from modelyard.plans.model_image import ImageFacts, ImageFile
from modelyard.plans.nodes import NodeFacts
from modelyard.plans.serving import Mode, PullSecret, ServeFacts, ServePlan, ServeRequest, plan_serving
from modelyard.plans.serving_pods import differences, digest_findings, digest_note, listing, parse_look, pod_findings, serves
from modelyard.serving.diagnose import diagnose_crash, diagnose_service
from modelyard.serving.look import twin_job
from modelyard.serving.service import hosts_of, is_served, lives

DIGEST = f"sha256:{'a' * 64}"
FILES = (ImageFile(path="config.json", size=2), ImageFile(path="sub/model.safetensors", size=7))
IMAGE = ImageFacts(
    digest=DIGEST, digests=(DIGEST,), platforms=(Platform(architecture="amd64"),), bytes=4096, files=FILES, lacks=(), public=True
)
AMD = NodeFacts("amd", labels={"kubernetes.io/arch": "amd64"})
ARM = NodeFacts("arm", labels={"kubernetes.io/arch": "arm64", "pool": "arm"})
FACTS = ServeFacts(image=IMAGE, section={"enableModelcar": True}, account_exists=True, nodes=(AMD, ARM))


def request(image: str = "registry.example/m:v1", mode: Mode = Mode.MODELCAR, **more: Any) -> ServeRequest:
    told: dict[str, Any] = {"name": "llama", "namespace": "team", "model_format": "sklearn"} | more
    return ServeRequest(image=Reference.parse(image), mode=mode, **told)


def test_the_service() -> None:
    plan = plan_serving(request(runtime="own", resources={"cpu": "1"}, pull_secrets=("pull",)), FACTS)
    assert plan.approved() == IMAGE
    assert plan.manifest["spec"]["predictor"] == {
        "minReplicas": 1,
        "model": {
            "modelFormat": {"name": "sklearn"},
            "storageUri": "oci://registry.example/m:v1",
            "runtime": "own",
            "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}},
        },
        "imagePullSecrets": [{"name": "pull"}],
    }


@pytest.mark.parametrize(
    ("image", "mode", "uri"),
    [
        (f"registry.example/m@{DIGEST}", Mode.MODELCAR, f"oci://registry.example/m@{DIGEST}"),
        (f"registry.example/m:latest@{DIGEST}", Mode.MODELCAR, f"oci://registry.example/m:latest@{DIGEST}"),
        ("registry.example:5000/m:1.0", Mode.NATIVE, "oci+native://registry.example:5000/m:1.0"),
    ],
)
def test_a_digest_or_a_specific_tag_is_taken(image: str, mode: Mode, uri: str) -> None:
    plan = plan_serving(request(image, mode), FACTS)
    assert plan.problems == ()
    assert plan.manifest["spec"]["predictor"]["model"]["storageUri"] == uri


def live(**metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": "llama", "namespace": "team", **metadata}}


REFUSED = [
    pytest.param(request("registry.example/m"), replace(FACTS, image=None), "no tag makes Kubernetes' pull policy Always", id="no tag"),
    pytest.param(request("registry.example/m:latest"), replace(FACTS, image=None), "the tag latest makes .* Always", id="latest"),
    pytest.param(request(name="Llama_3"), FACTS, "must be 1 to 50 lower-case letters", id="a name that KServe does not take"),
    pytest.param(request(), replace(FACTS, image=None), "is not in the registry", id="no image"),
    pytest.param(
        request(),
        replace(FACTS, image=IMAGE.model_copy(update={"lacks": ("sh", "ln")})),
        "has no sh, ln, which a modelcar runs",
        id="no shell",
    ),
    pytest.param(
        request(node_selector={"pool": "arm"}), FACTS, "is for linux/amd64, which none of the nodes is", id="no node of its platform"
    ),
    pytest.param(request(), replace(FACTS, section={}), "run enable-modelcars first", id="disabled"),
    pytest.param(request(mode=Mode.NATIVE), replace(FACTS, section={}), "run enable-modelcars first", id="disabled, for native too"),
    pytest.param(
        request(), replace(FACTS, section={"ociModelMode": "native"}), r"takes oci:// for native here", id="oci:// means something else"
    ),
    pytest.param(
        request(service_account="x"), replace(FACTS, account_exists=False), "ServiceAccount/team/x: is not there", id="no account"
    ),
    pytest.param(request(), replace(FACTS, live=live()), "was not made by Modelyard, so it is not changed", id="the service of others"),
    pytest.param(
        request(), replace(FACTS, live=live(deletionTimestamp="x"), live_is_ours=True), "is being deleted", id="one that is going"
    ),
]


@pytest.mark.parametrize(("wanted", "facts", "words"), REFUSED)
def test_refused(wanted: ServeRequest, facts: ServeFacts, words: str) -> None:
    with pytest.raises(Refused, match=words):
        plan_serving(wanted, facts).approved()


def test_all_that_stands_against_it_is_told_at_once() -> None:
    facts = replace(FACTS, image=None, section={}, account_exists=False)
    assert len(plan_serving(request("registry.example/m:latest", name="L"), facts).problems) == 4


def test_a_native_image_needs_no_shell() -> None:
    facts = replace(FACTS, image=IMAGE.model_copy(update={"lacks": ("sh",)}))
    assert plan_serving(request(mode=Mode.NATIVE), facts).problems == ()


PRIVATE = replace(FACTS, image=IMAGE.model_copy(update={"public": False}))
OTHER = PullSecret("hub", ("docker.io",))


@pytest.mark.parametrize(
    ("wanted", "secrets", "problem", "note"),
    [
        pytest.param(request(), (), "has no pull secret, and registry.example asks for one", None, id="none"),
        pytest.param(request(), (OTHER,), r"has pull secrets \(hub\), and none for registry.example", None, id="of another registry"),
        pytest.param(request(), (OTHER, PullSecret("ours", ("registry.example",))), None, None, id="one covers it"),
        pytest.param(request(), (OTHER, PullSecret("ours")), None, "whether ours has credentials", id="one may not be read"),
        pytest.param(request("docker.io/o/m:v1"), (PullSecret("login", ("index.docker.io",)),), None, None, id="as docker login writes it"),
        pytest.param(request("docker.io/o/m:v1"), (OTHER,), None, None, id="of Docker Hub"),
        pytest.param(request("a.azurecr.io/m:v1"), (PullSecret("glob", ("*.azurecr.io",)),), None, None, id="a pattern"),
        pytest.param(
            request("r.a.example:5000/m:v1"), (PullSecret("glob", ("*.a.example:5000",)),), None, None, id="a pattern with a port"
        ),
        pytest.param(
            request("r.a.example/m:v1"),
            (PullSecret("glob", ("*.example",)),),
            "and none for r.a.example",
            None,
            id="a pattern of fewer parts",
        ),
        pytest.param(request(nodes_have_credentials=True), (), None, None, id="the nodes have credentials"),
        pytest.param(request("1.dkr.ecr.eu-west-1.amazonaws.com/m:v1"), (), None, "credentials of their cloud", id="a cloud's registry"),
    ],
)
def test_pull_secrets(wanted: ServeRequest, secrets: tuple[PullSecret, ...], problem: str | None, note: str | None) -> None:
    plan: ServePlan = plan_serving(wanted, replace(PRIVATE, pull_secrets=secrets))
    if problem:
        with pytest.raises(Refused, match=problem):
            plan.approved()
    else:
        assert plan.problems == ()
    assert [note for each in plan.notes if note and note in each] == ([note] if note else [])


def encoded(config: object) -> str:
    return base64.b64encode(json.dumps(config).encode()).decode()


AUTHS = {"https://index.docker.io/v1/": {"username": "u", "password": "p"}, "*.azurecr.io": {"auth": "dTpw"}}


@pytest.mark.parametrize(
    ("data", "hosts"),
    [
        pytest.param({".dockerconfigjson": encoded({"auths": AUTHS})}, ("*.azurecr.io", "index.docker.io"), id="credentials"),
        pytest.param({".dockercfg": encoded(AUTHS)}, None, id="the older kind"),
        pytest.param({".dockerconfigjson": encoded([])}, None, id="not made out"),
        pytest.param({".dockerconfigjson": "%%%"}, None, id="not Base64"),
        pytest.param({"other": ""}, (), id="no pull secret"),
    ],
)
def test_registries_of_a_pull_secret(data: dict[str, str], hosts: tuple[str, ...] | None) -> None:
    assert hosts_of({"data": data}) == hosts


def test_a_service_account_that_may_not_be_read_is_told_of() -> None:
    plan = plan_serving(request(), replace(PRIVATE, account_exists=None))
    assert plan.problems == ()
    assert "may not read their service account" in " ".join(plan.notes)


# Pods -------------------------------------------------------------------------------------------------------------------


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
