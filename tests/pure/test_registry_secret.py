"""A Secret of Kubernetes as the source of a registry's credentials: how a block names it, and what is read of it."""

import base64
import json
from typing import Any

import pytest
from pydantic import SecretStr

from blocks import Cluster, OciRegistry
from modelyard.errors import RegistryDenied
from modelyard.kube.registry_secret import TYPE, credentials_in
from modelyard.kube.resources import ObjectRef
from modelyard.oci.access import Credentials

CLUSTER = Cluster(server="https://10.0.0.1:6443", token=SecretStr("t0ken"))
REF = ObjectRef("Secret", "push", "models")
CONFIG = json.dumps({"auths": {"r.example": {"username": "me", "password": "s3cret"}}})


def secret(text: str = CONFIG, kind: str = TYPE) -> dict[str, Any]:
    return {"type": kind, "data": {".dockerconfigjson": base64.b64encode(text.encode()).decode()}}


def test_credentials_by_host() -> None:
    assert credentials_in(secret(), REF) == {"r.example": Credentials("me", "s3cret")}


@pytest.mark.parametrize(
    ("live", "said"),
    [
        (secret(kind="Opaque"), rf"^Secret/models/push: is of type Opaque, and only {TYPE} is read; make one of that type"),
        (secret(kind="kubernetes.io/dockercfg"), "is of type kubernetes.io/dockercfg, and only"),
        (secret('{"s3cret": 1}'), r"^Secret/models/push: the docker config is not one with credentials in it"),
        (secret("s3cret"), "the docker config is not one with credentials in it"),
        ({"type": TYPE, "data": {".dockerconfigjson": "s3cret!"}}, r"holds no text under .dockerconfigjson; make it anew"),
        ({"type": TYPE}, r"holds no text under .dockerconfigjson"),
    ],
)
def test_secrets_that_are_not_read(live: dict[str, Any], said: str) -> None:
    with pytest.raises(RegistryDenied, match=said) as caught:
        credentials_in(live, REF)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"docker_config_secret": "push", "cluster": CLUSTER}, "'push' names no Secret: write namespace/name"),
        ({"docker_config_secret": "models/push/more", "cluster": CLUSTER}, "names no Secret"),
        ({"docker_config_secret": "models/Push", "cluster": CLUSTER}, "names no Secret"),
        ({"docker_config_secret": "models/push"}, "belong together"),
        ({"cluster": CLUSTER}, "belong together"),
        ({"docker_config_secret": "models/push", "cluster": CLUSTER, "docker_config": SecretStr(CONFIG)}, "both set; empty one"),
    ],
)
def test_registries_that_cannot_be(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        OciRegistry(host="r.example", **fields)
    assert "s3cret" not in str(caught.value)
    assert "t0ken" not in str(caught.value)


def test_nothing_of_the_cluster_is_shown() -> None:
    block = OciRegistry(host="r.example", docker_config_secret="models/push", cluster=CLUSTER)
    assert "t0ken" not in repr(block) + str(block) + str(block.model_dump(mode="json"))
