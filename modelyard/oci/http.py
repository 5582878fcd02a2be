"""Requests to one registry: TLS, authorization, redirects, and failures as errors that say whether another try could help."""

import logging
import random
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
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
from modelyard.oci.bodies import Answer, drained, read_answer
from modelyard.oci.tokens import Authorization

#: Also the longest that one send of ``SEND_SIZE`` bytes may take: until the request is sent, urllib3 counts by this one.
_CONNECT_SECONDS = 30.0
#: A registry on an object store moves the whole blob while it answers the last request of an upload.
_READ_SECONDS = 900.0
_CONNECTIONS = 16
_REDIRECTS = {301, 302, 303, 307, 308}
_MOST_REDIRECTS = 5
_HEADERS = {"User-Agent": "modelyard", "Accept-Encoding": "identity"}

Got = TypeVar("Got")
_LOG = logging.getLogger(__name__)


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
        seconds = max(told, spread)
        _LOG.warning("%s; tried again in %.1f s", error, seconds)
        time.sleep(seconds)

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
        )
        self._authorization = Authorization(access, self._ask_for_token)

    def request(
        self,
        method: str,
        url: str,
        scopes: tuple[str, ...],
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | Iterable[bytes] | None = None,
    ) -> Answer:
        """The answer to a request for ``url`` (a path, or where the registry pointed to), whatever its status is.

        After a 401 it is sent again with what the registry asks for; if the body can be read only once, the error is RegistryUnavailable.

        Raises:
            RegistryRefused: the answer is longer than any but a blob's may be.
            ModelyardError: there is no answer, or no authorization.
        """
        return _read(self._authorized(method, url, scopes, headers, body), f"{method} {_shown(self.resolve(url))}")

    def stream(
        self, wanted: AbstractSet[int], url: str, scopes: tuple[str, ...], subject: str, headers: Mapping[str, str] | None = None
    ) -> BaseHTTPResponse:
        """The answer to a GET whose status is one of ``wanted``, its body still to be read: a blob's.

        Raises:
            ModelyardError: there is none, or what its status means instead.
        """
        response = self._authorized("GET", url, scopes, headers, None)
        if response.status not in wanted:
            raise answer_error(_read(response, subject), subject)
        return response

    def _authorized(
        self,
        method: str,
        url: str,
        scopes: tuple[str, ...],
        headers: Mapping[str, str] | None,
        body: bytes | Iterable[bytes] | None,
    ) -> BaseHTTPResponse:
        target = self.resolve(url)
        used = self._authorization.header(scopes) if self._is_own(target) else None
        response, answered_by = self._follow(method, target, dict(headers or {}), used, body)
        if response.status != HTTPStatus.UNAUTHORIZED or not self._is_own(answered_by):
            return response  # what another host asks for is not the registry's to give
        if not self._authorization.refused(response.headers.get("WWW-Authenticate", ""), scopes, used):
            return response
        if body is not None and not isinstance(body, bytes):
            raise RegistryUnavailable(f"{method} {_shown(target)}: the registry asks for another token", delay=0)
        drained(response)
        response, _ = self._follow(method, target, dict(headers or {}), self._authorization.header(scopes), body)
        return response

    def expect(self, wanted: AbstractSet[int], answer: Answer, subject: str) -> Answer:
        """``answer`` if its status is one of ``wanted``.

        Raises:
            ModelyardError: what its status means instead.
        """
        if answer.status in wanted:
            return answer
        raise answer_error(answer, subject)

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
        self, method: str, target: str, headers: dict[str, str], used: str | None, body: bytes | Iterable[bytes] | None
    ) -> tuple[BaseHTTPResponse, str]:
        """The answer, and the URL that gave it."""
        for _ in range(_MOST_REDIRECTS):
            told = headers | ({"Authorization": used} if used and self._is_own(target) else {})
            response = self._send(method, target, told, body)
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or not location:
                return response, target
            if body is not None and not isinstance(body, bytes):
                raise RegistryRefused(f"{method} {_shown(target)}: the registry redirects an upload; give the address that it redirects to")
            drained(response)
            target = self.resolve(urljoin(target, location))
        raise RegistryRefused(f"{method} {_shown(target)}: more than {_MOST_REDIRECTS} redirects")

    def _send(self, method: str, url: str, headers: dict[str, str], body: bytes | Iterable[bytes] | None) -> BaseHTTPResponse:
        told = _HEADERS | headers
        try:
            # urllib3 frames an iterable by its Content-Length where the headers hold one, else in chunks.
            return self._pool.request(method, url, headers=told, body=body, preload_content=False, redirect=False, retries=False)
        except HTTPError as error:
            raise network_error(error, f"{method} {_shown(url)}") from error

    def _ask_for_token(self, method: str, url: str, headers: dict[str, str], body: bytes | None) -> Answer:
        return _read(self._send(method, url, headers, body), f"{method} {_shown(url)}")


def _read(response: BaseHTTPResponse, subject: str) -> Answer:
    try:
        return read_answer(response, subject)
    except HTTPError as error:
        raise network_error(error, subject) from error


def _shown(url: str) -> str:
    """Without the query: an upload's state and a storage's signature are in it."""
    parts = urlsplit(url)
    return f"{parts.netloc}{parts.path}"
