"""An HTTP proxy before a real S3 server that spoils what passes: a network, a store in trouble."""

from __future__ import annotations

import contextlib
import http.client
import random
import select
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from moto.server import ThreadedMotoServer

HIDDEN = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}
KINDS = (
    "500",  # an error of the server, nothing was done
    "503",  # throttled: SlowDown, nothing was done
    "reset",  # the connection is reset, nothing was done
    "timeout",  # no answer until the client gives up, nothing was done
    "lost",  # it was done, and the connection is reset before the answer
    "lost 500",  # it was done, and the answer says that it was not
    "late",  # it was done, and no answer comes until the client gives up
    "cut",  # the answer's body ends early: the connection is reset
)
SHORT = (
    "closed",  # it ends early: the connection is closed as if that were all
    "chunk",  # it comes in chunks, and the last one does not come
    "chunks",  # it comes in chunks, and is said to be complete
    "short",  # it says that it is as short as it is
)


class Request(NamedTuple):
    """What a schedule decides by."""

    method: str
    path: str
    conditional: bool


Schedule = Callable[[Request], str | None]  # one of KINDS, or None to let the request pass


def at_random(seed: int, rate: float, kinds: tuple[str, ...] = KINDS) -> Schedule:
    """A fault at that share of the requests, never three in a row at one method and path."""
    chance, row = random.Random(seed), Counter[tuple[str, str]]()

    def decide(request: Request) -> str | None:
        where = (request.method, request.path)
        if row[where] < 2 and chance.random() < rate:
            row[where] += 1
            return chance.choice(kinds)
        row[where] = 0
        return None

    return decide


class FaultyProxy:
    """Forwards each request to a server, or does to it what `schedule` says.

    Conditional puts pass one at a time: moto looks first and writes then, which S3 does as one.

    Attributes:
        url: the endpoint for clients.
        schedule: decides about each request; may be replaced at any time.
        seen: how many requests came, by method.
        injected: how many faults of each kind were done.
    """

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self.schedule: Schedule = lambda request: None
        self.seen: Counter[str] = Counter()
        self.injected: Counter[str] = Counter()
        self._deciding, self._writing = threading.Lock(), threading.Lock()
        self._closing = threading.Event()
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> FaultyProxy:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def decide(self, request: Request) -> str | None:
        """What to do to a request."""
        with self._deciding:
            self.seen[request.method] += 1
            fault = self.schedule(request)
            if fault is not None:
                self.injected[fault] += 1
            return fault

    def forward(self, request: Request, headers: Any, body: bytes) -> Any:
        """Have the server do it; returns its answer and the answer's body."""
        with self._writing if request.conditional else contextlib.nullcontext():
            connection = http.client.HTTPConnection(*self._server)
            try:
                connection.putrequest(
                    request.method, request.path, skip_host=True, skip_accept_encoding=True
                )
                for name, value in headers.items():
                    if name.lower() not in ("connection", "transfer-encoding", "expect"):
                        connection.putheader(name, value)
                connection.endheaders(body)
                answer = connection.getresponse()
                return answer, answer.read()
            finally:
                connection.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    proxy: FaultyProxy

    def _do(self) -> None:
        body = self._body()
        request = Request(self.command, self.path, "If-None-Match" in self.headers)
        fault = self.proxy.decide(request)
        if fault == "500":
            return self._refuse(500, "InternalError")
        if fault == "503":
            return self._refuse(503, "SlowDown")
        if fault == "reset":
            return self._reset()
        if fault == "timeout":
            return self._hang()
        answer, data = self.proxy.forward(request, self.headers, body)
        if fault == "lost":
            return self._reset()
        if fault == "lost 500":
            return self._refuse(500, "InternalError")
        if fault == "late":
            return self._hang()
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in HIDDEN:
                self.send_header(name, value)
        if fault in SHORT:
            return self._end_early(fault, data)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else len(data)
        self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        if fault == "cut":
            self.wfile.write(data[: len(data) // 2])
            return self._reset()
        if self.command != "HEAD":
            self.wfile.write(data)
        return None

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _do  # noqa: N815 (http.server's names)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _end_early(self, fault: str, data: bytes) -> None:
        """Send half of a body."""
        half = data[: len(data) // 2]
        if fault in ("closed", "short"):
            self.send_header("Content-Length", str(len(data if fault == "closed" else half)))
        else:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if fault in ("closed", "short"):
            self.wfile.write(half)
        else:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(half), half))
            self.wfile.write(b"0\r\n\r\n" if fault == "chunks" else b"")
        self.close_connection = fault in ("closed", "chunk")

    def _refuse(self, status: int, code: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>the store says {code}</Message></Error>"
        data = b"" if self.command == "HEAD" else body.encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _reset(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        # Without lingering, closing sends a reset.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _hang(self) -> None:
        """Say nothing until the client has closed the connection."""
        self.close_connection = True
        while not self.proxy._closing.is_set():
            if select.select([self.connection], [], [], 0.05)[0]:
                return

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (http.server's name)
        return

    def handle_one_request(self) -> None:
        # A client that gave up is what these tests are about.
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()

    def finish(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().finish()


@contextlib.contextmanager
def faulty_s3(patch: Any, bucket: str, read_timeout: float = 1.0) -> Iterator[FaultyProxy]:
    """A real S3 server behind a proxy, and the environment by which every process finds it.

    Args:
        patch: pytest's monkeypatch.
        bucket: a bucket to make.
        read_timeout: seconds after which clients give a request up.
    """
    import json

    import s3fs

    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    try:
        _forget(*moto.get_host_and_port())
        with FaultyProxy(*moto.get_host_and_port()) as proxy:
            patch.setenv("AWS_ENDPOINT_URL", proxy.url)
            patch.setenv("AWS_ACCESS_KEY_ID", "test")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            settings = {"config_kwargs": {"read_timeout": read_timeout}}
            patch.setenv("FSSPEC_S3", json.dumps(settings))  # read when a process starts, and here:
            patch.setitem(_conf(), "s3", settings)
            s3fs.S3FileSystem.clear_instance_cache()
            s3fs.S3FileSystem().mkdir(bucket)
            yield proxy
            proxy.schedule = lambda request: None
            s3fs.S3FileSystem.clear_instance_cache()
    finally:
        moto.stop()


def _forget(host: str, port: int) -> None:
    """All servers of moto in a process share what they hold."""
    connection = http.client.HTTPConnection(host, port)
    connection.request("POST", "/moto-api/reset")
    connection.getresponse().read()
    connection.close()


def _conf() -> dict[str, Any]:
    import fsspec.config

    conf: dict[str, Any] = fsspec.config.conf
    return conf
