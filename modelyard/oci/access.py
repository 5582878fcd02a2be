"""How a registry is reached: where it is, whom it trusts, and whose name is told to it."""

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from modelyard.errors import RegistryDenied
from modelyard.images.references import Reference

#: How Docker Hub is called in docker's configuration.
_HUB = {"index.docker.io", "docker.io", "registry-1.docker.io"}


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user's name and password, or a refresh token that stands for both."""

    username: str = ""
    password: str = field(default="", repr=False)
    refresh_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The value of an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()

    def renewed(self, used: str | None) -> bool:
        """Whether ``basic`` may do where the header ``used`` was refused; a password that stays does not."""
        return used is None


class Login(Protocol):
    """Credentials, or what asks for new ones before they end."""

    @property
    def username(self) -> str: ...
    @property
    def password(self) -> str: ...
    @property
    def refresh_token(self) -> str: ...
    @property
    def basic(self) -> str: ...
    def renewed(self, used: str | None) -> bool: ...


@dataclass(frozen=True, slots=True)
class Access:
    """One registry, as its user reaches it. ``authority``: PEM text; None is the public ones.

    ``resume_uploads``: whether a broken upload goes on where the registry says that it stands, which not every registry says truly.
    """

    host: str
    plain_http: bool = False
    authority: str | None = None
    credentials: Login | None = None
    resume_uploads: bool = False

    @property
    def url(self) -> str:
        """Without a path."""
        return f"{'http' if self.plain_http else 'https'}://{self.host}"


@dataclass(frozen=True, slots=True)
class Keychain:
    """The registry that one works with, and what is known of others (for base images): only credentials, by their host."""

    main: Access
    others: Mapping[str, Credentials] = field(default_factory=dict)

    def access(self, reference: Reference) -> Access:
        """How the reference's registry is reached. Another than the main one is spoken to by https under the public authorities."""
        if reference.api_host == self.main.host:
            return self.main
        return Access(reference.api_host, credentials=credentials_for(reference.host, self.others))

    def only(self, references: Iterable[Reference]) -> "Keychain":
        """What is needed to reach these and the main registry: of others, no credentials go along."""
        hosts = {reference.host for reference in references}
        needed = {name: found for name, found in self.others.items() if any(credentials_for(host, {name: found}) for host in hosts)}
        return Keychain(self.main, needed)


def credentials_for(host: str, known: Mapping[str, Credentials]) -> Credentials | None:
    """What is known for ``host``."""
    names = _HUB if host in _HUB else {host}
    return next((found for name, found in known.items() if name in names), None)


def read_docker_config(text: str) -> dict[str, Credentials]:
    """The credentials of a docker config (``~/.docker/config.json``, or ``.dockerconfigjson`` of a Kubernetes Secret), by host.

    https://kubernetes.io/docs/concepts/containers/images/#config-json. Helpers are programs of another machine, and are not run.

    Raises:
        RegistryDenied: it is no such document. The message holds nothing of it.
    """
    try:
        entries = json.loads(text)["auths"]
        return {_host(name): found for name, entry in entries.items() if (found := _credentials(entry))}
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
        raise RegistryDenied(
            'the docker config is not one with credentials in it: it must be JSON with "auths" (credential helpers cannot be used here)'
        ) from None  # what failed to parse is a secret


def _credentials(entry: Mapping[str, Any]) -> Credentials | None:
    username, password = entry.get("username") or "", entry.get("password") or ""
    if told := entry.get("auth"):
        username, _, password = base64.b64decode(told, validate=True).decode().partition(":")
    token = entry.get("identitytoken") or ""
    return Credentials(username, password, token) if username or token else None


def _host(name: str) -> str:
    """Old configurations have ``https://host/v1/``."""
    return name.removeprefix("https://").removeprefix("http://").partition("/")[0]
