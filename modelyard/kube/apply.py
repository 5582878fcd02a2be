"""Server-side apply: the server merges what we state, remembers that the fields are ours, and refuses to take others'.

A dry run on the server decides whether anything would change, and only then is the object written: an object that is as
it should be keeps its resource version, so that no controller wakes up for nothing (the rule of Flux's ssa package).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from modelyard.errors import ClusterUnavailable
from modelyard.kube.client import FIELD_MANAGER, Call, Kube
from modelyard.kube.resources import Manifest, ObjectRef, ref_of

OWNERSHIP = {"app.kubernetes.io/managed-by": "modelyard", "app.kubernetes.io/part-of": "modelyard"}
"""On every object of ours; selects them all, and tells them from objects that people made."""

_TRIES = 3
_LONGEST_DELAY = 5.0
_WRITTEN_BY_SERVER = frozenset({"managedFields", "resourceVersion", "generation"})
T = TypeVar("T")


class Action(StrEnum):
    """What applying did, or in a dry run would do."""

    CREATED = "created"
    CONFIGURED = "configured"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class Change:
    """One object's outcome: ``Kind/namespace/name`` and what happened to it."""

    subject: str
    action: Action

    def __str__(self) -> str:
        return f"{self.subject} {self.action}"


def apply(kube: Kube, manifest: Manifest, *, dry_run: bool = False, force: bool = False) -> Change:
    """Make the object as ``manifest`` states it; fields that it does not state stay as they are.

    ``force`` takes fields from other field managers.

    Raises:
        Changed: another field manager owns a field with another value; it is named.
    """
    wanted = owned(manifest)
    ref = ref_of(wanted)
    live = patiently(lambda: kube.get(ref.kind, ref.name, ref.namespace))
    if live is not None and _state(live) == _state(_send(kube, ref, wanted, dry_run=True, force=force)):
        return Change(str(ref), Action.UNCHANGED)
    if live is None or not dry_run:
        _send(kube, ref, wanted, dry_run=dry_run, force=force)
    return Change(str(ref), Action.CREATED if live is None else Action.CONFIGURED)


def apply_status(kube: Kube, live: Manifest, status: Manifest) -> Manifest:
    """Make ``status`` the whole of what Modelyard states in the status of ``live``; gives the object as it is then.

    One request: the server writes nothing if nothing changes. The status is ours alone, so fields are taken by force.

    Raises:
        Changed: the object is no longer the one that ``live`` shows; read it again.
        NotFound: it is gone.
    """
    ref = ref_of(live)
    held = {key: live["metadata"][key] for key in ("name", "namespace", "uid", "resourceVersion") if key in live["metadata"]}
    wanted = {"apiVersion": live["apiVersion"], "kind": live["kind"], "metadata": held, "status": status}
    query = {"fieldManager": FIELD_MANAGER, "force": "true"}
    return patiently(lambda: kube.send(Call("apply", "PATCH", ref, "status", query, wanted, "application/apply-patch+yaml")))


def owned(manifest: Manifest) -> Manifest:
    """``manifest`` with the labels that say whose it is."""
    metadata = manifest["metadata"]
    return {**manifest, "metadata": {**metadata, "labels": {**metadata.get("labels", {}), **OWNERSHIP}}}


def is_owned(live: Manifest) -> bool:
    """Whether Modelyard made this object."""
    labels = live["metadata"].get("labels") or {}
    return bool(labels.get("app.kubernetes.io/managed-by") == OWNERSHIP["app.kubernetes.io/managed-by"])


def patiently(request: Callable[[], T], seconds: float = 0.0) -> T:
    """The answer to an idempotent request, which is repeated while the API server is briefly away, or for so many ``seconds``."""
    tries, end = 0, time.monotonic() + seconds
    while True:
        try:
            return request()
        except ClusterUnavailable as error:
            tries += 1
            if tries >= _TRIES and time.monotonic() >= end:
                raise
            time.sleep(min(error.delay, _LONGEST_DELAY))


def _send(kube: Kube, ref: ObjectRef, wanted: Manifest, *, dry_run: bool, force: bool) -> Manifest:
    query = {"fieldManager": FIELD_MANAGER, "force": "true" if force else None, "dryRun": "All" if dry_run else None}
    call = Call("apply", "PATCH", ref, query=query, body=wanted, content_type="application/apply-patch+yaml")
    return patiently(lambda: kube.send(call))


def _state(live: Manifest) -> dict[str, Any]:
    metadata = {key: value for key, value in live["metadata"].items() if key not in _WRITTEN_BY_SERVER}
    return {**live, "metadata": metadata}
