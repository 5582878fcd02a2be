"""Questions to a component: are you ready? Each answers within about a second, whatever happens."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

Probe = Callable[[], bool]
TIMEOUT = 2.0


def listens(address: str, port: int) -> Probe:
    """Something accepts TCP connections there."""

    def probe() -> bool:
        try:
            socket.create_connection((address, port), timeout=TIMEOUT).close()
        except OSError:
            return False
        return True

    return probe


def accepts(path: str) -> Probe:
    """Something accepts connections on the Unix socket."""

    def probe() -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(TIMEOUT)
            try:
                client.connect(path)
            except OSError:
                return False
        return True

    return probe


def answers(url: str, context: ssl.SSLContext | None = None) -> Probe:
    """A GET of the URL is answered with 200."""
    return lambda: status_of(url, context) == HTTPStatus.OK


def status_of(url: str, context: ssl.SSLContext | None = None) -> int | None:
    """The status of a GET, or None without an answer. http.client knows no proxy settings, and here none must apply."""
    parts = urlsplit(url)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=TIMEOUT, context=context or unverified())
    else:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT)
    try:
        connection.request("GET", parts.path or "/")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def unverified() -> ssl.SSLContext:
    """For health endpoints on loopback, whose certificates the components make up at each start."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def client_context(pki: Path, client: str = "admin") -> ssl.SSLContext:
    """TLS with the cluster's CA and a client certificate of it."""
    context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    context.load_cert_chain(pki / f"{client}.crt", pki / f"{client}.key")
    return context
