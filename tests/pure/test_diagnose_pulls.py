"""Which image a failed pull is of: the kubelet writes all to the container's status, a mounted one's too."""

import pytest

from modelyard.kube.diagnose import diagnose_pod

OWN, MODEL = "busybox:1.36", "registry.example/models/m:v1"


@pytest.mark.parametrize(
    ("message", "image"),
    [
        pytest.param(f'Back-off pulling image "docker.io/library/{OWN}"', OWN, id="the container's own"),
        pytest.param(f'failed to pull and unpack image "{MODEL}": no basic auth credentials', MODEL, id="a mounted one"),
        pytest.param("it says nothing of an image", OWN, id="words that name none"),
        pytest.param(f'Back-off pulling image "{MODEL}-{OWN}"', MODEL, id="the one of which more is said"),
    ],
)
def test_the_image_that_is_not_pulled_is_named(message: str, image: str) -> None:
    volumes = [{"name": "config", "emptyDir": {}}, {"name": "model", "image": {"reference": MODEL}}]
    status = {"name": "hold", "image": OWN, "state": {"waiting": {"reason": "ErrImagePull", "message": message}}}
    found = diagnose_pod({"metadata": {"name": "p"}, "spec": {"volumes": volumes}, "status": {"containerStatuses": [status]}})
    assert found
    assert found.summary == f"image {image} cannot be pulled"
