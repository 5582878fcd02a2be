"""A volume that becomes full, and one that others have written to, under a whole preload: nothing of theirs is touched."""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.auditor import Expected
from tests.cluster.faults.support import MIB, Audit, failing, finish, path_of, plant, preload, spec_of, volume_of, wait_until
from tests.cluster.preload.conftest import FrozenLoader, Stack

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
faults = pytest.mark.faults
STAGED = ".modelyard/staging/m/v1/files"


def staged_bytes(root: Path) -> int:
    """What has arrived of the version, by its allocated blocks."""
    return sum(path.lstat().st_blocks * 512 for path in (root / STAGED).rglob("*") if path.is_file())


def fill(path: Path) -> None:
    """Write until nothing more goes in."""
    with path.open("wb", buffering=0) as file:
        for size in (MIB, 4096):
            with suppress(OSError):
                while file.write(bytes(size)):
                    pass
        assert os.statvfs(path.parent).f_bavail * os.statvfs(path.parent).f_frsize < MIB, os.strerror(errno.ENOSPC)


@faults
def test_full_by_a_neighbour_when_half_of_it_has_come(stack: Stack, bystander: str, frozen: FrozenLoader) -> None:
    stack.cache(storageClassName="devcluster-limited", storageSize="200Mi")
    stack.s3.put_object(Bucket=stack.name, Key="first/v1/x", Body=b"x")
    finish(preload(stack, model="first", path="first/v1"))  # a claim of this class is bound by its first pod
    files = stack.put(**{f"part-{number:02}": os.urandom(4 * MIB) for number in range(24)})
    volume = volume_of(stack, spec_of(stack).claim, stack.name)
    root = path_of(stack, volume)
    before = Audit(stack, {"cache": volume, "bystander": bystander})
    running = preload(stack)
    frozen.step_until(lambda: staged_bytes(root) >= sum(map(len, files.values())) // 2)
    fill(root / "neighbour")
    frozen.thaw()
    failing(running, "NotEnoughSpace", "the volume became full", "nothing was published", "Free or add space and run the preload again")
    before.ends_absent(more=Expected(appeared=["file:cache/neighbour"]))
    (root / "neighbour").unlink()
    finish(preload(stack))
    before.ends_ready({"m/v1": files})


def test_the_empty_directory_that_a_kubelet_makes_for_a_sub_path(stack: Stack, audit: Callable[[], Audit]) -> None:
    """A workload that came before its model: it mounts a version's directory, which the kubelet makes."""
    files = stack.put(config__json=b"{}", model__safetensors=os.urandom(MIB))
    before = audit()
    stack.kube.create(_early_workload(stack.name, spec_of(stack).claim))
    root = path_of(stack, before.volumes["cache"])
    wait_until((root / "m" / "v1").is_dir)
    finish(preload(stack))
    before.ends_ready({"m/v1": files}, more=Expected(appeared=[f"Pod/{stack.name}/early"]))


def _early_workload(namespace: str, claim: str) -> dict[str, Any]:
    unprivileged = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "main",
        "image": "busybox:1.36",
        "command": ["sleep", "1000"],
        "securityContext": unprivileged,
        "volumeMounts": [{"name": "models", "mountPath": "/model", "subPath": "m/v1"}],
    }
    spec = {
        "terminationGracePeriodSeconds": 0,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 20002, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": claim}}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "early", "namespace": namespace}, "spec": spec}


@faults
def test_a_directory_of_somebody_else_in_the_versions_place(stack: Stack, audit: Callable[[], Audit]) -> None:
    stack.put(config__json=b"{}")
    begun = audit()
    plant(path_of(stack, begun.volumes["cache"]), {"m/v1/theirs.bin": b"theirs"})
    before = Audit(stack, begun.volumes)
    failing(preload(stack), "(VersionConflict|Refused)", "Modelyard did not put there")
    before.ends_absent()


def edit(root: Path) -> None:
    """One byte of a file, its size as it was."""
    with (root / "m/v1/model.safetensors").open("r+b") as file:
        file.seek(1000)
        file.write(b"edited")


def tamper(root: Path) -> None:
    """A manifest that says something else."""
    manifest = root / ".modelyard/manifests/m/v1.json"
    manifest.write_text(manifest.read_text().replace('"size"', '"sizes"'))


def cut(root: Path) -> None:
    """A file that lost its end."""
    os.truncate(root / "m/v1/model.safetensors", 10)


DAMAGES = [
    pytest.param(edit, {"verify": "digests"}, "model.safetensors has another SHA-256", id="an edited file"),
    pytest.param(cut, {}, "model.safetensors has 10 bytes", id="a shortened file"),
    pytest.param(tamper, {}, "cannot be read", id="a tampered manifest"),
]


@faults
@pytest.mark.parametrize(("damage", "options", "told"), DAMAGES)
def test_a_version_that_somebody_damaged(
    damage: Callable[[Path], None], options: dict[str, str], told: str, stack: Stack, audit: Callable[[], Audit]
) -> None:
    stack.put(config__json=b"{}", model__safetensors=os.urandom(MIB))
    begun = audit()
    finish(preload(stack))
    damage(path_of(stack, begun.volumes["cache"]))
    before = Audit(stack, begun.volumes)
    failing(preload(stack, **options), "(VolumeUnusable|Refused)", told)
    before.ends(Expected(ignored=[f"CachedModel/{stack.name}/*"]))


@faults
def test_unicode_twins_are_refused(stack: Stack, audit: Callable[[], Audit]) -> None:
    """Two keys that many file systems take for one name."""
    for key in ("caf\u00e9", "cafe\u0301"):
        stack.s3.put_object(Bucket=stack.name, Key=f"m/v1/{key}", Body=b"x")
    before = audit()
    failing(preload(stack), "Refused", "Unicode form")
    before.ends_absent()
