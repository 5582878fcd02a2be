"""The inside of the cluster's own mount and network namespaces, made ready before any component starts.

What the components would leave on the host goes to places that end with the namespace: /run is empty, /var is an
overlay whose changes are in memory, and the kernel settings the kubelet insists on are answered by files of ours, so
that it never writes the host's.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devcluster.commands import run
from devcluster.errors import CommandError
from devcluster.network import Block, make_bridge
from devcluster.paths import Layout

# The kubelet sets these for the whole machine unless they read so already.
KUBELET_SYSCTLS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}


def prepare(layout: Layout, block: Block) -> None:
    """Everything between the new namespaces and the first component. Runs as their pid 1."""
    with _kept_visible(layout):
        run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"])
        _overlay_var()
    _answer_sysctls()
    make_bridge(block)
    _renew_kubelet_directory(layout)
    _mount_limited_volumes(layout)


@contextmanager
def _kept_visible(layout: Layout) -> Iterator[None]:
    """Bring back, after the mounts of the body, what they hide: the state directory and other disks below /var."""
    kept = {str(layout.directory), *_mount_points_below("/var")}
    hidden = sorted(path for path in kept if path.startswith(("/var/", "/run/")))
    handles = {path: os.open(path, os.O_PATH) for path in hidden}
    yield
    for path, handle in handles.items():
        if Path(f"/proc/self/fd/{handle}").is_dir():
            Path(path).mkdir(parents=True, exist_ok=True)
        # Not canonicalized: the name behind the link is the one that is hidden now.
        run(["mount", "--no-canonicalize", "--bind", f"/proc/self/fd/{handle}", path], pass_fds=[handle])
        os.close(handle)


def _mount_points_below(top: str) -> list[str]:
    """From /proc/self/mountinfo, whose fifth word is the mount point with blanks as octal escapes."""
    words = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    points = [word.encode().decode("unicode_escape") for word in words]
    return [point for point in points if point.startswith(top + "/")]


def _overlay_var() -> None:
    """The upper directory is on the new /run: a tmpfs serves where the root itself is an overlay (containers)."""
    for name in ("var-changes", "var-work"):
        Path("/run", name).mkdir()
    run(["mount", "-t", "overlay", "-o", "lowerdir=/var,upperdir=/run/var-changes,workdir=/run/var-work", "overlay", "/var"])


def _answer_sysctls() -> None:
    answers = Path("/run/sysctls")
    answers.mkdir()
    for name, value in KUBELET_SYSCTLS.items():
        real = Path("/proc/sys", name)
        if real.exists():
            answer = answers / name.replace("/", ".")
            answer.write_text(value + "\n")
            run(["mount", "--bind", answer, real])


def _renew_kubelet_directory(layout: Layout) -> None:
    """Its pods ended with the last namespace, and a checkpoint cut short would stop the kubelet from starting."""
    shutil.rmtree(layout.kubelet, ignore_errors=True)
    layout.kubelet.mkdir(mode=0o700)


def _mount_limited_volumes(layout: Layout) -> None:
    """Mount again what the provisioner made (go/kubernetes/volume.go), before a pod can write below it."""
    for partial in layout.volumes.glob("*.img.partial"):
        partial.unlink()
    for image in layout.volumes.glob("*.img"):
        path = image.with_suffix("")
        path.mkdir(exist_ok=True)
        try:
            run(["mount", "-o", "loop", image, path])
        except CommandError as error:
            print(f"volume {image} stays unmounted: {error}", flush=True)
