"""A fault injector before a real registry: cuts uploads at a byte, flips bits on their way, answers in the registry's place."""

import http.client
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from modelyard.oci.access import Access, Keychain
from tests.services.oci.registries import Registry

_CHUNK = 64 * 1024
_TIMEOUT_SECONDS = 60
_RESET = struct.pack("ii", 1, 0)
_HOP = {"connection", "transfer-encoding", "content-length"}


@dataclass
class Fault:
    """Harm the first ``times`` requests whose line matches: answer ``status``, or cut a body, or flip a bit of it."""

    line: str
    times: int = 1
    skip: int = 0  # of them, these are spared first
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    stall: float = 0.0  # seconds of silence, and then what else there is to do
    cut: int | None = None  # after so many bytes of the body; a body that ends before is another request's, which layers send in any order
    flip: int | None = None  # the bit of this byte
    answer: dict[str, str] = field(default_factory=dict)  # headers in the place of the registry's own, or beside them
    body: bytes | None = None  # in the place of the registry's
    cut_answer: int | None = None  # after so many bytes of the answer's body
    flip_answer: int | None = None  # the bit of this byte of it
    then: Callable[[], object] | None = None  # done at the cut
    done: int = 0


@dataclass
class RegistryProxy:
    """The running proxy. ``bodies`` counts the bytes of uploads that were passed on, ``answers`` those of answers."""

    registry: Registry
    host: str
    faults: list[Fault] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    authorized: list[str] = field(default_factory=list)  # of them, those that came with an Authorization
    bodies: int = 0
    answers: int = 0
    closing: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def keychain(self) -> Keychain:
        return Keychain(Access(self.host, plain_http=True, credentials=self.registry.credentials))

    def fault_for(self, line: str, length: int) -> Fault | None:
        """The fault for this request with a body of ``length``, counted."""
        with self._lock:
            self.passed.append(line)
            for fault in self.faults:
                if fault.cut is not None and length <= fault.cut:
                    continue
                if fault.done < fault.times and re.search(fault.line, line):
                    if fault.skip:
                        fault.skip -= 1
                        return None
                    fault.done += 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    """One connection to the proxy."""

    proxy: ClassVar[RegistryProxy]
    protocol_version = "HTTP/1.1"
    timeout = _TIMEOUT_SECONDS

    def _exchange(self) -> None:
        if "Authorization" in self.headers:
            self.proxy.authorized.append(f"{self.command} {self.path}")
        length = int(self.headers.get("Content-Length", "0"))
        fault = self.proxy.fault_for(f"{self.command} {self.path}", length)
        if fault and fault.stall and self.proxy.closing.wait(fault.stall):
            self.close_connection = True
            return
        if fault and fault.status:
            self._answer(fault.status, fault.headers, length)
            return
        upstream = http.client.HTTPConnection(self.proxy.registry.host, timeout=_TIMEOUT_SECONDS)
        with suppress(OSError, http.client.HTTPException):
            self._pass_on(upstream, length, fault)
        upstream.close()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _exchange  # noqa: N815 - http.server's names

    def _answer(self, status: int, headers: dict[str, str], length: int) -> None:
        body = b'{"errors":[{"code":"TOOMANYREQUESTS","message":"in the place of the registry"}]}'
        self.close_connection = length > 0  # the body is not read
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _pass_on(self, upstream: http.client.HTTPConnection, length: int, fault: Fault | None) -> None:
        self.close_connection = True
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() != "connection":
                upstream.putheader(name, value)
        upstream.endheaders()
        sent = 0
        while sent < length:
            most = length - sent if not fault or fault.cut is None else fault.cut - sent
            chunk = self.rfile.read(min(_CHUNK, length - sent, most)) if most > 0 else b""
            if not chunk:
                self._cut(upstream, fault)
                return
            if fault and fault.flip is not None and sent <= fault.flip < sent + len(chunk):
                at = fault.flip - sent
                chunk = chunk[:at] + bytes([chunk[at] ^ 1]) + chunk[at + 1 :]
            upstream.send(chunk)
            sent += len(chunk)
            self.proxy.bodies += len(chunk)
        self._pass_back(upstream, fault)

    def _pass_back(self, upstream: http.client.HTTPConnection, fault: Fault | None) -> None:
        response = upstream.getresponse()
        body = response.read()
        self.proxy.answers += len(body)
        if fault and fault.flip_answer is not None:
            at = fault.flip_answer
            body = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        if fault and fault.body is not None:
            body = fault.body
        self.send_response(response.status)
        instead = dict(fault.answer) if fault else {}
        for name, value in response.getheaders():
            if name.lower() not in _HOP:
                self.send_header(name, instead.pop(name, value))
        for name, value in instead.items():
            self.send_header(name, value)
        told = response.getheader("Content-Length") if self.command == "HEAD" else str(len(body))
        if told is not None and response.status != http.HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", told)
        self.end_headers()
        if fault and fault.cut_answer is not None:
            self.wfile.write(body[: fault.cut_answer])
            self._cut(upstream, fault)
            return
        self.wfile.write(body)
        self.close_connection = False

    def _cut(self, upstream: http.client.HTTPConnection, fault: Fault | None) -> None:
        if fault and fault.then:
            fault.then()
        for connection in (upstream.sock, self.connection):
            if connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """What was cut is meant to be."""


@contextmanager
def proxy_before(registry: Registry) -> Iterator[RegistryProxy]:
    """A proxy without faults yet."""
    handler = type("Handler", (_Handler,), {})
    with _Server(("127.0.0.1", 0), handler) as server:
        proxy = handler.proxy = RegistryProxy(registry, f"127.0.0.1:{server.server_address[1]}")  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.closing.set()
            server.shutdown()
            thread.join()
