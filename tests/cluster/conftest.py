"""A real cluster for a session, and a fresh namespace for each test.

The cluster is the devcluster (``DEVCLUSTER_NAME`` names another than "test"), which starts if it is not up; or, by explicit
choice and never by the current context, the one of ``MODELYARD_TEST_KUBECONFIG``. Where it does not start, these tests fail:
skipped is not passed.
"""

import os
import secrets
from collections.abc import Iterator

import pytest

import devcluster
from modelyard.kube.client import Kube
from tests.cluster.shared_cluster import COMPONENTS, run_directory, shared_cluster, steady
from tests.cluster.support import connect, make_namespace


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[devcluster.Cluster | None]:
    """The devcluster, stopped in the end if it was started here; None where the tests run on a cluster that was there before."""
    if os.environ.get("MODELYARD_TEST_KUBECONFIG"):
        yield None
        return
    with shared_cluster(os.environ.get("DEVCLUSTER_NAME", "test"), run_directory(tmp_path_factory)) as shared:
        yield shared


@pytest.fixture(autouse=True)
def _steady_cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A test that kills parts of the shared cluster (``kills_components``) has it for itself."""
    with steady(run_directory(tmp_path_factory), COMPONENTS, alone=request.node.get_closest_marker("kills_components") is not None):
        yield


@pytest.fixture(scope="session")
def kubeconfig(cluster: devcluster.Cluster | None) -> str:
    """The file that reaches the cluster."""
    return str(cluster.kubeconfig) if cluster else os.environ["MODELYARD_TEST_KUBECONFIG"]


@pytest.fixture(scope="session")
def kube(kubeconfig: str) -> Kube:
    """The cluster as its administrator."""
    return connect(kubeconfig)


@pytest.fixture
def namespace(kube: Kube) -> Iterator[str]:
    """A namespace of the test's own."""
    name = f"test-{secrets.token_hex(4)}"
    make_namespace(kube, name)
    yield name
    kube.delete("Namespace", name)
