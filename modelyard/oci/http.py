"""Requests to one registry: TLS, authorization, redirects, and failures as errors that say whether another try could help."""

import random
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import urljoin, urlsplit, urlunsplit

import urllib3
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

from modelyard.errors import RegistryRefused, RegistryUnavailable, Temporary
from modelyard.oci.access import Access
from modelyard.oci.answers import answer_error, network_error
from modelyard.oci.tokens import Authorization

#: Also the longest that one send of ``SEND_SIZE`` bytes may take: until the request is sent, urllib3 counts by this one.
_CONNECT_SECONDS = 30.0
#: A registry on an object store moves the whole blob while it answers the last request of an upload.
_READ_SECONDS = 900.0
_CONNECTIONS = 16
_REDIRECTS = {301, 302, 303, 307, 308}
_MOST_REDIRECTS = 5
_AGENT = "modelyard"

Got = TypeVar("Got")


@dataclass(frozen=True, slots=True)
class Patience:
    """How often, and after which waits (seconds, doubled each time), something is tried again."""

    attempts: int = 8
    first: float = 1.0
    longest: float = 20.0

    def wait(self, failures: int, error: Temporary) -> None:
        """Wait before the next try after so many failures in a row: anywhere up to the doubled time, so that many do not come at once.

        What a registry asked for (Retry-After) is waited for at least.
        """
        spread = min(self.longest, self.first * 2 ** (failures - 1)) * random.uniform(0.1, 1.0)  # noqa: S311 - jitter
        told = error.delay if isinstance(error, RegistryUnavailable) else 0.0
        time.sleep(max(told, spread))

    def through(self, attempt: Callable[[], Got]) -> Got:
        """What ``attempt`` gives, tried again after Temporary errors."""
        for failures in range(1, self.attempts):
            try:
                return attempt()
            except Temporary as error:
                self.wait(failures, error)
        return attempt()


class Http:
    """One registry's connections. Threads may share it."""

    def __init__(self, access: Access) -> None:
        self.access = access
        context = None if access.plain_http else ssl.create_default_context(cadata=access.authority)
        timeout = urllib3.Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS)
        self._pool = urllib3.PoolManager(
            num_pools=4,
            maxsize=_CONNECTIONS,
            block=True,
            ssl_context=context,
            timeout=timeout,
            retries=False,
            headers={"User-Agent": _AGENT},
        )
        self._authorization = Authorization(access, self._send)

    def request(
        self,
        method: str,
        url: str,
        scopes: tuple[str, ...],
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | Iterable[bytes] | None = None,
        stream: bool = False,
    ) -> BaseHTTPResponse:
        """The answer to a request for ``url`` (a path, or where the registry pointed to), whatever its status is.

        After a 401 it is sent again with what the registry asks for; if the body can be read only once, the error is RegistryUnavailable.

        Raises:
            ModelyardError: there is no answer, or no authorization.
        """
        target = self.resolve(url)
        used = self._authorization.header(scopes) if self._is_own(target) else None
        response, answered_by = self._follow(method, target, dict(headers or {}), used, body, stream=stream)
        if response.status != HTTPStatus.UNAUTHORIZED or not self._is_own(answered_by):
            return response  # what another host asks for is not the registry's to give
        if not self._authorization.refused(response.headers.get("WWW-Authenticate", ""), scopes, used):
            return response
        if body is not None and not isinstance(body, bytes):
            raise RegistryUnavailable(f"{method} {_shown(target)}: the registry asks for another token", delay=0)
        response.drain_conn()
        response, _ = self._follow(method, target, dict(headers or {}), self._authorization.header(scopes), body, stream=stream)
        return response

    def expect(self, wanted: AbstractSet[int], response: BaseHTTPResponse, subject: str) -> BaseHTTPResponse:
        """``response`` if its status is one of ``wanted``.

        Raises:
            ModelyardError: what its status means instead.
        """
        if response.status in wanted:
            return response
        error = answer_error(response, subject)
        response.release_conn()
        raise error

    def resolve(self, location: str) -> str:
        """The URL of what the registry points to. Behind a proxy that ends TLS, some give http:// for themselves: that is not followed.

        Raises:
            RegistryRefused: it points to plain HTTP elsewhere.
        """
        target = urljoin(f"{self.access.url}/", location)
        parts = urlsplit(target)
        if parts.netloc == self.access.host:
            return urlunsplit(parts._replace(scheme=urlsplit(self.access.url).scheme))
        if parts.scheme != "https" and not self.access.plain_http:
            raise RegistryRefused(f"{self.access.host}: points to {_shown(target)}, which is not https")
        return target

    def close(self) -> None:
        """Close what is idle."""
        self._pool.clear()

    def _is_own(self, target: str) -> bool:
        """Whether credentials may go there."""
        return urlsplit(target).netloc == self.access.host

    def _follow(
        self, method: str, target: str, headers: dict[str, str], used: str | None, body: bytes | Iterable[bytes] | None, *, stream: bool
    ) -> tuple[BaseHTTPResponse, str]:
        """The answer, and the URL that gave it."""
        for _ in range(_MOST_REDIRECTS):
            told = headers | ({"Authorization": used} if used and self._is_own(target) else {})
            response = self._send(method, target, told, body, stream=stream)
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or not location:
                return response, target
            if body is not None and not isinstance(body, bytes):
                raise RegistryRefused(f"{method} {_shown(target)}: the registry redirects an upload; give the address that it redirects to")
            response.drain_conn()
            target = self.resolve(urljoin(target, location))
        raise RegistryRefused(f"{method} {_shown(target)}: more than {_MOST_REDIRECTS} redirects")

    def _send(
        self, method: str, url: str, headers: dict[str, str], body: bytes | Iterable[bytes] | None, *, stream: bool = False
    ) -> BaseHTTPResponse:
        try:
            # urllib3 frames an iterable by its Content-Length where the headers hold one, else in chunks.
            return self._pool.request(method, url, headers=headers, body=body, preload_content=not stream, redirect=False, retries=False)
        except HTTPError as error:
            raise network_error(error, f"{method} {_shown(url)}") from error


def drained(response: BaseHTTPResponse) -> None:
    """Give a streamed answer's connection back; one that is broken is dropped."""
    with suppress(HTTPError):
        response.drain_conn()
    response.release_conn()


def _shown(url: str) -> str:
    """Without the query: an upload's state and a storage's signature are in it."""
    parts = urlsplit(url)
    return f"{parts.netloc}{parts.path}"
