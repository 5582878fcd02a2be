"""What can go wrong, and whether another try could help: the error decides the retry, not the caller.

    ModelyardError
    ├── Temporary                 another try may succeed; ``delay`` says after how long at best
    │   ├── SourceUnavailable     throttled, unreachable, or the connection broke
    │   ├── ClusterUnavailable    the API server does not answer
    │   ├── RegistryUnavailable   throttled, unreachable, or the connection or the upload broke
    │   ├── ContentMismatch       bytes arrived that are not what the source says it holds
    │   ├── ClaimPending          the claim is not bound yet, and nothing says that it cannot be
    │   └── LoaderInterrupted     the loader's pod or Job went away before it said how it ended
    └── Permanent                 a person must change something first
        ├── Refused               the plan holds problems; nothing was changed
        ├── SourceDenied          credentials are missing, wrong, or do not reach this far
        ├── SourceMissing         no such bucket, prefix or object
        ├── SourceChanged         what the source holds is no longer what the plan saw
        ├── DigestMismatch        files are not those whose SHA-256 their author wrote down
        ├── VersionConflict       this version is on the volume with other content
        ├── NotEnoughSpace        the volume is too small, or became full
        ├── VolumeUnusable        the volume cannot be written or is not what it claims to be
        ├── ClaimUnusable         the claim can never be bound or mounted as it is
        ├── RegistryDenied        credentials are missing, wrong, or do not reach this far
        ├── RegistryMissing       no such image, or not for this platform
        ├── RegistryRefused       the registry does not take what it is sent
        ├── TagTaken              the tag names another image, and nobody asked to move it
        ├── ServingFailed         what serves a model does not come up, or does not serve these files
        ├── ClusterRefused        the API server refused a request (forbidden, invalid, quota)
        └── LoaderFailed          the loader ended with an error that is none of the above

Errors cross from the loader's pod to the flow as data (``to_data``/``from_data``), in the pod's termination message.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

#: Kubernetes keeps at most 4096 bytes of a termination message; leave room for the JSON around the text. Counted as in JSON,
#: where a quote is two characters and a letter beyond ASCII six.
MAX_MESSAGE_CHARS = 3000


class ModelyardError(Exception):
    """Base of all errors that are meant for a person to read."""

    retryable: ClassVar[bool] = False

    def to_data(self) -> dict[str, Any]:
        """The error as JSON-ready data; ``from_data`` gives it back in another process."""
        return {"error": type(self).__name__, "message": _fitting(str(self))}


class Temporary(ModelyardError):
    """Another try may help; whoever can choose waits ``delay`` seconds first (Prefect's tasks have fixed delays)."""

    retryable = True

    def __init__(self, message: str, *, delay: float = 10.0) -> None:
        super().__init__(message)
        self.delay = delay

    def to_data(self) -> dict[str, Any]:
        return {**super().to_data(), "delay": self.delay}


class SourceUnavailable(Temporary):
    """The source is throttling, unreachable, or broke the connection."""


class ClusterUnavailable(Temporary):
    """The API server does not answer, or answers that it cannot now."""


class RegistryUnavailable(Temporary):
    """The registry is throttling, unreachable, or broke the connection or the upload.

    ``silent``: it says nothing at all; ``long``: nor where it was given the time to work. ``spent``: it was silent as often as it may
    be, so that nothing of which this was a part is tried again either.
    """

    def __init__(self, message: str, *, delay: float = 10.0, silent: bool = False, long: bool = False) -> None:
        super().__init__(message, delay=delay)
        self.silent, self.long, self.spent = silent, long, False


class ContentMismatch(Temporary):
    """The bytes that arrived differ from the source's own checksum or size."""


class ClaimPending(Temporary):
    """The claim is not bound yet; nothing says that it never will be."""


class LoaderInterrupted(Temporary):
    """The loader's pod or Job was killed, evicted or deleted before it reported an end."""


class Permanent(ModelyardError):
    """No other try will help until a person changes something."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason for a refusal: what is wrong with which subject, and what to do next."""

    subject: str
    what: str
    next_step: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.what}; {self.next_step}"


class Refused(Permanent):
    """The plan holds problems, all of them listed; nothing was changed."""

    def __init__(self, problems: Iterable[Problem] | str) -> None:
        self.problems = () if isinstance(problems, str) else tuple(problems)
        super().__init__(problems if isinstance(problems, str) else "\n".join(str(problem) for problem in self.problems))


class SourceDenied(Permanent):
    """Credentials are missing, wrong, or not allowed to do this."""


class SourceMissing(Permanent):
    """There is no such bucket, prefix or object."""


class SourceChanged(Permanent):
    """What the source holds is no longer what the plan saw."""


class DigestMismatch(Permanent):
    """Files are missing, or are not those, whose digests the author wrote into SHA256SUMS; or that file is none."""


class VersionConflict(Permanent):
    """The version is on the volume already, with other content; nothing replaces a version in place."""


class NotEnoughSpace(Permanent):
    """The volume is too small for what has to be written, or became full."""


class VolumeUnusable(Permanent):
    """The volume cannot be written to, or lacks what a cache needs."""


class ClaimUnusable(Permanent):
    """The claim can never be bound or mounted as it is."""


class RegistryDenied(Permanent):
    """The registry's credentials are missing, wrong, or not allowed to do this."""


class RegistryMissing(Permanent):
    """There is no such image, or none of it for this platform."""


class RegistryRefused(Permanent):
    """The registry does not take what it is sent, or its answers cannot be understood."""


class TagTaken(Permanent):
    """The tag names another image; it is moved only when that is asked for."""


class ServingFailed(Permanent):
    """What serves a model, or prepares to, does not come up, or does not serve what it was told to."""


class ClusterRefused(Permanent):
    """The API server refused a request: forbidden, invalid, conflict or quota."""


class LoaderFailed(Permanent):
    """The loader ended with an error of no kind above; the message holds what is known."""


def from_data(data: dict[str, Any]) -> ModelyardError:
    """The error that ``to_data`` described; a name that this release does not know becomes ``LoaderFailed``."""
    message = str(data.get("message", "no message"))
    kind = _kinds().get(str(data.get("error")), LoaderFailed)
    if issubclass(kind, Temporary):
        return kind(message, delay=float(data.get("delay", 10.0)))
    return kind(message)


def is_permanent(name: str) -> bool:
    """Whether ``name`` is an error of ours that no other try helps against until a person changes something."""
    return issubclass(_kinds().get(name, Temporary), Permanent)


def _fitting(text: str) -> str:
    """As much of the start of ``text`` as fits."""
    kept = text[:MAX_MESSAGE_CHARS]
    while len(json.dumps(kept)) > MAX_MESSAGE_CHARS + len('""'):
        kept = kept[: len(kept) * 9 // 10]
    return kept


def _kinds() -> dict[str, type[ModelyardError]]:
    leaves = [*Temporary.__subclasses__(), *Permanent.__subclasses__()]
    return {kind.__name__: kind for kind in leaves}
