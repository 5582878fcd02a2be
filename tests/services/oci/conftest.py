"""What the tests of registries and of the modelcar builder share."""

import shutil

import pytest

from devcluster.packages import install_packages
from tests.services.fault_proxy import fault_proxy
from tests.services.oci.registries import own_registry, registry, registry_3, tls_registry
from tests.services.s3_fixtures import bucket, certificates, loader, s3_api, s3_server, versioned_bucket

__all__ = [
    "bucket",
    "certificates",
    "fault_proxy",
    "loader",
    "own_registry",
    "registry",
    "registry_3",
    "s3_api",
    "s3_server",
    "tls_registry",
    "versioned_bucket",
]


@pytest.fixture(scope="session", autouse=True)
def _skopeo() -> None:
    if not shutil.which("skopeo"):
        install_packages(("skopeo",))
