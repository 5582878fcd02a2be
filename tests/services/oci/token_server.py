"""A token server for real registries' token authentication: signs what is asked for, for one user, and counts."""

import base64
import datetime as dt
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.x509.oid import NameOID

from modelyard.oci.access import Credentials

USER = Credentials("builder", "of-these-tests")
_ISSUER, _SERVICE = "tests", "registry"


@dataclass
class TokenServer:
    """The running server. ``asked``: the scopes of each request, in order."""

    url: str
    bundle: Path
    asked: list[list[str]] = field(default_factory=list)

    @property
    def settings(self) -> dict[str, Any]:
        """What a registry is configured with."""
        token = {"realm": f"{self.url}/token", "service": _SERVICE, "issuer": _ISSUER, "rootcertbundle": str(self.bundle)}
        return {"auth": {"token": token}}


class _Handler(BaseHTTPRequestHandler):
    server_of: ClassVar[TokenServer]
    key: ClassVar[rsa.RSAPrivateKey]
    certificate: ClassVar[bytes]

    def do_GET(self) -> None:
        if self.headers.get("Authorization") != USER.basic:
            self._answer(401, {"errors": [{"code": "UNAUTHORIZED", "message": "wrong user or password"}]})
            return
        scopes = parse_qs(urlsplit(self.path).query).get("scope", [])
        self.server_of.asked.append(scopes)
        self._answer(200, {"token": self._signed(scopes), "expires_in": 300})

    def _signed(self, scopes: list[str]) -> str:
        now = int(time.time())
        parts = [scope.split(":", 2) for scope in scopes]
        access = [{"type": kind, "name": name, "actions": actions.split(",")} for kind, name, actions in parts]
        times = {"iat": now, "nbf": now - 10, "exp": now + 300, "jti": secrets.token_hex(8)}
        claims = {"iss": _ISSUER, "sub": USER.username, "aud": _SERVICE, "access": access, **times}
        header = {"alg": "RS256", "typ": "JWT", "x5c": [base64.b64encode(self.certificate).decode()]}
        signed = ".".join(_encoded(json.dumps(part).encode()) for part in (header, claims))
        return f"{signed}.{_encoded(self.key.sign(signed.encode(), PKCS1v15(), hashes.SHA256()))}"

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


@contextmanager
def token_server(directory: Path) -> Iterator[TokenServer]:
    """A server with a key of its own."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    certificate = _certificate(key)
    bundle = directory / "tokens.crt"
    bundle.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    told = {"key": key, "certificate": certificate.public_bytes(serialization.Encoding.DER)}
    handler = type("Handler", (_Handler,), told)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        server = handler.server_of = TokenServer(f"http://127.0.0.1:{http.server_address[1]}", bundle)  # type: ignore[attr-defined]
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()


def _certificate(key: rsa.RSAPrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tokens of these tests")])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - dt.timedelta(hours=1))
    authority = x509.BasicConstraints(ca=True, path_length=None)
    return builder.not_valid_after(now + dt.timedelta(days=1)).add_extension(authority, critical=True).sign(key, hashes.SHA256())
