"""The loader's Job and Secret by whole-value equality, and what is made of a loader's reports, by table."""

import base64
import hashlib
import json
from typing import Any

import pytest

import modelyard
from modelyard.caches import CacheSpec
from modelyard.errors import LoaderFailed, LoaderInterrupted, ModelyardError, NotEnoughSpace, SourceUnavailable
from modelyard.kube.loader_job import loader_job, loader_secret
from modelyard.kube.loader_report import load_error, progress_in, reported_result, retries_in
from modelyard.kube.run_loader import Relation, relation
from modelyard.models import Listing, ModelRef, S3Location
from modelyard.orders import LoadResult, LoadSpec, Progress, VerifyLevel

Manifest = dict[str, Any]
DIGEST = "sha256:" + "0a" * 32
SPEC = LoadSpec(
    model=ModelRef(name="Llama_3", version="v1"),
    source=S3Location(bucket="models", prefix="llama"),
    listing=Listing(digest=DIGEST, files=2, bytes=30),
)
CACHE = CacheSpec.model_validate(
    {
        "name": "main",
        "namespace": "models",
        "base_name": "cache",
        "storage_size": 300,
        "loader_image": "loader:1",
        "node_selector": {"disk": "fast"},
        "tolerations": ({"key": "gpu", "operator": "Exists"},),
    }
)
LABELS = {
    "app.kubernetes.io/name": "modelyard-loader",
    "app.kubernetes.io/component": "loader",
    "app.kubernetes.io/version": modelyard.__version__,
    "app.kubernetes.io/managed-by": "modelyard",
    "app.kubernetes.io/part-of": "modelyard",
    "job-type": "modelyard-loader",
    "pvc": "cache",
    "modelyard.dev/command": "preload",
    "modelyard.dev/model": "Llama_3",
    "modelyard.dev/version": "v1",
    "modelyard.dev/cache": "main",
}
ANNOTATIONS = {
    "modelyard.dev/model": "Llama_3",
    "modelyard.dev/version": "v1",
    "modelyard.dev/cache": "main",
    "modelyard.dev/content": DIGEST,
    "modelyard.dev/bytes": str(SPEC.listing.bytes),
}
TMP = "/tmp"  # noqa: S108 - in the pod
CONTAINER = {
    "name": "loader",
    "image": "loader:1",
    "args": ["preload", "--spec", SPEC.model_dump_json()],
    "env": [{"name": "MODELYARD_ROOT", "value": "/models"}, {"name": "HOME", "value": TMP}],
    "resources": {"requests": {"cpu": "500m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}},
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    },
    "terminationMessagePath": "/dev/termination-log",
    "terminationMessagePolicy": "File",
    "volumeMounts": [{"name": "models", "mountPath": "/models"}, {"name": "tmp", "mountPath": TMP}],
}
POD_SPEC = {
    "automountServiceAccountToken": False,
    "enableServiceLinks": False,
    "restartPolicy": "Never",
    "terminationGracePeriodSeconds": 10,
    "securityContext": {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "fsGroup": 10001,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    },
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "containers": [CONTAINER],
    "volumes": [
        {"name": "models", "persistentVolumeClaim": {"claimName": "cache"}},
        {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
    ],
}
SPEC_DIGEST = f"sha256:{hashlib.sha256(json.dumps(POD_SPEC, sort_keys=True).encode()).hexdigest()}"
JOB: Manifest = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {
        "name": "preload-llama-3-v1-27a4c548-93b00689",
        "namespace": "models",
        "labels": {**LABELS, "modelyard.dev/flow-run": "run-1"},
        "annotations": {**ANNOTATIONS, "modelyard.dev/spec-digest": SPEC_DIGEST, "modelyard.dev/flow-run": "run-1"},
    },
    "spec": {
        "suspend": False,
        "backoffLimit": 3,
        "activeDeadlineSeconds": 86400,
        "ttlSecondsAfterFinished": 86400,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {
            "rules": [
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {"action": "FailJob", "onExitCodes": {"containerName": "loader", "operator": "In", "values": [1]}},
            ]
        },
        "template": {
            "metadata": {"labels": LABELS, "annotations": ANNOTATIONS},
            "spec": POD_SPEC,
        },
    },
}


def test_job_without_credentials() -> None:
    assert loader_job(SPEC, CACHE, run_id="run-1") == JOB


def reference(name: str, **optional: bool) -> Manifest:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": JOB["metadata"]["name"], "key": name, **optional}}}


def test_credentials_are_referred_to_and_never_held() -> None:
    job = loader_job(SPEC, CACHE.model_copy(update={"service_account": "reader"}), run_id="run-1", secret_keys=("ca.crt",))
    assert job["spec"]["suspend"], "it waits for its Secret"
    pod = job["spec"]["template"]["spec"]
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CA_BUNDLE")
    assert pod["containers"][0]["env"][2:] == [reference(key, optional=True) for key in keys]
    assert pod["containers"][0]["volumeMounts"][2:] == [{"name": "ca", "mountPath": "/etc/modelyard/ca", "readOnly": True}]
    items = [{"key": "ca.crt", "path": "ca.crt"}]
    assert pod["volumes"][2:] == [{"name": "ca", "secret": {"secretName": job["metadata"]["name"], "optional": True, "items": items}}]
    assert pod["serviceAccountName"] == "reader"


def test_a_loader_that_was_given_keys_does_not_start_without_them() -> None:
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    job = loader_job(SPEC, CACHE, run_id="run-1", secret_keys=keys)
    assert job["spec"]["template"]["spec"]["containers"][0]["env"][2:] == [
        reference("AWS_ACCESS_KEY_ID"),
        reference("AWS_SECRET_ACCESS_KEY"),
        reference("AWS_SESSION_TOKEN", optional=True),
        reference("AWS_CA_BUNDLE", optional=True),
    ]


def test_a_registry_s_credentials_and_authority_come_as_variables() -> None:
    keys = ("MODELYARD_REGISTRY_CONFIG", "MODELYARD_REGISTRY_CA")
    job = loader_job(SPEC, CACHE, run_id="run-1", secret_keys=keys)
    assert job["spec"]["template"]["spec"]["containers"][0]["env"][-2:] == [reference(key) for key in keys]
    assert loader_secret(job | {"metadata": job["metadata"] | {"uid": "1"}}, dict.fromkeys(keys, "x"))["data"] == dict.fromkeys(
        sorted(keys), "eA=="
    )


def spec_digest(spec: LoadSpec = SPEC, cache: CacheSpec = CACHE, **options: Any) -> str:
    digest: str = loader_job(spec, cache, **{"run_id": "run-1", **options})["metadata"]["annotations"]["modelyard.dev/spec-digest"]
    return digest


@pytest.mark.parametrize(
    ("digest", "same"),
    [
        pytest.param(spec_digest(run_id="run-2"), True, id="another run"),
        pytest.param(spec_digest(cache=CACHE.model_copy(update={"loader_image": "loader:2"})), False, id="another image"),
        pytest.param(spec_digest(SPEC.model_copy(update={"verify": VerifyLevel.DIGESTS})), False, id="another order"),
        pytest.param(spec_digest(secret_keys=("ca.crt",)), False, id="a certificate"),
        pytest.param(spec_digest(secret_keys=("AWS_ACCESS_KEY_ID",)), False, id="keys"),
    ],
)
def test_the_spec_digest_tells_pods_apart(digest: str, same: bool) -> None:  # noqa: FBT001 - a column of the table
    assert (digest == spec_digest()) is same


def test_every_run_of_one_load_shares_one_name() -> None:
    specs = [SPEC, SPEC.model_copy(update={"listing": Listing(digest="sha256:" + "0b" * 32, files=2, bytes=30)})]
    assert len({loader_job(spec, CACHE, run_id=str(number))["metadata"]["name"] for number, spec in enumerate(specs)}) == 1


def test_secret_is_owned_by_its_job_and_names_the_bundle() -> None:
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": "models", "uid": "u"}}
    data = {"AWS_ACCESS_KEY_ID": "id", "ca.crt": "pem", "AWS_CA_BUNDLE": "/etc/modelyard/ca/ca.crt"}
    assert loader_secret(job, {"AWS_ACCESS_KEY_ID": "id", "ca.crt": "pem"}) == {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": "j",
            "namespace": "models",
            "labels": {"app.kubernetes.io/managed-by": "modelyard", "app.kubernetes.io/part-of": "modelyard"},
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "u", "controller": True}],
        },
        "type": "Opaque",
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()},
    }


def test_a_secret_takes_no_other_keys() -> None:
    with pytest.raises(ValueError, match=r"a loader's Secret holds .*, not PASSWORD"):
        loader_secret({"metadata": {}}, {"PASSWORD": "x"})


def live(*, owned: bool = True, digest: str = DIGEST, pod: str = "pod", verify: str = "sizes", **parts: Any) -> Manifest:
    labels = {"app.kubernetes.io/managed-by": "modelyard"} if owned else {}
    marks = {
        "modelyard.dev/content": digest,
        "modelyard.dev/spec-digest": pod,
        "modelyard.dev/reads-again": "true" if verify == "digests" else "false",
    }
    metadata = {"labels": labels, "annotations": marks, **parts.get("metadata", {})}
    return {"metadata": metadata, "spec": parts.get("spec", {"suspend": False}), "status": parts.get("status", {})}


PENDING, RUNNING, FAILED = ({"status": {"phase": phase}} for phase in ("Pending", "Running", "Failed"))


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        pytest.param(live(), Relation.SAME, id="same content, running"),
        pytest.param(live(spec={"suspend": True}), Relation.SAME, id="same content, left suspended"),
        pytest.param(live(owned=False), Relation.FOREIGN, id="another's"),
        pytest.param(live(metadata={"deletionTimestamp": "now"}), Relation.LEAVING, id="being deleted"),
        pytest.param(live(status={"conditions": [{"type": "Failed", "status": "True"}]}), Relation.FINISHED, id="failed"),
        pytest.param(live(digest="x", status={"conditions": [{"type": "Complete", "status": "True"}]}), Relation.FINISHED, id="complete"),
        pytest.param(live(status={"conditions": [{"type": "FailureTarget", "status": "True"}]}), Relation.SAME, id="about to fail"),
        pytest.param(live(digest="x"), Relation.OTHER_CONTENT, id="other content, running"),
        pytest.param(live(digest="x", spec={"suspend": True}), Relation.ABANDONED, id="other content, never started"),
        pytest.param(
            live(digest="x", spec={"suspend": True}, status={"startTime": "then"}), Relation.OTHER_CONTENT, id="other content, paused"
        ),
    ],
)
def test_relation_to_the_job_that_is_wanted(job: Manifest, expected: Relation) -> None:
    assert relation(job, live()) == expected


@pytest.mark.parametrize(
    ("job", "pods", "wanted", "expected"),
    [
        pytest.param(live(pod="x", spec={"suspend": True}), [], "sizes", Relation.ABANDONED, id="never started"),
        pytest.param(live(pod="x"), [], "sizes", Relation.ABANDONED, id="no pod yet"),
        pytest.param(live(pod="x"), [PENDING], "digests", Relation.ABANDONED, id="its pod waits"),
        pytest.param(live(pod="x"), [RUNNING], "sizes", Relation.EQUIVALENT, id="its result is the same version"),
        pytest.param(live(pod="x"), [FAILED, PENDING], "sizes", Relation.EQUIVALENT, id="a container of it has run"),
        pytest.param(live(pod="x", verify="digests"), [RUNNING], "sizes", Relation.EQUIVALENT, id="it checks more"),
        pytest.param(live(pod="x", verify="digests"), [RUNNING], "digests", Relation.EQUIVALENT, id="it checks as much"),
        pytest.param(live(pod="x"), [RUNNING], "digests", Relation.WEAKER, id="it checks less"),
        pytest.param(
            {**live(pod="x"), "metadata": {"labels": live()["metadata"]["labels"]}},
            [RUNNING],
            "sizes",
            Relation.OTHER_CONTENT,
            id="no marks",
        ),
    ],
)
def test_relation_to_a_job_with_another_pod(job: Manifest, pods: list[Manifest], wanted: str, expected: Relation) -> None:
    assert relation(job, live(verify=wanted), pods) == expected


PROGRESS = Progress(bytes=10, total_bytes=30, files=1, total_files=2)
PROGRESS_LINE = json.dumps({"event": "progress", **PROGRESS.model_dump()})


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        pytest.param("", None, id="no log"),
        pytest.param("Traceback\n[1]\n{}\n", None, id="other lines"),
        pytest.param(f'{{"event": "progress", "bytes": 1}}\n{PROGRESS_LINE}\nlisting', PROGRESS, id="the newest one counts"),
        pytest.param(f"{PROGRESS_LINE}\n{PROGRESS_LINE[:20]}", PROGRESS, id="a line cut short is passed over"),
    ],
)
def test_progress(log: str, expected: Progress | None) -> None:
    assert progress_in(log) == expected


def test_what_is_tried_again_is_found_among_other_lines() -> None:
    retry = json.dumps({"event": "retry", "message": "x: wrong bytes; fetched again"})
    assert retries_in(f"listing\n{PROGRESS_LINE}\n{retry}\n{retry[:9]}") == ["x: wrong bytes; fetched again"]


def ended(message: str = "", *, phase: str = "Failed", made: str = "1", **terminated: Any) -> Manifest:
    state = {"terminated": {"message": message, **terminated}}
    statuses = [{"name": "loader", "state": state}]
    metadata = {"name": f"pod-{made}", "namespace": "models", "creationTimestamp": made}
    return {"metadata": metadata, "spec": {"containers": []}, "status": {"phase": phase, "containerStatuses": statuses}}


def failed_job(reason: str = "BackoffLimitExceeded") -> Manifest:
    condition = {"type": "Failed", "status": "True", "reason": reason, "message": "words"}
    spec = {"activeDeadlineSeconds": 86400}
    return {"kind": "Job", "metadata": {"name": "j", "namespace": "models"}, "spec": spec, "status": {"conditions": [condition]}}


FULL = NotEnoughSpace("claim cache: 3 TiB are missing")
BUSY = SourceUnavailable("throttled", delay=30)


@pytest.mark.parametrize(
    ("reason", "pods", "log", "expected"),
    [
        pytest.param("PodFailurePolicy", [ended(json.dumps(FULL.to_data()), exitCode=1)], "", FULL, id="the loader's own error"),
        pytest.param(
            "BackoffLimitExceeded",
            [ended(json.dumps(BUSY.to_data()), made="2", exitCode=75), ended(json.dumps(FULL.to_data()), exitCode=1)],
            "",
            BUSY,
            id="the newest pod speaks",
        ),
        pytest.param(
            "DeadlineExceeded",
            [],
            "",
            LoaderFailed("Job/models/j was stopped at its limit of 24h 0m with 10 B of 30 B; run it again, it goes on from there"),
            id="out of time, with the limit and how far it was",
        ),
        pytest.param(
            "BackoffLimitExceeded",
            [ended(reason="OOMKilled", exitCode=137)],
            "",
            LoaderFailed(
                "Job/models/j, pod pod-1: container loader was killed for using more memory than its limit (OOMKilled):"
                " memory limit unknown; raise loaderMemoryLimit of the cache"
            ),
            id="out of memory is permanent and names the setting",
        ),
        pytest.param(
            "BackoffLimitExceeded",
            [ended(reason="Error", exitCode=137)],
            "",
            LoaderInterrupted("Job/models/j, pod pod-1: container loader was stopped by signal 9 (exit code 137)"),
            id="killed from outside is an interruption",
        ),
        pytest.param(
            "PodFailurePolicy",
            [ended(exitCode=1)],
            "Traceback\nImportError: boto3\n",
            LoaderFailed("Job/models/j, pod pod-1: container loader ended with exit code 1; end of its log: Traceback\nImportError: boto3"),
            id="no report: exit code and log",
        ),
        pytest.param(
            "BackoffLimitExceeded",
            [],
            "",
            LoaderInterrupted("Job/models/j failed and its pods are gone (BackoffLimitExceeded: words)"),
            id="nothing is left to ask",
        ),
    ],
)
def test_why_a_job_failed(reason: str, pods: list[Manifest], log: str, expected: ModelyardError) -> None:
    error = load_error(failed_job(reason), pods, log, PROGRESS)
    assert (type(error), error.to_data()) == (type(expected), expected.to_data())


RESULT = LoadResult(digest=DIGEST, files=2, bytes=30, fetched_bytes=30, seconds=1.5)


def test_result_is_read_from_the_pod_that_succeeded() -> None:
    message = json.dumps({"event": "result", **RESULT.model_dump()})
    pods = [ended("killed", made="2"), ended(message, phase="Succeeded")]
    assert reported_result(failed_job(), pods, LoadResult)[1] == RESULT


@pytest.mark.parametrize(
    ("pods", "error", "words"),
    [
        pytest.param([], LoaderInterrupted, "its pod and report are gone", id="pod is gone"),
        pytest.param([ended("done", phase="Succeeded")], LoaderFailed, "without a result; its termination message: 'done'", id="no JSON"),
        pytest.param([ended('{"event": "result", "new": 1}', phase="Succeeded")], LoaderFailed, "of another release", id="unknown fields"),
    ],
)
def test_a_result_that_cannot_be_read(pods: list[Manifest], error: type[ModelyardError], words: str) -> None:
    with pytest.raises(error, match=words):
        reported_result(failed_job(), pods, LoadResult)
