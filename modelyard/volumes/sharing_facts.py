"""What is there of a cache's copies: its claim and volume, each namespace, and what the API server would refuse. Changes nothing."""

import json
import re
import shlex
from contextlib import AbstractContextManager, nullcontext, suppress

from modelyard.caches import CacheSpec
from modelyard.errors import ClusterRefused, Problem
from modelyard.kube.apply import owned, patiently
from modelyard.kube.client import FIELD_MANAGER, Call, Kube
from modelyard.kube.failures import AlreadyExists, Changed
from modelyard.kube.resources import Manifest, ref_of
from modelyard.plans.backends import backend_text
from modelyard.plans.sharing import CopyFacts, Hold, Owner, SharedVolume, SourceFacts, TargetFacts
from modelyard.plans.sharing_rules import share_verdict
from modelyard.plans.unsharing import SharedFacts
from modelyard.volumes.copies import (
    PRIOR_POLICY,
    claim_copy,
    copy_facts,
    hold_of,
    is_copy,
    is_released,
    selector,
    volume_copy,
    volume_facts,
)
from modelyard.volumes.users import Users, users_of

_ENFORCE = "pod-security.kubernetes.io/enforce"
#: The policy of deployments/kubernetes/policies says so of a volume that is not in its list.
_UNLISTED = re.compile(r"volume (?P<text>.+?) is not in the list that an administrator keeps in ClusterRole (?P<role>[a-z0-9-]+)")


def read_source(kube: Kube, cache: CacheSpec) -> tuple[SourceFacts, Manifest | None]:
    """The facts of the cache's claim and its PersistentVolume, and that volume as it is."""
    claim = patiently(lambda: kube.get("PersistentVolumeClaim", cache.claim, cache.namespace))
    if claim is None:
        return SourceFacts(None), None
    phase, deleting = (claim.get("status") or {}).get("phase", "Pending"), "deletionTimestamp" in claim["metadata"]
    name = claim["spec"].get("volumeName")
    try:
        volume = patiently(lambda: kube.get("PersistentVolume", name)) if name else None
    except ClusterRefused as error:
        return SourceFacts(phase, deleting, unreadable=str(error)), None
    if volume is None:
        return SourceFacts(phase, deleting, unreadable="it is gone" if name else "it has none"), None
    return SourceFacts(phase, deleting, _shared_volume(kube, cache, claim, volume)), volume


def _shared_volume(kube: Kube, cache: CacheSpec, claim: Manifest, volume: Manifest) -> SharedVolume:
    facts = volume_facts(volume)
    return SharedVolume(
        name=facts.name,
        kind=facts.source_type if not facts.driver else facts.kind,
        backend=backend_text(volume["spec"]),
        reclaim_policy=facts.reclaim_policy,
        bound_back=(volume["spec"].get("claimRef") or {}).get("uid") == claim["metadata"]["uid"],
        verdict=share_verdict(facts, bypass=cache.bypass_storage_check),
        hold=_hold(kube, claim, volume),
        unlimited=_is_unlimited(kube),
    )


def _is_unlimited(kube: Kube) -> bool:
    """Whether the API server would take a volume of the nodes' own root from this account: no policy holds it."""
    probe = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "modelyard-probe"},
        "spec": {
            "capacity": {"storage": "1Mi"},
            "accessModes": ["ReadOnlyMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "modelyard-probe", "name": "probe"},
            "hostPath": {"path": "/"},
        },
    }
    return refusal_of(kube, owned(probe)) is None


def _hold(kube: Kube, claim: Manifest, volume: Manifest) -> Hold:
    if (hold := hold_of(claim, volume)) is not Hold.POSSIBLE:
        return hold
    try:
        set_policy(kube, volume, "Retain", "Delete", dry_run=True)
    except Changed:  # it is written to at this moment, by those who may
        return Hold.POSSIBLE
    except ClusterRefused:
        return Hold.DENIED
    return Hold.POSSIBLE


def set_policy(kube: Kube, volume: Manifest, policy: str, prior: str | None, *, dry_run: bool = False) -> None:
    """Set a volume's reclaim policy and the note of what it was.

    Raises:
        Changed: the volume is no longer as it was read.
    """
    metadata = {
        "uid": volume["metadata"]["uid"],
        "resourceVersion": volume["metadata"]["resourceVersion"],
        "annotations": {PRIOR_POLICY: prior},
    }
    query = {"fieldManager": FIELD_MANAGER, "dryRun": "All" if dry_run else None}
    body = {"metadata": metadata, "spec": {"persistentVolumeReclaimPolicy": policy}}
    kube.send(Call("patch", "PATCH", ref_of(volume), query=query, body=body, content_type="application/merge-patch+json"))


def read_target(kube: Kube, cache: CacheSpec, original: Manifest | None, namespace: str) -> TargetFacts:
    """The facts of one namespace; what is missing there is tried in a dry run. Without the original only the namespace is looked at."""
    live = _namespace(kube, namespace)
    exists, terminating = live is not None, bool(live and "deletionTimestamp" in live["metadata"])
    labels = (live or {"metadata": {}})["metadata"].get("labels") or {}
    pod_security = str(labels.get(_ENFORCE, ""))
    if original is None or namespace == cache.namespace:
        nothing = CopyFacts(f"Namespace/{namespace}")
        return TargetFacts(namespace, exists, nothing, nothing, terminating, pod_security)
    wanted = (volume_copy(cache, original, namespace), claim_copy(cache, original, namespace))
    try_missing = exists and not terminating
    (volume, first), (claim, second) = (_target_copy(kube, manifest, cache, try_missing=try_missing) for manifest in wanted)
    refusals = tuple(problem for problem in (first, second) if problem)
    return TargetFacts(namespace, exists, volume, claim, terminating, pod_security, refusals)


def _target_copy(kube: Kube, manifest: Manifest, cache: CacheSpec, *, try_missing: bool) -> tuple[CopyFacts, Problem | None]:
    """What is there of one object of a copy, and what the API server refuses: to show it, or to make it where it is missing."""
    try:
        facts = copy_facts(_live(kube, manifest), manifest, cache)
    except ClusterRefused as error:
        subject = str(ref_of(manifest))
        return CopyFacts(subject), Problem(subject, f"cannot be read ({error})", "grant the rights of a shared namespace there")
    return facts, refusal_of(kube, manifest) if try_missing and facts.owner is Owner.NOBODY else None


def _namespace(kube: Kube, name: str) -> Manifest | None:
    try:
        return patiently(lambda: kube.get("Namespace", name))
    except ClusterRefused:  # accounts may lack this right; then the dry run tells of a namespace that is not there
        return {"metadata": {"name": name}}


def _live(kube: Kube, manifest: Manifest) -> Manifest | None:
    ref = ref_of(manifest)
    return patiently(lambda: kube.get(ref.kind, ref.name, ref.namespace))


def refusal_of(kube: Kube, manifest: Manifest) -> Problem | None:
    """Why the API server would not take the object: its quotas, policies and rights are asked, not guessed."""
    try:
        patiently(lambda: kube.create(manifest, dry_run=True))
    except AlreadyExists:  # made by another run at this moment, which the acts accept
        return None
    except ClusterRefused as error:
        return Problem(str(ref_of(manifest)), f"would be refused: {error}", _step(str(error)))
    return None


def _step(refusal: str) -> str:
    """What to do about a refusal; for a volume that is not listed, the command that an administrator runs once."""
    if not (match := _UNLISTED.search(refusal)):
        return "change what the API server's words name"
    patch = json.dumps([{"op": "add", "path": "/rules/0/resourceNames/-", "value": match["text"]}])
    return f"an administrator lists it, once: kubectl patch clusterrole {match['role']} --type=json -p {shlex.quote(patch)}"


def read_shared(kube: Kube, cache: CacheSpec, namespaces: tuple[str, ...]) -> tuple[SharedFacts, ...]:
    """The facts of ``namespaces`` that copies are to be removed from; none named: of all that have one.

    Raises:
        ClusterRefused: the account may not list PersistentVolumes.
    """
    volumes = {volume["spec"]["claimRef"]["namespace"]: volume for volume in copies_of(kube, cache)}
    return tuple(_shared(kube, cache, name, volumes.get(name)) for name in namespaces or sorted(volumes))


def copies_of(kube: Kube, cache: CacheSpec) -> list[Manifest]:
    """The PersistentVolumes that are copies of the cache's."""
    found = patiently(lambda: kube.list("PersistentVolume", label_selector=selector(cache)))
    return [volume for volume in found if is_copy(volume, cache) and "claimRef" in volume["spec"]]


def gone_with_its_namespace(volume: Manifest | None) -> AbstractContextManager[None]:
    """Around reads beside a copied volume's claim. A deleted namespace takes our Roles there with it, so that the server refuses what
    is just not there; where the volume says that its claim is gone, a refusal is taken for that.
    """
    return suppress(ClusterRefused) if volume and is_released(volume) else nullcontext()


def _shared(kube: Kube, cache: CacheSpec, namespace: str, volume: Manifest | None) -> SharedFacts:
    claim = None
    with gone_with_its_namespace(volume):
        claim = patiently(lambda: kube.get("PersistentVolumeClaim", cache.claim, namespace)) if namespace != cache.namespace else None
    users = users_of(kube, namespace, cache.claim) if claim else Users()
    return SharedFacts(
        namespace=namespace,
        volume=_seen(volume, f"PersistentVolume/{(volume or _NONE)['metadata']['name']}", cache),
        claim=_seen(claim, f"PersistentVolumeClaim/{namespace}/{cache.claim}", cache),
        retained=volume is None or volume["spec"].get("persistentVolumeReclaimPolicy") == "Retain",
        users=users.named,
        unseen=users.unseen,
    )


_NONE: Manifest = {"metadata": {"name": "none"}}


def _seen(live: Manifest | None, subject: str, cache: CacheSpec) -> CopyFacts:
    if live is None:
        return CopyFacts(subject)
    owner = Owner.COPY if is_copy(live, cache) else Owner.FOREIGN
    return CopyFacts(subject, owner, (live.get("status") or {}).get("phase", "Pending"), "deletionTimestamp" in live["metadata"])
