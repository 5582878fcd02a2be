"""Derived names at their longest, composed here and judged by the API server and the Job controller themselves."""

import pytest

from modelyard.kube.client import Kube
from modelyard.kube.loader_job import loader_job, loader_secret
from modelyard.names import preload_job_name
from tests.cluster.support import cache_spec, load_spec

pytestmark = pytest.mark.cluster

LONGEST_CLAIM = {"base_name": "b" * 40, "pvc_name_suffix": "s" * 22}
LONG_RUN = "0f9f1fff-dddc-8543-e000-" + "a" * 60


@pytest.mark.parametrize(
    ("name", "version"),
    [
        pytest.param("m" * 100, "v" * 100, id="longest"),
        pytest.param("Llama-3.1_" * 9 + "X", "2026.11.21-RC_" * 7 + "1", id="longest, of every character"),
        pytest.param("m", "1", id="shortest"),
        pytest.param("a" * 22, "b" * 22, id="just what fits unchanged"),
    ],
)
def test_longest_names_make_a_valid_job_pod_and_secret(kube: Kube, namespace: str, name: str, version: str) -> None:
    cache = cache_spec(namespace, name="C" + "_" * 98 + "z", **LONGEST_CLAIM)
    job = loader_job(load_spec(name=name, version=version), cache, run_id=LONG_RUN, secret_keys=("ca.crt",))
    made = kube.create(job, dry_run=True)
    assert made["metadata"]["name"] == preload_job_name(cache.claim, name, version)
    kube.create(loader_secret(made, {"ca.crt": "pem"}), dry_run=True)
    # The Job controller names pods <job>-<5 characters> and labels them with the Job's name.
    template = made["spec"]["template"]
    metadata = {"name": f"{made['metadata']['name']}-abcde", "namespace": namespace, "labels": template["metadata"]["labels"]}
    kube.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}, dry_run=True)
