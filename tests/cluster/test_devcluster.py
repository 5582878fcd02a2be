"""The devcluster itself: what a pod finds in it, how it comes back after kills, and that it leaves nothing.

One cluster for the file, of its own name; the tests tell one story in order. Nothing is simulated.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import devcluster
from devcluster.network import block_of
from devcluster.packages import CLUSTER, install_packages
from devcluster.paths import REPOSITORY, Layout
from devcluster.processes import find_supervisor, read_status

pytestmark = pytest.mark.cluster

NAME = "lifecycle"
CLASSES = ("devcluster-shared", "devcluster-retain", "devcluster-limited")
USER = 10001
#: For a pod's start, or a cluster's, on a machine that is busy with other clusters.
SECONDS = 300
KSERVE_CONFIG = ("configmap", "inferenceservice-config", "--namespace=kserve")
SYSCTLS = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "net/ipv4/ip_forward")


@pytest.fixture(scope="module")
def before() -> dict[str, set[str]]:
    """The machine as it was without the cluster."""
    devcluster.down(NAME, purge=True)
    install_packages(CLUSTER)  # the programs that look
    return machine()


@pytest.fixture(scope="module")
def cluster(before: dict[str, set[str]]) -> Iterator[devcluster.Cluster]:
    assert before
    try:
        started = devcluster.up(NAME)
    except devcluster.DevclusterError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no devcluster here: {error}")
    yield started
    devcluster.down(NAME, purge=True)


@pytest.fixture(autouse=True)
def _steady_cluster() -> None:
    """In the place of the shared cluster's: these tests have one of their own, and hold up nobody who kills parts of the shared one."""


def test_a_second_up_finds_the_cluster_ready(cluster: devcluster.Cluster) -> None:
    supervisor = find_supervisor(Layout(cluster.state_dir))
    assert devcluster.up(NAME) == cluster == devcluster.connect(NAME)
    assert find_supervisor(Layout(cluster.state_dir)) == supervisor
    conditions = kubectl(cluster, "get", "node", "node", "--output=jsonpath={.status.conditions[?(@.type=='Ready')].status}")
    assert conditions == "True"


def test_a_pod_resolves_names_and_reaches_the_api_by_its_service(cluster: devcluster.Cluster) -> None:
    apply(cluster, pod("names", "nslookup kubernetes.default.svc.cluster.local && nc kubernetes.default.svc 443 </dev/null && "
                       "test -s /var/run/secrets/kubernetes.io/serviceaccount/token && ! nslookup example.org"))  # fmt: skip
    assert wait_for_end(cluster, "names") == "Succeeded", kubectl(cluster, "logs", "names")
    # Through kube-proxy's rules, with verified TLS.
    service = block_of(Layout(cluster.state_dir)).api_service
    ready = cluster.enter(
        [str(cluster.kubectl), f"--kubeconfig={cluster.kubeconfig}", f"--server=https://{service}", "get", "--raw=/readyz"]
    )
    assert ready.stdout == "ok", ready.stderr


def test_any_user_writes_to_each_class_and_the_limited_one_is_full_at_its_size(cluster: devcluster.Cluster) -> None:
    apply(cluster, *(claim(name) for name in CLASSES))
    write = " && ".join(f"echo kept >/volumes/{name}/file" for name in CLASSES)
    fill = "dd if=/dev/zero of=/volumes/devcluster-limited/fill bs=1M count=64"
    apply(cluster, pod("writer", f"{write}; {fill}", CLASSES))
    assert wait_for_end(cluster, "writer") == "Failed"
    assert "No space left on device" in kubectl(cluster, "logs", "writer")
    for name in ("devcluster-shared", "devcluster-retain"):
        file = volume(cluster, name) / "file"
        assert (file.read_text(), file.stat().st_uid) == ("kept\n", USER)


def test_a_killed_component_comes_back(cluster: devcluster.Cluster) -> None:
    for component in ("kubelet", "containerd", "kube-apiserver"):
        killed, before = cluster.pid_of(component), restarts(cluster, component)
        os.kill(killed, signal.SIGKILL)
        wait_until(partial(is_running_again, cluster, component, before), f"{component} is ready again")
        assert cluster.pid_of(component) != killed
    assert devcluster.up(NAME) == cluster


def test_kserve_is_installed_on_request(cluster: devcluster.Cluster) -> None:
    assert devcluster.up(NAME, extras=["kserve"]) == cluster  # returns when its webhooks answer
    kubectl(cluster, "patch", *KSERVE_CONFIG, "--type=merge", "--patch", json.dumps({"data": {"note": "kept"}}))
    # As if the installation had been killed just before its end.
    kubectl(cluster, "annotate", "deployment", "kserve-controller-manager", "--namespace=kserve", "devcluster.modelyard/installed-")


def test_up_after_a_kill_of_everything_keeps_the_data(cluster: devcluster.Cluster) -> None:
    layout = Layout(cluster.state_dir)
    os.kill(find_supervisor(layout) or 0, signal.SIGKILL)
    commands = [subprocess.Popen([sys.executable, "-m", "devcluster", "--name", NAME, "up"], cwd=REPOSITORY) for _ in range(2)]
    assert [command.wait(timeout=SECONDS) for command in commands] == [0, 0]
    read = " && ".join(f"cat /volumes/{name}/file" for name in CLASSES)
    apply(cluster, pod("reader", read, CLASSES))
    assert wait_for_end(cluster, "reader") == "Succeeded", kubectl(cluster, "logs", "reader")
    assert kubectl(cluster, "logs", "reader") == "kept\n" * len(CLASSES)
    devcluster.up(NAME, extras=["kserve"])  # installs it over what is there, but for the administrator's configuration
    assert kubectl(cluster, "get", *KSERVE_CONFIG, "--output=jsonpath={.data.note}") == "kept"


def test_deleting_claims_deletes_what_their_class_says(cluster: devcluster.Cluster) -> None:
    volumes = {name: volume(cluster, name) for name in CLASSES}
    kubectl(cluster, "delete", "pod", "--all", "--now")
    kubectl(cluster, "delete", "pvc", "--all")
    gone = [volumes["devcluster-shared"], volumes["devcluster-limited"], volumes["devcluster-limited"].with_suffix(".img")]
    wait_until(lambda: not any(path.exists() for path in gone), f"{gone} are deleted")
    assert (volumes["devcluster-retain"] / "file").read_text() == "kept\n"


def test_up_after_a_kill_that_lost_the_state_too(cluster: devcluster.Cluster) -> None:
    """A machine that was torn down, state and all: its cgroups are still there."""
    namespace = Path(f"/proc/{find_supervisor(Layout(cluster.state_dir))}/ns/pid").stat().st_ino
    interface = block_of(Layout(cluster.state_dir)).interface
    os.kill(find_supervisor(Layout(cluster.state_dir)) or 0, signal.SIGKILL)
    wait_until(lambda: processes_of(namespace) == [], "its processes are gone")
    # The kernel keeps the wire for minutes where connections between pods and API server (to webhooks) have not ended well.
    subprocess.run(["ip", "link", "del", interface], capture_output=True, check=False)
    shutil.rmtree(cluster.state_dir)
    # Its addresses are free now: it has them again unless another cluster, which starts at this moment, is faster.
    assert devcluster.up(NAME).state_dir == cluster.state_dir


def test_down_leaves_nothing(cluster: devcluster.Cluster, before: dict[str, set[str]]) -> None:
    apply(cluster, claim("devcluster-limited"), pod("sleeper", "sleep 1000", ("devcluster-limited",)))
    wait_until(lambda: phase(cluster, "sleeper") == "Running", "the pod runs")
    namespace = Path(f"/proc/{find_supervisor(Layout(cluster.state_dir))}/ns/pid").stat().st_ino
    block = block_of(Layout(cluster.state_dir))
    devcluster.down(NAME)
    # The supervisor itself is left to the machine's init to reap.
    wait_until(lambda: processes_of(namespace) == [], "its processes are gone")
    # Others may come and go meanwhile; these words are the cluster's.
    words = (block.interface, block.cgroup, block.gateway.removesuffix("0.1"), str(cluster.state_dir), "pods0", "host0", "kube", "cni")
    left = {kind: {entry for entry in now - before[kind] if kind in {"nft", "sysctl"} or any(word in entry for word in words)}
            for kind, now in machine().items()}  # fmt: skip
    assert left == {kind: set() for kind in left}
    assert cluster.state_dir.is_dir()
    devcluster.down(NAME, purge=True)
    assert not cluster.state_dir.exists()


def machine() -> dict[str, set[str]]:
    """What a cluster could leave behind, as text."""

    def lines(*argv: str) -> set[str]:
        return set(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines())

    return {
        "mount": set(Path("/proc/self/mountinfo").read_text().splitlines()),
        "link": lines("ip", "-brief", "link"),
        "route": lines("ip", "-4", "route", "show", "table", "all"),
        "nft": lines("nft", "list", "tables"),
        "loop": lines("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE"),
        "cgroup": lines("find", "/sys/fs/cgroup", "-type", "d", "-name", "devcluster*"),
        "sysctl": {f"{name}={Path('/proc/sys', name).read_text()}" for name in SYSCTLS},
    }


def processes_of(namespace: int) -> list[str]:
    """The processes in a pid namespace."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "ns/pid").stat().st_ino == namespace:
                found.append((entry / "cmdline").read_text())
        except OSError:
            continue
    return found


def restarts(cluster: devcluster.Cluster, component: str) -> int:
    return read_status(Layout(cluster.state_dir))[component]["restarts"]


def is_running_again(cluster: devcluster.Cluster, component: str, before: int) -> bool:
    state = read_status(Layout(cluster.state_dir))[component]
    return bool(state["ready"]) and state["restarts"] > before


def kubectl(cluster: devcluster.Cluster, *arguments: str, stdin: str | None = None) -> str:
    command = [str(cluster.kubectl), f"--kubeconfig={cluster.kubeconfig}", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=True, timeout=SECONDS).stdout


def apply(cluster: devcluster.Cluster, *manifests: dict[str, Any]) -> None:
    kubectl(cluster, "apply", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests}))


def pod(name: str, script: str, claims: tuple[str, ...] = ()) -> dict[str, Any]:
    mounts = [{"name": claim_name, "mountPath": f"/volumes/{claim_name}"} for claim_name in claims]
    container = {"name": "main", "image": "busybox:1.36", "command": ["sh", "-c", script], "volumeMounts": mounts}
    spec = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        "securityContext": {"runAsUser": USER, "runAsNonRoot": True},
        "containers": [container],
        "volumes": [{"name": claim_name, "persistentVolumeClaim": {"claimName": claim_name}} for claim_name in claims],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def claim(storage_class: str) -> dict[str, Any]:
    spec = {"accessModes": ["ReadWriteMany"], "storageClassName": storage_class, "resources": {"requests": {"storage": "32Mi"}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": storage_class}, "spec": spec}


def volume(cluster: devcluster.Cluster, claim_name: str) -> Path:
    """Where the claim's data is on the host; a limited volume's file system is mounted in the cluster only."""
    return cluster.state_dir / "volumes" / kubectl(cluster, "get", "pvc", claim_name, "--output=jsonpath={.spec.volumeName}")


def phase(cluster: devcluster.Cluster, name: str) -> str:
    return kubectl(cluster, "get", "pod", name, "--output=jsonpath={.status.phase}")


def wait_for_end(cluster: devcluster.Cluster, name: str) -> str:
    wait_until(lambda: phase(cluster, name) in {"Succeeded", "Failed"}, f"pod {name} ends")
    return phase(cluster, name)


def wait_until(condition: Callable[[], bool], what: str, timeout: float = SECONDS) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.1)
