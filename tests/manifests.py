"""The manifests of deployments/kubernetes as users install them: read from the same files, under names of a test's own."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]

DIRECTORY = Path(__file__).resolve().parents[1] / "deployments" / "kubernetes"
#: The namespaces that the manifests name: of the flows' account, of the cache, and of one that it is shared with.
ACCOUNTS, CACHE, TARGET = "modelyard", "models", "target"


def read(directory: str = ".") -> list[Manifest]:
    """All objects that ``kustomize build`` of a directory below deployments/kubernetes gives, in its order."""
    return list(_resources(DIRECTORY / directory))


def _resources(directory: Path) -> Iterator[Manifest]:
    for name in yaml.safe_load((directory / "kustomization.yaml").read_text())["resources"]:
        path = directory / name
        yield from _resources(path) if path.is_dir() else yaml.safe_load_all(path.read_text())


def rules(directory: str, name: str) -> list[Manifest]:
    """The rules of one Role or ClusterRole."""
    [role] = [each for each in read(directory) if each["kind"] in {"Role", "ClusterRole"} and each["metadata"]["name"] == name]
    found: list[Manifest] = role["rules"]
    return found


def renamed(manifest: Manifest, namespaces: Mapping[str, str], suffix: str) -> Manifest:
    """The object with other namespaces; what is cluster-wide gets ``suffix`` behind its name."""
    kept: Manifest = json.loads(json.dumps(manifest))
    metadata = kept["metadata"]
    if "namespace" in metadata:
        metadata["namespace"] = namespaces[metadata["namespace"]]
    else:
        metadata["name"] = f"{metadata['name']}-{suffix}"
    if kept.get("roleRef", {}).get("kind") == "ClusterRole":
        kept["roleRef"]["name"] = f"{kept['roleRef']['name']}-{suffix}"
    for subject in kept.get("subjects", ()):
        subject["namespace"] = namespaces[subject["namespace"]]
    return kept
