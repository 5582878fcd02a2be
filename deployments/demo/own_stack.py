"""Ours, where the user names no cluster: the devcluster with its S3 store and registry, and the loader's image in it."""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from pathlib import Path

import devcluster
from deployments.demo.settings import DemoTarget, S3Keys
from devcluster.images import build_image

PROJECT = Path(__file__).resolve().parents[2]
CLUSTER = "demo"
LOADER_TAG = "modelyard/loader:dev"
#: The devcluster's class whose volumes every pod may write to and several may mount.
STORAGE_CLASS = "devcluster-shared"
Step = Callable[[str], AbstractContextManager[None]]


def start_own(step: Step, extras: Collection[str] = ()) -> DemoTarget:
    """Start the devcluster with its extras (it is built the first time) and bring the loader's image into its registry."""
    with step(f"demo: devcluster ({', '.join(('Kubernetes, S3, registry', *extras))})"):
        cluster = devcluster.up(CLUSTER, extras=extras)
    with step("demo: the loader's image"):
        image = loader_image(cluster)
    return DemoTarget(
        kubeconfig=cluster.kubeconfig,
        context=None,
        s3_endpoint=cluster.s3_endpoint,
        s3_bucket="models",
        s3_region="us-east-1",
        s3_keys=S3Keys(*cluster.s3_keys()),
        ca_certificate=cluster.ca_bundle.read_text(),
        storage_class=STORAGE_CLASS,
        loader_image=image,
        access_log=cluster.s3_access_log,
    )


def loader_image(cluster: devcluster.Cluster) -> str:
    """Build the loader's image from this checkout and push it; the reference by digest, so that no node runs an older one."""
    dockerfile = PROJECT / "deployments" / "images" / "loader" / "Dockerfile"
    reference, digest = build_image(cluster.registry, "loader", PROJECT, dockerfile, LOADER_TAG)
    return f"{reference.rpartition(':')[0]}@{digest}"
