"""The manifests of deployments/kubernetes as users install them: read from the same files, under names of a test's own."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]

DIRECTORY = Path(__file__).resolve().parents[1] / "deployments" / "kubernetes"
#: The namespaces that the manifests name: of the flows' account, and of the cache.
ACCOUNTS, CACHE = "modelyard", "models"


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


def renamed(manifest: Manifest, namespace: str) -> Manifest:
    """The object with the accounts' and the cache's namespace replaced by one; what is cluster-wide gets a name of that namespace's."""
    kept: Manifest = json.loads(json.dumps(manifest))
    metadata = kept["metadata"]
    if "namespace" in metadata:
        metadata["namespace"] = namespace
    else:
        metadata["name"] = f"{metadata['name']}-{namespace}"
    if kept.get("roleRef", {}).get("kind") == "ClusterRole":
        kept["roleRef"]["name"] = f"{kept['roleRef']['name']}-{namespace}"
    for subject in kept.get("subjects", ()):
        subject["namespace"] = namespace
    return kept
