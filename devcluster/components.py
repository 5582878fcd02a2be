"""The table of what runs: for each component its command line, what it waits for, and how it says that it is ready.

The flags are the ones a one-node cluster in its own namespaces needs; a comment says which trouble an odd one avoids.
Another part of the cluster (`--with kserve`) is another function here that returns components.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from devcluster.network import Block
from devcluster.paths import Layout
from devcluster.pki import NODE
from devcluster.probes import Probe, accepts, answers, client_context, listens
from devcluster.s3_keys import read_s3_keys

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
ETCD = "http://127.0.0.1:2379"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Component:
    """One process that is kept running."""

    name: str
    argv: tuple[str, ...]
    ready: Probe
    needs: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    before: Callable[[], None] | None = None
    """Runs once, before the first start; for what the component must find."""


def components(layout: Layout, block: Block, seed_images: Callable[[], None]) -> tuple[Component, ...]:
    """Everything a cluster runs, in the order of starting."""
    return (
        *_control_plane(layout, block),
        *_services(layout, block),
        *_node(layout, block, seed_images),
    )


def _flags(**values: str | int | bool) -> tuple[str, ...]:
    """`bind_address="x"` becomes `--bind-address=x`."""
    words = {True: "true", False: "false"}
    return tuple(f"--{name.replace('_', '-')}={words[value] if isinstance(value, bool) else value}" for name, value in values.items())


def _control_plane(layout: Layout, block: Block) -> tuple[Component, ...]:
    binaries, config = layout.binaries, layout.config
    etcd = Component(
        "etcd",
        (
            str(binaries / "etcd"),
            # A cut of power may lose the last seconds; a killed process does not. Worth it: fsync is most of etcd's time.
            "--unsafe-no-fsync",
            "--data-dir", str(layout.data / "etcd"),
            "--listen-client-urls", ETCD, "--advertise-client-urls", ETCD,
            "--listen-peer-urls", "http://127.0.0.1:2380",
        ),
        ready=answers(f"{ETCD}/health"),
    )  # fmt: skip
    apiserver = Component(
        "kube-apiserver",
        (str(binaries / "kube-apiserver"), *_apiserver_flags(layout.pki, block)),
        needs=("etcd",),
        ready=answers(f"https://{block.gateway}:6443/readyz", client_context(layout.pki)),
    )
    controllers = Component(
        "kube-controller-manager",
        (
            str(binaries / "kube-controller-manager"),
            *_flags(
                kubeconfig=str(config / "kube-controller-manager.kubeconfig"),
                bind_address="127.0.0.1",
                service_account_private_key_file=str(layout.pki / "service-accounts.key"),
                root_ca_file=str(layout.pki / "ca.crt"),
                cluster_signing_cert_file=str(layout.pki / "ca.crt"),
                cluster_signing_key_file=str(layout.pki / "ca.key"),
                use_service_account_credentials=True,
                leader_elect=False,
                flex_volume_plugin_dir=str(layout.kubelet / "plugins-exec"),
            ),
        ),
        needs=("kube-apiserver",),
        ready=answers("https://127.0.0.1:10257/healthz"),
    )
    scheduler = Component(
        "kube-scheduler",
        (
            str(binaries / "kube-scheduler"),
            *_flags(kubeconfig=str(config / "kube-scheduler.kubeconfig"), bind_address="127.0.0.1", leader_elect=False),
        ),
        needs=("kube-apiserver",),
        ready=answers("https://127.0.0.1:10259/healthz"),
    )
    return etcd, apiserver, controllers, scheduler


def _apiserver_flags(pki: Path, block: Block) -> tuple[str, ...]:
    return _flags(
        etcd_servers=ETCD,
        # Pods reach the bridge, not loopback; the kubernetes Service gets this address as its endpoint.
        bind_address=block.gateway,
        advertise_address=block.gateway,
        secure_port=6443,
        tls_cert_file=str(pki / "apiserver.crt"),
        tls_private_key_file=str(pki / "apiserver.key"),
        client_ca_file=str(pki / "ca.crt"),
        service_account_issuer="https://kubernetes.default.svc.cluster.local",
        service_account_key_file=str(pki / "service-accounts.pub"),
        service_account_signing_key_file=str(pki / "service-accounts.key"),
        service_cluster_ip_range=block.services,
        authorization_mode="Node,RBAC",
        enable_admission_plugins="NodeRestriction",
        allow_privileged=True,
        kubelet_client_certificate=str(pki / "admin.crt"),
        kubelet_client_key=str(pki / "admin.key"),
        kubelet_certificate_authority=str(pki / "ca.crt"),
        # Logs and exec go to the node by address: its name resolves nowhere.
        kubelet_preferred_address_types="InternalIP",
    )


def _services(layout: Layout, block: Block) -> tuple[Component, ...]:
    binaries, config = layout.binaries, layout.config
    access_key, secret_key = read_s3_keys(layout.s3_credentials)
    registry = Component(
        "registry",
        (str(binaries / "registry"), "serve", str(config / "registry.json")),
        env={"OTEL_TRACES_EXPORTER": "none"},
        ready=answers(f"http://{block.gateway}:5000/v2/"),
    )
    s3 = Component(
        "s3",
        (
            str(binaries / "versitygw"),
            "--quiet",
            "--port", f"{block.gateway}:7070",
            "--cert", str(layout.pki / "s3.crt"), "--key", str(layout.pki / "s3.key"),
            "--access-log", str(layout.s3_access_log),
            "posix",
            "--versioning-dir", str(layout.data / "s3-versions"),
            str(layout.data / "s3"),
        ),
        # In its environment: its command line is everybody's to read.
        env={"ROOT_ACCESS_KEY": access_key, "ROOT_SECRET_KEY": secret_key},
        ready=listens(block.gateway, 7070),
    )  # fmt: skip
    coredns = Component(
        "coredns",
        (str(binaries / "coredns"), "-conf", str(config / "Corefile")),
        needs=("kube-apiserver",),
        ready=answers("http://127.0.0.1:8181/ready"),
    )
    provisioner = Component(
        "provisioner",
        (
            str(binaries / "provisioner"),
            *_flags(kubeconfig=str(config / "admin.kubeconfig"), root=str(layout.volumes)),
        ),
        needs=("kube-apiserver",),
        ready=lambda: True,
    )
    return registry, s3, coredns, provisioner


def _node(layout: Layout, block: Block, seed_images: Callable[[], None]) -> tuple[Component, ...]:
    binaries, config = layout.binaries, layout.config
    containerd = Component(
        "containerd",
        (str(binaries / "containerd"), "--config", str(config / "containerd.toml")),
        # containerd looks for its shim in PATH.
        env={"PATH": f"{binaries}:{PATH}"},
        ready=accepts(CONTAINERD_SOCKET),
    )
    kubelet = Component(
        "kubelet",
        (
            str(binaries / "kubelet"),
            *_flags(
                kubeconfig=str(config / "kubelet.kubeconfig"),
                config=str(config / "kubelet.json"),
                hostname_override=NODE,
                root_dir=str(layout.kubelet),
                node_ip=block.gateway,
            ),
        ),
        # A kubelet that starts before containerd listens gives up at once.
        needs=("containerd", "kube-apiserver", "registry"),
        before=seed_images,
        ready=answers("http://127.0.0.1:10248/healthz"),
    )
    proxy = Component(
        "kube-proxy",
        (
            str(binaries / "kube-proxy"),
            *_flags(
                kubeconfig=str(config / "kube-proxy.kubeconfig"),
                hostname_override=NODE,
                proxy_mode="nftables",
                cluster_cidr=block.pods,
                # Two pods on one bridge: without br_netfilter their packets to a Service bypass the rules on the way back.
                masquerade_all=True,
                nodeport_addresses=f"{block.gateway}/32",
                healthz_bind_address="127.0.0.1:10256",
                metrics_bind_address="127.0.0.1:10249",
                # These sysctls belong to the host; a namespace may not set them.
                conntrack_max_per_core=0,
                conntrack_tcp_timeout_established="0s",
                conntrack_tcp_timeout_close_wait="0s",
            ),
        ),
        needs=("kube-apiserver",),
        ready=answers("http://127.0.0.1:10256/healthz"),
    )
    return containerd, kubelet, proxy
