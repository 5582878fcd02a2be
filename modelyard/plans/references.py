"""What a workload's object says of the claims that it uses: paths on them. Pure, and blind to the kind.

An object is walked as a whole, because each kind keeps its pods elsewhere: a pod's spec is known by its ``volumes``, KServe's
and T9k's own fields by ``pvc://`` addresses and ``pvc: {name, subPath}``. What is found besides counts as used: too much is
kept rather than too little.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

#: On an object or its pod template: which models of a claim that it mounts whole it uses, as ``a@v1,b@v2``.
MODELS_ANNOTATION = "modelyard.dev/models"
#: The path of a mount of the whole claim.
WHOLE = ""

_ADDRESS = re.compile(r"pvc://([a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)(/[^\s\"',]*)?")
_NO_SOURCES = frozenset({"capacity", "claimRef", "nodeAffinity"})
_MODEL = re.compile(r"[A-Za-z0-9._-]+(@[A-Za-z0-9._-]+)?")


@dataclass(frozen=True, slots=True)
class Use:
    """One workload or pod, ``Kind/namespace/name``, and the paths on the cache's volume that it uses (``WHOLE``: all of it)."""

    who: str
    paths: frozenset[str]

    def covers(self, model: str, version: str) -> bool:
        """Whether it uses any of this version's files."""
        version_path = f"{model}/{version}"
        return any(path in {WHOLE, model, version_path} or path.startswith(f"{version_path}/") for path in self.paths)


@dataclass(frozen=True, slots=True)
class References:
    """Who uses a cache's volume, and what could not be listed: that counts as in use."""

    uses: tuple[Use, ...] = ()
    unknown: tuple[str, ...] = ()

    def of(self, model: str, version: str) -> tuple[str, ...]:
        """Who uses this version, sorted."""
        return tuple(sorted({use.who for use in self.uses if use.covers(model, version)}))


def used_paths(manifest: Mapping[str, Any], claims: Iterable[str]) -> frozenset[str]:
    """The paths on any of ``claims``, which are of the object's namespace and one volume, that the object uses."""
    wanted = frozenset(claims)
    found = frozenset(path for claim, path in _mounts(manifest) if claim in wanted) | _from_templates(manifest, wanted)
    return _narrowed(found, manifest)


def _narrowed(found: frozenset[str], manifest: Mapping[str, Any]) -> frozenset[str]:
    """A mount of the whole, narrowed to what the annotation names; one that cannot be read narrows nothing."""
    models = _annotated(manifest)
    return (found - {WHOLE}) | models if WHOLE in found and models else found


def _annotated(manifest: Mapping[str, Any]) -> frozenset[str]:
    """What the annotation names, wherever in the object it stands: on itself, on a template, on KServe's predictor."""
    holders = [
        node["annotations"] for node in _nodes(manifest) if isinstance(node, Mapping) and isinstance(node.get("annotations"), Mapping)
    ]
    names = [name.strip() for held in holders if (text := held.get(MODELS_ANNOTATION)) for name in str(text).split(",")]
    if not all(_MODEL.fullmatch(name) for name in names):
        return frozenset()
    return frozenset(name.replace("@", "/") for name in names)


def _mounts(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for node in _nodes(manifest.get("spec")):
        if isinstance(node, str):
            yield from ((claim, _tidy(path or WHOLE)) for claim, path in _ADDRESS.findall(node))
            continue
        yield from _of_pod(node)
        if isinstance(pvc := node.get("pvc"), Mapping) and isinstance(name := pvc.get("name"), str):
            yield name, _tidy(str(pvc.get("subPath") or WHOLE))


def _nodes(value: object) -> Iterator[Any]:
    """Every mapping and every text below ``value``."""
    if isinstance(value, Mapping):
        yield value
        for below in value.values():
            yield from _nodes(below)
    elif isinstance(value, list):
        for below in value:
            yield from _nodes(below)
    elif isinstance(value, str):
        yield value


def _of_pod(spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Claims of a pod's spec, each with the paths that its containers mount; a volume that none mounts counts as a whole."""
    for volume in _mappings(spec.get("volumes")):
        source = volume.get("persistentVolumeClaim")
        if not isinstance(source, Mapping):
            continue
        paths = {path for container in _containers(spec) for path in _mounted(container, volume.get("name"))}
        yield from ((str(source.get("claimName")), path) for path in paths or {WHOLE})


def _containers(spec: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Those of a pod's spec, and of KServe's, which has one under the name of its kind (``model``, ``pytorch``)."""
    for value in spec.values():
        yield from (value,) if isinstance(value, Mapping) else _mappings(value)


def _mounted(container: Mapping[str, Any], volume: object) -> Iterator[str]:
    for mount in _mappings(container.get("volumeMounts")):
        if mount.get("name") == volume:  # what an expression comes to is known only in the pod
            yield WHOLE if mount.get("subPathExpr") else _tidy(str(mount.get("subPath") or WHOLE))
    if any(device.get("name") == volume for device in _mappings(container.get("volumeDevices"))):
        yield WHOLE


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def _tidy(path: str) -> str:
    segments = [segment for segment in path.split("/") if segment not in {"", "."}]
    return WHOLE if ".." in segments else "/".join(segments)


def _from_templates(manifest: Mapping[str, Any], claims: frozenset[str]) -> frozenset[str]:
    """A StatefulSet's claims are named ``<template>-<set>-<ordinal>``."""
    templates = _mappings((manifest.get("spec") or {}).get("volumeClaimTemplates"))
    name = re.escape((manifest.get("metadata") or {}).get("name", ""))
    patterns = [rf"{re.escape(str((template.get('metadata') or {}).get('name')))}-{name}-\d+" for template in templates]
    return frozenset(WHOLE for pattern in patterns for claim in claims if re.fullmatch(pattern, claim))


def uses_in(objects: Iterable[Mapping[str, Any]], claims: Mapping[str, frozenset[str]]) -> tuple[Use, ...]:
    """Who of ``objects`` uses any of ``claims`` (by namespace). What an object's owner among them says already is not told twice.

    Owners must stand before what they own. Ended pods and Jobs use nothing, nor do our own loaders; a ReplicaSet of no
    replicas is a Deployment's history and left out if that is among the objects.
    """
    told: dict[str, frozenset[str]] = {}
    uses = []
    for manifest in objects:
        metadata = manifest["metadata"]
        paths = frozenset() if _ended(manifest) or _is_loader(metadata) else used_paths(manifest, claims.get(metadata["namespace"], ()))
        owners = [told[uid] for owner in metadata.get("ownerReferences") or () if (uid := owner.get("uid")) in told]
        told[metadata["uid"]] = paths
        history = manifest["kind"] == "ReplicaSet" and manifest["spec"].get("replicas") == 0
        if paths and not (owners and history) and not any(WHOLE in said or paths <= said for said in owners):
            uses.append(Use(f"{manifest['kind']}/{metadata['namespace']}/{metadata['name']}", paths))
    return tuple(uses)


def _ended(manifest: Mapping[str, Any]) -> bool:
    status = manifest.get("status") or {}
    if manifest["kind"] == "Pod":
        return status.get("phase") in {"Succeeded", "Failed"}
    finished = {"Complete", "Failed"}
    conditions = _mappings(status.get("conditions"))
    return manifest["kind"] == "Job" and any(each.get("type") in finished and each.get("status") == "True" for each in conditions)


def _is_loader(metadata: Mapping[str, Any]) -> bool:
    labels = metadata.get("labels") or {}
    return labels.get("app.kubernetes.io/managed-by") == "modelyard" and labels.get("app.kubernetes.io/component") == "loader"


def backend(volume: Mapping[str, Any]) -> tuple[str, ...]:
    """What a PersistentVolume stands for, the same for copies of it: its kind, where, and a path or handle."""
    spec = volume.get("spec") or {}
    if nfs := spec.get("nfs"):
        return ("nfs", str(nfs.get("server")), "/" + _tidy(str(nfs.get("path"))))
    if host := spec.get("hostPath") or spec.get("local"):
        return ("path", "", "/" + _tidy(str(host.get("path"))))
    if csi := spec.get("csi"):  # a copy's handle has an end of its own (plans.sharing_rules.copied_handle)
        return ("csi", str(csi.get("driver")), re.sub(r"--[0-9a-f]{12}$", "", str(csi.get("volumeHandle"))))
    source = {key: value for key, value in spec.items() if isinstance(value, Mapping) and key not in _NO_SOURCES}
    return ("other", "", json.dumps(source, sort_keys=True))


def same_volume(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether two backends share bytes: equal, or one path within the other."""
    if one == other:
        return True
    if one[0] not in {"nfs", "path"} or one[:2] != other[:2]:
        return False
    above, below = sorted((one[2].rstrip("/") + "/", other[2].rstrip("/") + "/"), key=len)
    return below.startswith(above)
