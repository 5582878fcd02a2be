"""Names: what a model, a version and a path may be called, and every derived Kubernetes name with its length budget.

User text becomes a Kubernetes name only here. ``slug`` keeps valid text and otherwise strips and appends a hash, so two
different texts never meet in one name (the rule of kubespawner's slugs.py).
"""

import hashlib
import re

#: Longest value of a label, and longest name of a Job: the Job controller copies it into the pods' ``job-name`` label.
#: https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-label-names
MAX_LABEL = 63
#: Longest name of a file or directory on the file systems that back claims, in bytes (NAME_MAX).
MAX_FILE_NAME = 255
#: Longest path below a version's directory, in bytes: PATH_MAX (4096) less the mount point, staging prefix and names.
MAX_PATH = 3072
#: The directory of ours at a volume's root; no model's name or path may start with it.
OWN_DIRECTORY = ".modelyard"

_MODEL_OR_VERSION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
_DNS_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_HASH_CHARS = 8
_MAX_KEY = 200
_MAX_SUBDOMAIN = 253


def name_problem(text: str) -> str | None:
    """Why ``text`` cannot name a model or a version, or None; both become directories on the volume and parts of names."""
    if _MODEL_OR_VERSION.fullmatch(text):
        return None
    return (
        f"{text!r} must be 1 to 100 letters, digits, '.', '_' or '-', and begin and end with a letter or digit"
        " (it becomes a directory on the volume)"
    )


def path_problem(path: str) -> str | None:
    """Why a file at ``path`` (relative, as the source names it) must not be written to a volume, or None."""
    if path.startswith("/"):
        return "is absolute"
    if _CONTROL.search(path):
        return "holds control characters"
    segments = path.split("/")
    if ".." in segments or "." in segments:
        return "holds '.' or '..' as a directory"
    if "" in segments:
        return "holds an empty directory name ('//' or a '/' at the end)"
    if segments[0].casefold() == OWN_DIRECTORY:  # some volumes fold case
        return f"begins with {OWN_DIRECTORY}/, which is Modelyard's own directory"
    return _length_problem(path, segments)


def _length_problem(path: str, segments: list[str]) -> str | None:
    try:
        longest = max(len(segment.encode()) for segment in segments)
        whole = len(path.encode())
    except UnicodeEncodeError:
        return "is not valid Unicode"
    if longest > MAX_FILE_NAME:
        return f"holds a name of {longest} bytes; file systems take {MAX_FILE_NAME}"
    if whole > MAX_PATH:
        return f"is {whole} bytes long; the limit is {MAX_PATH}"
    return None


def slug(text: str, limit: int = MAX_LABEL) -> str:
    """A DNS label of at most ``limit`` characters for ``text``: itself where valid, else stripped with a hash of the original."""
    if len(text) <= limit and _DNS_LABEL.fullmatch(text):
        return text
    stripped = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    kept = stripped[: limit - _HASH_CHARS - 1].strip("-")
    return f"{kept}-{_hash(text)}" if kept else f"x-{_hash(text)}"


def label_value(text: str) -> str:
    """A label value for ``text``: itself where Kubernetes takes it, else its slug.

    https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set
    """
    return text if re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", text) else slug(text)


def claim_name(base: str, suffix: str = "") -> str:
    """The claim's name ``<base>[-<suffix>]``; a new suffix is a new claim, which is how a StorageClass is switched."""
    return f"{base}-{suffix}" if suffix else base


def claim_problem(base: str, suffix: str = "") -> str | None:
    """Why base and suffix make no claim name, or None. It must be a DNS label, because it is also a label value and a pod's volume."""
    name = claim_name(base, suffix)
    if _DNS_LABEL.fullmatch(name):
        return None
    return (
        f"{name!r} ({len(name)} characters) must be 1 to {MAX_LABEL} lower-case letters, digits or '-',"
        " and begin and end with a letter or digit"
    )


def object_name_problem(text: str) -> str | None:
    """Why ``text`` cannot name an object of the API (a DNS subdomain), or None.

    https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-subdomain-names
    """
    if len(text) <= _MAX_SUBDOMAIN and all(_DNS_LABEL.fullmatch(part) for part in text.split(".")):
        return None
    return (
        f"{text!r} must be at most {_MAX_SUBDOMAIN} lower-case letters, digits, '-' or '.',"
        " each part beginning and ending with a letter or digit"
    )


def preload_job_name(claim: str, model: str, version: str) -> str:
    """The name of the Job that loads a version: a pure function of what is loaded where, so that a second run joins the first one's."""
    return job_name("preload", f"{model}-{version}", claim, model, version)


def job_name(command: str, words: str, *identity: str) -> str:
    """``<command>-<words>-<hash of identity>``, at most 63 characters: ``words`` is for people, ``identity`` tells Jobs apart."""
    digest = _hash("\0".join(identity))
    middle = slug(words, MAX_LABEL - len(command) - len("--") - _HASH_CHARS)
    return f"{command}-{middle}-{digest}"


def volume_copy_name(namespace: str, claim: str, target: str) -> str:
    """The PersistentVolume that stands for a cache's claim in the namespace ``target``: a pure function of both."""
    words = slug(f"{claim}-{target}", MAX_LABEL - len("-") - _HASH_CHARS)
    return f"{words}-{_hash(chr(0).join((namespace, claim, target)))}"


def export_volume_name(namespace: str, claim: str, export: str) -> str:
    """The name of the PersistentVolume that a claim's NFS export (``server:path``) is given: ``modelyard-<claim>-<hash>``."""
    return f"modelyard-{claim}-{_hash(chr(0).join((namespace, claim, export)))}"


def cached_model_name(cache: str, model: str, version: str) -> str:
    """The name of the CachedModel that Modelyard makes for a version on a cache; people may name theirs otherwise."""
    digest = _hash(f"{cache}\0{model}\0{version}")
    return f"{slug(f'{model}-{version}', MAX_LABEL - len('-') - _HASH_CHARS)}-{digest}"


def artifact_key(procedure: str, subject: str, *scope: str, part: str = "") -> str:
    """The key of what a procedure publishes of ``subject`` within ``scope`` (namespace, cache, ...); ``part``: ``plan``, ``progress``, ...

    Only the hash tells keys apart: with the words alone, part ``plan`` of model ``m`` would meet model ``m-plan``.
    """
    words = slug("-".join(filter(None, (procedure, subject, part))), _MAX_KEY - _HASH_CHARS - 1)
    return f"{words}-{_hash(chr(0).join((*scope, subject, part)))}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_CHARS]
