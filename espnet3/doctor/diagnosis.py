"""Submitting the doctor's tiny job, and what it and this host tell."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from espnet3.collect.log_files import find_logs
from espnet3.collect.merge import collect
from espnet3.config.current import chosen_policy
from espnet3.config.model import ParallelConfig
from espnet3.doctor.one_environment import espnet_here
from espnet3.doctor.probe import (
    ANSWER,
    CALL,
    FIRST,
    GREETING,
    SECOND,
    SIGN,
    TAKEN,
    Probe,
    ProbeProvider,
    python_here,
)
from espnet3.errors import EspnetError, FileMissing, FileTaken, SubmissionRefused, UsageError
from espnet3.run_dir.directory import RunDirectory
from espnet3.schedulers import get_scheduler
from espnet3.status.observation import Observation, observe
from espnet3.status.run_status import LIVE, ShardStatus
from espnet3.storage.base import Store
from espnet3.storage.local import LocalStore
from espnet3.storage.opening import open_store
from espnet3.storage.permissions import regular
from espnet3.submit.cancellation import cancel
from espnet3.submit.new_run import dry_run, submit
from espnet3.submit.submission import Submitted
from espnet3.text import counted, one_line

LOOK = 0.1  # seconds between two looks for the job's call
ASK = 2.0  # seconds between two questions to the scheduler
LOG_LINES, LOG_BYTES = 5, 1 << 16  # of a job that failed


class Finding(NamedTuple):
    """One thing that was found.

    Attributes:
        name: what it is about.
        value: what was found, for a person.
        fine: False where it would spoil a night.
    """

    name: str
    value: str
    fine: bool = True


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the doctor found.

    Attributes:
        env: of the parallel config.
        findings: in the order in which they were made.
        left: the folder, where it was not removed: something is wrong, or it is a URL.
    """

    env: str
    findings: list[Finding]
    left: str | None

    @property
    def fine(self) -> bool:
        """Whether all is well."""
        return all(finding.fine for finding in self.findings)


async def diagnose(
    parallel: ParallelConfig,
    folder: str | os.PathLike[str],
    *,
    timeout: float = 600.0,
    tell: Callable[[Finding], None] = lambda finding: None,
) -> Diagnosis:
    """Submit a tiny job with a config's options, and report what matters before a real run.

    Args:
        parallel: the parallel config; one job of one shard is submitted with its options.
        folder: where run directories will be; the job gets one of its own there, which is removed
            in the end where all is well.
        timeout: seconds that the job may take to begin; it is cancelled then.
        tell: called with each finding as soon as it is made.

    Raises:
        UsageError: the config is wrong.
        SchedulerUnavailable: the scheduler does not answer here.
        SubmissionRefused: it refused the job.
        RunDirectoryError: no run directory can be made there.
        Untrusted: others could put something in its place.

    Example:
        >>> from espnet3.config.model import ParallelConfig
        >>> (await diagnose(ParallelConfig(env="slurm"), "/shared")).fine  # doctest: +SKIP
        True
    """
    findings: list[Finding] = []

    def found(name: str, value: str, fine: bool = True) -> None:
        findings.append(Finding(name, value, fine))
        tell(findings[-1])

    left = await _diagnose(parallel, os.fspath(folder).rstrip("/"), found, timeout)
    fine = all(finding.fine for finding in findings)
    gone = fine and await _remove(left)
    return Diagnosis(parallel.env, findings, None if gone else left.root)


async def _diagnose(
    parallel: ParallelConfig, folder: str, found: Callable[..., None], timeout: float
) -> Store:
    """Tell what is found; returns the doctor's folder."""
    if (espnet := await asyncio.to_thread(espnet_here)) is not None:
        found("ESPnet", *espnet)
    scheduler = get_scheduler(parallel.env)
    found("scheduler", await scheduler.version())
    n_tasks = parallel.max_array_size or await scheduler.max_array_size()
    found("array limit", counted(n_tasks, "task"))
    for machine, wrong in (await scheduler.machines(parallel.options)).items():
        found(f"host {machine}", wrong or "answers", not wrong)
    store = open_store(f"{folder}/espnet3-doctor-{secrets.token_hex(4)}")
    run_dir = f"{store.root}/run"
    one: dict[str, Any] = {
        "n_workers": 1,
        "n_shards": 1,
        "shards_per_job": 1,
        "schedule": "static",
        "weights": None,
        "results": "json",
    }
    one["overrides"] = []
    config = parallel.model_copy(update=one)
    visit = Probe(ProbeProvider({"folder": store.root, "env": parallel.env}))
    await dry_run(visit, [0], run_dir=run_dir, parallel=config)  # before anything is made
    await asyncio.to_thread(_prepare, RunDirectory(store, chosen_policy(parallel.trust)))
    try:
        submitted = await _submit(visit, run_dir, config)
        found("job", ", ".join(submitted.job_ids))
        problem = await _follow(store, run_dir, found, timeout)
        if problem is None:
            [report] = await collect(run_dir)
            _judge(report, found)
            judge_signs(report["renewed_after"], parallel, found)
        else:
            found("job", problem, fine=False)
    except UsageError:  # nothing was submitted
        await _remove(store)
        raise
    except BaseException:  # also Ctrl-C
        found(*left_there(store.root))
        raise
    finally:
        with contextlib.suppress(EspnetError):
            await cancel(run_dir, trust=parallel.trust)
    return store


async def _submit(visit: Probe, run_dir: str, config: ParallelConfig) -> Submitted:
    try:
        return await submit(visit, [0], run_dir=run_dir, parallel=config)
    except SubmissionRefused as error:  # nobody is to resume this run
        raise SubmissionRefused(error.scheduler, error.words, "ask the doctor again") from None


async def _remove(store: Store) -> bool:
    """Remove the doctor's folder, if it is not a URL."""
    if not isinstance(store, LocalStore):
        return False
    await asyncio.to_thread(shutil.rmtree, store.root, ignore_errors=True)
    return True


def left_there(folder: str) -> Finding:
    """What is said of a folder that was not removed."""
    return Finding("folder", f"{folder} was left there")


def _prepare(directory: RunDirectory) -> None:
    directory.require_trusted()
    store = directory.store
    store.prepare([""])
    store.create(GREETING, b"here")
    store.replace(SIGN, FIRST)
    store.create(TAKEN, b"here")
    with contextlib.suppress(FileTaken):
        store.create(TAKEN, b"here")
        raise EspnetError(
            f"{store.root}: exclusive create does not work here, so no run is safe; choose another "
            "run_dir"
        )


async def _follow(
    store: Store, run_dir: str, found: Callable[..., None], timeout: float
) -> str | None:
    """Answer the job's call and wait for its end; what went wrong, or None."""
    began, asked, answered = time.monotonic(), 0.0, False
    while True:
        waited = time.monotonic() - began
        if not answered and await asyncio.to_thread(_answer, store):
            answered = True
            found("began after", f"{waited:.1f} s")
        if waited - asked > ASK or answered:
            asked = waited
            shard, log = await observe(partial(RunDirectory.open, run_dir), _shard_and_log)
            if shard.state == "done":
                return None
            if log is not None:
                return f"{shard.state}: {shard.cause}; {log}"
            if not answered and waited > timeout:
                return f"did not begin within {timeout:g} s: {shard.cause}"
        await asyncio.sleep(LOOK)


def _answer(store: Store) -> bool:
    """Answer the job, if its call is there."""
    try:
        store.read(CALL)
    except FileMissing:
        return False
    store.replace(SIGN, SECOND)
    store.create(ANSWER, b"here")
    return True


def _shard_and_log(seen: Observation) -> tuple[ShardStatus, str | None]:
    """The shard, and where it has ended without a receipt, what its log ends with."""
    [shard] = seen.status.shards
    if shard.state in ("done", *LIVE):
        return shard, None
    files = find_logs(seen.directory, seen.run, seen.submissions, shard.rank)
    if not files:
        return shard, "it left no log"
    with open(files[-1], "rb", opener=regular) as log:
        log.seek(-min(LOG_BYTES, os.fstat(log.fileno()).st_size), os.SEEK_END)
        text = log.read(LOG_BYTES).decode(errors="replace")
    last = one_line(" | ".join(text.splitlines()[-LOG_LINES:]), 400)
    return shard, f"its log {files[-1]} ends: {last}"


def _judge(report: Mapping[str, Any], found: Callable[..., None]) -> None:
    """What the job has seen, beside what this host has."""
    found("node", report["host"])
    here, there = python_here(), report["python"]
    where, version = there["executable"], there["version"]
    if version == here["version"]:
        found("python there", f"{where}, {version}")
    else:
        found("python there", f"{where}, {version}, but {here['version']} here", False)
    other = [
        f"{name} {there['packages'].get(name, 'missing')} (here {version})"
        for name, version in here["packages"].items()
        if there["packages"].get(name) != version
    ]
    found("packages there", ", ".join(other) or "as here", not other)
    if report["keeps_bytecode"]:
        found("bytecode", "is kept there")
    else:
        found(
            "bytecode",
            "is not kept there, so every worker takes about 0.3 s longer to start; unset "
            "PYTHONDONTWRITEBYTECODE, or run `python -m espnet3.worker` when the image is built",
        )
    if report["seen_after"] is None:
        found("run directory", "is not visible there", False)
    else:
        found("run directory", f"visible there after {report['seen_after']:g} s")
    if report["there_and_back"] is None:
        found("new files", "of one host do not reach the other within a minute", False)
    else:
        found("new files", f"there and back in {report['there_and_back']:g} s")
    if report["exclusive"]:
        found("exclusive create", "works between the hosts")
    else:
        found("exclusive create", "DOES NOT WORK between the hosts, so no run is safe there", False)
    problem = report["scheduler_problem"]
    answers = "possible, the scheduler answers there"
    found("submitting from a job", answers if problem is None else f"not possible: {problem}")


def judge_signs(
    renewed_after: float | None, parallel: ParallelConfig, found: Callable[..., None]
) -> None:
    """Whether the lease of a dynamic schedule is longer than signs of life take to be seen."""
    if renewed_after is None:
        words = "are not seen anew within a minute; keep to `schedule: static`"
        found("signs of life", words, parallel.schedule != "dynamic")
        return
    seen = f"seen anew after {renewed_after:g} s"
    late = renewed_after + parallel.heartbeat > parallel.lease
    if parallel.schedule == "dynamic" and late:
        seen += f", so a lease of {parallel.lease:g} s takes living workers for dead ones"
    found("signs of life", seen, not (late and parallel.schedule == "dynamic"))
