"""What a registry's refusals mean, as errors that say what to do next.

Codes: https://github.com/opencontainers/distribution-spec/blob/main/spec.md#error-codes
"""

import json
from http import HTTPStatus

from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ReadTimeoutError

from modelyard.errors import (
    ContentMismatch,
    ModelyardError,
    RegistryDenied,
    RegistryMissing,
    RegistryRefused,
    RegistryUnavailable,
)
from modelyard.oci.bodies import Answer

_PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
#: The upload's session is gone, or stands elsewhere than was thought: another session may do.
_SESSION_CODES = {"BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID", "RANGE_INVALID"}
_NO_SPACE = "no space left on device"
_LONGEST_DELAY = 60.0
_SHOWN = 300


def answer_error(answer: Answer, subject: str) -> ModelyardError:
    """What an answer that is no success means for ``subject``."""
    status = answer.status
    code, message = _told(answer.data)
    said = f"{subject}: {status} {code} {message}".rstrip()
    if code == "DIGEST_INVALID":
        return ContentMismatch(said)
    if code in _SESSION_CODES or status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return RegistryUnavailable(f"{said}; the upload has to begin anew", delay=0)
    if _NO_SPACE in message:
        return RegistryRefused(
            f"{said}; the registry's storage is full: make room there (what is left of uploads that broke goes with its upload purging),"
            " then run again: finished layers are kept"
        )
    if status in _PASSING or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return RegistryUnavailable(said, delay=_delay(answer))
    return _lasting(status, code, said)


def _lasting(status: int, code: str, said: str) -> ModelyardError:
    if status == HTTPStatus.UNAUTHORIZED:
        return RegistryDenied(f"{said}; check the user name and password in the registry's block")
    if status == HTTPStatus.FORBIDDEN or code == "DENIED":
        return RegistryDenied(f"{said}; the account may not do this: it needs pull and push on the repository")
    if status == HTTPStatus.NOT_FOUND:
        return RegistryMissing(f"{said}; check the registry, the repository and the tag")
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        return RegistryRefused(f"{said}; the registry is read-only, or does not do this")
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return RegistryRefused(f"{said}; the registry, or a proxy before it, has a limit on the size of a request: raise it there")
    return RegistryRefused(said)


def network_error(error: HTTPError, subject: str, *, works: bool = False) -> ModelyardError:
    """What a request that got no answer means. ``works``: the registry was given long to work on it."""
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return RegistryDenied(
            f"{subject}: the registry's certificate is not trusted: give its CA in the registry's block ({text[:_SHOWN]})"
        )
    if "WRONG_VERSION_NUMBER" in text or "wrong version number" in text:
        return RegistryRefused(f"{subject}: the registry speaks plain HTTP; allow that in the registry's block if it is meant")
    if _is_silence(error):
        long = works and isinstance(error, ReadTimeoutError)  # that it takes nothing shows sooner
        said = f"{subject}: the registry says nothing ({text[:_SHOWN]})"
        return RegistryUnavailable(f"{said}; check that it, and any proxy before it, does its work", delay=0, silent=True, long=long)
    said = f"{subject}: the registry cannot be reached, or broke the connection ({text[:_SHOWN]})"
    return RegistryUnavailable(f"{said}; check its host and port, and that it runs", delay=0)


def _is_silence(error: HTTPError) -> bool:
    """Whether nobody answered in time, or took what was sent. That nobody listens is told at once, and is another thing."""
    if isinstance(error, ReadTimeoutError):
        return True
    if isinstance(error, ConnectTimeoutError):
        return not isinstance(error, NewConnectionError)
    return any(isinstance(cause, TimeoutError) for cause in error.args)


def _told(body: bytes) -> tuple[str, str]:
    """The first error's code and message; proxies answer with pages of their own."""
    try:
        first = json.loads(body)["errors"][0]
        detail = f" ({json.dumps(first['detail'])[:_SHOWN]})" if first.get("detail") else ""
        return str(first.get("code", "")), f"{first.get('message', '')}{detail}"
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return "", body[:_SHOWN].decode(errors="replace").strip()


def _delay(answer: Answer) -> float:
    """Seconds that the registry asks to wait; 0 if it does not (an HTTP date is not read)."""
    told = answer.headers.get("Retry-After", "")
    return min(float(told), _LONGEST_DELAY) if told.isdecimal() else 0.0
