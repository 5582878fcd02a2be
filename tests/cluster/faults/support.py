"""What the fault table's tests on a real cluster share: the auditor around a stack, and flows in processes that may be killed."""

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from blocks import ModelCache, load_block
from devcluster.paths import Layout
from devcluster.processes import find_supervisor
from modelyard.caches import CacheSpec
from modelyard.plans.claim import ClaimPlan, plan_claim
from modelyard.volumes.claims import ensure_claim, wait_bound
from modelyard.volumes.storage_classes import read_storage_classes
from tests.auditor import Expected, Findings, Snapshot, compare
from tests.cluster.preload.conftest import Stack

PATIENCE = 300.0
MIB = 1024 * 1024
Manifest = dict[str, Any]
#: The name of a test's namespace, which is in the name of all that the test makes for the whole cluster.
_OF_A_TEST = re.compile(r"(bystander-)?(test|preload)-[0-9a-f]{8}")
#: The catalogue's kind, which other tests install meanwhile; it stays.
_KIND = ("CustomResourceDefinition/cachedmodels.modelyard.dev", "APIService/v1alpha1.modelyard.dev")
#: A foreign model, a stray file, and a directory that a person made: on the cache's own volume, and none of Modelyard's.
FOREIGN = {"theirs/v9/weights.bin": b"theirs", "README.txt": b"by hand"}


def wait_until(true: Callable[[], object], seconds: float = PATIENCE, pause: float = 0.2) -> None:
    """Until ``true`` holds."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(pause)


def start_flow(flow: str, parameters: Mapping[str, Any], **environment: str) -> "subprocess.Popen[str]":
    """The flow ``module:function`` in a process of its own, as a worker would start it; its result is its last line."""
    module, _, function = flow.partition(":")
    code = f"import json, sys; from {module} import {function} as run; print(run(**json.loads(sys.argv[1])).model_dump_json())"
    command = [sys.executable, "-c", code, json.dumps(dict(parameters))]
    return subprocess.Popen(command, env=os.environ | environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def run_flow(flow: str, parameters: Mapping[str, Any], **environment: str) -> tuple[int, str]:
    """The flow's exit code and what it said."""
    process = start_flow(flow, parameters, **environment)
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def preload(stack: Stack, **more: Any) -> "subprocess.Popen[str]":
    """A preload under way."""
    return start_flow("flows.preload:preload_model", stack.parameters(**more))


def finish(process: "subprocess.Popen[str]", seconds: float = 300) -> str:
    """What a flow said that ended well."""
    output, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, output
    return output


def failing(process: "subprocess.Popen[str]", error: str, *told: str) -> None:
    """Assert that the flow ended with one clear error of this kind (a pattern), which tells all of ``told``."""
    output, _ = process.communicate(timeout=300)
    last = output.strip().rpartition("modelyard.errors.")[2]
    assert process.returncode, output
    assert re.match(f"{error}: ", last), output
    for words in told:
        assert words in last, output


def spec_of(stack: Stack) -> CacheSpec:
    """The stack's cache as the flows see it."""
    return load_block(ModelCache, stack.name).spec()


def bound_claim(stack: Stack) -> str:
    """Make the cache's claim as a first preload would; its volume's name. Only for classes that bind at once."""
    cache = spec_of(stack)
    planned = plan_claim(cache, None, read_storage_classes(stack.kube))
    assert isinstance(planned, ClaimPlan)
    ensure_claim(stack.kube, cache, planned)
    wait_bound(stack.kube, cache.namespace, cache.claim, PATIENCE)
    return volume_of(stack, cache.claim, cache.namespace)


def volume_of(stack: Stack, claim: str, namespace: str) -> str:
    """The name of the claim's PersistentVolume."""
    live = stack.kube.get("PersistentVolumeClaim", claim, namespace)
    assert live
    return str(live["spec"]["volumeName"])


def path_of(stack: Stack, volume: str) -> Path:
    """Where a volume's files are on this side; also those of a file system that is mounted in the cluster only."""
    supervisor = find_supervisor(Layout(stack.cluster.state_dir))
    return Path(f"/proc/{supervisor}/root{stack.cluster.state_dir}/volumes/{volume}")


def plant(root: Path, files: Mapping[str, bytes]) -> None:
    """Lay files below ``root``, as somebody else."""
    for name, body in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(body)


@dataclass
class Audit:
    """All that there is, before and after: in the cluster, on the cache's volume, and on a bystander's."""

    stack: Stack
    volumes: dict[str, str]  # by the name in findings: the PersistentVolume
    before: Snapshot = field(init=False)

    def __post_init__(self) -> None:
        self.before = self.look()

    def look(self) -> Snapshot:
        """Everything as it is now, but what belongs to other tests."""
        paths = {name: path_of(self.stack, volume) for name, volume in self.volumes.items()}
        facts = Snapshot.take(self.stack.cluster.kubeconfig, paths).facts
        mine = {self.stack.name, f"bystander-{self.stack.name}"}
        return Snapshot({name: fact for name, fact in facts.items() if not _of_another_test(name, fact, mine)})

    def ends(self, expected: Expected) -> None:
        """Assert that all is as ``expected``; garbage collectors are given their time."""
        deadline = time.monotonic() + PATIENCE
        while (found := self._differences(expected)) and time.monotonic() < deadline:
            time.sleep(1)
        assert not found, str(found)

    def _differences(self, expected: Expected) -> Findings:
        installed = [name for name in _KIND if name not in self.before.facts]
        return compare(self.before, self.look(), replace(expected, ignored=[*expected.ignored, *installed]))

    def ends_ready(self, versions: Mapping[str, Mapping[str, bytes]], *, more: Expected | None = None) -> None:
        """Assert that exactly these versions (``m/v1``: its files) came, byte for byte, and that nothing else changed or stayed."""
        extra = more or Expected()
        appeared = [*extra.appeared]
        for version, files in versions.items():
            appeared += [f"file:cache/{version}", f"file:cache/.modelyard/manifests/{version}.json"]
            appeared += [f"file:cache/{version}/{name}" for name in files]
        self.ends(Expected(appeared, extra.vanished, extra.changed, [*extra.ignored, *self._own(versions)]))
        after = self.look().facts
        for version, files in versions.items():
            for name, body in files.items():
                fact = after[f"file:cache/{version}/{name}"]
                assert (fact["size"], fact["sha256"]) == (len(body), hashlib.sha256(body).hexdigest()), f"{version}/{name}"

    def ends_absent(self, version: str = "m/v1", *, more: Expected | None = None) -> None:
        """Assert that nothing came but what the next run goes on with."""
        extra = more or Expected()
        staged = [f"file:cache/.modelyard/staging/{version}", f"file:cache/.modelyard/staging/{version}/*"]
        staged += [f"file:cache/.modelyard/manifests/{version}.json.pending", "file:cache/.modelyard/manifests/*/"]
        self.ends(Expected(extra.appeared, extra.vanished, extra.changed, [*extra.ignored, *staged, *self._own([version])]))

    def _own(self, versions: Iterable[str]) -> list[str]:
        """Modelyard's own directories and locks, which stay for ever; and the catalogue, where its kind is installed."""
        models = {version.partition("/")[0] for version in versions}
        parents = ["", "/manifests", "/staging", "/locks", "/trash"]
        directories = [f"file:cache/.modelyard{each}" for each in parents]
        directories += [f"file:cache/.modelyard/{each}/{model}" for each in ("manifests", "staging") for model in models]
        return [
            *directories,
            "file:cache/.modelyard/locks/*.lock",
            *(f"file:cache/{model}" for model in models),
            f"CachedModel/{self.stack.name}/*",
        ]


def _of_another_test(name: str, fact: Mapping[str, Any], mine: set[str]) -> bool:
    if name.startswith("file:"):
        return False
    claim = (fact["spec"].get("claimRef") or {}) if name.startswith("PersistentVolume/") else {}
    found = _OF_A_TEST.search(f"{claim.get('namespace', '')} {name}")
    return found is not None and found[0] not in mine
