"""Objects in archives: what a listing tells of them, which are refused and with what command, and what the first read of one means."""

import io
import json
import subprocess
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import boto3
import pytest
from awscrt.s3 import S3ResponseError
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.compat import HTTPHeaders
from botocore.exceptions import ClientError
from botocore.validate import ParamValidator
from pydantic import TypeAdapter

from modelyard.errors import SourceDenied, SourceMissing, SourceUnavailable
from modelyard.models import Pin, Restore, S3Location, SourceFile, summarise
from modelyard.plans.archives import archive_problems, restore_command
from modelyard.plans.modelcar import source_problems
from modelyard.sources.s3 import S3Source
from modelyard.sources.s3_answers import object_error
from modelyard.sources.s3_fetch import crt_error

SOURCE = S3Location(bucket="models", prefix="llama/v1", region="eu-west-1")
COLD = SourceFile("w.bin", 1, etag='"a"', storage_class="GLACIER")
DEEP = SourceFile("d.bin", 1, etag='"a"', storage_class="DEEP_ARCHIVE")
TIERED = SourceFile("t.bin", 1, etag='"a"', storage_class="INTELLIGENT_TIERING")
SOON_BACK = "run this again when that is done, at AWS within 5 hours (a bulk restore: 12)"
LATE_BACK = "run this again when that is done, at AWS within 12 hours (a bulk restore: 48)"
RESTORE = "aws s3api restore-object --region eu-west-1 --bucket models --key llama/v1/w.bin --restore-request Days=7"
FIRST = f"restore first: `{RESTORE}`"


def restoring(file: SourceFile, restore: Restore) -> SourceFile:
    return SourceFile(file.path, file.size, file.etag, file.version_id, file.storage_class, restore=restore)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        pytest.param(
            [COLD],
            [f"'w.bin': cannot be read: archived (GLACIER); {FIRST}; {SOON_BACK}"],
            id="archived",
        ),
        pytest.param([restoring(COLD, Restore.DONE), restoring(DEEP, Restore.DONE)], [], id="restored"),
        pytest.param(
            [restoring(COLD, Restore.UNDER_WAY)],
            [f"'w.bin': cannot be read yet: being restored (GLACIER); {SOON_BACK}"],
            id="being restored",
        ),
        pytest.param(
            [restoring(TIERED, Restore.UNDER_WAY)],
            [f"'t.bin': cannot be read yet: being restored (INTELLIGENT_TIERING); {LATE_BACK}"],
            id="being brought back from a tier",
        ),
        pytest.param(
            [COLD, DEEP, restoring(SourceFile("e", 1, storage_class="GLACIER"), Restore.UNDER_WAY)],
            [
                f"'w.bin', 'd.bin': cannot be read: archived (DEEP_ARCHIVE, GLACIER); {FIRST}; the others in the same way; {LATE_BACK}",
                f"'e': cannot be read yet: being restored (GLACIER); {SOON_BACK}",
            ],
            id="some of each",
        ),
        pytest.param([TIERED, SourceFile("i", 1, storage_class="GLACIER_IR"), SourceFile("s", 1)], [], id="no archives"),
    ],
)
def test_what_is_refused(files: list[SourceFile], told: list[str]) -> None:
    assert [str(problem) for problem in archive_problems(files, SOURCE)] == told
    assert [str(problem) for problem in source_problems(files, SOURCE)] == told, "a build refuses the same"


HOSTILE = SourceFile("it's\x1b[1m `x` $y\\z.bin", 1, version_id="-v 1", storage_class="GLACIER")


@pytest.mark.parametrize("file", [COLD, TIERED, HOSTILE], ids=["archived", "tiered", "hostile names"])
@pytest.mark.parametrize("source", [SOURCE, S3Location(bucket="models", endpoint_url="https://ceph:8080")], ids=["AWS", "another store"])
def test_the_command_is_whole(file: SourceFile, source: S3Location) -> None:
    """Read by a shell, and held against the API's own rules."""
    command = restore_command(source, file)
    assert command.isprintable()
    program, service, operation, *rest = words(command)
    assert (program, service, operation) == ("aws", "s3api", "restore-object")
    options = dict(pairs(rest))
    assert options.pop("--endpoint-url", None) == source.endpoint_url
    assert options.pop("--region", source.region) == source.region
    request = options.pop("--restore-request")
    told = {"Bucket": options.pop("--bucket"), "Key": options.pop("--key")}
    version = options.pop("--version-id", None)
    told |= {"VersionId": version} if version else {}
    assert told == {"Bucket": "models", "Key": source.directory + file.path} | ({"VersionId": file.version_id} if file.version_id else {})
    assert not options
    days = {} if request == "{}" else {"Days": int(request.removeprefix("Days="))}
    assert bool(days) is (file is not TIERED), "Intelligent-Tiering takes no days"
    shape = client().meta.service_model.operation_model("RestoreObject").input_shape
    assert not ParamValidator().validate({**told, "RestoreRequest": days}, shape).has_errors()


def words(command: str) -> list[str]:
    """As bash takes it apart."""
    shown = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], check=True, capture_output=True).stdout
    return shown.decode().split("\0")[:-1]


def pairs(rest: list[str]) -> Iterator[tuple[str, str]]:
    while rest:
        name, between, value = rest.pop(0).partition("=")
        yield name, value if between else rest.pop(0)


def test_a_restore_changes_neither_plans_nor_listings() -> None:
    """Or a plan that somebody approved, and a Job's name, would be others when a restore ends."""
    done, adapter = restoring(COLD, Restore.DONE), TypeAdapter(SourceFile)
    assert done == COLD
    assert summarise([done]) == summarise([COLD])
    assert adapter.dump_json(done) == adapter.dump_json(COLD)
    assert set(json.loads(adapter.dump_json(done))) == {"path", "size", "etag", "version_id", "storage_class", "sha256"}
    assert adapter.validate_json(adapter.dump_json(done)) == done


# Listings ---------------------------------------------------------------------------------------------------------------


SESSION = boto3.session.Session(aws_access_key_id="a", aws_secret_access_key="b")


class Answer(NamedTuple):
    """What a server sends, as it stands."""

    status: int
    body: str


class Raw(io.BytesIO):
    """A body as botocore reads it."""

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self.read()


def client(*answers: Answer, asked: list[AWSPreparedRequest] | None = None, restores: Iterable[str] = ()) -> Any:
    """A real client, whose requests are noted and get these answers one after the other; HEADs get one of ``restores`` each."""
    coming, heads = list(answers), iter(restores)

    def answer(request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        if asked is not None:
            asked.append(request)
        if request.method == "HEAD":
            told = next(heads, "")
            return AWSResponse(request.url, 200, HTTPHeaders.from_pairs([("x-amz-restore", told)] if told else []), Raw())
        status, body = coming.pop(0)
        return AWSResponse(request.url, status, HTTPHeaders(), Raw(body.encode()))

    made: Any = SESSION.client("s3", region_name=SOURCE.region)
    made.meta.events.register("before-send.s3", answer)
    return made


SOON = (datetime.now(UTC) + timedelta(days=2)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
PROGRESS, COPY = "<IsRestoreInProgress>true</IsRestoreInProgress>", "<IsRestoreInProgress>false</IsRestoreInProgress>"
STATUS = [
    pytest.param("", None, id="never asked for"),
    pytest.param("<RestoreStatus/>", None, id="nothing told"),
    pytest.param(f"<RestoreStatus>{PROGRESS}</RestoreStatus>", Restore.UNDER_WAY, id="under way"),
    pytest.param(f"<RestoreStatus>{COPY}<RestoreExpiryDate>{SOON}</RestoreExpiryDate></RestoreStatus>", Restore.DONE, id="restored"),
    pytest.param(f"<RestoreStatus>{COPY}</RestoreStatus>", Restore.DONE, id="restored for good"),
    pytest.param(
        f"<RestoreStatus>{COPY}<RestoreExpiryDate>2020-01-01T00:00:00.000Z</RestoreExpiryDate></RestoreStatus>",
        None,
        id="its days are over",
    ),
]


def objects(status: str, token: str = "") -> Answer:
    entry = f"<Key>llama/v1/w.bin</Key><Size>1</Size><ETag>&quot;a&quot;</ETag><StorageClass>GLACIER</StorageClass>{status}"
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    return Answer(200, f"<ListBucketResult>{more}<Contents>{entry}</Contents></ListBucketResult>")


def versions(status: str) -> Answer:
    version = "<VersionId>1</VersionId><IsLatest>true</IsLatest>"
    entry = f"<Key>llama/v1/w.bin</Key>{version}<Size>1</Size><StorageClass>GLACIER</StorageClass>{status}"
    return Answer(200, f"<ListVersionsResult><Version>{entry}</Version></ListVersionsResult>")


def refusal(status: int, code: str) -> Answer:
    return Answer(status, f"<Error><Code>{code}</Code><Message>No.</Message></Error>")


def questions(asked: list[AWSPreparedRequest]) -> list[tuple[str, bool]]:
    """What was listed, and whether with the restores."""
    return [
        ("versions" if "versions" in request.url else "objects", "x-amz-optional-object-attributes" in request.headers)
        for request in asked
        if request.method == "GET"
    ]


@pytest.mark.parametrize(("status", "expected"), STATUS)
@pytest.mark.parametrize("pin", Pin)
def test_a_listing_tells_restores(pin: Pin, status: str, expected: Restore | None) -> None:
    asked: list[AWSPreparedRequest] = []
    answer = versions(status) if pin is Pin.VERSION else objects(status)
    [file] = S3Source(SOURCE, client(answer, asked=asked), pin).list()
    assert (file.storage_class, file.restore) == ("GLACIER", expected)
    assert [each.headers["x-amz-optional-object-attributes"] for each in asked if each.method == "GET"] == [b"RestoreStatus"]
    assert bool(archive_problems([file], SOURCE)) is (expected is not Restore.DONE)


@pytest.mark.parametrize(
    ("restores", "expected", "heads"),
    [
        pytest.param(['ongoing-request="false", expiry-date="Fri, 21 Dec 2029 00:00:00 GMT"'] * 2, [Restore.DONE] * 2, 2, id="restored"),
        pytest.param(['ongoing-request="true"'] * 2, [Restore.UNDER_WAY] * 2, 2, id="under way"),
        pytest.param([], [None, None], 1, id="the first is archived: no more are asked for"),
    ],
)
def test_restores_that_a_listing_does_not_tell(restores: list[str], expected: list[Restore | None], heads: int) -> None:
    asked: list[AWSPreparedRequest] = []
    body = objects("").body
    entry = body[body.index("<Contents>") : body.index("</ListBucketResult>")]
    two = Answer(200, body.replace(entry, entry + entry.replace("w.bin", "x.bin")))
    found = list(S3Source(SOURCE, client(two, asked=asked, restores=restores), Pin.ETAG).list())
    assert [file.restore for file in found] == expected
    assert [request.method for request in asked].count("HEAD") == heads


@pytest.mark.parametrize(("status", "code"), [(400, "InvalidArgument"), (501, "NotImplemented")])
def test_a_server_that_does_not_take_the_question_is_listed_without(status: int, code: str) -> None:
    asked: list[AWSPreparedRequest] = []
    no = refusal(status, code)
    source = S3Source(SOURCE, client(no, versions(""), asked=asked))
    assert [file.version_id for file in source.list()] == ["1"]
    assert questions(asked) == [("versions", True), ("versions", False)]


def test_a_server_without_versions_that_does_not_take_the_question() -> None:
    asked: list[AWSPreparedRequest] = []
    no = refusal(501, "NotImplemented")
    source = S3Source(SOURCE, client(no, no, no, objects(""), asked=asked))
    assert (list(source.list()), source.pin) == ([COLD], Pin.ETAG)
    assert questions(asked) == [("versions", True), ("versions", False), ("objects", True), ("objects", False)]


def test_other_refusals_are_not_asked_about_twice() -> None:
    asked: list[AWSPreparedRequest] = []
    with pytest.raises(SourceDenied):
        list(S3Source(SOURCE, client(refusal(403, "AccessDenied"), asked=asked), Pin.ETAG).list())
    assert questions(asked) == [("objects", True)]


def test_a_listing_that_breaks_in_its_middle_is_not_begun_anew() -> None:
    """Or its first files would be listed twice."""
    found: list[SourceFile] = []
    source = S3Source(SOURCE, client(objects("", token="more"), refusal(400, "ExpiredToken")), Pin.ETAG)
    with pytest.raises(SourceUnavailable, match="have expired"):
        found.extend(source.list())
    assert len(found) <= 1


# Reading ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listed", "said", "command", "ready"),
    [
        pytest.param(COLD, "GLACIER", RESTORE, SOON_BACK, id="a copy whose days are over"),
        pytest.param(COLD, "", RESTORE, SOON_BACK, id="as it was listed"),
        pytest.param(
            SourceFile("w.bin", 1, version_id="v1"),
            "DEEP_ARCHIVE",
            RESTORE.replace(" --restore-request", " --version-id v1 --restore-request"),
            LATE_BACK,
            id="a version",
        ),
        pytest.param(TIERED, "", RESTORE.replace("w.bin", "t.bin").replace("Days=7", "'{}'"), LATE_BACK, id="a tier"),
        pytest.param(
            SourceFile("w.bin", 1, etag='"a"'),
            "INTELLIGENT_TIERING",
            RESTORE.replace("Days=7", "'{}'"),
            LATE_BACK,
            id="a tier, as told",
        ),
    ],
)
def test_what_is_archived_when_it_is_read(listed: SourceFile, said: str, command: str, ready: str) -> None:
    told = f"<StorageClass>{said}</StorageClass><AccessTier>ARCHIVE_ACCESS</AccessTier>" if said else ""
    body = f"<Error><Code>InvalidObjectState</Code><Message>Not valid for the storage class</Message>{told}</Error>"
    refused = S3ResponseError(code=1, name="AWS_ERROR", message="", status_code=403, headers=[])
    with pytest.raises(ClientError) as asked:
        client(Answer(403, body)).get_object(Bucket="models", Key="llama/v1/w.bin")
    for error in (crt_error(refused, 403, body.encode(), SOURCE, listed), object_error(asked.value, SOURCE, listed)):
        assert type(error) is SourceMissing
        assert str(error) == (
            f"s3://models/llama/v1/{listed.path}: InvalidObjectState Not valid for the storage class; the object is archived:"
            f" restore it first, if nobody has yet (`{command}`), and {ready}"
        )
