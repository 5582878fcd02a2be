"""Answers of an API server, and of what stands before it, as errors: by table. The real ones are in tests/cluster."""

import json
from typing import Any

import pytest

from modelyard.errors import ClusterRefused, ClusterUnavailable, ModelyardError
from modelyard.kube.failures import AlreadyExists, Answer, Changed, Expired, failure
from modelyard.kube.resources import ObjectRef, resource

REF = ObjectRef("Job", "j", "models")


def status(code: int, message: str, **more: Any) -> Answer:
    return Answer(code, json.dumps({"kind": "Status", "message": message, **more}).encode(), {})


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(
            Answer(429, b"too many requests", {"Retry-After": "7"}),
            ClusterUnavailable("create Job/models/j failed: too many requests (429)", delay=7),
            id="throttled: as long as the server says",
        ),
        pytest.param(
            Answer(503, b"<html>" + b"x" * 700, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}),
            ClusterUnavailable(f"create Job/models/j failed: <html>{'x' * 594}... (503)", delay=5),
            id="a proxy's page, cut short",
        ),
        pytest.param(
            status(500, "etcdserver: leader changed"),
            ClusterUnavailable("create Job/models/j failed: etcdserver: leader changed (500)", delay=5),
            id="server error",
        ),
        pytest.param(
            status(410, "too old resource version"),
            Expired("create Job/models/j failed: too old resource version (410)", delay=0),
            id="expired",
        ),
        pytest.param(
            status(409, "exists", reason="AlreadyExists"),
            AlreadyExists("create Job/models/j failed: exists (409)"),
            id="name is taken",
        ),
        pytest.param(
            status(409, "the UID in the precondition differs", reason="Conflict"),
            Changed("create Job/models/j failed: the UID in the precondition differs (409)"),
            id="precondition",
        ),
        pytest.param(
            status(422, "field is immutable", details={"causes": [{"field": "metadata.uid"}]}),
            Changed("create Job/models/j failed: field is immutable (422)"),
            id="a patch of another uid",
        ),
        pytest.param(
            status(401, "Unauthorized"),
            ClusterRefused(
                "create Job/models/j failed: Unauthorized (401);"
                " the credentials of this kubeconfig or service account are missing, wrong or expired"
            ),
            id="credentials",
        ),
        pytest.param(
            status(403, 'admission webhook "policy" denied the request'),
            ClusterRefused(
                'create Job/models/j failed: admission webhook "policy" denied the request (403);'
                " an admission policy of the cluster refuses it; change the object, or the policy"
            ),
            id="admission",
        ),
    ],
)
def test_failure(answer: Answer, expected: ModelyardError) -> None:
    error = failure("create", REF, answer)
    assert (type(error), error.to_data()) == (type(expected), expected.to_data())


@pytest.mark.parametrize(
    ("kind", "namespace", "name", "subresource", "path"),
    [
        pytest.param("Pod", "a", "p", "log", "/api/v1/namespaces/a/pods/p/log", id="subresource of the core API"),
        pytest.param("Job", None, None, None, "/apis/batch/v1/jobs", id="in all namespaces"),
        pytest.param("StorageClass", "a", "c", None, "/apis/storage.k8s.io/v1/storageclasses/c", id="of the cluster"),
        pytest.param("ConfigMap", "a", "../x", None, "/api/v1/namespaces/a/configmaps/..%2Fx", id="names stay names"),
    ],
)
def test_path(kind: str, namespace: str | None, name: str | None, subresource: str | None, path: str) -> None:
    assert resource(kind).path(namespace, name, subresource) == path
