"""The catalogue in the cluster: reading CachedModels, making those that mirror a volume, and writing what was found.

The spec of an object is stated once, when Modelyard makes it, and never again: what a person changes in it stays theirs. The
status is Modelyard's alone. A write names the version of the object that it was decided on.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from modelyard.errors import Refused
from modelyard.kube.apply import apply, apply_status, is_owned, patiently
from modelyard.kube.client import Kube
from modelyard.kube.failures import Changed, NotFound
from modelyard.kube.resources import GROUP, Manifest, ObjectRef
from modelyard.names import cached_model_name, label_value
from modelyard.plans.catalogue import CachedModel, Source, ruling
from modelyard.plans.catalogue_status import Context, Finding, next_status, timestamp

KIND = "CachedModel"
_TRIES = 3


class CatalogueMissing(Refused):
    """The CRD is not installed."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An object of the catalogue with the manifest it was read from, which a write refers to."""

    model: CachedModel
    manifest: Manifest


def read_catalogue(kube: Kube, namespace: str | None) -> tuple[Entry, ...]:
    """The objects of a namespace, or of all.

    Raises:
        CatalogueMissing: the CRD is not installed.
    """
    try:
        return tuple(Entry(cached_model(each), each) for each in patiently(lambda: kube.list(KIND, namespace)))
    except NotFound as error:
        raise CatalogueMissing("the cluster has no kind CachedModel; install it: kubectl apply -k deployments/kubernetes/crd") from error


def cached_model(manifest: Manifest) -> CachedModel:
    """The object as a value."""
    metadata, spec = manifest["metadata"], manifest["spec"]
    source = spec.get("source")
    return CachedModel(
        name=metadata["name"],
        namespace=metadata["namespace"],
        model=spec["model"],
        version=spec["version"],
        cache=spec["cache"],
        created=metadata.get("creationTimestamp", ""),
        generation=metadata.get("generation", 1),
        projected=is_owned(manifest),
        source=Source(source["block"], source["path"]) if source else None,
        pinned=spec.get("pinned", False),
        state=spec.get("state"),
        status=manifest.get("status") or {},
    )


def find(entries: Iterable[Entry], wanted: CachedModel) -> Entry | None:
    """The object that speaks of the same version on the same cache, whoever made it and whatever its name."""
    same = [each for each in entries if (each.model.cache, each.model.key) == (wanted.cache, wanted.key)]
    first = ruling(each.model for each in same) if same else None
    return next((each for each in same if each.model is first), None)


def project(kube: Kube, model: CachedModel) -> Entry:
    """Make the object that mirrors a version, or take the one that another run has made meanwhile."""
    manifest = projection_manifest(model)
    ref = ObjectRef(KIND, manifest["metadata"]["name"], model.namespace)
    apply(kube, manifest)
    live = patiently(lambda: kube.get(ref.kind, ref.name, ref.namespace))
    if live is None:
        raise NotFound(f"{ref} was deleted as soon as it was made")
    return Entry(cached_model(live), live)


def projection_manifest(model: CachedModel) -> Manifest:
    """What Modelyard states of an object that it makes: no state, for nobody has declared one."""
    source: dict[str, Any] = {"source": {"block": model.source.block, "path": model.source.path}} if model.source else {}
    named = {"model": model.model, "version": model.version, "cache": model.cache}
    return {
        "apiVersion": f"{GROUP}/v1alpha1",
        "kind": KIND,
        "metadata": {
            "name": cached_model_name(model.cache, model.model, model.version),
            "namespace": model.namespace,
            "labels": {"app.kubernetes.io/name": "cached-model", **{f"{GROUP}/{key}": label_value(value) for key, value in named.items()}},
        },
        "spec": {**named, **source},
    }


def write_status(kube: Kube, entry: Entry, status: dict[str, Any]) -> Entry:
    """Write the whole status; nothing is sent if it is the same.

    Raises:
        Changed: somebody changed the object meanwhile.
        NotFound: it is gone.
    """
    if status == entry.model.status:
        return entry
    live = apply_status(kube, {"apiVersion": f"{GROUP}/v1alpha1", "kind": KIND, **entry.manifest}, status)
    return Entry(replace(cached_model(live), status=live.get("status") or {}), live)


def write_finding(kube: Kube, entry: Entry, finding: Finding) -> Entry:
    """Write what a procedure found of one version, on whatever the object has become meanwhile; who uses it stays as it was.

    Raises:
        NotFound: it is gone.
    """
    return write_judgement(kube, entry, lambda _: finding)


def write_judgement(kube: Kube, entry: Entry, judge: Callable[[CachedModel], Finding | None]) -> Entry:
    """The same for a finding that depends on what the object says; None: nothing is written.

    Raises:
        NotFound: it is gone.
    """
    for _ in range(_TRIES - 1):
        with suppress(Changed):
            return _write(kube, entry, judge)
        entry = read_again(kube, entry)
    return _write(kube, entry, judge)


def _write(kube: Kube, entry: Entry, judge: Callable[[CachedModel], Finding | None]) -> Entry:
    finding = judge(entry.model)
    if finding is None:
        return entry
    return write_status(kube, entry, next_status(finding, Context(entry.model.status, entry.model.generation, now())))


def read_again(kube: Kube, entry: Entry) -> Entry:
    """The object as it is now.

    Raises:
        NotFound: it is gone, or is another of its name.
    """
    metadata = entry.manifest["metadata"]
    live = patiently(lambda: kube.get(KIND, metadata["name"], metadata["namespace"]))
    if live is None or live["metadata"]["uid"] != metadata["uid"]:
        raise NotFound(f"{KIND}/{metadata['namespace']}/{metadata['name']} is gone")
    return Entry(cached_model(live), live)


def now() -> str:
    """This moment as statuses have it."""
    return timestamp(datetime.now(UTC))


def drop(kube: Kube, entry: Entry) -> bool:
    """Delete a projection that a person's own object has made superfluous, if it is as it was read; False if it is not."""
    metadata = entry.manifest["metadata"]
    with suppress(Changed):
        uid, version = metadata["uid"], metadata["resourceVersion"]
        return patiently(lambda: kube.delete(KIND, metadata["name"], metadata["namespace"], uid=uid, resource_version=version))
    return False
