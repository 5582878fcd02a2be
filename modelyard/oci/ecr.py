"""Amazon ECR's passwords: asked of AWS, good for twelve hours, and asked for anew in the middle of a build.

https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_GetAuthorizationToken.html
"""

import base64
import binascii
import datetime as dt
import re
import threading
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError  # noqa: A004 - not the built-in

from modelyard.errors import ModelyardError, RegistryDenied, RegistryUnavailable
from modelyard.oci.access import Credentials

_HOST = re.compile(r"\d{12}\.dkr[.-]ecr(-fips)?\.(?P<region>[a-z0-9-]+)\.(amazonaws\.com(\.cn)?|on\.aws)")
#: A password is not used beyond half of its life; where AWS does not tell how long that is, it is not kept at all.
_SHARE = 0.5


def ecr_region(host: str) -> str | None:
    """The region of the ECR registry that references call ``host``; None if it is no private registry of ECR."""
    found = _HOST.fullmatch(host)
    return found["region"] if found else None


class EcrCredentials:
    """The user and the password of an ECR registry, in the shape of Credentials. ``client`` makes a client of boto3's ``ecr``.

    Threads may share it.
    """

    refresh_token = ""

    def __init__(self, client: Callable[[], Any]) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._current: Credentials | None = None
        self._renew_at = dt.datetime.min.replace(tzinfo=dt.UTC)

    def __reduce__(self) -> tuple[type["EcrCredentials"], tuple[Callable[[], Any]]]:
        return EcrCredentials, (self._client,)  # a password is not handed on

    @property
    def username(self) -> str:
        return self._valid().username

    @property
    def password(self) -> str:
        return self._valid().password

    @property
    def basic(self) -> str:
        """The value of an Authorization header.

        Raises:
            RegistryDenied, RegistryUnavailable: AWS gives no password.
        """
        return self._valid().basic

    def renewed(self, used: str | None) -> bool:
        """Note that ``used`` was refused: another password is asked for, unless another thread has one already."""
        with self._lock:
            if self._current and self._current.basic == used:
                self._current = None
        return True

    def _valid(self) -> Credentials:
        with self._lock:
            now = dt.datetime.now(dt.UTC)
            if self._current is None or now >= self._renew_at:
                self._current, expires = self._ask()
                self._renew_at = now + (expires - now) * _SHARE
            return self._current

    def _ask(self) -> tuple[Credentials, dt.datetime]:
        try:
            [told] = self._client().get_authorization_token()["authorizationData"]
            username, _, password = base64.b64decode(told["authorizationToken"], validate=True).decode().partition(":")
            return Credentials(username, password), told.get("expiresAt") or dt.datetime.now(dt.UTC)
        except (ClientError, BotoCoreError) as error:
            raise _told(error) from error
        except (ValueError, KeyError, binascii.Error):
            raise RegistryDenied("ECR's answer to GetAuthorizationToken holds no password") from None  # it may hold a part of one


def _told(error: Exception) -> ModelyardError:
    if isinstance(error, ClientError):
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        code = str(error.response.get("Error", {}).get("Code", ""))
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS or "Throttl" in code:
            return RegistryUnavailable(f"ECR gives no password now: {error}")
    elif isinstance(error, ConnectionError | HTTPClientError):
        return RegistryUnavailable(f"ECR cannot be reached for a password: {error}")
    return RegistryDenied(
        f"ECR gives no password: {error}; check the AWS credentials in the registry's block (empty: those of the pod), which need"
        " ecr:GetAuthorizationToken, and the rights to pull and push on the repository"
    )
