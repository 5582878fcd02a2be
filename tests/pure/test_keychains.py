"""Credentials that lie in a Secret of a cluster that is away for a while."""

import time

import pytest
from pydantic import SecretStr

from blocks import Cluster, OciRegistry, oci_registry
from flows import model_sources
from modelyard.errors import ClusterUnavailable, RegistryDenied
from modelyard.oci.access import Credentials

REGISTRY = OciRegistry(
    host="r.example",
    docker_config_secret="models/push",
    cluster=Cluster(server="https://10.0.0.1:6443", token=SecretStr("t0ken")),
)


class Away:
    """An API server that answers again after so many seconds of a clock that only waits move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.now, self.back = 0.0, seconds
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.wait)
        monkeypatch.setattr(oci_registry, "read_registry_secret", self.read)
        monkeypatch.setattr(model_sources, "load_block", lambda *_: REGISTRY)

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def read(self, *_: object) -> dict[str, Credentials]:
        if self.now < self.back:
            raise ClusterUnavailable("https://10.0.0.1:6443: does not answer")
        return {"r.example": Credentials("me", "s3cret")}


def test_a_flow_waits_for_a_cluster_that_is_away(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    Away(monkeypatch, 240)
    source = model_sources.model_source("images", "oci://r.example/m:v1")
    assert isinstance(source, model_sources.ImageSource)
    assert source.keychain.main.credentials == Credentials("me", "s3cret")
    assert "credentials of r.example: https://10.0.0.1:6443: does not answer" in caplog.text
    assert "s3cret" not in caplog.text + repr(source)


def test_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    away = Away(monkeypatch, 1e9)
    with pytest.raises(ClusterUnavailable):
        model_sources.model_source("images", "oci://r.example/m:v1")
    assert 300 <= away.now < 310


def test_nor_for_what_a_person_must_change(monkeypatch: pytest.MonkeyPatch) -> None:
    away = Away(monkeypatch, 0)
    monkeypatch.setattr(oci_registry, "read_registry_secret", lambda *_: {})
    with pytest.raises(RegistryDenied, match="has credentials for no registry at all"):
        model_sources.model_source("images", "oci://r.example/m:v1")
    assert away.now == 0
