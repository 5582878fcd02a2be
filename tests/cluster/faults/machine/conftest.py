"""A cluster of these tests' own, because they break it: started for them, and gone afterwards."""

from collections.abc import Iterator

import pytest

import devcluster
from deployments.demo.own_stack import loader_image
from modelyard.kube.client import Kube
from tests.cluster.shared_cluster import one_at_a_time, run_directory
from tests.cluster.support import connect

NAME = "faults"


@pytest.fixture(scope="module")
def cluster() -> Iterator[devcluster.Cluster]:
    """The machine that is broken."""
    yield devcluster.up(NAME, fresh=True)
    devcluster.down(NAME, purge=True)


@pytest.fixture(autouse=True)
def _steady_cluster() -> None:
    """In the place of the shared cluster's: these tests have one of their own, and hold up nobody who kills parts of the shared one."""


@pytest.fixture(scope="module")
def kube(cluster: devcluster.Cluster) -> Kube:
    """It, as its administrator."""
    return connect(str(cluster.kubeconfig))


@pytest.fixture(scope="module")
def image(cluster: devcluster.Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The loader's image in its registry."""
    with one_at_a_time(run_directory(tmp_path_factory), "loader-image"):
        return loader_image(cluster)
