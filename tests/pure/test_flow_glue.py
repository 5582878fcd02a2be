"""What the flow shows and what it tries again, by table."""

import httpx
import pytest
import urllib3.exceptions
from botocore.exceptions import EndpointConnectionError, ParamValidationError, ReadTimeoutError
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import ValidationError

from flows.model_images import find_image
from flows.orders import versions_seen
from flows.preload import summary
from flows.progress import describe, percent
from flows.retries import retried
from modelyard.errors import ClusterUnavailable, LoaderFailed, LoaderInterrupted, Refused, RegistryUnavailable, SourceUnavailable
from modelyard.kube.wait import TimedOut
from modelyard.orders import Entries, InspectResult, LoadResult, Progress, Report, VolumeSpace

LOADED = LoadResult(digest="sha256:0", files=3, bytes=3 * 2**20, fetched_bytes=2 * 2**20, seconds=2.0)


@pytest.mark.parametrize(
    ("seen", "share", "text"),
    [
        pytest.param(Progress(bytes=0, total_bytes=2**20, files=0, total_files=2), 0.0, "0 B of 1.0 MiB, 0 of 2 files", id="nothing yet"),
        pytest.param(
            Progress(bytes=2**19, total_bytes=2**20, files=1, total_files=2, bytes_per_second=1e6, seconds_left=61.0),
            50.0,
            "512.0 KiB of 1.0 MiB, 1 of 2 files, 1.0 MB/s, 1m 1s left",
            id="half",
        ),
        pytest.param(Progress(bytes=0, total_bytes=0, files=1, total_files=1), 100.0, "0 B of 0 B, 1 of 1 files", id="an empty file"),
    ],
)
def test_progress(seen: Progress, share: float, text: str) -> None:
    assert (percent(seen), describe(seen)) == (share, text)


@pytest.mark.parametrize(
    ("result", "text"),
    [
        pytest.param(LOADED, "3 files, 3.0 MiB: fetched 2.0 MiB in 2s (1 MB/s)", id="fetched"),
        pytest.param(
            LOADED.model_copy(update={"fetched_bytes": 0}),
            "was there already: 3 files, 3.0 MiB; nothing was read from the source",
            id="there",
        ),
        pytest.param(
            LOADED.model_copy(update={"linked_bytes": 2**20, "unverified_files": 1}),
            "3 files, 3.0 MiB: fetched 2.0 MiB in 2s (1 MB/s), 1.0 MiB linked from another version,"
            " 1 files had no checksum of the whole at their source",
            id="linked, and one unverified",
        ),
    ],
)
def test_summary(result: LoadResult, text: str) -> None:
    assert summary(result) == text


MISTAKES = (TypeError, AttributeError, KeyError, IndexError, NameError, AssertionError, ValueError, NotImplementedError, RuntimeError)
PATHS = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)


def status_error(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "http://prefect.example")
    return httpx.HTTPStatusError("?", request=request, response=httpx.Response(status, request=request))


def validation_error() -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        Progress.model_validate({})
    return caught.value


@pytest.mark.parametrize(
    ("state", "again"),
    [
        pytest.param(Failed(data=ClusterUnavailable("away")), True, id="the cluster is away"),
        pytest.param(Failed(data=LoaderInterrupted("gone")), True, id="the Job was deleted"),
        pytest.param(Failed(data=SourceUnavailable("503")), False, id="the Job tried that in vain"),
        pytest.param(Failed(data=Refused("no")), False, id="a person must change something"),
        pytest.param(Failed(data=TimedOut("still")), False, id="the wait is over"),
        pytest.param(Failed(data=OSError("?")), True, id="the machine"),
        pytest.param(Failed(data=ConnectionResetError("?")), True, id="a connection"),
        pytest.param(Failed(data=TimeoutError("?")), True, id="a time-out"),
        pytest.param(Failed(data=httpx.ConnectError("?")), True, id="httpx: a connection"),
        pytest.param(Failed(data=httpx.ReadTimeout("?")), True, id="httpx: a time-out"),
        pytest.param(Failed(data=status_error(503)), True, id="Prefect's server cannot now"),
        pytest.param(Failed(data=status_error(429)), True, id="Prefect's server throttles"),
        pytest.param(Failed(data=status_error(422)), False, id="Prefect's server refuses"),
        pytest.param(Failed(data=urllib3.exceptions.ProtocolError("?")), True, id="urllib3: a connection"),
        pytest.param(Failed(data=urllib3.exceptions.LocationParseError("?")), False, id="urllib3: no address"),
        pytest.param(Failed(data=EndpointConnectionError(endpoint_url="https://x")), True, id="botocore: a connection"),
        pytest.param(Failed(data=ReadTimeoutError(endpoint_url="https://x")), True, id="botocore: a time-out"),
        pytest.param(Failed(data=ParamValidationError(report="?")), False, id="botocore: called wrongly"),
        *(pytest.param(Failed(data=kind("?")), False, id=kind.__name__) for kind in MISTAKES + PATHS),
        pytest.param(Failed(data=validation_error()), False, id="pydantic: what is no value"),
        pytest.param(Completed(data=1), False, id="done"),
    ],
)
def test_retries(state: "State[object]", again: bool) -> None:  # noqa: FBT001
    condition = retried(ClusterUnavailable, LoaderInterrupted)["retry_condition_fn"]
    assert condition(None, None, state) is again


def test_what_a_registrys_client_tried_again_in_vain_no_task_tries_again() -> None:
    condition = retried()["retry_condition_fn"]
    assert condition(None, None, Failed(data=SourceUnavailable("503"))) is True
    assert condition(None, None, Failed(data=RegistryUnavailable("503"))) is False
    assert find_image.retries == 0


def test_what_a_loader_of_another_release_saw_is_an_error_of_ours() -> None:
    told = {"path": "m/v1", "state": "ready", "model": "m", "version": "v1", "files": 1, "bytes": 2}
    result = InspectResult(space=VolumeSpace(total_bytes=1, free_bytes=1), entries=Entries(count=1, digest="0" * 64))
    (seen,) = versions_seen(Report(result, (told,)))
    assert (seen.model, seen.bytes) == ("m", 2)
    with pytest.raises(LoaderFailed, match="another release's words; set loaderImage"):
        versions_seen(Report(result, ({**told, "state": "of the future"},)))
