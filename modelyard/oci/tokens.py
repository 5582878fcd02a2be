"""Who one is, told in the way that the registry asks for: not at all, by password, or by a token for each scope.

https://distribution.github.io/distribution/spec/auth/token. Tokens live for minutes and layers upload for hours, so they are asked
for anew at half of their life, and after a 401; an upload goes on under the new one.
"""

import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import urlencode, urlsplit

from modelyard.errors import RegistryDenied, RegistryRefused
from modelyard.oci.access import Access
from modelyard.oci.answers import answer_error
from modelyard.oci.bodies import Answer

#: Where the answer names none. https://distribution.github.io/distribution/spec/auth/token/#token-response-fields
_LIFE_SECONDS = 60.0
_PARAMETER = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"|(\w+)=([^",\s]+)')

#: Sends (method, URL, headers, body) and gives the answer.
Send = Callable[[str, str, dict[str, str], bytes | None], Answer]


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a 401 asks for."""

    scheme: str
    parameters: dict[str, str]

    @classmethod
    def of(cls, header: str) -> "Challenge | None":
        """The challenge of a WWW-Authenticate header; None if it asks for nothing that is known here."""
        scheme, _, rest = header.partition(" ")
        if scheme.lower() not in {"basic", "bearer"}:
            return None
        found = {name or bare: value or plain for name, value, bare, plain in _PARAMETER.findall(rest)}
        return cls(scheme.lower(), found)


@dataclass(slots=True)
class _Token:
    value: str = field(repr=False)
    renew_at: float


@dataclass(slots=True)
class Authorization:
    """One registry's authorization, shared by all threads that speak to it."""

    access: Access
    send: Send
    _challenge: Challenge | None = None
    _tokens: dict[tuple[str, ...], _Token] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def header(self, scopes: tuple[str, ...]) -> str | None:
        """The Authorization header for ``scopes``; None as long as the registry has not asked for one.

        Raises:
            RegistryDenied, RegistryRefused, RegistryUnavailable: a token is not to be had.
        """
        with self._lock:
            if self._challenge is None:
                return None
            if self._challenge.scheme == "basic":
                return self.access.credentials.basic if self.access.credentials else None
            token = self._tokens.get(scopes)
            if token is None or token.renew_at <= time.monotonic():
                token = self._tokens[scopes] = self._ask(self._challenge, scopes)
            return f"Bearer {token.value}"

    def refused(self, header: str, scopes: tuple[str, ...], used: str | None) -> bool:
        """Take note of a 401 after ``used`` was sent; whether the same request may do with what is sent now."""
        challenge = Challenge.of(header)
        if challenge is None:
            return False
        with self._lock:
            self._challenge = challenge
            token = self._tokens.get(scopes)
            if token and used == f"Bearer {token.value}":  # else another thread has a new one already
                del self._tokens[scopes]
        if challenge.scheme == "basic":
            return self.access.credentials is not None and self.access.credentials.renewed(used)
        return True

    def _ask(self, challenge: Challenge, scopes: tuple[str, ...]) -> _Token:
        realm = challenge.parameters.get("realm", "")
        if urlsplit(realm).scheme not in ({"http", "https"} if self.access.plain_http else {"https"}):
            raise RegistryRefused(f"{self.access.host}: asks for a token from {realm!r}, which is not https")
        response = self._request_token(realm, challenge.parameters.get("service", ""), scopes)
        if response.status != HTTPStatus.OK:
            error = answer_error(response, f"{self.access.host}: no token for {' '.join(scopes)}")
            raise error if error.retryable else RegistryDenied(str(error))
        try:
            told = json.loads(response.data)
            value = told.get("token") or told["access_token"]
            life = float(told.get("expires_in") or _LIFE_SECONDS)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise RegistryRefused(f"{self.access.host}: the answer of {realm} holds no token") from None  # it may hold a part of one
        return _Token(value, time.monotonic() + life / 2)

    def _request_token(self, realm: str, service: str, scopes: tuple[str, ...]) -> Answer:
        credentials = self.access.credentials
        if credentials and credentials.refresh_token:
            form = {"grant_type": "refresh_token", "service": service, "client_id": "modelyard", "scope": " ".join(scopes)}
            body = urlencode(form | {"refresh_token": credentials.refresh_token}).encode()
            return self.send("POST", realm, {"Content-Type": "application/x-www-form-urlencoded"}, body)
        query = urlencode([("service", service), *(("scope", scope) for scope in scopes)])
        return self.send(
            "GET", f"{realm}{'&' if '?' in realm else '?'}{query}", {"Authorization": credentials.basic} if credentials else {}, None
        )
