"""A fault injector: a small TLS proxy before the real S3 server that harms chosen answers and passes the rest untouched.

Requests go on byte for byte: they are signed over their Host header. One thread a connection; every wait has an end.
"""

import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import urlsplit

import pytest

from tests.services.s3_fixtures import Certificates, S3Server

_CHUNK = 64 * 1024
_MAX_HEAD = 64 * 1024
_TIMEOUT_SECONDS = 60
_LINGER_NONE = struct.pack("ii", 1, 0)
_OBJECT = r"(GET|HEAD) /[^/?]+/[^? ]+"


class Kind(Enum):
    """What to do to an answer."""

    FLIP = "flip one bit of the body"
    TRUNCATE = "close the connection in the middle of the body"
    SHORTEN = "send half of the body and say that this is all"
    RESET = "reset the connection in the middle of the body"
    REFUSE = "answer with an error of S3's instead"
    STALL = "stop in the middle of the body and keep the connection"
    DRIP = "send the body a few bytes at a time"


@dataclass
class Fault:
    """Harm the answers to GETs of objects whose request line matches ``target``, the first ``times`` of them."""

    kind: Kind
    times: int = 1_000_000
    target: str = "."
    after: int | None = None  # where in the body; half of it if None
    skip: int = 0  # pass so many first
    from_byte: int = 0  # harm only ranges that begin here or later: they come in any order
    error: tuple[int, str] = (503, "SlowDown")  # status and code of a refusal
    lifted: threading.Event = field(default_factory=threading.Event)  # set by a test, it ends stalls and harms no more
    done: int = 0

    def wait(self, closing: threading.Event) -> None:
        """Until it is lifted, the proxy closes, or the client must have given up."""
        end = time.monotonic() + _TIMEOUT_SECONDS
        while not self.lifted.wait(0.1) and not closing.is_set() and time.monotonic() < end:
            pass


@dataclass
class FaultProxy:
    """The running proxy. ``faults`` is set by a test; ``passed`` tells what went through."""

    url: str
    server: S3Server
    faults: list[Fault] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)
    sent: int = 0  # bytes of objects
    era: int = 0  # of which connections ``sent`` counts the bytes
    before_first_fetch: Callable[[], object] | None = None  # runs after the loader has listed
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin_anew(self) -> None:
        """No faults, and nothing sent yet: what a killed loader has still under way here is not counted any more."""
        with self._lock:
            self.faults, self.sent, self.era = [], 0, self.era + 1

    def count(self, length: int, era: int) -> None:
        """So many bytes of an object are on their way to a client that came in this era."""
        with self._lock:
            self.sent += length if era == self.era else 0

    def fault_for(self, line: str, begin: int) -> Fault | None:
        """The fault for this request of the bytes from ``begin`` on, counted; lists and HEADs are never harmed."""
        with self._lock:
            self.passed.append(line)
            if self.before_first_fetch and re.match(_OBJECT, line):
                self.before_first_fetch()
                self.before_first_fetch = None
            for fault in self.faults:
                if not line.startswith("GET") or not re.match(_OBJECT, line) or not re.search(fault.target, line):
                    continue
                if begin < fault.from_byte:
                    continue
                if fault.skip:
                    fault.skip -= 1
                elif fault.done < fault.times and not fault.lifted.is_set():
                    fault.done += 1
                    return fault
        return None


@pytest.fixture
def fault_proxy(s3_server: S3Server, certificates: Certificates) -> Iterator[FaultProxy]:
    """A proxy without faults yet."""
    with proxy_before(s3_server, certificates) as proxy:
        yield proxy


@contextmanager
def proxy_before(server: S3Server, certificates: Certificates, address: str = "127.0.0.1") -> Iterator[FaultProxy]:
    """A proxy before ``server`` that listens at ``address``, for which its ``certificates`` are."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    with socket.create_server((address, 0), backlog=64) as listener:
        listener.settimeout(0.2)
        proxy = FaultProxy(f"https://{address}:{listener.getsockname()[1]}", server)
        accepting = threading.Thread(target=_accept, args=(proxy, listener, context))
        accepting.start()
        try:
            yield proxy
        finally:
            proxy.closing.set()
            accepting.join()


def _accept(proxy: FaultProxy, listener: socket.socket, context: ssl.SSLContext) -> None:
    threads = []
    while not proxy.closing.is_set():
        with suppress(TimeoutError):
            connection, _ = listener.accept()
            threads.append(threading.Thread(target=_serve, args=(proxy, connection, context)))
            threads[-1].start()
    for thread in threads:
        thread.join(timeout=5)


def _serve(proxy: FaultProxy, raw: socket.socket, context: ssl.SSLContext) -> None:
    raw.settimeout(_TIMEOUT_SECONDS)
    era = proxy.era
    address = urlsplit(proxy.server.url)
    upstream_context = ssl.create_default_context(cafile=str(proxy.server.certificates.ca))
    with (
        suppress(OSError),
        raw,
        context.wrap_socket(raw, server_side=True) as client,
        socket.create_connection((address.hostname, address.port), timeout=_TIMEOUT_SECONDS) as plain,
        upstream_context.wrap_socket(plain, server_hostname=address.hostname) as server,
    ):
        while _exchange(proxy, client, server, era):
            pass


def _exchange(proxy: FaultProxy, client: ssl.SSLSocket, server: ssl.SSLSocket, era: int) -> bool:
    """One request and its answer; whether another may follow."""
    client.settimeout(0.5)  # to see in time that the proxy closes
    request = _head(client, proxy.closing)
    client.settimeout(_TIMEOUT_SECONDS)  # a client on a busy machine may take its time to read an answer
    if not request:
        return False
    line = request.split(b"\r\n", 1)[0].decode()
    fault = proxy.fault_for(line, _begin(request))
    if fault and fault.kind is Kind.REFUSE:
        client.sendall(_refusal(*fault.error))
        return True
    server.sendall(request)
    answer = _head(server, proxy.closing)
    length = 0 if line.startswith("HEAD") else _length(answer)
    if line.startswith("GET") and re.match(_OBJECT, line):
        proxy.count(length, era)
    if fault and length:
        return _harm(proxy, fault, answer, _read(server, length), client)
    client.sendall(answer)
    while length:
        chunk = server.recv(min(_CHUNK, length))
        if not chunk:
            return False
        client.sendall(chunk)
        length -= len(chunk)
    return b"connection: close" not in answer.lower()


def _refusal(status: int, code: str) -> bytes:
    body = f"<Error><Code>{code}</Code><Message>The server's own words.</Message></Error>".encode()
    return b"HTTP/1.1 %d Refused\r\nContent-Length: %d\r\nContent-Type: application/xml\r\n\r\n" % (status, len(body)) + body


def _harm(proxy: FaultProxy, fault: Fault, head: bytes, body: bytes, client: ssl.SSLSocket) -> bool:
    at = len(body) // 2 if fault.after is None else min(fault.after, len(body) - 1)
    match fault.kind:
        case Kind.FLIP:
            client.sendall(head + body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :])
            return True
        case Kind.SHORTEN:
            client.sendall(re.sub(rb"(?i)content-length: \d+", b"Content-Length: %d" % at, head) + body[:at])
            return True
        case Kind.DRIP:
            client.sendall(head)
            for start in range(0, len(body), 1024):
                client.sendall(body[start : start + 1024])
                if proxy.closing.wait(0.05):
                    return False
            return True
        case Kind.STALL:
            client.sendall(head + body[:at])
            fault.wait(proxy.closing)
        case Kind.RESET:
            client.sendall(head + body[:at])
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
        case _:
            client.sendall(head + body[:at])
    return False


def _head(connection: ssl.SSLSocket, closing: threading.Event) -> bytes:
    """The next request's or answer's head; empty when the other side is done. No request here has a body."""
    head = b""
    while not head.endswith(b"\r\n\r\n") and len(head) < _MAX_HEAD and not closing.is_set():
        with suppress(TimeoutError):
            byte = connection.recv(1)
            if not byte:
                return b""
            head += byte
    return head


def _begin(request: bytes) -> int:
    found = re.search(rb"(?i)\r\nrange: bytes=(\d+)-", request)
    return int(found[1]) if found else 0


def _length(head: bytes) -> int:
    found = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    return int(found[1]) if found else 0


def _read(connection: ssl.SSLSocket, length: int) -> bytes:
    body = bytearray()
    while len(body) < length and (chunk := connection.recv(min(_CHUNK, length - len(body)))):
        body += chunk
    return bytes(body)
