"""References to images, ``host/repository:tag@digest``: parsed once, at the edge.

Grammar: https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests and, for the host, that of docker's
reference package. A host is always asked for: which registry a bare name means depends on the machine that reads it.
"""

import re
from typing import Self

from modelyard.models import Value

_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_HOST = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LONGEST = 255
#: Where the API of a registry is that is named otherwise in references.
_API_HOSTS = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}


class Reference(Value):
    """An image in a registry."""

    host: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """The reference that ``text`` writes.

        Raises:
            ValueError: what is wrong with it.
        """
        rest, _, digest = text.partition("@")
        if digest and not _DIGEST.fullmatch(digest):
            raise ValueError(f"{text!r}: {digest!r} is no digest; write sha256: and 64 hexadecimal digits")
        host, slash, path = rest.partition("/")
        if not slash or not _HOST.fullmatch(host) or not ("." in host or ":" in host or host == "localhost"):
            raise ValueError(f"{text!r} names no registry; write host/repository:tag, for example registry.example/models/llama:v1")
        repository, colon, tag = path.partition(":")
        problem = repository_problem(repository) or (tag_problem(tag) if colon else None)
        if problem:
            raise ValueError(f"{text!r}: {problem}")
        return cls(host=host, repository=repository, tag=tag or None, digest=digest or None)

    @property
    def api_host(self) -> str:
        """Where requests go."""
        return api_host(self.host)

    @property
    def selector(self) -> str:
        """What a manifest is asked for by: the digest if there is one, else the tag."""
        return self.digest or self.tag or "latest"

    def at(self, *, tag: str | None = None, digest: str | None = None) -> "Reference":
        """The same repository under another tag or digest."""
        return self.model_copy(update={"tag": tag, "digest": digest})

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.host}/{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")


def api_host(host: str) -> str:
    """Where the API of the registry is that references call ``host``."""
    return _API_HOSTS.get(host, host)


def repository_problem(text: str) -> str | None:
    """Why ``text`` cannot be a repository, or None."""
    if _NAME.fullmatch(text) and len(text) <= _LONGEST:
        return None
    return f"{text!r} is no repository: lower-case letters and digits, with single '.', '_' or '-' between them and '/' between parts"


def host_problem(text: str) -> str | None:
    """Why ``text`` cannot be a registry's host, or None."""
    return None if _HOST.fullmatch(text) else f"{text!r} is no host; write it as host or host:port, without https:// and without a path"


def tag_problem(text: str) -> str | None:
    """Why ``text`` cannot be a tag, or None."""
    return None if _TAG.fullmatch(text) else f"{text!r} is no tag: 1 to 128 letters, digits, '_', '.' or '-', a letter, digit or '_' first"


def moving_tag_problem(text: str | None) -> str | None:
    """Why a model must not be served under this tag, or None.

    https://kubernetes.io/docs/concepts/containers/images/#imagepullpolicy-defaulting
    """
    if text and text != "latest":
        return None
    named = "the tag latest" if text else "no tag"
    return (
        f"{named} makes Kubernetes' pull policy Always: each pod would ask the registry again, the node's copy would not count,"
        " and two pods could serve different weights"
    )
