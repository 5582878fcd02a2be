"""What the API server's refusals and silences become: the only place that knows HTTP status codes.

    ClusterUnavailable            no connection, time-out, 429, 500, 502, 503, 504; ``delay`` is the server's Retry-After
    └── Expired                   410: a watch or a page began too long ago; list again
    ClusterRefused                401, 403, 422 and the rest
    ├── BadRequest                400
    ├── NotFound                  404: the object, its namespace or its kind is not there
    ├── AlreadyExists             409 on create
    └── Changed                   409 elsewhere, 422 for a uid: a precondition does not hold, or another manager owns the field

Messages read ``<verb> <Kind>/<namespace>/<name> failed: <the server's words>``. A Secret's refusals are told without the
server's words, because a validation error quotes the value that it dislikes.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelyard.errors import ClusterRefused, ClusterUnavailable, ModelyardError
from modelyard.kube.resources import ObjectRef

_UNAVAILABLE = frozenset({429, 500, 502, 503, 504})
_GONE, _CONFLICT, _MISSING, _UNAUTHORIZED, _FORBIDDEN, _BAD_REQUEST = 410, 409, 404, 401, 403, 400
_MAX_TEXT = 600
_MAX_DELAY = 300.0
_DENIED = re.compile(r'User "(?P<user>[^"]+)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)"')


class Expired(ClusterUnavailable):
    """The server has forgotten the resource version that a watch or a page asked for."""


class NotFound(ClusterRefused):
    """The object, its namespace or its kind is not there."""


class AlreadyExists(ClusterRefused):
    """An object of this name is there already."""


class Changed(ClusterRefused):
    """The object is not what the request presumed: another version, another uid, or another owner of a field."""


class BadRequest(ClusterRefused):
    """The server cannot make sense of the request; asked for a log, that the container has not started."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A refusal as it came over the wire."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    def details(self) -> dict[str, Any]:
        """The API's Status object, or an empty one where something else answered."""
        try:
            parsed = json.loads(self.body)
        except ValueError:
            return {}
        return parsed if isinstance(parsed, dict) else {}

    def text(self) -> str:
        """The server's words, cut to a length that a person reads."""
        words = str(self.details().get("message") or self.body.decode(errors="replace")).strip()
        return words if len(words) <= _MAX_TEXT else f"{words[:_MAX_TEXT]}..."


def unreachable(verb: str, ref: ObjectRef, host: str, cause: Exception) -> ClusterUnavailable:
    """The error for a request that got no answer."""
    return ClusterUnavailable(f"{verb} {ref} failed: no answer from {host} ({type(cause).__name__}: {str(cause)[:_MAX_TEXT]})")


def failure(verb: str, ref: ObjectRef, answer: Answer) -> ModelyardError:
    """The error for a request that was answered with anything but success."""
    message = f"{verb} {ref} failed: {_words(ref, answer)}"
    if answer.status == _GONE:
        return Expired(message, delay=0.0)
    if answer.status in _UNAVAILABLE:
        return ClusterUnavailable(message, delay=retry_after(answer.headers))
    return _refusal(answer)(message)


def _refusal(answer: Answer) -> type[ClusterRefused]:
    if answer.status == _MISSING:
        return NotFound
    if answer.status == _CONFLICT:
        return AlreadyExists if answer.details().get("reason") == "AlreadyExists" else Changed
    if any(cause.get("field") == "metadata.uid" for cause in _causes(answer.details())):
        return Changed  # a patch that names another uid is told so by validation (422), not as a conflict
    return BadRequest if answer.status == _BAD_REQUEST else ClusterRefused


def retry_after(headers: Mapping[str, str], default: float = 5.0) -> float:
    """Seconds that the server asks us to wait; the header's other form, a date, is not used by the API server."""
    text = headers.get("Retry-After", "")
    return min(float(text), _MAX_DELAY) if text.isdigit() else default


def _words(ref: ObjectRef, answer: Answer) -> str:
    if ref.kind == "Secret" and answer.status != _FORBIDDEN:
        return f"{answer.details().get('reason', 'refused')} ({answer.status}; the server's words are withheld, they may quote the Secret)"
    words = f"{answer.text()} ({answer.status})"
    step = _next_step(ref, answer)
    return f"{words}; {step}" if step else words


def _next_step(ref: ObjectRef, answer: Answer) -> str:
    text = answer.text()
    if answer.status == _UNAUTHORIZED:
        return "the credentials of this kubeconfig or service account are missing, wrong or expired"
    if answer.status == _FORBIDDEN:
        return _permission(ref, text)
    if managers := _other_managers(answer.details()):
        return f"{managers}: leave those fields to it, or apply with force"
    return ""


def _permission(ref: ObjectRef, text: str) -> str:
    if match := _DENIED.search(text):
        where = f"in namespace {ref.namespace}" if ref.namespace else "for the cluster"
        return f"the account {match['user']} lacks the verb {match['verb']!r} on {match['resource']!r} {where}; grant it by a Role"
    if "exceeded quota" in text:
        return f"ask for less, or raise the ResourceQuota of namespace {ref.namespace}"
    return "an admission policy of the cluster refuses it; change the object, or the policy"


def _other_managers(status: dict[str, Any]) -> str:
    owned = [f"{cause.get('field')} ({cause.get('message')})" for cause in _causes(status) if cause.get("reason") == "FieldManagerConflict"]
    return f"another field manager owns {', '.join(owned)}" if owned else ""


def _causes(status: dict[str, Any]) -> list[dict[str, Any]]:
    return (status.get("details") or {}).get("causes") or []
