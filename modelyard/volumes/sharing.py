"""Copies of a cache's claim in other namespaces: make what is missing, remove what was made. What is there is never changed,
but for two things: a copy whose claim was deleted is given to a new one, and the original's reclaim policy is held at Retain.

    share:    original's policy -> PersistentVolume, meant for one claim -> that claim -> bound
    unshare:  claim -> PersistentVolume -> after the last copy, the original's policy

Killed between any two steps, the next run goes on: each step looks for what it would do.
"""

from contextlib import suppress

from modelyard.caches import CacheSpec
from modelyard.errors import Problem, Refused
from modelyard.kube.apply import Action, Change, patiently
from modelyard.kube.client import Kube
from modelyard.kube.failures import AlreadyExists, Changed, NotFound
from modelyard.kube.resources import Manifest, ObjectRef, ref_of
from modelyard.kube.wait import Ends, TimedOut, wait_for
from modelyard.names import volume_copy_name
from modelyard.plans.sharing import Hold, Owner
from modelyard.volumes.copies import COPY_OF, PRIOR_POLICY, claim_copy, copy_facts, is_copy, volume_copy
from modelyard.volumes.sharing_facts import copies_of, gone_with_its_namespace, read_source, set_policy
from modelyard.volumes.users import INSPECTION, users_of

_TRIES = 8
_AGAIN = "run again to see what is there now"


def hold_original(kube: Kube, cache: CacheSpec) -> bool:
    """Hold the original's reclaim policy at Retain, where it is Delete and ours to hold; whether it was changed."""
    for _ in range(_TRIES):
        source, volume = read_source(kube, cache)
        if volume is None or source.volume is None or source.volume.hold is not Hold.POSSIBLE:
            return False
        with suppress(Changed):
            set_policy(kube, volume, "Retain", "Delete")
            return True
    raise Changed(f"{ref_of(volume) if volume else cache.claim} is written to by others all the time; {_AGAIN}")


def make_copy(kube: Kube, cache: CacheSpec, namespace: str) -> tuple[Change, ...]:
    """Make the volume and the claim that are missing in ``namespace``, and give a volume whose claim was deleted to the new one.

    Raises:
        Refused: what is there meanwhile is another's, or was changed.
    """
    source, original = read_source(kube, cache)
    if original is None:
        raise Refused([Problem(str(_claim_ref(cache, cache.namespace)), f"its volume is gone ({source.unreadable})", _AGAIN)])
    volume, claim = volume_copy(cache, original, namespace), claim_copy(cache, original, namespace)
    changes = (_ensure(kube, cache, volume), _mend(kube, volume), _ensure(kube, cache, claim))
    return tuple(change for change in changes if change)


def _ensure(kube: Kube, cache: CacheSpec, wanted: Manifest) -> Change:
    """Create the object if there is none; one that is there must be the copy that is wanted."""
    ref = ref_of(wanted)
    with suppress(AlreadyExists):
        if patiently(lambda: kube.get(ref.kind, ref.name, ref.namespace)) is None:
            patiently(lambda: kube.create(wanted))
            return Change(str(ref), Action.CREATED)
    facts = copy_facts(patiently(lambda: kube.get(ref.kind, ref.name, ref.namespace)), wanted, cache)
    if facts.owner is not Owner.COPY or facts.drift or facts.deleting:
        what = "; ".join(facts.drift) or ("is being deleted" if facts.deleting else "is not this cache's copy")
        raise Refused([Problem(str(ref), what, _AGAIN)])
    return Change(str(ref), Action.UNCHANGED)


def _mend(kube: Kube, wanted: Manifest) -> Change | None:
    """Let the volume be bound again, if the claim that its claimRef names by uid is gone; None if there is nothing to mend."""
    ref, target = ref_of(wanted), wanted["spec"]["claimRef"]
    for _ in range(_TRIES):
        live = patiently(lambda: kube.get(ref.kind, ref.name))
        uid = live["spec"]["claimRef"].get("uid") if live else None
        claim = patiently(lambda: kube.get("PersistentVolumeClaim", target["name"], target["namespace"]))
        if live is None or uid is None or (claim and claim["metadata"]["uid"] == uid):
            return None
        metadata = {"uid": live["metadata"]["uid"], "resourceVersion": live["metadata"]["resourceVersion"]}
        with suppress(Changed):
            kube.patch_merge(ref.kind, ref.name, None, {"metadata": metadata, "spec": {"claimRef": {"uid": None, "resourceVersion": None}}})
            return Change(str(ref), Action.CONFIGURED)
    raise Changed(f"{ref} is written to by others all the time; {_AGAIN}")


def remove_copy(kube: Kube, cache: CacheSpec, namespace: str, timeout: float) -> tuple[str, ...]:
    """Remove the claim and then the volume of ``namespace``'s copy, each only if it is the copy; gives what was removed.

    Raises:
        Refused: the volume would delete the data, or pods still use the claim.
        TimedOut: one of them is not gone after ``timeout`` seconds; the message says what holds it.
    """
    volume = patiently(lambda: kube.get("PersistentVolume", volume_copy_name(cache.namespace, cache.claim, namespace)))
    if volume and not is_copy(volume, cache):
        volume = None
    if volume:
        _check_retained(volume)
    removed: list[str] = []
    claim = None
    with gone_with_its_namespace(volume):
        _end_inspections(kube, cache, namespace)
        claim = _claim(kube, cache, namespace)
    if claim:
        _remove_claim(kube, cache, claim, timeout)
        removed.append(str(ref_of(claim)))
    if volume and _remove_volume(kube, volume, timeout):
        removed.append(str(ref_of(volume)))
    return tuple(removed)


def _end_inspections(kube: Kube, cache: CacheSpec, namespace: str) -> None:
    """Delete the Jobs that a killed run left looking at the copy."""
    labels = {**INSPECTION, "pvc": cache.claim}
    selector = ",".join(f"{key}={value}" for key, value in labels.items())
    for job in patiently(lambda: kube.list("Job", namespace, label_selector=selector)):
        with suppress(Changed):  # another of its name, of a run that shares at this moment
            kube.delete("Job", job["metadata"]["name"], namespace, propagation="Foreground", uid=job["metadata"]["uid"])


def _claim_ref(cache: CacheSpec, namespace: str) -> ObjectRef:
    return ObjectRef("PersistentVolumeClaim", cache.claim, namespace)


def _claim(kube: Kube, cache: CacheSpec, namespace: str) -> Manifest | None:
    """The copied claim, if there is one; the cache's own is none."""
    live = patiently(lambda: kube.get("PersistentVolumeClaim", cache.claim, namespace))
    return live if live and is_copy(live, cache) else None


def _remove_claim(kube: Kube, cache: CacheSpec, live: Manifest, timeout: float) -> None:
    ref = ref_of(live)
    try:
        _delete(kube, live, timeout)
    except TimedOut as error:
        users = users_of(kube, str(ref.namespace), cache.claim).named
        held = f"it is held by {', '.join(users)}" if users else "nothing is seen that holds it"
        raise TimedOut(f"{ref} is not gone after {timeout:.0f} s: {held}; run again when those are gone") from error


def _remove_volume(kube: Kube, seen: Manifest, timeout: float) -> bool:
    """Delete the volume as it is now that its claim is gone; False if it is gone already."""
    ref = ref_of(seen)
    for _ in range(_TRIES):
        live = patiently(lambda: kube.get(ref.kind, ref.name))
        if live is None or live["metadata"]["uid"] != seen["metadata"]["uid"]:
            return False
        _check_retained(live)
        with suppress(Changed):
            _delete(kube, live, timeout, resource_version=live["metadata"]["resourceVersion"])
            return True
    raise Changed(f"{ref} is written to by others all the time; {_AGAIN}")


def _check_retained(volume: Manifest) -> None:
    if volume["spec"].get("persistentVolumeReclaimPolicy") != "Retain":
        raise Refused(
            [Problem(str(ref_of(volume)), "its reclaim policy is not Retain, it would delete everyone's data", "set it to Retain")]
        )


def _delete(kube: Kube, live: Manifest, timeout: float, *, resource_version: str | None = None) -> None:
    """Ask for the deletion of this very object, and wait until it is gone."""
    ref, uid = ref_of(live), live["metadata"]["uid"]
    kube.delete(ref.kind, ref.name, ref.namespace, uid=uid, resource_version=resource_version)
    gone: Ends[bool] = Ends(
        done=lambda seen: seen["metadata"]["uid"] != uid or None, failed=lambda _: None, deleted=lambda: NotFound(f"{ref} is gone")
    )
    with suppress(NotFound):
        wait_for(kube, ref, gone, timeout)


def originals(kube: Kube, cache: CacheSpec) -> frozenset[str]:
    """The names of the PersistentVolumes that the cache's copies are copies of, and of the one that its claim has now."""
    copied = {(volume["metadata"].get("annotations") or {}).get(COPY_OF) for volume in copies_of(kube, cache)}
    claim = patiently(lambda: kube.get("PersistentVolumeClaim", cache.claim, cache.namespace))
    return frozenset({name for name in (*copied, claim and claim["spec"].get("volumeName")) if name})


def release_original(kube: Kube, cache: CacheSpec, name: str) -> str | None:
    """Give an original its reclaim policy back, once no copy is left; says what was done, or why it was not. None: nothing to do.

    A volume whose claim is gone keeps Retain: with Delete it would be deleted, and all models with it, at this moment.
    """
    for _ in range(_TRIES):
        volume = patiently(lambda: kube.get("PersistentVolume", name))
        prior = ((volume or {"metadata": {}})["metadata"].get("annotations") or {}).get(PRIOR_POLICY)
        if volume is None or prior is None or copies_of(kube, cache):
            return None
        if (volume.get("status") or {}).get("phase") != "Bound":
            return f"{ref_of(volume)} keeps reclaim policy Retain, for its claim is gone: delete it and its data by hand"
        with suppress(Changed):
            set_policy(kube, volume, prior, None)
            return f"{ref_of(volume)} has reclaim policy {prior} again"
    raise Changed(f"PersistentVolume/{name} is written to by others all the time; {_AGAIN}")
