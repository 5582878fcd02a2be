"""Requests to one registry: TLS, authorization, redirects, and failures as errors that say whether another try could help."""

import logging
import random
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
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
#: A registry on an object store moves the whole blob while it answers the last requests of an upload.
_WORK_SECONDS = 900.0
_CONNECTIONS = 16
_REDIRECTS = {301, 302, 303, 307, 308}
_MOST_REDIRECTS = 5
_HEADERS = {"User-Agent": "modelyard", "Accept-Encoding": "identity"}

Got = TypeVar("Got")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """How often, and after which waits (seconds, doubled each time), something is tried again.

    ``answer``: seconds without a byte after which a registry counts as silent, where it has nothing to do that takes long;
    ``silences``: how often in a row at most it may be: so often would ``attempts`` be a long time to say nothing;
    ``long_silences``: how often of these where it is given a quarter of an hour each time.
    """

    attempts: int = 8
    first: float = 1.0
    longest: float = 20.0
    answer: float = 45.0
    silences: int = 4
    long_silences: int = 2

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
        failures = Failures(self)
        while True:
            try:
                return attempt()
            except Temporary as error:
                failures.add(error)
                failures.wait(error)


@dataclass(slots=True)
class Failures:
    """Failures in a row of one thing that is tried.

    Silences in a row are counted apart: one that follows other failures is the first, and any other failure ends their row.
    """

    patience: Patience
    all: int = 0
    silences: int = 0
    long_silences: int = 0

    def add(self, error: Temporary, least: int = 0) -> None:
        """Count ``error``; ``least``: how many failures there were at any rate.

        Raises:
            Temporary: ``error``, as there is no other try; if it came from silence, nor of what this one is a part.
        """
        self.all = max(self.all + 1, least)
        if not isinstance(error, RegistryUnavailable) or not error.silent:
            self.silences = self.long_silences = 0
            if self._is_over():
                raise error
            return
        self.silences += 1
        self.long_silences += error.long
        error.spent = error.spent or self._is_over()
        if error.spent:
            raise error

    def clear(self) -> None:
        """Something came of it: no failure counts any more."""
        self.all = self.silences = self.long_silences = 0

    @property
    def next_try(self) -> str:
        """The number of the next try, and how many there are if it fails as the last did."""
        count, most = self._nearest()
        return f"try {count + 1} of {most}"

    def wait(self, error: Temporary) -> None:
        """Wait before the next try."""
        self.patience.wait(self.all, error)

    def _is_over(self) -> bool:
        count, most = self._nearest()
        return count >= most

    def _nearest(self) -> tuple[int, int]:
        """The count that is nearest to its limit, and the limit."""
        told = self.patience
        limits = [(self.all, told.attempts), (self.silences, told.silences), (self.long_silences, told.long_silences)]
        return min(((count, min(most, told.attempts)) for count, most in limits if count), key=lambda limit: limit[1] - limit[0])


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    headers: dict[str, str] = field(repr=False)  # an Authorization
    timeout: urllib3.Timeout
    body: bytes | Iterable[bytes] | None = field(default=None, repr=False)  # a refresh token
    works: bool = False

    @property
    def is_repeatable(self) -> bool:
        return self.body is None or isinstance(self.body, bytes)


class Http:
    """One registry's connections. Threads may share it."""

    def __init__(self, access: Access, answer_seconds: float) -> None:
        self.access = access
        context = None if access.plain_http else ssl.create_default_context(cadata=access.authority)
        self._soon = urllib3.Timeout(connect=_CONNECT_SECONDS, read=answer_seconds)
        self._late = urllib3.Timeout(connect=_CONNECT_SECONDS, read=max(_WORK_SECONDS, answer_seconds))
        self._pool = urllib3.PoolManager(
            num_pools=4,
            maxsize=_CONNECTIONS,
            block=True,
            ssl_context=context,
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
        works: bool = False,
    ) -> Answer:
        """The answer to a request for ``url`` (a path, or where the registry pointed to), whatever its status is.

        After a 401 it is sent again with what the registry asks for; if the body can be read only once, the error is RegistryUnavailable.
        ``works``: the registry moves a layer before it answers, which may take minutes.

        Raises:
            RegistryRefused: the answer is longer than any but a blob's may be.
            ModelyardError: there is no answer, or no authorization.
        """
        told = _Request(method, dict(headers or {}), self._late if works else self._soon, body, works)
        return _read(self._authorized(told, url, scopes), f"{method} {_shown(self.resolve(url))}", works=works)

    def stream(
        self, wanted: AbstractSet[int], url: str, scopes: tuple[str, ...], subject: str, headers: Mapping[str, str] | None = None
    ) -> BaseHTTPResponse:
        """The answer to a GET whose status is one of ``wanted``, its body still to be read: a blob's.

        Raises:
            ModelyardError: there is none, or what its status means instead.
        """
        response = self._authorized(_Request("GET", dict(headers or {}), self._soon), url, scopes)
        if response.status not in wanted:
            raise answer_error(_read(response, subject), subject)
        return response

    def _authorized(self, request: _Request, url: str, scopes: tuple[str, ...]) -> BaseHTTPResponse:
        target = self.resolve(url)
        used = self._authorization.header(scopes) if self._is_own(target) else None
        response, answered_by = self._follow(request, target, used)
        if response.status != HTTPStatus.UNAUTHORIZED or not self._is_own(answered_by):
            return response  # what another host asks for is not the registry's to give
        if not self._authorization.refused(response.headers.get("WWW-Authenticate", ""), scopes, used):
            return response
        if not request.is_repeatable:
            raise RegistryUnavailable(f"{request.method} {_shown(target)}: the registry asks for another token", delay=0)
        drained(response)
        response, _ = self._follow(request, target, self._authorization.header(scopes))
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

    def _follow(self, request: _Request, target: str, used: str | None) -> tuple[BaseHTTPResponse, str]:
        """The answer, and the URL that gave it."""
        for _ in range(_MOST_REDIRECTS):
            response = self._send(request, target, {"Authorization": used} if used and self._is_own(target) else {})
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or not location:
                return response, target
            if not request.is_repeatable:
                subject = f"{request.method} {_shown(target)}"
                raise RegistryRefused(f"{subject}: the registry redirects an upload; give the address that it redirects to")
            drained(response)
            target = self.resolve(urljoin(target, location))
        raise RegistryRefused(f"{request.method} {_shown(target)}: more than {_MOST_REDIRECTS} redirects")

    def _send(self, request: _Request, url: str, more: Mapping[str, str]) -> BaseHTTPResponse:
        told = {**_HEADERS, **request.headers, **more}
        try:
            # urllib3 frames an iterable by its Content-Length where the headers hold one, else in chunks.
            return self._pool.request(
                request.method,
                url,
                headers=told,
                body=request.body,
                timeout=request.timeout,
                preload_content=False,
                redirect=False,
                retries=False,
            )
        except HTTPError as error:
            raise network_error(error, f"{request.method} {_shown(url)}", works=request.works) from error

    def _ask_for_token(self, method: str, url: str, headers: dict[str, str], body: bytes | None) -> Answer:
        return _read(self._send(_Request(method, headers, self._soon, body), url, {}), f"{method} {_shown(url)}")


def _read(response: BaseHTTPResponse, subject: str, *, works: bool = False) -> Answer:
    try:
        return read_answer(response, subject)
    except HTTPError as error:
        raise network_error(error, subject, works=works) from error


def _shown(url: str) -> str:
    """Without the query: an upload's state and a storage's signature are in it."""
    parts = urlsplit(url)
    return f"{parts.netloc}{parts.path}"
