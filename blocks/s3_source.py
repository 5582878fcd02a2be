"""Where models come from: a bucket of an S3-compatible store, with the credentials and the authority to reach it.

Clients are made anew at each call, from a session of their own: prefect-aws caches its clients for each credentials value, and
with an assumed role the cached one goes on with expired keys.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

import boto3
from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError, HTTPClientError
from prefect.blocks.core import Block
from prefect_aws.credentials import AwsCredentials, MinIOCredentials
from pydantic import (
    ConfigDict,
    Field,
    HttpUrl,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    field_serializer,
    field_validator,
)

from blocks.aws import without_session_token
from blocks.certificates import authority_file, checked_authority
from modelyard.errors import SourceDenied, SourceUnavailable
from modelyard.models import S3Location
from modelyard.sources.s3 import client_config
from modelyard.sources.s3_access import S3Access

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

#: https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html, and the upper case and '_' of older buckets.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")


class S3Source(Block):
    """A bucket of an S3-compatible store that models are loaded from."""

    _block_type_name: ClassVar[str | None] = "Modelyard S3 Source"
    _block_type_slug: ClassVar[str | None] = "modelyard-s3-source"
    _logo_url = HttpUrl("https://cdn.sanity.io/images/3ugk85nk/production/d74b16fe84ce626345adf235a47008fea2869a60-225x225.png")
    _documentation_url = HttpUrl("https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingBucket.html")
    _description = "A bucket of an S3-compatible store that models are loaded from."

    model_config: ClassVar[ConfigDict] = ConfigDict(hide_input_in_errors=True)

    bucket: str = Field(description="Name of the bucket.")
    prefix: str = Field(default="", description="Directory in the bucket that all paths of a flow start from; empty: the whole bucket.")
    endpoint_url: str | None = Field(
        default=None,
        description="URL of an S3-compatible store such as MinIO (https://host:port); empty: that of the credentials, else AWS.",
    )
    region: str = Field(default="us-east-1", description="Region of the bucket; stores other than AWS mostly take any.")
    ca_certificate: str | None = Field(
        default=None, description="PEM text of the authority that signed the endpoint's certificate; empty: the public ones."
    )
    credentials: MinIOCredentials | AwsCredentials | None = Field(
        default=None,
        repr=False,  # an AwsCredentials prints its session token
        description=(
            "Keys, profile or role; empty: whatever the pod has (EKS Pod Identity, IRSA, instance role)."
            " Prefer a role to a session token, which the AWS block stores in clear."
        ),
    )

    @field_validator("bucket")
    @classmethod
    def _is_bucket(cls, bucket: str) -> str:
        if not _BUCKET.fullmatch(bucket):
            raise ValueError(f"{bucket!r} is no bucket's name; write it without s3:// and without a path, which goes to prefix")
        return bucket

    @field_validator("endpoint_url")
    @classmethod
    def _is_endpoint(cls, url: str | None) -> str | None:
        if not url:
            return None
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/") or parts.query:
            raise ValueError("must be http:// or https:// with a host and no path; the bucket and the prefix have their own fields")
        if "@" in parts.netloc:
            raise ValueError("must hold no user or password; they go to credentials")
        return url.rstrip("/")

    @field_validator("ca_certificate")
    @classmethod
    def _is_authority(cls, pem: str | None) -> str | None:
        return checked_authority(pem)

    @field_serializer("credentials", mode="wrap", when_used="unless-none")
    def _hide_session_token(
        self, credentials: MinIOCredentials | AwsCredentials, handler: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> Any:  # noqa: ANN401 (what pydantic makes of a block)
        return without_session_token(handler(credentials), info)

    def location(self, path: str = "") -> S3Location:
        """Where ``path`` below this source's prefix lies. Holds no secret."""
        parts = [part.strip("/") for part in (self.prefix, path)]
        return S3Location(
            bucket=self.bucket,
            prefix="/".join(part for part in parts if part),
            endpoint_url=self._endpoint(),
            region=self.region,
        )

    def client(self) -> "S3Client":
        """A client of its own session, which retries what is worth retrying, five attempts in all.

        Raises:
            SourceDenied: the role may not be assumed, or the profile does not exist.
            SourceUnavailable: the token service cannot be reached.
        """
        endpoint = self._endpoint()
        session = self._session()
        return session.client(
            "s3",
            region_name=self.region,
            endpoint_url=endpoint,
            verify=authority_file(self.ca_certificate) if self.ca_certificate else None,
            config=client_config(own_endpoint=endpoint is not None),
        )

    def secret_data(self) -> dict[str, str]:
        """What the loader's Secret holds: keys as the environment variables of AWS, and ``ca.crt``; empty if there is nothing.

        Keys of an assumed role are resolved here and end with its session (``DurationSeconds`` of the credentials, else one hour).

        Raises:
            SourceDenied: the role may not be assumed, or the profile does not exist.
            SourceUnavailable: the token service cannot be reached.
        """
        authority = {"ca.crt": self.ca_certificate} if self.ca_certificate else {}
        return self._keys() | authority

    def access(self) -> S3Access:
        """What objects are read with in this process, where ``secret_data`` is for another.

        Raises:
            SourceDenied: the role may not be assumed, or the profile does not exist.
            SourceUnavailable: the token service cannot be reached.
        """
        with _told_as_source_errors():
            return S3Access(self._session().get_credentials() if self._has_own_keys() else None, self.ca_certificate)

    def _keys(self) -> dict[str, str]:
        if not self._has_own_keys():
            return {}
        with _told_as_source_errors():
            found = self._session().get_credentials()
            if found is None:
                raise SourceDenied(
                    "the credentials block names no usable keys; set an access key and its secret, or leave credentials empty"
                )
            keys = found.get_frozen_credentials()
        named = {
            "AWS_ACCESS_KEY_ID": keys.access_key,
            "AWS_SECRET_ACCESS_KEY": keys.secret_key,
            "AWS_SESSION_TOKEN": keys.token,
        }
        return {name: value for name, value in named.items() if value}

    def _has_own_keys(self) -> bool:
        """An AwsCredentials without keys, profile and role means the surroundings', which are not ours to copy into a Secret."""
        if isinstance(self.credentials, AwsCredentials):
            return bool(self.credentials.aws_access_key_id or self.credentials.profile_name or self.credentials.assume_role_arn)
        return self.credentials is not None

    def _session(self) -> boto3.Session:
        if self.credentials is None:
            return boto3.Session()
        with _told_as_source_errors():
            return self.credentials.get_boto3_session()

    def _endpoint(self) -> str | None:
        if self.endpoint_url or self.credentials is None:
            return self.endpoint_url
        return self.credentials.aws_client_parameters.endpoint_url


@contextmanager
def _told_as_source_errors() -> Iterator[None]:
    """Failures to come by credentials, as errors that say whether another try could help."""
    try:
        yield
    except (EndpointConnectionError, HTTPClientError) as error:
        raise SourceUnavailable(f"the token service cannot be reached: {error}") from error
    except (ClientError, BotoCoreError) as error:
        if _is_server_side(error):
            raise SourceUnavailable(f"the token service cannot answer now: {error}") from error
        raise SourceDenied(f"no credentials for the source: {error}; check the credentials block") from error


def _is_server_side(error: Exception) -> bool:
    response = error.response.get("ResponseMetadata", {}) if isinstance(error, ClientError) else {}
    return int(response.get("HTTPStatusCode", 0)) >= HTTPStatus.INTERNAL_SERVER_ERROR
