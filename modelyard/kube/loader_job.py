"""The loader's Job and its Secret as values: pure builders.

The Job carries the whole order (``<command> --spec <JSON>``) and no secret. One that needs a Secret is made suspended:
run_loader makes the Secret, owned by the Job, and then lets the Job go, so that a run that is killed in between leaves no Secret.
"""

import base64
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import modelyard
from modelyard.caches import CacheSpec
from modelyard.kube.apply import OWNERSHIP
from modelyard.kube.resources import GROUP, Manifest
from modelyard.names import label_value
from modelyard.oci.environment import AUTHORITY_VARIABLE, CONFIG_VARIABLE, VOUCHER_VARIABLE
from modelyard.orders import Order

CONTAINER = "loader"
LOADER_JOB_TYPE = "modelyard-loader"  # the label job-type of loaders and their pods
MOUNT_PATH = "/models"
RUN_LABEL = f"{GROUP}/flow-run"
CONTENT_ANNOTATION = f"{GROUP}/content"
SPEC_ANNOTATION = f"{GROUP}/spec-digest"
REREAD_ANNOTATION = f"{GROUP}/reads-again"
BYTES_ANNOTATION = f"{GROUP}/bytes"
CA_KEY = "ca.crt"
_KEY_PAIR = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
CREDENTIAL_KEYS = (*_KEY_PAIR, "AWS_SESSION_TOKEN")
REGISTRY_KEYS = (CONFIG_VARIABLE, AUTHORITY_VARIABLE, VOUCHER_VARIABLE)
SECRET_KEYS = (*CREDENTIAL_KEYS, *REGISTRY_KEYS, CA_KEY)

#: The loader ends with this code when no other try will help.
PERMANENT_EXIT_CODE = 1
BACKOFF_LIMIT = 3
DEADLINE = timedelta(days=1)
KEPT_AFTER_END = timedelta(days=1)
KEPT_AFTER_LOOK = timedelta(minutes=15)

_CA_DIRECTORY = "/etc/modelyard/ca"
_BUNDLE_KEY = "AWS_CA_BUNDLE"


@dataclass(frozen=True, slots=True)
class _SecretRef:
    """A Secret by its name and its keys' names: the builders see no value."""

    name: str
    keys: frozenset[str]


def loader_job(
    order: Order,
    cache: CacheSpec,
    *,
    run_id: str,
    secret_keys: Collection[str] = (),
    deadline: timedelta = DEADLINE,
    node: str | None = None,
) -> Manifest:
    """The Job that carries out ``order`` beside the cache's claim; ``deadline`` counts from its start.

    ``secret_keys`` are the keys of its Secret (see ``loader_secret``), which has the Job's name; with none, there is no Secret and the Job
    starts at once. ``node`` is the one node to run on; None leaves it to the scheduler.
    """
    name = order.job_name(cache.claim, run_id)
    labels = _labels(order, cache)
    pod = _pod_spec(order, cache, _SecretRef(name, frozenset(secret_keys)) if secret_keys else None, node)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": cache.namespace,
            "labels": {**labels, RUN_LABEL: label_value(run_id)},
            "annotations": {**_annotations(order, cache), SPEC_ANNOTATION: _digest(pod), RUN_LABEL: run_id},
        },
        "spec": {
            "suspend": bool(secret_keys),
            "backoffLimit": BACKOFF_LIMIT,
            "activeDeadlineSeconds": round(deadline.total_seconds()),
            "ttlSecondsAfterFinished": round(_kept(order).total_seconds()),
            "podReplacementPolicy": "Failed",  # two loaders never write to one staging directory
            "podFailurePolicy": {"rules": _failure_rules()},
            "template": {
                "metadata": {"labels": labels, "annotations": _annotations(order, cache)},
                "spec": pod,
            },
        },
    }


def _kept(order: Order) -> timedelta:
    """How long an ended Job stays for people to look at; one that only looked is of use to its own run alone."""
    return KEPT_AFTER_LOOK if order.read_only else KEPT_AFTER_END


def loader_secret(job: Manifest, data: Mapping[str, str]) -> Manifest:
    """The credentials of a Job that exists, deleted together with it.

    ``data`` may hold AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN and ``ca.crt`` (PEM) for a bucket, and for a
    registry what ``modelyard.oci.environment`` names.

    Raises:
        ValueError: another key.
    """
    if unknown := sorted(set(data) - {*SECRET_KEYS}):
        raise ValueError(f"a loader's Secret holds {', '.join(SECRET_KEYS)}, not {', '.join(unknown)}")
    bundle = {_BUNDLE_KEY: f"{_CA_DIRECTORY}/{CA_KEY}"} if CA_KEY in data else {}
    metadata = job["metadata"]
    owner = {"apiVersion": job["apiVersion"], "kind": job["kind"], "name": metadata["name"], "uid": metadata["uid"], "controller": True}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"], "labels": {**OWNERSHIP}, "ownerReferences": [owner]},
        "type": "Opaque",
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in sorted({**data, **bundle}.items())},
    }


def _labels(order: Order, cache: CacheSpec) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "modelyard-loader",
        "app.kubernetes.io/component": "loader",
        "app.kubernetes.io/version": label_value(modelyard.__version__),
        **OWNERSHIP,
        "job-type": LOADER_JOB_TYPE,
        "pvc": cache.claim,
        f"{GROUP}/command": order.command,
        f"{GROUP}/cache": label_value(cache.name),
        **{f"{GROUP}/{key}": label_value(value) for key, value in order.about.items()},
    }


def _annotations(order: Order, cache: CacheSpec) -> dict[str, str]:
    """Labels cut long names short; annotations hold them whole."""
    return {
        f"{GROUP}/cache": cache.name,
        **{f"{GROUP}/{key}": value for key, value in order.about.items()},
        CONTENT_ANNOTATION: order.content,
        BYTES_ANNOTATION: str(order.writes),
        **({REREAD_ANNOTATION: "true"} if order.reads_again else {}),
    }


def _digest(pod: Manifest) -> str:
    """Kept beside the pod's spec, because the server fills in defaults: what it gives back cannot be compared."""
    return f"sha256:{hashlib.sha256(json.dumps(pod, sort_keys=True).encode()).hexdigest()}"


def _failure_rules() -> list[Manifest]:
    permanent = {"containerName": CONTAINER, "operator": "In", "values": [PERMANENT_EXIT_CODE]}
    return [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": permanent},
    ]


def _pod_spec(order: Order, cache: CacheSpec, secret: _SecretRef | None, node: str | None) -> Manifest:
    account = {"serviceAccountName": cache.service_account} if cache.service_account else {}
    return {
        **account,
        # Web hooks of cloud identities mount tokens of their own; the API's token is of no use to a loader.
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 10,
        "securityContext": _pod_security(cache),
        "nodeSelector": dict(cache.node_selector),
        **({"affinity": on_node(node)} if node else {}),
        "tolerations": [dict(toleration) for toleration in cache.tolerations],
        "containers": [_container(order, cache, secret)],
        "volumes": [
            *([{"name": "models", "persistentVolumeClaim": {"claimName": cache.claim, **_read_only(order)}}] if order.needs_volume else []),
            *([{"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}] if order.needs_scratch else []),
            *([_ca_volume(secret.name)] if secret else []),
        ],
    }


def on_node(name: str) -> Manifest:
    """Not ``nodeName``, which goes past the scheduler: a claim that waits for its first pod would wait for ever."""
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}


def _read_only(order: Order) -> Manifest:
    return {"readOnly": True} if order.read_only else {}


def _pod_security(cache: CacheSpec) -> Manifest:
    """What the restricted level asks for, as the user whom the readers expect."""
    return {
        "runAsNonRoot": True,
        "runAsUser": cache.uid,
        "runAsGroup": cache.gid,
        "fsGroup": cache.gid,
        "fsGroupChangePolicy": "OnRootMismatch",  # else the kubelet walks all files of the volume at every start
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _container(order: Order, cache: CacheSpec, secret: _SecretRef | None) -> Manifest:
    return {
        "name": CONTAINER,
        "image": cache.loader_image,
        "args": [order.command, "--spec", order.model_dump_json()],
        "env": [
            {"name": "MODELYARD_ROOT", "value": MOUNT_PATH},
            {"name": "HOME", "value": "/tmp"},  # noqa: S108 - the pod's own emptyDir; an arbitrary uid has no home
            *([_from_secret(secret, key) for key in _variables(secret)] if secret else []),
        ],
        "resources": _resources(cache),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "volumeMounts": [
            *([{"name": "models", "mountPath": MOUNT_PATH, **_read_only(order)}] if order.needs_volume else []),
            *([{"name": "tmp", "mountPath": "/tmp"}] if order.needs_scratch else []),  # noqa: S108
            *([{"name": "ca", "mountPath": _CA_DIRECTORY, "readOnly": True}] if secret else []),
        ],
    }


def _variables(secret: _SecretRef) -> tuple[str, ...]:
    return (*CREDENTIAL_KEYS, _BUNDLE_KEY, *(key for key in REGISTRY_KEYS if key in secret.keys))


def _from_secret(secret: _SecretRef, key: str) -> Manifest:
    """Optional, because a Secret may hold a certificate alone; but a loader that was given keys never runs as its node, or unnamed."""
    optional = {} if key in {*_KEY_PAIR, *REGISTRY_KEYS} and key in secret.keys else {"optional": True}
    return {"name": key, "valueFrom": {"secretKeyRef": {"name": secret.name, "key": key, **optional}}}


def _ca_volume(secret_name: str) -> Manifest:
    return {"name": "ca", "secret": {"secretName": secret_name, "optional": True, "items": [{"key": CA_KEY, "path": CA_KEY}]}}


def _resources(cache: CacheSpec) -> dict[str, Any]:
    wanted = cache.loader_resources
    limits = {"memory": wanted.memory_limit, **({"cpu": wanted.cpu_limit} if wanted.cpu_limit else {})}
    return {"requests": {"cpu": wanted.cpu_request, "memory": wanted.memory_request}, "limits": limits}
