"""What a user of the cluster needs to know, as one value."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from devcluster.errors import NotRunningError
from devcluster.network import Block
from devcluster.paths import Layout
from devcluster.processes import find_supervisor, pid_of
from devcluster.s3_keys import read_s3_keys


@dataclass(frozen=True)
class Cluster:
    """A cluster that is up. Paths are the host's; addresses work from the host and from pods alike."""

    name: str
    state_dir: Path
    kubeconfig: Path
    kubectl: Path
    s3_endpoint: str
    s3_credentials_file: Path
    """In the format of AWS's shared credentials file, so AWS_SHARED_CREDENTIALS_FILE may name it."""
    s3_access_log: Path
    ca_bundle: Path
    """The CA of the API server and of S3."""
    registry: str
    """host:port, plain HTTP. Pods get every image from it, whatever registry the reference names."""
    host_ip: str
    """Where pods reach servers of the host, if those listen there."""

    def environment(self) -> dict[str, str]:
        """The same as environment variables; files instead of secrets."""
        return {
            "KUBECONFIG": str(self.kubeconfig),
            "KUBECTL": str(self.kubectl),
            "S3_ENDPOINT": self.s3_endpoint,
            "S3_CREDENTIALS_FILE": str(self.s3_credentials_file),
            "S3_ACCESS_LOG": str(self.s3_access_log),
            "CA_BUNDLE": str(self.ca_bundle),
            "REGISTRY": self.registry,
            "HOST_IP": self.host_ip,
            "STATE_DIR": str(self.state_dir),
            "DEVCLUSTER_NAME": self.name,
        }

    def s3_keys(self) -> tuple[str, str]:
        """Access key and secret key of the S3 server's root account."""
        return read_s3_keys(self.s3_credentials_file)

    def pid_of(self, component: str) -> int:
        """The component's pid on this side, for faults: `os.kill(cluster.pid_of("kubelet"), SIGKILL)`; it returns."""
        return pid_of(Layout(self.state_dir), component)

    def enter(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command inside the cluster's namespaces and root, where its mounts, addresses and programs are; output as text."""
        pid = find_supervisor(Layout(self.state_dir))
        if pid is None:
            raise NotRunningError(self.name)
        path = f"{self.state_dir}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        environment = {**os.environ, "PATH": path, "CONTAINERD_ADDRESS": "/run/containerd/containerd.sock"}
        into = ["nsenter", "--target", str(pid), "--mount", "--net", "--pid", "--uts", "--ipc", "--root", "--"]
        return subprocess.run([*into, *argv], env=environment, capture_output=True, text=True, check=False)


def describe(here: Layout, block: Block) -> Cluster:
    """The cluster of a state directory and address block. No side effects."""
    return Cluster(
        name=here.name,
        state_dir=here.directory,
        kubeconfig=here.kubeconfig,
        kubectl=here.binaries / "kubectl",
        s3_endpoint=f"https://{block.gateway}:7070",
        s3_credentials_file=here.s3_credentials,
        s3_access_log=here.s3_access_log,
        ca_bundle=here.pki / "ca.crt",
        registry=f"{block.gateway}:5000",
        host_ip=block.host,
    )
