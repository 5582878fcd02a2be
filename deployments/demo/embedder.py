"""The demo's inference server: its image in the devcluster's registry, and how KServe runs it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

import devcluster
from devcluster.images import build_image

PROJECT = Path(__file__).resolve().parents[2]
CONTEXT = PROJECT / "deployments" / "images" / "embedder"
TAG = "modelyard/embedder:dev"
#: What an InferenceService names as its model's format, so that KServe finds the runtime.
MODEL_FORMAT = "sentence-transformers"
_RUNTIME_FILE = Path(__file__).parent / "serving-runtime.yaml"


def embedder_image(cluster: devcluster.Cluster) -> str:
    """Build the image and push it; the reference by digest, so that no node runs an older one."""
    _fetch_wheels()
    reference, digest = build_image(cluster.registry, "embedder", CONTEXT, None, TAG)
    return f"{reference.rpartition(':')[0]}@{digest}"


def _fetch_wheels() -> None:
    """The packages that the image installs, by their pinned hashes; what is there already is not fetched again."""
    options = ["--no-deps", "--only-binary", ":all:", "--python-version", "3.11", "--require-hashes", "--disable-pip-version-check"]
    wheels = CONTEXT / "wheels"
    there = ["--find-links", str(wheels)] if wheels.is_dir() else []
    argv = [sys.executable, "-m", "pip", "download", "-q", *options, *there, "-r", str(CONTEXT / "requirements.txt"), "-d", str(wheels)]
    subprocess.run(argv, check=True)


def serving_runtime(image: str, namespace: str) -> dict[str, Any]:
    """The manifest of the runtime that runs ``image``, for a namespace."""
    manifest: dict[str, Any] = yaml.safe_load(_RUNTIME_FILE.read_text())
    manifest["metadata"]["namespace"] = namespace
    manifest["spec"]["containers"][0]["image"] = image
    return manifest
