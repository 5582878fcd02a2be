"""The cluster's own certificate authority, its certificates and kubeconfigs.

Elliptic curve keys: a dozen are made in a second. Ten years: the state directory of a demo is taken up again much later.
"""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from devcluster.commands import run
from devcluster.network import Block
from devcluster.paths import Layout, write_atomically

NODE = "node"
_DAYS = "3650"


@dataclass(frozen=True)
class Certificate:
    """What one certificate says. The API server takes the user from CN and the groups from O."""

    file: str
    subject: str
    names: tuple[str, ...] = ()


def plan_certificates(block: Block) -> tuple[Certificate, ...]:
    """Every certificate of the cluster. No side effects."""
    service = tuple(f"DNS:kubernetes{rest}" for rest in ("", ".default", ".default.svc", ".default.svc.cluster.local"))
    gateway = (f"IP:{block.gateway}", "IP:127.0.0.1", "DNS:localhost")
    return (
        Certificate("apiserver", "/CN=kube-apiserver", (*gateway, f"IP:{block.api_service}", *service)),
        Certificate("s3", "/CN=s3", (*gateway, "DNS:s3.devcluster")),
        Certificate("kubelet", f"/O=system:nodes/CN=system:node:{NODE}", (*gateway, f"DNS:{NODE}")),
        Certificate("admin", "/O=system:masters/CN=admin"),
        Certificate("kube-controller-manager", "/CN=system:kube-controller-manager"),
        Certificate("kube-scheduler", "/CN=system:kube-scheduler"),
        Certificate("kube-proxy", "/CN=system:kube-proxy"),
    )


def make_pki(layout: Layout, block: Block) -> None:
    """Make keys and certificates once; later runs keep them."""
    if layout.pki.exists():
        return
    partial = layout.directory / "pki.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700, parents=True)
    _new_key(partial / "ca.key")
    run(["openssl", "req", "-x509", "-new", "-key", "ca.key", "-out", "ca.crt", "-days", _DAYS,
         "-subj", f"/CN=devcluster {layout.name}"], cwd=partial)  # fmt: skip
    for certificate in plan_certificates(block):
        _sign(partial, certificate)
    _new_key(partial / "service-accounts.key")
    run(["openssl", "pkey", "-in", "service-accounts.key", "-pubout", "-out", "service-accounts.pub"], cwd=partial)
    partial.rename(layout.pki)


def issue(layout: Layout, certificate: Certificate) -> tuple[Path, Path]:
    """A certificate of the cluster's authority that is made later than the cluster, and its key; made once."""
    issued = layout.pki / certificate.file
    if not issued.exists():
        with tempfile.TemporaryDirectory(dir=layout.directory, prefix="pki.partial.") as name:
            partial = Path(name) / "issued"
            partial.mkdir(mode=0o700)
            for file in ("ca.crt", "ca.key"):
                shutil.copy(layout.pki / file, partial)
            _sign(partial, certificate)
            (partial / "ca.key").unlink()
            partial.rename(issued)
    return issued / f"{certificate.file}.crt", issued / f"{certificate.file}.key"


def _new_key(path: Path) -> None:
    run(["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path])
    path.chmod(0o600)


def _sign(directory: Path, certificate: Certificate) -> None:
    file = certificate.file
    _new_key(directory / f"{file}.key")
    run(["openssl", "req", "-new", "-key", f"{file}.key", "-subj", certificate.subject, "-out", f"{file}.csr"], cwd=directory)
    extensions = ["basicConstraints=CA:FALSE", "extendedKeyUsage=serverAuth,clientAuth"]
    if certificate.names:
        extensions.append("subjectAltName=" + ",".join(certificate.names))
    (directory / "extensions").write_text("\n".join(extensions))
    run(["openssl", "x509", "-req", "-in", f"{file}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
         "-days", _DAYS, "-extfile", "extensions", "-out", f"{file}.crt"], cwd=directory)  # fmt: skip


def write_kubeconfigs(layout: Layout, block: Block) -> None:
    """One kubeconfig per client; the user's own lies at the top of the state directory."""
    write_atomically(layout.kubeconfig, _kubeconfig(layout, block, "admin"), mode=0o600)
    for client in ("admin", "kubelet", "kube-controller-manager", "kube-scheduler", "kube-proxy"):
        write_atomically(layout.config / f"{client}.kubeconfig", _kubeconfig(layout, block, client), mode=0o600)


def _kubeconfig(layout: Layout, block: Block, client: str) -> str:
    """JSON is YAML, and cannot be broken by a value."""
    name = f"devcluster-{layout.name}"
    cluster = {"server": f"https://{block.gateway}:6443", "certificate-authority-data": _inline(layout.pki / "ca.crt")}
    user = {
        "client-certificate-data": _inline(layout.pki / f"{client}.crt"),
        "client-key-data": _inline(layout.pki / f"{client}.key"),
    }
    return json.dumps({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": client, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": client}}],
        "current-context": name,
    }, indent=1)  # fmt: skip


def _inline(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
