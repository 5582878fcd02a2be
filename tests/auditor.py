"""What is in a cluster and on its volumes, all of it, before and after: an oracle that shares no code with the product.

Objects are found by the API's own discovery, so that a kind that nobody thought of is seen as well; files by a walk that
follows no link. What changes by itself is declared here, at the top, and nowhere else.
"""

import base64
import hashlib
import http.client
import json
import os
import ssl
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from stat import S_ISDIR, S_ISLNK, S_ISREG
from typing import Any

import yaml

Manifest = dict[str, Any]
Fact = Mapping[str, Any]

#: Kinds that come and go by themselves: heartbeats, and the record of what happened.
IGNORED_KINDS = frozenset({"Lease", "Event", "ComponentStatus", "PodMetrics", "NodeMetrics"})
#: Fields that change though nobody changed the object; of one kind, or of all.
VOLATILE: dict[str, tuple[str, ...]] = {
    "*": ("metadata.managedFields", "metadata.resourceVersion"),
    "Node": ("status", "metadata.annotations", "spec.taints"),  # conditions, images; the node's own controllers taint it while it is away
    "FlowSchema": ("status",),
    "PriorityLevelConfiguration": ("status",),
    "APIService": ("status",),
    "CSINode": ("spec",),
    "Endpoints": ("metadata.annotations",),  # the time of the last change
    "EndpointSlice": ("metadata.annotations", "metadata.generation", "endpoints"),
    "ValidatingAdmissionPolicy": ("status",),
}
_TIMEOUT, _PATIENCE = 30, 120
#: Answers of a server that comes up, or has too much to do.
_BUSY = frozenset({429, 500, 502, 503, 504})


class Api:
    """An API server, asked with the credentials of a kubeconfig's first user."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._server = cluster["server"]
        tls = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        with tempfile.TemporaryDirectory() as scratch:  # the ssl module takes a certificate from files only
            certificate, key = Path(scratch, "crt"), Path(scratch, "key")
            key.touch(mode=0o600)
            certificate.write_bytes(base64.b64decode(user["client-certificate-data"]))
            key.write_bytes(base64.b64decode(user["client-key-data"]))
            tls.load_cert_chain(certificate, key)
        # No proxy of the environment's stands before a cluster.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls))
        self._opener.addheaders = [("Accept", "application/json")]

    def get(self, path: str) -> Any:
        """The parsed answer to a GET; a server that is away for a moment, or too busy, is asked again."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                with self._opener.open(f"{self._server}{path}", timeout=_TIMEOUT) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code not in _BUSY or time.monotonic() > deadline:
                    raise
            except (OSError, http.client.HTTPException):
                if time.monotonic() > deadline:
                    raise
            time.sleep(1)

    def kinds(self) -> list[tuple[str, str]]:
        """Every kind that can be listed, with the path of all its objects, at its group's preferred version."""
        groups = [group["preferredVersion"]["groupVersion"] for group in self.get("/apis")["groups"]]
        found: dict[str, str] = {}
        for root in ["/api/v1", *(f"/apis/{version}" for version in groups)]:
            for each in self.get(root)["resources"]:
                if "list" in each.get("verbs", ()) and "/" not in each["name"] and each["kind"] not in IGNORED_KINDS:
                    found[f"{root}/{each['name']}"] = each["kind"]
        return [(kind, path) for path, kind in found.items()]

    def objects(self) -> dict[str, Manifest]:
        """Every object of the cluster by ``Kind/namespace/name``, without what changes by itself."""
        found: dict[str, Manifest] = {}
        for kind, path in self.kinds():
            try:
                items = self.get(path)["items"]
            except urllib.error.HTTPError as error:
                if error.code in {404, 405}:  # its definition went meanwhile, or it is listed in name only
                    continue
                raise
            for item in items:
                metadata = item["metadata"]
                name = "/".join(part for part in (kind, metadata.get("namespace"), metadata["name"]) if part)
                found[name] = stable(kind, item)
        return found


def stable(kind: str, live: Manifest) -> Manifest:
    """``live`` without its volatile fields, and a Secret's values as digests only: findings are printed. Pure."""
    kept: Manifest = json.loads(json.dumps(live))
    if kind == "Secret":
        kept["data"] = {key: hashlib.sha256(value.encode()).hexdigest() for key, value in (kept.get("data") or {}).items()}
    for path in (*VOLATILE["*"], *VOLATILE.get(kind, ())):
        *parents, last = path.split(".")
        holder = kept
        for parent in parents:
            holder = holder.get(parent) or {}
        holder.pop(last, None)
    return kept


def files_below(root: Path) -> dict[str, Fact]:
    """Every file, directory and link below ``root`` by its relative path: what it is, its owner and mode, and its bytes' digest."""
    found: dict[str, Fact] = {}
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(directory, name)
            found[str(path.relative_to(root))] = _fact(path)
    return found


def _fact(path: Path) -> Fact:
    stat = path.lstat()
    owner = {"mode": f"{stat.st_mode:o}", "uid": stat.st_uid, "gid": stat.st_gid}
    if S_ISLNK(stat.st_mode):
        return {"link": str(path.readlink()), **owner}
    if S_ISDIR(stat.st_mode) or not S_ISREG(stat.st_mode):
        return owner
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": stat.st_size, "sha256": digest, "links": stat.st_nlink, **owner}


@dataclass(frozen=True)
class Snapshot:
    """One look: facts by name. Objects are ``Kind/namespace/name``, files ``file:<volume>/<path>``."""

    facts: Mapping[str, Fact]

    @classmethod
    def take(cls, kubeconfig: Path, volumes: Mapping[str, Path] | None = None) -> "Snapshot":
        """Look at everything now; ``volumes`` are directories by the names that findings shall call them."""
        files = {f"file:{name}/{path}": fact for name, root in (volumes or {}).items() for path, fact in files_below(root).items()}
        return cls({**Api(kubeconfig).objects(), **files})


@dataclass(frozen=True)
class Expected:
    """What may, and must, differ: patterns of names (``*`` matches any text). ``ignored`` may differ or not."""

    appeared: Sequence[str] = ()
    vanished: Sequence[str] = ()
    changed: Sequence[str] = ()
    ignored: Sequence[str] = ()


@dataclass(frozen=True)
class Findings:
    """What differs against expectation, and what was expected and does not; empty and false if all is as it should be."""

    unexpected: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.unexpected or self.missing)

    def __str__(self) -> str:
        return "\n".join([*(f"not expected: {each}" for each in self.unexpected), *(f"expected in vain: {each}" for each in self.missing)])


def compare(before: Snapshot, after: Snapshot, expected: Expected | None = None) -> Findings:
    """Everything that is not as ``expected``; by default nothing may have changed. Pure."""
    allowed = expected or Expected()
    old, new = before.facts, after.facts
    seen = {
        "appeared": [name for name in new if name not in old],
        "vanished": [name for name in old if name not in new],
        "changed": [name for name in old if name in new and old[name] != new[name]],
    }
    findings = Findings()
    for what, names in seen.items():
        patterns: Sequence[str] = getattr(allowed, what)
        for name in names:
            if not _matches(name, (*patterns, *allowed.ignored)):
                findings.unexpected.append(f"{name} {what}{_fields(old[name], new[name]) if what == 'changed' else ''}")
        findings.missing.extend(f"{pattern} {what}" for pattern in patterns if not any(_matches(name, [pattern]) for name in names))
    return findings


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _fields(old: Any, new: Any) -> str:
    """Where two facts differ, as paths with both values."""
    return ": " + ", ".join(f"{path} {a!r} -> {b!r}" for path, a, b in _differences(old, new, ""))


def _differences(old: Any, new: Any, path: str) -> list[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = sorted({*old, *new})
        return [each for key in keys for each in _differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))]
    return [] if old == new else [(path, old, new)]
