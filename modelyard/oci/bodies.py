"""Bodies of answers, none of which is believed to end: small ones read up to a bound, and connections given back without reading on."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus

from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

from modelyard.errors import RegistryRefused

#: Of anything but a blob, in bytes: as long as the longest manifest that registries take. Tokens, lists and errors are shorter.
#: https://github.com/distribution/distribution/blob/main/registry/handlers/manifests.go
MAX_ANSWER = 4 * 1024 * 1024
#: More than the end of a body that was read is not waited for: another connection is cheaper.
_REST = 64 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that was read, as it came: nothing is unpacked, so that nothing can grow. Of an error's body the first bytes do."""

    status: int
    headers: Mapping[str, str]
    data: bytes = field(repr=False)


def read_answer(response: BaseHTTPResponse, subject: str) -> Answer:
    """The answer, whole.

    Raises:
        RegistryRefused: it is longer than ``MAX_ANSWER``.
        HTTPError: the connection broke.
    """
    data = bytearray()
    while chunk := response.read(MAX_ANSWER + 1 - len(data), decode_content=False):
        data += chunk
        if len(data) > MAX_ANSWER:
            dropped(response)
            if response.status < HTTPStatus.BAD_REQUEST:
                raise RegistryRefused(f"{subject}: answers with more than {MAX_ANSWER} bytes, which only a blob may have")
            del data[MAX_ANSWER:]
            break
    response.release_conn()
    return Answer(response.status, response.headers, bytes(data))


def drained(response: BaseHTTPResponse) -> None:
    """Give the connection of an answer back that is due to end; one that is broken, or sends on, is closed."""
    with suppress(HTTPError):
        if len(response.read(_REST, decode_content=False)) == _REST:
            response.close()
    response.release_conn()


def dropped(response: BaseHTTPResponse) -> None:
    """Close the connection of an answer that is not read to its end, and give its place in the pool back: closing alone keeps it."""
    response.close()
    response.release_conn()
