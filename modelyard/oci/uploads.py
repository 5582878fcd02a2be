"""One blob on its way into a registry: begun, sent in one streamed PATCH, and committed under its digest.

One PATCH whose size is told is what every registry takes. After a break, the registry is asked how far it got; one that does not
know (or tells more than was sent) is begun anew. https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pushing-blobs
"""

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from http import HTTPStatus

from modelyard.errors import ContentMismatch, ModelyardError, RegistryRefused
from modelyard.oci.http import Http

#: What is handed to the socket at a time: a slow registry must take so much within the connection's time-out.
SEND_SIZE = 1024 * 1024
_ABANDON_TRIES = 5
_ABANDON_SECONDS = 0.2
_BYTES = "application/octet-stream"
_RANGE = re.compile(r"(?:bytes=)?0-(\d+)")


class Upload:
    """An upload's session."""

    def __init__(self, http: Http, scopes: tuple[str, ...], location: str, subject: str) -> None:
        if not location:
            raise RegistryRefused(f"{subject}: the registry began an upload without a Location")
        self._http, self._scopes, self._subject = http, scopes, subject
        self._location = http.resolve(location)

    def send(self, chunks: Iterator[bytes], start: int, size: int, *, chunked: bool = False) -> None:
        """Send the bytes from ``start`` on; ``size`` is the whole blob's. ``chunked``: without telling how many.

        An upload that goes on tells where: a registry that stands elsewhere then refuses (416) instead of taking the wrong bytes.

        Raises:
            ModelyardError: it broke; ``offset`` tells how far it got. What the iterator raises comes through.
        """
        headers = {"Content-Type": _BYTES}
        if not chunked:
            headers["Content-Length"] = str(size - start)
        if start:
            headers["Content-Range"] = f"{start}-{size - 1}"
        body = sendable(chunks)
        response = self._http.request("PATCH", self._location, self._scopes, headers=headers, body=body, works=True)
        # ECR answers 201, Artifactory 200 or 204.
        taken = {HTTPStatus.ACCEPTED, HTTPStatus.CREATED, HTTPStatus.OK, HTTPStatus.NO_CONTENT}
        self._http.expect(taken, response, self._subject)
        self._move(response.headers.get("Location"))

    def offset(self, sent: int) -> int | None:
        """How many bytes the registry has kept after a break; None if it does not know, or cannot be believed."""
        try:
            response = self._http.request("GET", self._location, self._scopes)
        except ModelyardError:
            return None
        found = _RANGE.fullmatch(response.headers.get("Range", ""))
        if response.status != HTTPStatus.NO_CONTENT or not found:
            return None
        kept = int(found[1]) + 1
        # "0-0" is none as well as one byte; both are as good as nothing.
        if not 1 < kept <= sent:
            return None
        self._move(response.headers.get("Location"))
        return kept

    def commit(self, digest: str) -> None:
        """Make what was sent the blob ``digest``.

        Raises:
            ContentMismatch: the registry got other bytes.
        """
        response = self._http.request("PUT", self._with(digest), self._scopes, headers={"Content-Length": "0"}, body=b"", works=True)
        self._http.expect({HTTPStatus.CREATED}, response, self._subject)
        told = response.headers.get("Docker-Content-Digest", digest)
        if told != digest:
            raise ContentMismatch(f"{self._subject}: the registry says {told}, {digest} was sent")

    def put(self, content: bytes, digest: str) -> None:
        """Send and commit a small blob at once."""
        headers = {"Content-Type": _BYTES, "Content-Length": str(len(content))}
        response = self._http.request("PUT", self._with(digest), self._scopes, headers=headers, body=content)
        self._http.expect({HTTPStatus.CREATED}, response, self._subject)

    def abandon(self) -> None:
        """Tell the registry that nothing more comes, so that it need not keep what came: else that may fill its disk for a week.

        After a break distribution 3 takes this only (416 otherwise) by the address that it gives when it is asked how far it got, and
        2.8 not at all (404): there the remains wait for its purge.
        """
        with suppress(ModelyardError):
            for _ in range(_ABANDON_TRIES):  # it may still be writing what was on its way
                answer = self._http.request("DELETE", self._location, self._scopes)
                if answer.status != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    return
                time.sleep(_ABANDON_SECONDS)
                self._move(self._http.request("GET", self._location, self._scopes).headers.get("Location"))

    def _with(self, digest: str) -> str:
        return f"{self._location}{'&' if '?' in self._location else '?'}digest={digest}"

    def _move(self, location: str | None) -> None:
        if location:
            self._location = self._http.resolve(location)


def sendable(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of ``SEND_SIZE`` or a little less: tar headers and small files are gathered, large parts divided."""
    gathered = bytearray()
    for chunk in chunks:
        if len(gathered) + len(chunk) < SEND_SIZE:
            gathered += chunk
            continue
        if gathered:
            yield bytes(gathered)
            gathered.clear()
        view = memoryview(chunk)
        for start in range(0, len(chunk), SEND_SIZE):
            yield view[start : start + SEND_SIZE]  # type: ignore[misc]  # a socket takes it as it is
    if gathered:
        yield bytes(gathered)
