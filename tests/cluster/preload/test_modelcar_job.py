"""Both paths meet on a real cluster: a bucket's version becomes an image beside its claim, and the image a version on the claim."""

import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from blocks import OciRegistry
from flows.modelcar import build_modelcar
from flows.preload import preload_model
from flows.verify import verify_cache
from modelyard.errors import Refused, VolumeUnusable
from tests.cluster.preload.conftest import Stack
from tests.services.oci.oracle import assert_modelcar

pytestmark = pytest.mark.cluster
CLAIM = "modelyard-models-cache"
MIB = 1024 * 1024


@pytest.fixture
def registry(stack: Stack) -> str:
    """The cluster's registry as the block of the stack's name; its host."""
    OciRegistry(host=stack.cluster.registry, plain_http=True, resume_uploads=True).save(stack.name)
    return stack.cluster.registry


@contextmanager
def pods_of_builds(stack: Stack) -> Iterator[dict[str, dict[str, Any]]]:
    """The pods of builders that appear meanwhile, as they were last seen."""
    seen: dict[str, dict[str, Any]] = {}
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.2):
            for pod in stack.kube.list("Pod", stack.name, label_selector="modelyard.dev/command=build"):
                seen[pod["metadata"]["name"]] = pod

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def assert_writes_nowhere(pod: dict[str, Any]) -> None:
    [container] = pod["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert all(mount.get("readOnly") for mount in container["volumeMounts"]), container["volumeMounts"]


def test_a_version_on_a_claim_becomes_an_image_and_comes_back(stack: Stack, registry: str) -> None:
    repository = f"models/{secrets.token_hex(4)}"
    told: dict[str, Any] = {"model": "m", "repository": repository, "registry": stack.name, "base": "none"}
    beside: dict[str, Any] = told | {"cache": stack.name, "cluster": stack.name, "path": f"pvc://{CLAIM}/m/v1"}
    with pytest.raises(Refused, match="preload the model first"):
        build_modelcar(**beside)
    files = stack.put(config__json=b"{}", weights__safetensors=os.urandom(20 * MIB))
    loaded = preload_model(**stack.parameters())
    assert loaded.result
    read = stack.reads()
    with pods_of_builds(stack) as pods:
        report = build_modelcar(**beside)
    assert report.image
    assert assert_modelcar(registry, repository, "v1", files, ("linux/amd64", "linux/arm64")) == report.image.digest
    assert (report.new, report.read_bytes, stack.reads() - read) == (2, 20 * MIB + 2, 0), "the claim was read, not the bucket"
    assert len(pods) == 2, "one to plan, one to build"
    for pod in pods.values():
        assert_writes_nowhere(pod)
    assert not stack.jobs()

    bucket = {"path": "m/v1", "source": stack.name}
    from_bucket = build_modelcar(**told | bucket | {"repository": f"{repository}-s3"})
    in_job = build_modelcar(**beside | bucket | {"repository": f"{repository}-job"})
    assert from_bucket.image
    assert in_job.image
    assert from_bucket.image.digest == in_job.image.digest == report.image.digest

    image = f"oci://{registry}/{repository}:v1"
    here = preload_model(**stack.parameters(path=image))
    assert here.result
    assert (here.model, here.result.fetched_bytes, here.result.digest) == ("m@v1", 0, loaded.result.digest), "it is there already"
    named = preload_model(**stack.parameters(path=image, model="other"))
    assert named.result
    assert (named.model, named.result.digest) == ("other@v1", loaded.result.digest)
    assert named.result.fetched_bytes == 20 * MIB + 2
    assert any("is taken" in note for note in named.notes)

    (stack.on_disk() / "other/v1/weights.safetensors").unlink()
    where: dict[str, Any] = {"cache": stack.name, "cluster": stack.name, "models": ["other@v1"]}
    with pytest.raises(VolumeUnusable, match=r"other/v1/weights.safetensors is missing"):
        verify_cache(**where)
    mended = verify_cache(**where, registry=stack.name, repair=True)
    assert (mended.damaged, mended.repaired) == (1, 1)
    assert verify_cache(**where).damaged == 0
