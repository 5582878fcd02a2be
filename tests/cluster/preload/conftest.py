"""A whole stack for the flow's tests: cluster, S3 bucket, loader image, Prefect server, and blocks that name them."""

import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prefect_aws.credentials import AwsCredentials
from pydantic import SecretStr

import devcluster
from blocks import Cluster, ModelCache, S3Source, load_block
from deployments.demo.own_stack import loader_image
from modelyard.kube.apply import apply, patiently
from modelyard.kube.client import Kube
from tests.cluster.shared_cluster import one_at_a_time, run_directory
from tests.cluster.support import SECONDS, s3_client

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


#: The claim of a cache with the default base name.
CLAIM = "modelyard-models-cache"


@dataclass(frozen=True)
class Stack:
    """What a test works with: its own namespace, bucket and blocks, all of one name."""

    name: str
    kube: Kube
    cluster: devcluster.Cluster
    s3: "S3Client"

    def put(self, **files: bytes) -> dict[str, bytes]:
        """Upload ``files`` (``__`` in a name stands for '.') as version v1 of model ``m``."""
        named = {name.replace("__", "."): body for name, body in files.items()}
        for name, body in named.items():
            self.s3.put_object(Bucket=self.name, Key=f"m/v1/{name}", Body=body, ChecksumAlgorithm="CRC64NVME")
        return named

    def parameters(self, **more: Any) -> dict[str, Any]:
        """The flow's parameters for this stack."""
        names = {"source": self.name, "cache": self.name, "cluster": self.name}
        return {"model": "m", "path": "m/v1", **names, **more}

    def cache(self, **options: Any) -> None:
        """Save the cache's block with other options."""
        image = load_block(ModelCache, self.name).loader_image
        fixed = {"namespace": self.name, "storageSize": "1Gi", "storageClassName": "devcluster-shared", "loaderImage": image}
        ModelCache.model_validate({**fixed, **options}).save(self.name, overwrite=True)

    def on_disk(self) -> Path:
        """The directory of the cache's claim, on this side."""
        claim = self.kube.get("PersistentVolumeClaim", CLAIM, self.name)
        assert claim
        volume = self.kube.get("PersistentVolume", claim["spec"]["volumeName"])
        assert volume
        return Path(volume["spec"]["hostPath"]["path"])

    def reads(self) -> int:
        """How many object reads of this bucket the S3 server's access log holds."""
        with self.cluster.s3_access_log.open(errors="replace") as lines:
            return sum(f"/{self.name}/" in line and ("s3_GetObject" in line or "s3_HeadObject" in line) for line in lines)

    def jobs(self) -> list[dict[str, Any]]:
        """The Jobs of the namespace."""
        return self.kube.list("Job", self.name)


@pytest.fixture(scope="session")
def image(cluster: devcluster.Cluster | None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The loader's image of this checkout, in the cluster's registry."""
    assert cluster, "the flow's tests need the devcluster: its S3 server and its registry"
    with one_at_a_time(run_directory(tmp_path_factory), "loader-image"):
        return loader_image(cluster)


@pytest.fixture
def stack(prefect_server: str, kube: Kube, cluster: devcluster.Cluster | None, image: str) -> Iterator[Stack]:
    """A namespace under restricted Pod Security, a versioned bucket, and the three blocks."""
    assert prefect_server
    assert cluster
    name = f"preload-{secrets.token_hex(4)}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    apply(kube, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    made = Stack(name, kube, cluster, s3_client(cluster))
    made.s3.create_bucket(Bucket=name)
    made.s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    _save_blocks(made, image)
    yield made
    patiently(lambda: kube.delete("Namespace", name))


def _save_blocks(stack: Stack, image: str) -> None:
    access, secret = stack.cluster.s3_keys()
    keys = AwsCredentials(aws_access_key_id=access, aws_secret_access_key=SecretStr(secret))
    source = S3Source(
        bucket=stack.name, endpoint_url=stack.cluster.s3_endpoint, ca_certificate=stack.cluster.ca_bundle.read_text(), credentials=keys
    )
    source.save(stack.name)
    Cluster(kubeconfig=SecretStr(stack.cluster.kubeconfig.read_text())).save(stack.name)
    ModelCache(namespace=stack.name, storage_size="1Gi", storage_class_name="devcluster-shared", loader_image=image, headroom="10Mi").save(
        stack.name
    )


class FrozenLoader:
    """Stops the loader's process as soon as it appears, so that a load lasts as long as a test needs."""

    def __init__(self, bucket: str) -> None:
        self._marks = (b"modelyard.loader", bucket.encode())
        self._pid: int | None = None

    def freeze(self, seconds: float = SECONDS) -> None:
        """Wait for the process, and stop it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if pid := self._find():
                os.kill(pid, signal.SIGSTOP)
                self._pid = pid
                return
            time.sleep(0.02)
        raise AssertionError(f"no loader started within {seconds} s")

    def step_until(self, true: Callable[[], object], seconds: float = SECONDS) -> None:
        """Let it run a twentieth of a second at a time until ``true`` holds; then it stands still."""
        self.freeze(seconds)
        deadline = time.monotonic() + seconds
        while self._pid and not true():
            assert time.monotonic() < deadline, f"not within {seconds} s"
            os.kill(self._pid, signal.SIGCONT)
            time.sleep(0.05)
            os.kill(self._pid, signal.SIGSTOP)

    def kill(self) -> None:
        """End it as a node's failure would: no handler runs."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            self._pid = None

    def thaw(self) -> None:
        """Let it go on."""
        if self._pid:
            os.kill(self._pid, signal.SIGCONT)
            self._pid = None

    def _find(self) -> int | None:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and all(mark in _command_line(entry) for mark in self._marks):
                return int(entry.name)
        return None


def _command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:  # it ended meanwhile
        return b""


@pytest.fixture
def frozen(stack: Stack) -> FrozenLoader:
    """What stops this test's loader."""
    return FrozenLoader(stack.name)
