"""Why a volume cannot be mounted: the kubelet's and the attach controller's events in, diagnoses with the node's name out. Pure.

The texts are those of mount(8), mount.nfs(8) and Kubernetes' volume plugins; what the table does not know is told in its own words.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from modelyard.kube.diagnosis import Diagnosis, latest
from modelyard.kube.resources import Manifest

_REASONS = frozenset({"FailedMount", "FailedAttachVolume", "FailedMapVolume"})
#: The kubelet's summary of a wait; another event says why.
_SUMMARY = re.compile(r"Unable to attach or mount volumes|timed out waiting for the condition$|context deadline exceeded$")


@dataclass(frozen=True, slots=True)
class _Cause:
    """What a text means. ``permanent``: no further try of the kubelet's can help."""

    pattern: re.Pattern[str]
    words: str
    step: str
    permanent: bool = False


def _cause(pattern: str, words: str, step: str, *, permanent: bool = False) -> _Cause:
    return _Cause(re.compile(pattern, re.IGNORECASE), words, step, permanent)


# The first row that fits decides.
_CAUSES = (
    _cause(
        r"bad option; for several filesystems|need a /sbin/mount\.|unknown filesystem type",
        "the node has no mount helper for this kind of volume",
        "install it on every node that shall mount it (for NFS: nfs-common or nfs-utils)",
        permanent=True,
    ),
    _cause(
        r"access denied by server|permission denied by server|reason given by server: permission denied",
        "the server denies the node access",
        "add the node's address to the export's clients",
        permanent=True,
    ),
    _cause(
        r"reason given by server: no such file or directory|mount\.nfs: .*no such file or directory",
        "the server has no such export",
        "compare the volume's path with what the server exports (showmount -e)",
        permanent=True,
    ),
    _cause(
        r"stale (nfs )?file handle",
        "the volume's directory was replaced on the server (stale handle)",
        "end the pods on this node that mount it, so that it is mounted anew; export the directory again if it is gone",
    ),
    _cause(
        r"failed to resolve server|name or service not known|could not resolve",
        "the node cannot resolve the server's name",
        "nodes do not ask the cluster's DNS: use an address, or a name that the node resolves",
    ),
    _cause(
        r"connection timed out|connection refused|no route to host|network is unreachable|host is down|mount\.nfs: .*timed out",
        "the server cannot be reached from the node",
        "check the server's address, that it runs, and that nodes reach its port (NFS: TCP 2049)",
    ),
    _cause(
        r"protocol not supported|requested nfs version",
        "the server does not speak the NFS version that is asked for",
        "enable NFS 4 on the server",
    ),
    _cause(
        r"not found in the list of registered csi drivers",
        "the volume's driver does not run on the node",
        "see that the driver's node plugin runs there (DaemonSet, taints)",
    ),
    _cause(
        r"hostpath type check failed|path .* does not exist",
        "the node has no such directory",
        "make it on the node, or use the node that has it",
    ),
)


def diagnose_mount(pod: Manifest, events: Iterable[Manifest], neighbours: Sequence[Manifest] = ()) -> Diagnosis | None:
    """Why the pod's volumes cannot be mounted; None if no event says so. ``neighbours`` are pods that may have the volume."""
    failures = [event for event in events if event.get("reason") in _REASONS]
    event = latest([each for each in failures if not _SUMMARY.search(each.get("message", ""))]) or latest(failures)
    if event is None:
        return None
    text, node = event.get("message", ""), pod["spec"].get("nodeName") or "unknown"
    if "Multi-Attach" in text:
        return _multi_attach(pod, node, text, neighbours)
    if cause := next((each for each in _CAUSES if each.pattern.search(text)), None):
        return Diagnosis(f"node {node}: a volume cannot be mounted: {cause.words}", _short(text), cause.step, permanent=cause.permanent)
    step = "the kubelet tries again by itself; look at the volume's driver on the node"
    return Diagnosis(f"node {node}: a volume cannot be mounted ({event['reason']})", _short(text), step)


def is_multi_attach(events: Iterable[Manifest]) -> bool:
    """Whether another node has the volume: then who does is worth a look."""
    return any("Multi-Attach" in event.get("message", "") for event in events if event.get("reason") in _REASONS)


def _multi_attach(pod: Manifest, node: str, text: str, neighbours: Sequence[Manifest]) -> Diagnosis:
    there = sorted(
        {each["spec"]["nodeName"] for each in neighbours if _has_same_claim(pod, each) and each["spec"].get("nodeName")} - {node}
    )
    where = f"node {', '.join(there)}" if there else "another node"
    step = (
        f"ReadWriteOnce is one node at a time: run both on {where}, or end the pod there; after a node's death its detachment takes minutes"
    )
    return Diagnosis(f"node {node}: the volume is still attached to {where}", _short(text), step)


def _has_same_claim(pod: Manifest, other: Manifest) -> bool:
    same = pod["metadata"].get("uid") == other["metadata"].get("uid")
    ended = (other.get("status") or {}).get("phase") in {"Succeeded", "Failed"}
    return not same and not ended and bool(_claims(pod) & _claims(other))


def _claims(pod: Manifest) -> set[str]:
    return {volume["persistentVolumeClaim"]["claimName"] for volume in pod["spec"].get("volumes", []) if "persistentVolumeClaim" in volume}


def _short(text: str) -> str:
    """In one line, and of a mount command its output alone."""
    output = text.partition("Output: ")[2]
    volume = re.search(r'volume "([^"]+)"', text)
    head = f"volume {volume[1]}: " if volume and output else ""
    return head + " ".join((output or text).split())
