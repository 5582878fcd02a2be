"""A cluster with KServe, of its own: KServe's webhooks stand before every pod of an InferenceService, and disturb no other test."""

import os
import secrets
from collections.abc import Iterator

import pytest

import devcluster
from modelyard.kube.client import Kube
from tests.cluster.shared_cluster import run_directory, shared_cluster, steady
from tests.cluster.support import connect, make_namespace


@pytest.fixture(scope="session")
def kserve_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[devcluster.Cluster]:
    """The devcluster (``DEVCLUSTER_KSERVE_NAME`` names another than "test-kserve"), stopped in the end if it was started here."""
    name = os.environ.get("DEVCLUSTER_KSERVE_NAME", "test-kserve")
    with shared_cluster(name, run_directory(tmp_path_factory), extras=["kserve"]) as shared:
        yield shared


@pytest.fixture(scope="session")
def kserve(kserve_cluster: devcluster.Cluster) -> Kube:
    """The cluster as its administrator."""
    return connect(str(kserve_cluster.kubeconfig))


@pytest.fixture(autouse=True)
def _steady_cluster() -> None:
    """In the place of the shared cluster's: these tests have one of their own, and hold up nobody who kills parts of the shared one."""


@pytest.fixture(scope="module", autouse=True)
def _steady_kserve(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A module that changes KServe (CHANGES_KSERVE) has it for itself; the others keep it as it is while they run."""
    with steady(run_directory(tmp_path_factory), "kserve", alone=getattr(request.module, "CHANGES_KSERVE", False)):
        yield


@pytest.fixture
def kserve_namespace(kserve: Kube) -> Iterator[str]:
    """A namespace of the test's own."""
    name = f"test-{secrets.token_hex(4)}"
    make_namespace(kserve, name)
    yield name
    kserve.delete("Namespace", name)
