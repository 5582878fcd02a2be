"""What a workload's object says of the claims that it uses: paths on them. Pure, and blind to the kind.

An object is walked as a whole, because each kind keeps its pods elsewhere: a pod's spec is known by its ``volumes``, KServe's
and T9k's own fields by ``pvc://`` addresses and ``pvc: {name, subPath}``. What is found besides counts as used: too much is
kept rather than too little.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from modelyard.plans.same_volume import SAME_ROOT, Nesting, tidy

#: On an object or its pod template: which models of a claim that it mounts whole it uses, as ``a@v1,b@v2``.
MODELS_ANNOTATION = "modelyard.dev/models"
#: The path of a mount of the whole claim.
WHOLE = ""

_ADDRESS = re.compile(r"pvc://([a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)(/[^\s\"',]*)?")
_MODEL = re.compile(r"[A-Za-z0-9._-]+(@[A-Za-z0-9._-]+)?")
#: Claim, path on it, and the models that an annotation names for a mount of the whole.
_Mount = tuple[str, str, frozenset[str]]


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


def used_paths(manifest: Mapping[str, Any], claims: Iterable[str], nesting: Nesting = SAME_ROOT) -> frozenset[str]:
    """The paths on the cache's volume that the object uses by ``claims``, which are of its namespace and lie to the cache as ``nesting``.

    A mount of the whole is narrowed to what the nearest annotation names: that of its pod template, else the object's own.
    """
    wanted = frozenset(claims)
    found: set[str] = set()
    for claim, path, models in (*_mounts(manifest), *_from_templates(manifest, wanted)):
        place = nesting.on_cache(path) if claim in wanted else None
        if place is not None:
            found |= models if place == WHOLE and models else {place}
    return frozenset(found)


def pods_with(manifest: Mapping[str, Any], claim: str) -> list[Mapping[str, Any]]:
    """The pod specs in the object that mount ``claim``; of KServe's components also those that name it by ``pvc://``."""
    nodes = [node for node, _ in _nodes(manifest.get("spec"), frozenset()) if isinstance(node, Mapping)]
    return [node for node in nodes if any(name == claim for name, _ in _of_pod(node)) or _has_address(node, claim)]


def _has_address(component: Mapping[str, Any], claim: str) -> bool:
    """A predictor's model, or the same under the name of its framework, one level below the pod's own fields."""
    addresses = (str(below.get("storageUri", "")) for below in component.values() if isinstance(below, Mapping))
    return any(name == claim for address in addresses for name, _ in _ADDRESS.findall(address))


def _annotated(node: Mapping[str, Any], inherited: frozenset[str]) -> frozenset[str]:
    """What holds for all below ``node``: KServe's components have their annotations beside the pod's fields. Nothing if ill-written."""
    holders = [place.get("annotations") for place in (node, node.get("metadata")) if isinstance(place, Mapping)]
    texts = [str(held[MODELS_ANNOTATION]) for held in holders if isinstance(held, Mapping) and held.get(MODELS_ANNOTATION)]
    names = [name.strip() for text in texts for name in text.split(",")]
    if not all(_MODEL.fullmatch(name) for name in names):
        return frozenset()
    return frozenset(name.replace("@", "/") for name in names) if names else inherited


def _mounts(manifest: Mapping[str, Any]) -> Iterator[_Mount]:
    for node, models in _nodes(manifest.get("spec"), _annotated(manifest, frozenset())):
        if isinstance(node, str):
            yield from ((claim, tidy(path or WHOLE), models) for claim, path in _ADDRESS.findall(node))
            continue
        yield from ((claim, path, models) for claim, path in _of_pod(node))
        if isinstance(pvc := node.get("pvc"), Mapping) and isinstance(name := pvc.get("name"), str):
            yield name, tidy(str(pvc.get("subPath") or WHOLE)), models


def _nodes(value: object, models: frozenset[str]) -> Iterator[tuple[Any, frozenset[str]]]:
    """Every mapping and every text below ``value``, with the models that are annotated nearest above it."""
    if isinstance(value, Mapping):
        here = _annotated(value, models)
        yield value, here
        for below in value.values():
            yield from _nodes(below, here)
    elif isinstance(value, list):
        for below in value:
            yield from _nodes(below, models)
    elif isinstance(value, str):
        yield value, models


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
            yield WHOLE if mount.get("subPathExpr") else tidy(str(mount.get("subPath") or WHOLE))
    if any(device.get("name") == volume for device in _mappings(container.get("volumeDevices"))):
        yield WHOLE


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def _from_templates(manifest: Mapping[str, Any], claims: frozenset[str]) -> Iterator[_Mount]:
    """A StatefulSet's claims are named ``<template>-<set>-<ordinal>``."""
    templates = _mappings((manifest.get("spec") or {}).get("volumeClaimTemplates"))
    name, models = re.escape((manifest.get("metadata") or {}).get("name", "")), _annotated(manifest, frozenset())
    patterns = [rf"{re.escape(str((template.get('metadata') or {}).get('name')))}-{name}-\d+" for template in templates]
    return ((claim, WHOLE, models) for pattern in patterns for claim in claims if re.fullmatch(pattern, claim))


def uses_in(objects: Iterable[Mapping[str, Any]], claims: Mapping[str, frozenset[str]], nesting: Nesting = SAME_ROOT) -> tuple[Use, ...]:
    """Who of ``objects`` uses any of ``claims`` (by namespace), which lie to the cache as ``nesting``.

    What an object's owner among them says already is not told twice. Owners must stand before what they own. Ended pods
    and Jobs use nothing, nor do our own loaders; a ReplicaSet of no replicas is a Deployment's history and left out if that
    is among the objects.
    """
    told: dict[str, frozenset[str]] = {}
    uses = []
    for manifest in objects:
        metadata = manifest["metadata"]
        idle = is_ended(manifest) or is_loader(metadata)
        paths = frozenset() if idle else used_paths(manifest, claims.get(metadata["namespace"], ()), nesting)
        owners = [told[uid] for owner in metadata.get("ownerReferences") or () if (uid := owner.get("uid")) in told]
        told[metadata["uid"]] = paths
        history = manifest["kind"] == "ReplicaSet" and manifest["spec"].get("replicas") == 0
        if paths and not (owners and history) and not any(WHOLE in said or paths <= said for said in owners):
            uses.append(Use(f"{manifest['kind']}/{metadata['namespace']}/{metadata['name']}", paths))
    return tuple(uses)


def is_ended(manifest: Mapping[str, Any]) -> bool:
    """Whether it is a pod or a Job that will run no more."""
    status = manifest.get("status") or {}
    if manifest["kind"] == "Pod":
        return status.get("phase") in {"Succeeded", "Failed"}
    finished = {"Complete", "Failed"}
    conditions = _mappings(status.get("conditions"))
    return manifest["kind"] == "Job" and any(each.get("type") in finished and each.get("status") == "True" for each in conditions)


def is_loader(metadata: Mapping[str, Any]) -> bool:
    """Whether it is one of our own Jobs beside a claim, or its pod."""
    labels = metadata.get("labels") or {}
    return labels.get("app.kubernetes.io/managed-by") == "modelyard" and labels.get("app.kubernetes.io/component") == "loader"
