"""What a PersistentVolume mounts, as one line of text: the words by which an administrator lists what may be shared. Pure.

Two volumes of the same text mount the same. All that decides what is mounted is in it: server and path, a CSI volume's
handle, attributes and secrets, and the mount options, for some drivers take a subdirectory from there. The policy in
deployments/kubernetes/policies composes the same text in the API server; a test on a cluster holds the two together.
"""

from collections.abc import Iterator, Mapping
from typing import Any

#: Written by the provisioner for its own use; it decides nothing, and a copy does not carry it.
#: https://github.com/kubernetes-csi/external-provisioner (the key ``provisionerIDKey``)
PROVISIONER_IDENTITY = "storage.kubernetes.io/csiProvisionerIdentity"
_WORDED = frozenset({"nfs", "hostPath", "local", "csi"})
_NO_SOURCES = frozenset({"capacity", "claimRef", "nodeAffinity"})
SECRETS = ("controllerPublishSecretRef", "nodePublishSecretRef", "nodeStageSecretRef")


def backend_text(spec: Mapping[str, Any]) -> str | None:
    """The text for a PersistentVolume's ``spec``; None for sources that have none, and where a space in a field would make it ambiguous."""
    words = list(_words(spec))
    return None if not words or any(" " in word for word in words) else " ".join(words)


def source_type(spec: Mapping[str, Any]) -> str:
    """The key of the spec that is the volume's source; ``unknown`` if there is none."""
    return next((key for key, value in spec.items() if isinstance(value, dict) and key not in _NO_SOURCES), "unknown")


def _words(spec: Mapping[str, Any]) -> Iterator[str]:
    kind = source_type(spec)
    if kind not in _WORDED:
        return
    yield _head(kind, spec[kind])
    yield from _attributes(spec[kind]) if kind == "csi" else ()
    if options := spec.get("mountOptions"):
        yield f"options={','.join(options)}"


def _head(kind: str, source: Mapping[str, Any]) -> str:
    if kind == "nfs":
        return f"nfs:{source['server']}:{source['path']}"
    return f"csi:{source['driver']}:{source['volumeHandle']}" if kind == "csi" else f"{kind}:{source['path']}"


def _attributes(csi: Mapping[str, Any]) -> Iterator[str]:
    for key, value in sorted((csi.get("volumeAttributes") or {}).items()):
        if key != PROVISIONER_IDENTITY:
            yield f"{key}={value}"
    for key in SECRETS:
        if key in csi:
            yield f"{key}={csi[key].get('namespace', '')}/{csi[key].get('name', '')}"
