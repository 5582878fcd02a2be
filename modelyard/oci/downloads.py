"""Blobs on their way out of a registry: from any byte to any other, and gone on with where the connection broke."""

from collections.abc import Generator
from http import HTTPStatus

from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

from modelyard.errors import ContentMismatch, ModelyardError, RegistryUnavailable, Temporary
from modelyard.images.descriptors import Descriptor
from modelyard.oci.answers import network_error
from modelyard.oci.bodies import drained, dropped
from modelyard.oci.http import Failures
from modelyard.oci.registry import Repository

#: Handed on at a time: enough for a write past the page cache.
READ_SIZE = 2 * 1024 * 1024
_RANGED = {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}


class Download:
    """The bytes ``start`` to ``end`` (not included) of a blob, once. ``chunks`` is one thread's; ``cancel`` may come from any."""

    def __init__(self, repository: Repository, blob: Descriptor, start: int, end: int) -> None:
        self._repository, self._blob, self._start, self._end = repository, blob, start, end
        self._subject = f"{repository}@{blob.digest}"
        self._response: BaseHTTPResponse | None = None
        self._cancelled = False

    def chunks(self) -> Generator[bytes]:
        """The bytes as they come, compared with nothing but their count.

        Raises:
            RegistryUnavailable: the connection broke, or was cancelled.
            ModelyardError: what the registry said instead.
        """
        if self._start >= self._end:
            return
        response = self._response = self._ask()
        left = self._end - self._start
        skip = self._start if response.status == HTTPStatus.OK else 0  # a registry that knows no ranges sends all of it
        try:
            while left and (chunk := response.read(READ_SIZE, decode_content=False)):
                self._go_on()
                body = chunk[skip : skip + left]
                skip = max(0, skip - len(chunk))
                left -= len(body)
                if body:
                    yield body
        except (HTTPError, OSError, ValueError) as error:  # the last: its socket was closed under it
            raise self._broken(error) from error
        finally:
            drained(response) if not left and response.status == HTTPStatus.PARTIAL_CONTENT else dropped(response)
        self._go_on()
        if left:
            raise RegistryUnavailable(f"{self._subject}: ended {left} bytes early", delay=0)

    def _ask(self) -> BaseHTTPResponse:
        repository, blob = self._repository, self._blob
        headers = {"Range": f"bytes={self._start}-{self._end - 1}"} if (self._start, self._end) != (0, blob.size) else {}
        url = f"/v2/{repository.name}/blobs/{blob.digest}"
        response = repository.http.stream(_RANGED, url, repository.scopes, self._subject, headers)
        told = response.headers.get("Content-Range", "")
        if response.status == HTTPStatus.PARTIAL_CONTENT and not told.startswith(f"bytes {self._start}-{self._end - 1}/"):
            dropped(response)
            raise ContentMismatch(f"{self._subject}: asked for bytes {self._start} to {self._end - 1}, the registry answers with {told!r}")
        return response

    def _go_on(self) -> None:
        if self._cancelled:
            raise RegistryUnavailable(f"{self._subject}: cancelled", delay=0)

    def _broken(self, error: Exception) -> ModelyardError:
        if self._cancelled:
            return RegistryUnavailable(f"{self._subject}: cancelled", delay=0)
        if isinstance(error, HTTPError):
            return network_error(error, self._subject)
        return RegistryUnavailable(f"{self._subject}: the connection broke ({error})", delay=0)

    def cancel(self) -> None:
        """End ``chunks`` soon, also where it waits for a byte."""
        self._cancelled = True
        if response := self._response:
            try:
                response.shutdown()
            except (OSError, ValueError, RuntimeError):
                return  # it has ended


def whole_blob(repository: Repository, blob: Descriptor) -> Generator[bytes]:
    """All of a blob: a connection that breaks is replaced by one that goes on, as often in a row as the repository's patience says.

    Raises:
        ModelyardError: the last failure.
    """
    position, failures = 0, Failures(repository.patience)
    while position < blob.size:
        try:
            for chunk in Download(repository, blob, position, blob.size).chunks():
                position += len(chunk)
                failures.clear()
                yield chunk
        except Temporary as error:
            failures.add(error)
            failures.wait(error)
