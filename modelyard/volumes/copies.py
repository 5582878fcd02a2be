"""A copy of a cache's claim as values: the PersistentVolume, the claim in the other namespace, and what is other than it was made. Pure.

Only what decides what is mounted is copied. Left out are what the server set, a provisioner's annotations and finalizers
(it would delete the data of volumes that bear its name), and secrets for expansion, which a copy never does.
"""

import json
from collections.abc import Mapping
from typing import Any

from modelyard.caches import CacheSpec
from modelyard.kube.apply import is_owned, owned
from modelyard.kube.resources import GROUP, Manifest
from modelyard.names import label_value, volume_copy_name
from modelyard.plans.backends import PROVISIONER_IDENTITY, SECRETS, source_type
from modelyard.plans.sharing import CopyFacts, Hold, Owner
from modelyard.plans.sharing_rules import VolumeFacts, copied_handle

#: ``<namespace>/<claim>`` of the original, as a label's value and as an annotation: which copies are whose.
SHARED_FROM = f"{GROUP}/shared-from"
#: The name of the original PersistentVolume.
COPY_OF = f"{GROUP}/copy-of"
#: On an original whose policy is held at Retain: what it was.
PRIOR_POLICY = f"{GROUP}/prior-reclaim-policy"
READ_ONLY = "ReadOnlyMany"
_PROVISIONED = "pv.kubernetes.io/provisioned-by"
_SIZES = frozenset({"capacity", "resources"})
_SHOWN = 200
_CSI_FIELDS = ("driver", "fsType", *SECRETS)


def origin(cache: CacheSpec) -> str:
    """The claim that copies come from."""
    return f"{cache.namespace}/{cache.claim}"


def selector(cache: CacheSpec) -> str:
    """The label selector of the cache's copies."""
    return f"{SHARED_FROM}={_label(cache)}"


def _label(cache: CacheSpec) -> str:
    return label_value(origin(cache).replace("/", "."))


def volume_copy(cache: CacheSpec, original: Manifest, namespace: str) -> Manifest:
    """The PersistentVolume for ``namespace``, of the same backend as ``original``."""
    spec = original["spec"]
    name = volume_copy_name(cache.namespace, cache.claim, namespace)
    kept = {key: spec[key] for key in ("mountOptions", "nodeAffinity") if key in spec}
    return _marked(
        cache,
        original["metadata"]["name"],
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                "capacity": {"storage": spec["capacity"]["storage"]},
                "accessModes": [READ_ONLY],
                "volumeMode": spec.get("volumeMode", "Filesystem"),
                "persistentVolumeReclaimPolicy": "Retain",  # and no class: an empty one is not kept by the API server
                "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": cache.claim},
                **kept,
                **_source(original, name),
            },
        },
    )


def claim_copy(cache: CacheSpec, original: Manifest, namespace: str) -> Manifest:
    """The claim for ``namespace``, of the same name as the cache's, which only the copied volume can fill."""
    spec = original["spec"]
    return _marked(
        cache,
        original["metadata"]["name"],
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": cache.claim, "namespace": namespace},
            "spec": {
                "accessModes": [READ_ONLY],
                "volumeMode": spec.get("volumeMode", "Filesystem"),
                "storageClassName": "",
                "volumeName": volume_copy_name(cache.namespace, cache.claim, namespace),
                "resources": {"requests": {"storage": spec["capacity"]["storage"]}},
            },
        },
    )


def _marked(cache: CacheSpec, volume: str, manifest: Manifest) -> Manifest:
    """With whose copy it is: labels to find it by, annotations for people and for names too long for a label."""
    metadata = {
        **manifest["metadata"],
        "labels": {"app.kubernetes.io/name": "modelyard-copy", f"{GROUP}/cache": label_value(cache.name), SHARED_FROM: _label(cache)},
        "annotations": {f"{GROUP}/cache": cache.name, SHARED_FROM: origin(cache), COPY_OF: volume},
    }
    return owned({**manifest, "metadata": metadata})


def _source(original: Manifest, name: str) -> Manifest:
    """The volume's source, read-only where its type can be."""
    spec = original["spec"]
    if "csi" in spec:
        return {"csi": _csi(original, name)}
    kind = source_type(spec)
    return {kind: {**spec[kind], "readOnly": True} if kind == "nfs" else dict(spec[kind])}


def _csi(original: Manifest, name: str) -> Manifest:
    csi: Manifest = original["spec"]["csi"]
    attributes = {key: value for key, value in (csi.get("volumeAttributes") or {}).items() if key != PROVISIONER_IDENTITY}
    return {
        **{key: csi[key] for key in _CSI_FIELDS if key in csi},
        "volumeHandle": copied_handle(volume_facts(original), name),
        "readOnly": True,
        **({"volumeAttributes": attributes} if attributes else {}),
    }


def volume_facts(volume: Manifest) -> VolumeFacts:
    """What a PersistentVolume says of itself, for the rules of sharing."""
    spec = volume["spec"]
    csi: Mapping[str, Any] = spec.get("csi") or {}
    return VolumeFacts(
        name=volume["metadata"]["name"],
        source_type=source_type(spec),
        driver=csi.get("driver"),
        access_modes=tuple(spec.get("accessModes") or ()),
        reclaim_policy=spec.get("persistentVolumeReclaimPolicy", "Retain"),
        attributes=csi.get("volumeAttributes") or {},
        handle=csi.get("volumeHandle"),
        volume_mode=spec.get("volumeMode", "Filesystem"),
    )


def copy_facts(live: Manifest | None, wanted: Manifest, cache: CacheSpec) -> CopyFacts:
    """What ``live`` is to the copy that is wanted."""
    metadata = wanted["metadata"]
    subject = "/".join(part for part in (wanted["kind"], metadata.get("namespace"), metadata["name"]) if part)
    if live is None:
        return CopyFacts(subject)
    owner = Owner.COPY if is_copy(live, cache) else Owner.FOREIGN
    phase = (live.get("status") or {}).get("phase", "Pending")
    drift = tuple(_drift(live, wanted)) if owner is Owner.COPY else ()
    return CopyFacts(subject, owner, phase, "deletionTimestamp" in live["metadata"], drift)


def is_copy(live: Manifest, cache: CacheSpec) -> bool:
    """Whether Modelyard made ``live`` as a copy of this cache's claim; a claim must also name the copied volume, for others' may bear
    our labels when they were made from an export of a copy.
    """
    if not is_owned(live) or (live["metadata"].get("annotations") or {}).get(SHARED_FROM) != origin(cache):
        return False
    volume = volume_copy_name(cache.namespace, cache.claim, live["metadata"].get("namespace", ""))
    return bool(live["kind"] != "PersistentVolumeClaim" or live["spec"].get("volumeName") == volume)


def is_released(volume: Manifest) -> bool:
    """Whether the claim that a PersistentVolume was bound to is gone, alone or with its namespace."""
    return bool((volume.get("status") or {}).get("phase") == "Released")


def hold_of(claim: Manifest, volume: Manifest) -> Hold:
    """What may become of an original's reclaim policy, by what it and its claim say; ``POSSIBLE`` if the account has the right."""
    policy, annotations = volume["spec"].get("persistentVolumeReclaimPolicy", "Retain"), volume["metadata"].get("annotations") or {}
    if policy == "Retain":
        return Hold.HELD if PRIOR_POLICY in annotations else Hold.NOT_NEEDED
    if policy != "Delete" or not is_owned(claim) or _PROVISIONED not in annotations:  # Recycle scrubs the volume, and is not ours to hold
        return Hold.NOT_OURS
    return Hold.POSSIBLE


def _drift(live: Manifest, wanted: Manifest) -> list[str]:
    """Which fields are other than wanted; sizes are left out, for the original may have grown since."""
    spec, asked = dict(live["spec"]), wanted["spec"]
    if "claimRef" in spec:
        spec["claimRef"] = {key: spec["claimRef"].get(key) for key in asked["claimRef"]}
    added = [key for key in spec if key not in asked and spec[key]]
    differing = [key for key in asked if key not in _SIZES and spec.get(key) != asked[key]]
    found = [f"spec.{key} is {_short(spec.get(key))}, not {_short(asked[key])}" for key in differing]
    found += [f"spec.{key} is {_short(spec[key])}, which no copy has" for key in added if key not in _SIZES]
    return found


def _short(value: object) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
