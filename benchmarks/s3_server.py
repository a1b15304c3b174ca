"""`python -m benchmarks.s3_server BUCKET LATENCY`: moto's server; prints its port and serves."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable
from typing import Any

import botocore.session
from moto.server import ThreadedMotoServer


class Counted:
    """Moto's application, that many seconds late; `/-requests` says how many there were."""

    def __init__(self, app: Any, latency: float) -> None:
        self._app, self._latency = app, latency
        self._lock, self._count = threading.Lock(), 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/-requests":
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [str(self._count).encode()]
        with self._lock:
            self._count += 1
        time.sleep(self._latency)
        answer: Iterable[bytes] = self._app(environ, start_response)
        return answer


def main(bucket: str, latency: str) -> None:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    wsgi: Any = server._server
    wsgi.app = Counted(wsgi.app, float(latency))
    client = botocore.session.get_session().create_client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    client.create_bucket(Bucket=bucket)
    print(port, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
