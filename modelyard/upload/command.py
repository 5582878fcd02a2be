"""``modelyard upload DIR s3://bucket/prefix/``: the command line for those who make models."""

import argparse
import os
import re
import sys
from pathlib import Path

import boto3
from botocore.exceptions import BotoCoreError

from modelyard.errors import ModelyardError
from modelyard.models import S3Location, WeightPolicy
from modelyard.plans.digests import MARKER_NAME, SUMS_NAME
from modelyard.quantities import format_bytes
from modelyard.sources.s3 import s3_client
from modelyard.upload.destination import Destination
from modelyard.upload.run import Upload, Uploaded

_URL = re.compile(r"s3://(?P<bucket>[^/]{3,255})/(?P<prefix>.*[^/].*)")
_INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Run one command. 0: done; 1: refused or failed; 75: another try may help; 130: interrupted."""
    arguments = _parser().parse_args(argv)
    try:
        done = _upload(arguments)
    except ModelyardError as error:
        sys.stderr.write(f"modelyard: {error}\n")
        return os.EX_TEMPFAIL if error.retryable else 1
    except OSError as error:  # such as a file that went away after the directory was read
        sys.stderr.write(f"modelyard: {error}; nothing was marked as uploaded ({MARKER_NAME}): run it again when nobody writes there\n")
        return 1
    except BotoCoreError as error:  # before the first request: the settings of the AWS tools
        sys.stderr.write(f"modelyard: {error}; check the settings of the AWS tools\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"\nmodelyard: interrupted; nothing was marked as uploaded ({MARKER_NAME}): run it again to go on\n")
        return _INTERRUPTED
    sys.stdout.write(_told(done, arguments.url))
    return 0


def _upload(arguments: argparse.Namespace) -> Uploaded:
    if arguments.ca_bundle:
        os.environ["AWS_CA_BUNDLE"] = str(arguments.ca_bundle.resolve())
    bucket, prefix = arguments.url
    location = S3Location(
        bucket=bucket,
        prefix=prefix,
        endpoint_url=arguments.endpoint_url,
        region=arguments.region or boto3.session.Session().region_name or "us-east-1",
    )
    destination = Destination(location, s3_client(location))
    return Upload(arguments.directory, destination, arguments.weights, dict(arguments.tag)).run(dry_run=arguments.dry_run)


def _told(done: Uploaded, url: tuple[str, str]) -> str:
    uri = f"s3://{url[0]}/{url[1].strip('/')}/"
    what = f"{done.files} files, {format_bytes(done.bytes)}"
    if done.marker is None:
        return f"would upload {what} to {uri}: {done.sent_files} files, {format_bytes(done.sent_bytes)} are not there yet\n"
    return (
        f"uploaded {what} to {uri}: {done.sent_files} files, {format_bytes(done.sent_bytes)} were sent now\n"
        f"digest of the version  {done.marker.digest}\n"
        f"digest of {SUMS_NAME}   {done.marker.digests_from}\n"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="modelyard", description="Modelyard's commands for those who make models.")
    commands = parser.add_subparsers(dest="command", required=True)
    upload = commands.add_parser(
        "upload",
        help="upload a directory as one version of a model",
        description=f"Uploads a directory with full-object CRC64NVME checksums, writes {SUMS_NAME} beside it, and last of all"
        f" {MARKER_NAME}. Run again after any end: what is there already is not sent again. Credentials come from where the AWS"
        " tools look for them.",
    )
    upload.add_argument("directory", type=Path, help="the directory that holds the model's files")
    upload.add_argument("url", type=_url, metavar="s3://bucket/prefix/", help="where its files go; a prefix of its own for each version")
    upload.add_argument("--tag", type=_tag, action="append", default=[], metavar="KEY=VALUE", help=f"a tag of {MARKER_NAME} alone")
    upload.add_argument(
        "--weights", type=WeightPolicy, choices=list(WeightPolicy), default=WeightPolicy.SCAN, help="what to do about pickles: %(default)s"
    )
    upload.add_argument("--dry-run", action="store_true", help="only check, and say what would be sent")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    upload.add_argument("--endpoint-url", default=endpoint, help="URL of a store other than AWS")
    upload.add_argument("--region", help="the bucket's region")
    upload.add_argument("--ca-bundle", type=Path, help="file with the authority that signed the endpoint's certificate")
    return parser


def _url(text: str) -> tuple[str, str]:
    if not (match := _URL.fullmatch(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no s3://bucket/prefix/")
    return match["bucket"], match["prefix"]


def _tag(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not key or not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is no key=value")
    return key, value
