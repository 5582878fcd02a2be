"""The contestants that make a modelcar: for each the command line that brings one dataset from the S3 server into the registry."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.dataset import BUCKET, Dataset
from benchmarks.loader_python import ROOT, environment, packages
from benchmarks.registry import BASE, BASE_TAG, Registry, registry_version
from benchmarks.s3_server import S3Server, versitygw_version
from benchmarks.tools import binary
from modelyard.images.descriptors import Platform
from modelyard.images.references import Reference
from modelyard.models import S3Location
from modelyard.plans.modelcar import ModelcarRequest

CRANE = "github.com/google/go-containerregistry/cmd/crane@v0.22.1"
REPOSITORY = "models/benchmark"
#: What is made a layer of its own by all.
_WEIGHTS = ".safetensors"
_SETTINGS = {
    "containers.conf": '[network]\nnetwork_config_dir = "{scratch}/networks"\n',  # else buildah makes /etc/cni
    "storage.conf": '[storage]\ndriver = "overlay"\n',
    "config.json": "{{}}",
    "policy.json": '{{"default": [{{"type": "insecureAcceptAnything"}}]}}',
}
#: Every mount read-only; told when it is so.
_READ_ONLY = """
cut -d' ' -f2 /proc/self/mounts | sort -u | while read -r mount; do mount -o remount,bind,ro "$mount" || true; done
echo ready
exec sleep infinity
"""


@dataclass(frozen=True, slots=True)
class Job:
    """One dataset to be brought from a server into a registry under ``tag``; ``scratch`` is for those that need a disk."""

    work: Path
    python: Path
    server: S3Server
    registry: Registry
    dataset: Dataset
    tag: str = "v1"
    previous: str | None = None
    namespace: int | None = None  # the process whose mounts the builder has

    @property
    def scratch(self) -> Path:
        """Where downloads and other tools' own stores are."""
        return self.work / "scratch"

    @property
    def image(self) -> str:
        """The image to be made."""
        return f"{self.registry.host}/{REPOSITORY}:{self.tag}"

    @property
    def base(self) -> str:
        """The image below it."""
        return f"{self.registry.host}/{BASE}:{BASE_TAG}"

    @property
    def groups(self) -> list[list[str]]:
        """The files of each layer, as the builder makes them: the small ones share one."""
        paths = sorted(self.dataset.files)
        return [[path for path in paths if not path.endswith(_WEIGHTS)], *([path] for path in paths if path.endswith(_WEIGHTS))]

    def prepare(self) -> None:
        """An empty scratch, with the settings of containers' tools: they take none of this machine."""
        self.scratch.mkdir()
        for name, text in _SETTINGS.items():
            (self.scratch / name).write_text(text.format(scratch=self.scratch))

    def environment(self) -> dict[str, str]:
        """Of every contestant."""
        settings = {
            "CONTAINERS_CONF": f"{self.scratch}/containers.conf",
            "CONTAINERS_STORAGE_CONF": f"{self.scratch}/storage.conf",
            "DOCKER_CONFIG": str(self.scratch),
            "TMPDIR": str(self.scratch),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return {**environment(), **self.server.environment, **settings}


# Modelyard --------------------------------------------------------------------------------------------------------------


def _modelyard(job: Job) -> list[str]:
    request = ModelcarRequest(
        model="benchmark",
        version=job.tag,
        source=S3Location(bucket=BUCKET, prefix=job.dataset.prefix, endpoint_url=job.server.endpoint),
        image=Reference.parse(job.image),
        base=Reference.parse(job.base),
        platforms=(Platform.parse("linux/amd64"),),
        previous=Reference.parse(job.previous) if job.previous else None,
    )
    inside = ["nsenter", f"--mount=/proc/{job.namespace}/ns/mnt", f"--wd={ROOT}"] if job.namespace else []
    return [*inside, str(job.python), "-m", "benchmarks.modelcar_build", request.model_dump_json()]


@contextmanager
def read_only_mounts() -> Iterator[int]:
    """A process in whose mount namespace nothing can be written."""
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _READ_ONLY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            if process.stdout is None or process.stdout.readline() != "ready\n":
                raise SystemExit("unshare --mount failed: the benchmark needs root")
            yield process.pid
        finally:
            process.kill()


# The others -------------------------------------------------------------------------------------------------------------


def _download(job: Job) -> str:
    source = f"s3://{BUCKET}/{job.dataset.prefix}/*"
    return shlex.join([binary("s5cmd"), "--log", "error", "--endpoint-url", job.server.endpoint, "cp", source, f"{job.scratch}/models/"])


def _olot(job: Job) -> list[str]:
    """With the flags that are the fastest: nothing is compressed anew."""
    layout = f"{job.scratch}/layout"
    copy = ["skopeo", "--insecure-policy", "--tmpdir", str(job.scratch), "copy", "--quiet"]
    steps = [
        _download(job),
        shlex.join([*copy, "--src-tls-verify=false", f"docker://{job.base}", f"oci:{layout}:latest"]),
        shlex.join([sys.executable, "-m", "benchmarks.olot_layers", layout, f"{job.scratch}/models"]),
        shlex.join([*copy, "--dest-tls-verify=false", "--preserve-digests", f"oci:{layout}:latest", f"docker://{job.image}"]),
    ]
    return ["bash", "-euc", "\n".join(steps)]


def _buildah(job: Job) -> list[str]:
    """A COPY for each weight file, as the builder's layers, on overlay; pushed without compression."""
    scratch, policy = job.scratch, job.scratch / "policy.json"
    copies = [["COPY", *(f"models/{path}" for path in group), "/models/"] for group in job.groups]
    (scratch / "Containerfile").write_text("\n".join([f"FROM {job.base}", *(" ".join(copy) for copy in copies)]) + "\n")
    buildah = ["buildah", "--root", f"{scratch}/root", "--runroot", f"{scratch}/run", "--storage-driver", "overlay"]
    build = ["bud", "--quiet", "--layers", "--isolation", "chroot", "--tls-verify=false", "--signature-policy", str(policy)]
    push = ["push", "--quiet", "--disable-compression", "--tls-verify=false", "--signature-policy", str(policy)]
    steps = [
        _download(job),
        shlex.join([*buildah, *build, "--file", f"{scratch}/Containerfile", "--tag", job.image, str(scratch)]),
        shlex.join([*buildah, *push, job.image, f"docker://{job.image}"]),
    ]
    return ["bash", "-euc", "\n".join(steps)]


def _crane(job: Job) -> list[str]:
    """A pipe for each layer, all at once; crane compresses what comes through a pipe, and has no setting for that."""
    prefix = f"s3://{BUCKET}/{job.dataset.prefix}"
    stream = [str(job.python), "-m", "benchmarks.tar_stream", job.server.endpoint, prefix, binary("s5cmd")]
    tars = [shlex.join([*stream, *(f"{path}={job.dataset.files[path][0]}" for path in group)]) for group in job.groups]
    pipes = " ".join(f"--new_layer <({tar})" for tar in tars)
    append = shlex.join([str(crane_program(job.work)), "append", "--insecure", "--base", job.base, "--new_tag", job.image])
    return ["bash", "-euc", f"{append} {pipes}; wait"]


CONTESTANTS: dict[str, Callable[[Job], list[str]]] = {
    "modelyard": _modelyard,
    "olot+skopeo": _olot,
    "buildah": _buildah,
    "crane": _crane,
}


def crane_program(work: Path) -> Path:
    """The binary, built once below ``work`` from the pinned module."""
    directory = work / CRANE.rpartition("/")[2]
    if not (directory / "crane").is_file():
        print(f"building {CRANE} once", flush=True)
        settings = {"GOBIN": str(directory), "CGO_ENABLED": "0", "GOFLAGS": "-trimpath"}
        subprocess.run(["go", "install", CRANE], check=True, env={**environment(), **settings})
    return directory / "crane"


def check_tools(names: list[str], work: Path) -> None:
    """Have what the contestants need.

    Raises:
        SystemExit: something is missing; the message says how to get it.
    """
    for tool, users in {"skopeo": {"olot+skopeo"}, "buildah": {"buildah"}}.items():
        if users & set(names) and not shutil.which(tool):
            raise SystemExit(f"{tool} is missing: install it with `apt-get install {tool}`, or leave it out with --tools")
    if set(names) - {"modelyard"}:
        binary("s5cmd")
    if "crane" in names:
        crane_program(work)


def versions(python: Path, names: list[str]) -> dict[str, str]:
    """What ran."""
    told = packages(python) | {"versitygw": versitygw_version(), "distribution": registry_version()}
    commands = {"olot+skopeo": ["skopeo", "--version"], "buildah": ["buildah", "--version"]}
    told |= {command[0]: _output(command) for name, command in commands.items() if name in names}
    told |= {"s5cmd": _output([binary("s5cmd"), "version"])} if set(names) - {"modelyard"} else {}
    told |= {"olot": version("olot")} if "olot+skopeo" in names else {}
    return told | ({"crane": CRANE.rpartition("@")[2]} if "crane" in names else {})


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[0]
