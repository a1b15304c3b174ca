"""An S3 run: are its requests in flight together?"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import espnet3.submit
from benchmarks.measuring import ROOT, Bench, BenchmarkFailed, Line, interleaved
from benchmarks.submit import parallel
from benchmarks.work import NoEnv, Trivial

BUCKET = "bench"
LATENCY = 0.1  # seconds; more than S3 takes, so that moto's own few milliseconds do not rule
SAMPLE = 100


def submit_here(folder: str, n_shards: int) -> dict[str, float]:
    """Submit to a bucket, after a run of one shard has imported everything."""
    logs = {"log_directory": folder}

    async def both() -> dict[str, float]:
        runner = Trivial(NoEnv({}))
        for size in (1, n_shards):
            run_dir = f"s3://{BUCKET}/{time.time_ns()}"
            config = parallel(size)
            config["options"] = config["options"] | logs
            requests = count_requests()
            began = time.perf_counter()
            await espnet3.submit.submit(runner, range(size), run_dir=run_dir, parallel=config)
            seconds = time.perf_counter() - began
            requests = count_requests() - requests
        return {"seconds": seconds, "requests": requests}

    return asyncio.run(both())


def put_here(n_requests: int, sample: int) -> dict[str, float]:
    """Put small objects one after another with the client that espnet3 uses; scaled."""
    import s3fs

    fs = s3fs.S3FileSystem()
    prefix = f"{BUCKET}/{time.time_ns()}"
    fs.pipe_file(f"{prefix}/warm", b"x")
    data = b"x" * 300  # about a shard's spec
    began = time.perf_counter()
    for i in range(sample):
        fs.pipe_file(f"{prefix}/{i:06d}.json", data)
    return {"seconds": (time.perf_counter() - began) * n_requests / sample}


def count_requests() -> int:
    """How many requests the server has had."""
    with urllib.request.urlopen(f"{os.environ['AWS_ENDPOINT_URL']}/-requests") as answer:
        return int(answer.read())


@contextlib.contextmanager
def s3_server(bench: Bench, latency: float) -> Iterator[dict[str, str]]:
    """Moto's server in a process of its own; yields the variables that lead to it."""
    command = [sys.executable, "-m", "benchmarks.s3_server", BUCKET, str(latency)]
    log = bench.new_folder() / "log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command, cwd=ROOT, env=bench.environ, stdout=subprocess.PIPE, stderr=errors
        ) as server,
    ):
        try:
            port = (server.stdout.readline() if server.stdout else b"").decode().strip()
            if not port:
                raise BenchmarkFailed(f"moto's server did not start: {log.read_text()[-2000:]}")
            yield {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
                "AWS_DEFAULT_REGION": "us-east-1",
            }
        finally:
            server.terminate()


def s3_submit_500(bench: Bench) -> list[Line]:
    """Submitting 500 shards to a run directory on S3 (moto's server in a process of its own).

    Ours: `espnet3.submit.submit` from call to return, after imports, preflight off, pending jobs in
    Slurm. One after another: the same number of requests as ours made, all of them puts of 300
    bytes with s3fs; 100 are measured, and scaled. The server answers each request 100 ms late and
    lets any number wait; without that delay (second line) it computes all the time on one core, and
    shows what it can do at all.
    """
    bench.slurm()
    n_shards = bench.size(500)
    lines = []
    work = f"submit {n_shards} shards to S3"
    for latency, allowed, note in (
        (LATENCY, 1 / 8, f"{1000 * LATENCY:.0f} ms per request"),
        (0.0, None, "no delay: the server's one core is busy"),
    ):
        with s3_server(bench, latency) as environ:
            before = dict(bench.environ)
            bench.environ |= environ
            try:
                found = _both(bench, n_shards)
            finally:
                bench.environ = before
        requests = max(found["ours"]["requests"])
        lines.append(
            Line(
                work,
                found["ours"]["seconds"],
                "s",
                allowed,
                f"{requests:.0f} requests one after another",
                found["peer"]["seconds"],
                note,
            )
        )
    return lines


def _both(bench: Bench, n_shards: int) -> dict[str, dict[str, list[float]]]:
    requests = [0]

    def ours() -> dict[str, float]:
        folder: Path = bench.new_folder()
        figures = bench.child(submit_here, str(folder), n_shards)
        bench.cancel_all()
        requests[0] = int(figures["requests"])
        return figures

    sides: dict[str, Callable[[], dict[str, float]]] = {
        "ours": ours,
        "peer": lambda: bench.child(put_here, requests[0], min(SAMPLE, requests[0])),
    }
    return interleaved(bench.runs(3), **sides)
