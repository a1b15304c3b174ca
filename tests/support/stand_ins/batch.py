"""A small batch system in a folder: a queue, and a server that runs its tasks as processes.

It knows nothing of any real one: the commands of `tests.support.stand_ins.<system>` parse their
syntax, hand tasks over ready to run, and print what the queue knows in their system's form.

    python -m tests.support.stand_ins.batch FOLDER SLOTS    # the server, until it is killed
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.support.stand_ins.prompt import write_command

ROOT = Path(__file__).parents[3]
FOLDER = "STAND_IN_FOLDER"  # the variable by which commands find their queue
GRACE = 2.0  # seconds between SIGTERM and SIGKILL of a task that is cancelled

State = Literal["queued", "running", "ended"]

_SCHEMA = """
create table if not exists job (
    id integer primary key autoincrement, name text, owner text, submitted real,
    throttle integer, after text, details text
);
create table if not exists task (
    job integer, position integer, start text, state text, pid integer,
    status integer, began real, ended real, cancelled real, primary key (job, position)
);
create table if not exists held (yes integer);
create table if not exists held_job (job integer primary key);
"""


@dataclass(frozen=True)
class Start:
    """How a task is run.

    Attributes:
        words: of its command.
        environ: its environment.
        folder: where it starts.
        log: what it prints goes there.
        limit: for how many seconds it may run.
        warning: the signal that it gets then, before SIGKILL.
    """

    words: Sequence[str]
    environ: Mapping[str, str]
    folder: str
    log: str
    limit: float | None = None
    warning: int = signal.SIGTERM


@dataclass(frozen=True)
class Task:
    """A task as the queue knows it.

    Attributes:
        job: its job.
        position: in the job, from 0.
        state: where it stands.
        pid: of its process once it runs, or None.
        status: as of wait(2) once it has ended; None where it never began.
        began: when, or None.
        ended: when, or None.
        cancelled: when somebody asked to stop it, or None.
    """

    job: int
    position: int
    state: State
    pid: int | None
    status: int | None
    began: float | None
    ended: float | None
    cancelled: float | None

    def reached(self, limit: float | None) -> bool:
        """Whether it has run for so many seconds; nothing does for None."""
        if limit is None or self.began is None:
            return False
        return (self.ended or time.time()) - self.began >= limit


@dataclass(frozen=True)
class Job:
    """A job as the queue knows it; `details` is what the command that submitted it left there."""

    id: int
    name: str
    owner: str
    submitted: float
    throttle: int | None
    after: Sequence[int]
    details: Mapping[str, Any]
    tasks: Sequence[Task]

    def keeps_waiting(self) -> bool:
        """Whether those that wait for it still do, which may be for ever; see `Queue.submit`."""
        deleted = self.details.get("releases_nobody_if_deleted") and self.tasks[0].began is None
        return bool(deleted) or any(task.state != "ended" for task in self.tasks)


class Queue:
    """The queue in a folder, for commands, server and tests."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._database = sqlite3.connect(self.folder / "queue.db", timeout=30)
        self._database.executescript(_SCHEMA)
        self._seen = (-1, -1)

    @classmethod
    def here(cls) -> Queue:
        """The queue that a command is meant for."""
        return cls(os.environ[FOLDER])

    def submit(
        self,
        name: str,
        starts: Sequence[Start],
        *,
        throttle: int | None = None,
        after: Sequence[int] = (),
        details: Mapping[str, Any] | None = None,
    ) -> int:
        """Accept a job; `{job}` in log, environment and words becomes its id.

        One with `releases_nobody_if_deleted` in its details does not, where it never began.
        """
        owner = os.environ.get("STAND_IN_USER") or _user()
        with self._database as database:
            row = name, owner, time.time(), throttle, json.dumps([*after])
            cursor = database.execute(
                "insert into job (name, owner, submitted, throttle, after, details)"
                " values (?, ?, ?, ?, ?, ?)",
                (*row, json.dumps(dict(details or {}))),
            )
            job = int(cursor.lastrowid or 0)
            for position, start in enumerate(starts):
                text = json.dumps(
                    {
                        "words": [*start.words],
                        "environ": dict(start.environ),
                        "folder": start.folder,
                        "log": start.log,
                        "limit": start.limit,
                        "warning": int(start.warning),
                    }
                )
                database.execute(
                    "insert into task (job, position, start, state) values (?, ?, ?, 'queued')",
                    (job, position, text.replace("{job}", str(job))),
                )
        return job

    def keep_script(self, text: str) -> str:
        """Spool a script, as batch systems do; returns its path."""
        spool = self.folder / "spool"
        spool.mkdir(exist_ok=True)
        path = spool / f"{time.time_ns()}-{os.getpid()}.sh"
        path.write_text(text)
        path.chmod(0o700)
        return str(path)

    def jobs(self, ids: Sequence[int] | None = None) -> list[Job]:
        """The jobs, or those of some ids that exist."""
        tasks: dict[int, list[Task]] = {}
        columns = "job, position, state, pid, status, began, ended, cancelled"
        for row in self._database.execute(f"select {columns} from task order by job, position"):
            tasks.setdefault(row[0], []).append(Task(*row))
        columns = "id, name, owner, submitted, throttle, after, details"
        return [
            Job(
                number,
                name,
                owner,
                when,
                throttle,
                json.loads(after),
                json.loads(details),
                tasks.get(number, []),
            )
            for number, name, owner, when, throttle, after, details in self._database.execute(
                f"select {columns} from job order by id"
            )
            if ids is None or number in ids
        ]

    def cancel(self, job: int, position: int | None = None, *, also_ended: bool = False) -> bool:
        """Ask to stop a job's tasks, or one; whether any was still to be stopped."""
        with self._database as database:
            found = database.execute(
                "update task set cancelled = ? where job = ? and (? is null or position = ?)"
                " and (state != 'ended' or ?) and cancelled is null",
                (time.time(), job, position, position, also_ended),
            )
            return found.rowcount > 0

    def forget_ended(self) -> None:
        """Forget the jobs that have ended, as batch systems do after a while."""
        with self._database as database:
            database.execute("delete from task where state = 'ended'")
            database.execute("delete from job where id not in (select job from task)")

    def hold_job(self, job: int, yes: bool) -> None:
        """Let no task of a job start, or let them again."""
        with self._database as database:
            database.execute("delete from held_job where job = ?", (job,))
            if yes:
                database.execute("insert into held_job values (?)", (job,))

    def held_jobs(self) -> set[int]:
        """The jobs of which no task starts."""
        return {row[0] for row in self._database.execute("select job from held_job")}

    def hold(self, yes: bool) -> None:
        """Let nothing start, or let it again."""
        with self._database as database:
            database.execute("delete from held")
            if yes:
                database.execute("insert into held values (1)")

    def held(self) -> bool:
        """Whether nothing starts."""
        return self._database.execute("select yes from held").fetchone() is not None

    # For the server

    def was_changed(self) -> bool:
        """Whether anybody wrote into the queue since the last call, this object among them."""
        version = self._database.execute("pragma data_version").fetchone()[0]  # of others' writes
        seen, self._seen = self._seen, (version, self._database.total_changes)
        return seen != self._seen

    def startable(self, slots: int) -> Iterator[tuple[Task, Start]]:
        """The tasks that may start now."""
        if self.held():
            return
        jobs = self.jobs()
        running = sum(task.state == "running" for job in jobs for task in job.tasks)
        waited_for = {job.id for job in jobs if job.keeps_waiting()}
        held = self.held_jobs()
        for job in jobs:
            if waited_for.intersection(job.after) or job.id in held:
                continue
            own = sum(task.state == "running" for task in job.tasks)
            for task in job.tasks:
                if running >= slots or (job.throttle is not None and own >= job.throttle):
                    break
                if task.state == "queued" and task.cancelled is None:
                    text = self._database.execute(
                        "select start from task where job = ? and position = ?",
                        (task.job, task.position),
                    ).fetchone()[0]
                    yield task, Start(**json.loads(text))
                    running, own = running + 1, own + 1

    def began(self, task: Task, pid: int) -> None:
        """Note that a task runs."""
        with self._database as database:
            database.execute(
                "update task set state = 'running', pid = ?, began = ?"
                " where job = ? and position = ?",
                (pid, time.time(), task.job, task.position),
            )

    def ended(self, task: Task, status: int | None) -> None:
        """Note that a task has ended."""
        with self._database as database:
            database.execute(
                "update task set state = 'ended', status = ?, ended = ?"
                " where job = ? and position = ?",
                (status, time.time(), task.job, task.position),
            )


class Server:
    """Starts what may start, stops what is to be stopped, and notes how tasks end."""

    def __init__(self, folder: str | os.PathLike[str], slots: int) -> None:
        self._queue, self._slots = Queue(folder), slots
        self._running: dict[tuple[int, int], subprocess.Popen[bytes]] = {}
        self._told: set[tuple[int, int]] = set()
        self._deadlines: dict[tuple[int, int], tuple[float, int]] = {}

    def serve(self) -> None:
        """Until this process is killed."""
        while True:
            # Looking through all jobs each time would take a third of a processor.
            if self._queue.was_changed() or self._is_due():
                self._step()
            time.sleep(0.03)

    def _is_due(self) -> bool:
        """Whether there is something to do, though nobody wrote into the queue."""
        if self._told or self._deadlines:
            return True
        return any(process.poll() is not None for process in self._running.values())

    def _step(self) -> None:
        for job in self._queue.jobs():
            for task in job.tasks:
                if task.state == "running":
                    self._look(task)
                elif task.state == "queued" and task.cancelled is not None:
                    self._queue.ended(task, None)
        for task, start in self._queue.startable(self._slots):
            Path(start.log).parent.mkdir(parents=True, exist_ok=True)
            with open(start.log, "ab") as log:
                process = subprocess.Popen(
                    start.words,
                    env=self._on_node(start.environ),
                    cwd=start.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self._running[task.job, task.position] = process
            self._queue.began(task, process.pid)
            if start.limit is not None:
                deadline = time.time() + start.limit
                self._deadlines[task.job, task.position] = deadline, start.warning

    def _on_node(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The environment on a node where the system's own commands are installed."""
        folder = self._queue.folder
        path = f"{folder / 'bin'}:{environ.get('PATH', os.defpath)}"
        return {**environ, "PATH": path, FOLDER: str(folder)}

    def _look(self, task: Task) -> None:
        key = task.job, task.position
        process = self._running.get(key)
        status = None if process is None else process.poll()
        if process is None or status is not None:
            # As wait(2) has it: the exit code in the high byte, a signal in the low one.
            self._queue.ended(task, None if status is None else _wait_status(status))
            self._forget(key)
            return
        now = time.time()
        cancelled = task.cancelled or math.inf, int(signal.SIGTERM)
        stopped, warning = min(cancelled, self._deadlines.get(key, cancelled))
        if stopped <= now:
            hard = now > stopped + GRACE
            if hard or key not in self._told:
                self._told.add(key)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL if hard else warning)

    def _forget(self, key: tuple[int, int]) -> None:
        """Have no more to do with a task."""
        self._running.pop(key, None)
        self._deadlines.pop(key, None)
        self._told.discard(key)


def _wait_status(returncode: int) -> int:
    return -returncode if returncode < 0 else returncode << 8


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


class StandIn:
    """A stand-in's server and its commands, in a folder, for tests.

    Args:
        folder: where it lives.
        module: `tests.support.stand_ins.<system>`, whose `main(command, words)` is the exit code.
        commands: the names of the commands.
        slots: how many tasks run at the same time.
    """

    def __init__(self, folder: Path, module: str, commands: Sequence[str], slots: int = 16) -> None:
        self.folder, self._slots = folder, slots
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        # Not in the folder: a socket's path is limited to 107 bytes.
        self._place = os.path.join(tempfile.mkdtemp(prefix="stand-in-"), "calls")
        self._module = module
        for command in commands:
            write_command(self.bin / command, self._place)
        self.queue = Queue(folder)

    def environ(self) -> dict[str, str]:
        """Variables by which the commands are found, and find the queue."""
        return {"PATH": f"{self.bin}:{os.environ['PATH']}", FOLDER: str(self.folder)}

    def run(self, *words: str) -> str:
        """What one of the commands prints."""
        environ = {**os.environ, **self.environ()}
        done = subprocess.run(
            [str(self.bin / words[0]), *words[1:]],
            env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout

    @contextlib.contextmanager
    def running(self) -> Iterator[StandIn]:
        """The server lives."""
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(self._place)
        listening.listen(100)
        calls = str(listening.fileno())
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", *words], cwd=ROOT, stdin=subprocess.DEVNULL, pass_fds=fds
            )
            for words, fds in (
                ([__name__, str(self.folder), str(self._slots)], ()),
                (["tests.support.stand_ins.prompt", self._module, calls], [listening.fileno()]),
            )
        ]
        listening.close()
        try:
            yield self
        finally:
            self.reset()
            for process in processes:
                process.kill()
                process.wait()
            shutil.rmtree(os.path.dirname(self._place))

    def reset(self) -> None:
        """End all jobs and forget them."""
        self.queue.hold(False)
        deadline = time.monotonic() + 30
        while jobs := [j for j in self.queue.jobs() if any(t.state != "ended" for t in j.tasks)]:
            for job in jobs:
                self.queue.cancel(job.id)
            if time.monotonic() > deadline:
                raise AssertionError(f"jobs outlived 30 s of cancelling: {jobs}")
            time.sleep(0.03)
        self.queue.forget_ended()


if __name__ == "__main__":
    Server(sys.argv[1], int(sys.argv[2])).serve()
