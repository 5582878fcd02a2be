"""The components' configuration files, as data. JSON where the reader takes YAML: it is YAML, and values cannot break it."""

from __future__ import annotations

import json
from typing import Any

from devcluster.components import CONTAINERD_SOCKET
from devcluster.network import BRIDGE, Block
from devcluster.paths import Layout, write_atomically

PAUSE_IMAGE = "docker.io/devcluster/pause:1"


def write_configs(layout: Layout, block: Block) -> None:
    """Write every file anew: an upgrade of this program takes effect at the next start."""
    files: dict[str, str] = {
        "containerd.toml": containerd(layout),
        "certs.d/_default/hosts.toml": registry_hosts(block),
        "cni/10-pods.conflist": _json(cni(block)),
        "kubelet.json": _json(kubelet(layout, block)),
        "registry.json": _json(registry(layout, block)),
        "Corefile": corefile(layout, block),
    }
    for name, content in files.items():
        write_atomically(layout.config / name, content)


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=1)


def containerd(layout: Layout) -> str:
    """/run is the cluster's own and empty at each start, as after a reboot; images and snapshots are kept."""
    return f"""\
version = 3
root = "{layout.data}/containerd"
state = "/run/containerd"
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{layout.data}/containerd-opt"
[plugins."io.containerd.nri.v1.nri"]
  disable = true
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{PAUSE_IMAGE}"
[plugins."io.containerd.cri.v1.images".registry]
  config_path = "{layout.config}/certs.d"
[plugins."io.containerd.cri.v1.runtime"]
  # Without CAP_SYS_RESOURCE (CI machines) lowering a score is refused, and no container would start.
  restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["/usr/lib/cni"]
  conf_dir = "{layout.config}/cni"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
"""


def registry_hosts(block: Block) -> str:
    """For every registry name: ask the cluster's own. A name it lacks is NotFound at once, and no query leaves."""
    url = f"http://{block.gateway}:5000"
    return f'server = "{url}"\n[host."{url}"]\n  capabilities = ["pull", "resolve"]\n'


def cni(block: Block) -> dict[str, Any]:
    """Pods on one bridge; hairpin, so that a pod reaches itself through its Service."""
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            # In /run: addresses of pods that a kill took with it are free again.
            "dataDir": "/run/cni",
            "ranges": [[{"subnet": block.pods, "rangeStart": block.first_pod}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    return {
        "cniVersion": "1.0.0",
        "name": "devcluster",
        "plugins": [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}],
    }


def kubelet(layout: Layout, block: Block) -> dict[str, Any]:
    """The kubelet's configuration; see the comments for what a shared machine needs."""
    pki = layout.pki
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": block.gateway,
        "healthzBindAddress": "127.0.0.1",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki / "kubelet.crt"),
        "tlsPrivateKeyFile": str(pki / "kubelet.key"),
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "clusterDNS": [block.gateway],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        # The machine is not ours: no cgroup tree of QoS classes at its root, no share of it reserved, swap tolerated.
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": False,
        "enforceNodeAllocatable": [],
        "failCgroupV1": False,
        "failSwapOn": False,
        "localStorageCapacityIsolation": False,
        # A full disk of the host is no reason to evict pods before 1 %.
        "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%"},
        "imageMinimumGCAge": "24h",
        "imageGCHighThresholdPercent": 99,
        "imageGCLowThresholdPercent": 98,
        # kube-proxy needs no iptables chains, and they would be six tables more.
        "makeIPTablesUtilChains": False,
        # Else an image pulled under one name is asked for again under another, and refused.
        "imagePullCredentialsVerificationPolicy": "NeverVerify",
        # Else a small image waits behind a large one.
        "serializeImagePulls": False,
        "maxParallelImagePulls": 3,
        "podLogsDir": str(layout.logs / "pods"),
        "volumePluginDir": str(layout.kubelet / "plugins-exec"),
        "shutdownGracePeriod": "0s",
    }


def registry(layout: Layout, block: Block) -> dict[str, Any]:
    """Files below the state directory; deleting allowed, for tests of what a missing image does."""
    return {
        "version": "0.1",
        "log": {"level": "warn", "accesslog": {"disabled": False}},
        "storage": {
            "filesystem": {"rootdirectory": str(layout.data / "registry")},
            "delete": {"enabled": True},
        },
        "http": {"addr": f"{block.gateway}:5000"},
    }


def corefile(layout: Layout, block: Block) -> str:
    """The cluster's names, host.devcluster for the host, and NXDOMAIN at once for all others: nothing is forwarded."""
    return f"""\
.:53 {{
  bind {block.gateway}
  ready 127.0.0.1:8181
  errors
  hosts {{
    {block.host} host.devcluster
    {block.gateway} s3.devcluster registry.devcluster
    fallthrough
  }}
  kubernetes cluster.local in-addr.arpa {{
    kubeconfig {layout.config}/admin.kubeconfig
    pods insecure
    ttl 5
  }}
  template ANY ANY {{
    rcode NXDOMAIN
  }}
}}
"""


def storage_classes() -> dict[str, Any]:
    """The StorageClasses; go/kubernetes/provisioner.go reads their parameters."""
    return {
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            _storage_class("devcluster-shared", reclaim="Delete", binding="Immediate"),
            _storage_class("devcluster-retain", reclaim="Retain", binding="Immediate"),
            _storage_class("devcluster-limited", reclaim="Delete", binding="WaitForFirstConsumer", limited="true"),
        ],
    }


def _storage_class(name: str, *, reclaim: str, binding: str, **parameters: str) -> dict[str, Any]:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name},
        "provisioner": "devcluster.modelyard/volumes",
        "parameters": {"mode": "0777", "uid": "0", **parameters},
        "reclaimPolicy": reclaim,
        "volumeBindingMode": binding,
    }
