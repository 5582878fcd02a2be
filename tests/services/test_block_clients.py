"""The clients that a Cluster makes, against a TLS server on loopback, and what it refuses. No Prefect server is needed."""

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.client import Configuration, VersionApi
from pydantic import SecretStr, ValidationError

from blocks import Cluster
from modelyard.errors import ClusterUnavailable, Refused


def kubeconfig(server: str = "https://10.0.0.1:6443", contexts: int = 1, cluster: Any = None, user: Any = None) -> str:
    names = [f"context-{number}" for number in range(contexts)]
    return yaml.safe_dump(
        {
            "current-context": names[0] if names else "",
            "contexts": [{"name": name, "context": {"cluster": "c", "user": "u"}} for name in names],
            "clusters": [{"name": "c", "cluster": {"server": server} | (cluster or {})}],
            "users": [{"name": "u", "user": user or {"token": "the-token"}}],
        }
    )


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "0 ways to reach the cluster are set"),
        ({"in_cluster": True, "kubeconfig": kubeconfig()}, "2 ways"),
        ({"in_cluster": True, "server": "https://x", "token": "the-token"}, "2 ways"),
        ({"kubeconfig": ""}, "0 ways"),
        (
            {"kubeconfig": kubeconfig(contexts=3)},
            "holds 3 contexts and none is named; set context to one of context-0, context-1, context-2",
        ),
        (
            {"kubeconfig": kubeconfig(contexts=2), "context": "prod"},
            "context 'prod' is not in the kubeconfig; it holds context-0, context-1",
        ),
        ({"kubeconfig": kubeconfig(contexts=0)}, "names no context"),
        ({"kubeconfig": "the-token: : :"}, "is not valid YAML at line 1"),
        ({"kubeconfig": "the-token"}, "names no context"),
        ({"kubeconfig": kubeconfig(user={"client-key": "/k"})}, "user 'u' refers to files (client-key)"),
        ({"kubeconfig": kubeconfig(cluster={"certificate-authority": "ca"})}, "cluster 'c' refers to files (certificate-authority)"),
        ({"kubeconfig": kubeconfig().replace("cluster: c\n", "cluster: d\n")}, "names cluster 'd', which is not in the kubeconfig"),
        ({"in_cluster": True, "context": "a"}, "context 'a' belongs to a kubeconfig"),
        ({"server": "https://x"}, "token is missing"),
        ({"token": "the-token"}, "server is missing"),
        ({"server": "http://x", "token": "the-token"}, "must begin with https://"),
        ({"server": "https://x", "token": "the-token", "ca_certificate": "the-token"}, "holds no certificate in PEM form"),
    ],
)
def test_a_cluster_is_reached_in_exactly_one_way(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as invalid:
        Cluster(**fields)
    assert told in str(invalid.value)
    assert "the-token" not in str(invalid.value)


@pytest.mark.parametrize("contexts", [1, 2])
def test_the_only_context_needs_no_name(contexts: int) -> None:
    block = Cluster(kubeconfig=SecretStr(kubeconfig(contexts=contexts)), context="context-1" if contexts > 1 else None)
    assert block.get_client().configuration.host == "https://10.0.0.1:6443"


@pytest.mark.parametrize("way", ["token", "kubeconfig", "exec"])
def test_a_client_reaches_the_server_over_tls(
    way: str, echo_server: tuple[str, list[Any]], authority: tuple[Path, Path], tmp_path: Path
) -> None:
    url, seen = echo_server
    default = Configuration.get_default_copy().host
    block = _cluster(way, url, authority[0], tmp_path)
    assert VersionApi(block.get_client()).get_code().git_version == "1"
    assert seen == [("/version/", "Bearer the-token")]
    assert Configuration.get_default_copy().host == default


def _cluster(way: str, url: str, ca: Path, tmp_path: Path) -> Cluster:
    if way == "token":
        return Cluster(server=url, token=SecretStr("the-token"), ca_certificate=ca.read_text())
    user: dict[str, Any] = {"token": "the-token"}
    if way == "exec":
        user = {
            "exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": _plugin(tmp_path, "the-token"), "interactiveMode": "Never"}
        }
    return Cluster(kubeconfig=SecretStr(kubeconfig(url, cluster={"certificate-authority-data": _base64(ca)}, user=user)))


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _plugin(tmp_path: Path, token: str) -> str:
    """A program that gives credentials as ``aws eks get-token`` does."""
    credential = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": token}}
    plugin = tmp_path / "get-token"
    plugin.write_text(f"#!/bin/sh\n{'exit 1' if not token else ''}\ncat <<'END'\n{json.dumps(credential)}\nEND\n")
    plugin.chmod(0o755)
    return str(plugin)


def test_a_plugin_that_fails_is_an_error_and_not_an_anonymous_client(tmp_path: Path) -> None:
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": _plugin(tmp_path, token="")}}
    with pytest.raises(ClusterUnavailable, match="gave no credentials; run it by hand"):
        Cluster(kubeconfig=SecretStr(kubeconfig(user=user))).get_client()


def test_a_plugin_that_is_not_installed_is_named() -> None:
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "aws-not-here"}}
    with pytest.raises(Refused, match="'aws-not-here', which is not installed here; add it to the flow's image"):
        Cluster(kubeconfig=SecretStr(kubeconfig(user=user))).get_client()


def test_outside_of_a_pod_in_cluster_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(Refused, match="no service account is mounted here"):
        Cluster(in_cluster=True).get_client()


def test_a_client_key_lies_in_a_private_file_until_the_process_ends(tmp_path: Path, authority: tuple[Path, Path]) -> None:
    encoded = {name: _base64(path) for name, path in zip(("client-certificate-data", "client-key-data"), authority, strict=True)}
    program = (
        "import os, sys; from blocks import Cluster;"
        "client = Cluster(kubeconfig=sys.stdin.read()).get_client();"
        "print(oct(os.stat(client.configuration.key_file).st_mode), client.configuration.key_file)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        input=kubeconfig(user=encoded),
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path), "PREFECT_HOME": str(tmp_path / "home"), "DO_NOT_TRACK": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    mode, path = result.stdout.split()
    assert mode == oct(0o100600)
    assert Path(path).parent == tmp_path
    assert [left for left in tmp_path.iterdir() if left.is_file()] == []


def test_prefects_own_block_names_the_same_cluster() -> None:
    credentials = pytest.importorskip("prefect_kubernetes.credentials")
    config = credentials.KubernetesClusterConfig(config=yaml.safe_load(kubeconfig(contexts=2)), context_name="context-1")
    block = Cluster.from_kubernetes_credentials(credentials.KubernetesCredentials(cluster_config=config))
    assert block.get_client().configuration.host == "https://10.0.0.1:6443"
    assert block.context == "context-1"
    assert Cluster.from_kubernetes_credentials(credentials.KubernetesCredentials()).in_cluster


def test_secrets_are_not_printed() -> None:
    blocks = [Cluster(kubeconfig=SecretStr(kubeconfig())), Cluster(server="https://x", token=SecretStr("the-token"))]
    for block in blocks:
        for shown in (repr(block), str(block), str(block.model_dump()), block.model_dump_json()):
            assert "the-token" not in shown
