"""OAR's dialect, checked against 2.5.9. Facts are from its manual pages unless said otherwise.

Every task of an array is a job with an id of its own; the array's id, by which oarstat and oardel
take all of them, is that of the first. A job that is no array is one of one task.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from espnet3.errors import SchedulerUnavailable
from espnet3.run_dir.submissions import KnownSubmission
from espnet3.schedulers.base import Scheduler, SubmitCall, TaskKey, TaskState, Wanted
from espnet3.schedulers.commands import Answer, ask
from espnet3.schedulers.dialects.oar_words import task_state
from espnet3.schedulers.job_keys import JobKeys, positions, tasks_at
from espnet3.schedulers.scripts import is_array, log_line
from espnet3.schedulers.walltimes import clock_seconds
from espnet3.specs.models import AcceptedJob, PlannedJob
from espnet3.text import one_line

if TYPE_CHECKING:
    from pydantic import JsonValue

Row = Mapping[str, Any]
_NAME = re.compile(r"[A-Za-z0-9_.-]+")  # also of a user; no other reaches a command or OAR's SQL
_DIRECTIVE = "#OAR "
_MAX_ARRAY_SIZE = 1000  # a choice: OAR has no limit of its own, and takes 1 ms for each task
_AT_ONCE = 5000  # tasks in one question; oarstat takes about 3 ms for each
_IN_FULL = 200  # tasks whose exit codes are asked for; oarstat takes about 12 ms for each
_CANCELLING = 600.0  # seconds; oardel takes about 9 ms for each task


class OarScheduler(Scheduler):
    """OAR through oarsub, oarstat and oardel."""

    name = "oar"
    within = ("OAR_JOB_ID",)
    inherited = ("OAR_", "OARDO_")
    kept = frozenset({"OAR_JOB_KEY_FILE"})  # a user's setting for oarsub and oarsh
    first_index = 1
    can_throttle = False
    version_command = ("oarsub", "--version")
    directive = "#OAR"
    settled: ClassVar[Mapping[str, str]] = {
        "job_name": r"-n|--name\b",
        "log_directory": r"-[OE]|--std(out|err)\b",
        "array": r"--array\b",
        "stay": r"-[ICS]|--(interactive|connect|scanscript)\b",
    }
    # Without OAR's server the job is in its database all the same, although oarsub says "killed".
    no_answer = re.compile(r"Cannot connect to executor|DB connection error|timed? ?out", re.I)

    def array_index(self, environ: Mapping[str, str]) -> int | None:
        index = environ.get("OAR_ARRAY_INDEX")
        return None if index is None else int(index) - 1

    def job_id(self, environ: Mapping[str, str]) -> str | None:
        return environ.get("OAR_JOB_ID")

    def was_requeued(self, environ: Mapping[str, str]) -> bool:
        # A job that OAR submits again has the array and index of the first one, and a new id.
        names = ("OAR_JOB_ID", "OAR_ARRAY_ID", "OAR_ARRAY_INDEX")
        job, array, index = (int(environ.get(name, "0")) for name in names)
        return job > array + index - 1 if index else False

    def unique_name(self, prefix: str, run_id: str, number: int, position: int) -> str:
        # At most 100 characters; a quote would end OAR's own quotes, in SQL and in the job's Perl.
        clean = re.sub(r"[^A-Za-z0-9_.-]", "_", prefix)[:40]
        return super().unique_name(clean, run_id, number, position)

    def walltime_seconds(self, walltime: object) -> float | None:
        if "-" in str(walltime):  # OAR knows no days
            return None
        return clock_seconds(walltime, lone="hours", pair="hours:minutes")

    def submit_arguments(self, job: PlannedJob, log_directory: str, *, array: bool) -> list[str]:
        # What precedes the redirection, and OAR's own remarks, of all tasks. oarsub refuses names
        # of files with other characters.
        file = f"{log_directory}/{job.log.replace('{index}', 'oar')}"
        file = file if re.fullmatch(r"[A-Za-z0-9_./-]+", file) else "/dev/null"
        words = [f"--name={job.name}", f"--stdout={file}", f"--stderr={file}"]
        return [*words, f"--array={job.n_tasks}"] if is_array(job, array=array) else words

    def log_redirection(self, job: PlannedJob, log_directory: str, *, array: bool) -> list[str]:
        return [log_line(job, log_directory, '"$OAR_ARRAY_INDEX"')]

    def after_argument(self, job_id: str) -> list[str]:
        return [f"--anterior={job_id}"]  # waits for any end, also an error or a cancellation

    def submit_call(
        self, command: Sequence[str], file: str, options: Mapping[str, JsonValue]
    ) -> SubmitCall:
        # As dask-jobqueue does it: OAR would read the script's file only when the job starts, and
        # takes the script itself in place of its name. The user's login shell runs it.
        lines = Path(file).read_text().splitlines(keepends=True)
        directives = " ".join(
            line.removeprefix(_DIRECTIVE).strip() for line in lines if line.startswith(_DIRECTIVE)
        )
        script = "".join(line for line in lines if not line.startswith(("#!", _DIRECTIVE)))
        return SubmitCall([command[0], *shlex.split(directives), *command[1:], script])

    def job_ids(self, output: str) -> list[str]:
        # An array has one OAR_JOB_ID line per task; a refusal has -5 or nothing in that place.
        ids = re.findall(r"^OAR_ARRAY_ID=(\d+)\s*$", output, re.MULTILINE)
        return ids or re.findall(r"^OAR_JOB_ID=(\d+)\s*$", output, re.MULTILINE)

    def task_name(self, job_id: str, index: int | None) -> str:
        return job_id if index is None else f"{job_id} (index {index + self.first_index})"

    async def max_array_size(self) -> int:
        return _MAX_ARRAY_SIZE

    async def query(
        self, submissions: Sequence[KnownSubmission], wanted: Wanted | None = None
    ) -> dict[TaskKey, TaskState]:
        keys = JobKeys(submissions, wanted)
        states: dict[TaskKey, TaskState] = {}
        for place in _places(keys):
            states |= await self._query(keys, place)
        return states

    async def _query(self, keys: JobKeys, place: str) -> dict[TaskKey, TaskState]:
        # What ended well needs no words, and in a large run that is most.
        well = "state = 'Terminated' and coalesce(exit_code, 1) = 0"
        rows = await self._rows(f"({place}) and not ({well})")
        newest: dict[TaskKey, Row] = {}
        for row in sorted(rows, key=lambda row: int(row["Job_Id"])):  # see was_requeued
            when = row.get("submissionTime")
            found = keys.job(
                str(row["array_id"]), str(row["name"] or ""), str(row["owner"]),
                float(when) if isinstance(when, int) else None,
            )  # fmt: skip
            if found is not None and row["owner"] in keys.users:
                number, job = found
                where = positions(str(row["array_index"]), job.n_tasks, first=1)
                for task in tasks_at(job, where):
                    newest[number, task] = row
        failed = [str(row["Job_Id"]) for row in newest.values() if row["state"] == "Terminated"]
        stopped = [str(row["Job_Id"]) for row in newest.values() if row["state"] == "Error"]
        statuses = await self._statuses(failed) if failed else {}
        events = await self._events(stopped) if stopped else {}
        return {
            key: task_state(
                str(row["state"]),
                str(row["message"] or ""),
                statuses.get(str(row["Job_Id"])),
                events.get(str(row["Job_Id"]), ()),
            )
            for key, row in newest.items()
        }

    async def _statuses(self, ids: Sequence[str]) -> dict[str, int]:
        """Job id -> how its command ended, as wait(2) says it; only oarstat --full tells."""
        # Those that a signal has ended first: they have the smallest numbers.
        place = f"job_id in ({','.join(ids)}) order by exit_code limit {_IN_FULL}"
        rows = await self._rows(place, "--full", complete=False)
        return {str(row["Job_Id"]): int(row["exit_code"]) for row in rows if row["exit_code"]}

    async def _events(self, ids: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
        """Job id -> its events, each a type and a description."""
        answer = await self._ask("oarstat", "--events", *(f"--job={number}" for number in ids))
        if answer.code != 0:
            raise SchedulerUnavailable(self.name, answer.err or answer.out)
        found: dict[str, list[tuple[str, str]]] = {}
        pattern = r"^[-\d]+ [:\d]+> \[(\d+)\] (\w+): (.*)$"
        for number, kind, description in re.findall(pattern, answer.out, re.MULTILINE):
            found.setdefault(number, []).append((kind, description))
        return found

    async def _rows(self, place: str, *options: str, complete: bool = True) -> list[Row]:
        """The jobs that a condition of OAR's SQL describes.

        Args:
            place: the condition.
            options: more of oarstat's.
            complete: whether no rows at all are told from a question that the database did not
                understand, of which oarstat says nothing.

        Raises:
            SchedulerUnavailable: the database does not answer.
        """
        newest = "(select max(job_id) from jobs)"
        asked = f"{place} or job_id = {newest}" if complete else place
        answer = await self._ask("oarstat", "--json", *options, "--sql", asked)
        said = one_line(answer.err or answer.out, 300)
        _, brace, rest = answer.out.partition("{")
        if answer.code != 0 or (complete and not brace):
            raise SchedulerUnavailable(self.name, said or "oarstat printed nothing")
        try:
            rows: dict[str, Row] = json.JSONDecoder().raw_decode(brace + rest or "{}")[0]
        except ValueError:
            raise SchedulerUnavailable(self.name, f"oarstat printed no JSON: {said}") from None
        return list(rows.values())

    async def find(self, planned: Iterable[PlannedJob], user: str) -> list[AcceptedJob]:
        names = sorted(job.name for job in planned if _NAME.fullmatch(job.name))
        if not names or not _NAME.fullmatch(user):
            return []
        found: dict[str, str] = {}
        for start in range(0, len(names), 1000):
            wanted = names[start : start + 1000]
            rows = await self._rows(f"{_one_of(wanted)} and job_user = '{user}'")
            found |= {
                str(r["name"]): str(r["array_id"])
                for r in rows
                if r["name"] in wanted and r["owner"] == user
            }
        return [AcceptedJob(name=name, job_id=job_id) for name, job_id in found.items()]

    async def reasons(self, job_ids: Sequence[str]) -> str:
        ids = [job_id for job_id in job_ids if job_id.isdecimal()]
        if not ids:
            return ""
        rows = await self._rows(f"job_id in ({','.join(ids)})")
        own = [row for row in rows if str(row["Job_Id"]) in ids]
        states = (task_state(str(row["state"]), str(row["message"] or "")) for row in own)
        return ", ".join(sorted({f"{state.word} {state.reason}".strip() for state in states}))

    async def cancel(self, jobs: Iterable[AcceptedJob]) -> None:
        ids = [job.job_id for job in jobs if job.job_id.isdecimal()]
        if not ids:
            return
        answer = await self._ask("oardel", "--array", *ids, timeout=_CANCELLING)
        # Its exit code is that of the last job that it did not cancel.
        known = ("was already killed.", "is not a valid array job")
        told = [line for line in answer.err.splitlines() if not line.strip().endswith(known)]
        if answer.code not in (0, 4, 6) or any(map(str.strip, told)):
            raise SchedulerUnavailable(self.name, answer.err or answer.out)

    async def _ask(self, *command: str, timeout: float = 60.0) -> Answer:
        return await ask(self.name, command, environ=self.scrubbed(os.environ), timeout=timeout)


def _places(keys: JobKeys) -> Iterator[str]:
    """Conditions that together describe all jobs with a wanted task."""
    ids = {job_id: job.n_tasks for job_id, (_, job) in keys.by_id.items() if job_id.isdecimal()}
    for part in _parts(ids):
        yield f"array_id in ({','.join(part)})"
    recorded = {job.name for _, job in keys.by_id.values()}
    names = {
        name: job.n_tasks
        for name, (_, job) in keys.by_name.items()
        if name not in recorded and _NAME.fullmatch(name)
    }
    users = sorted(filter(_NAME.fullmatch, keys.users))
    for part in _parts(names) if users else ():
        yield f"{_one_of(part)} and job_user in ({_quoted(users)})"


def _parts(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """The names in lists whose sizes are `_AT_ONCE` together, or little more."""
    part: list[str] = []
    size = 0
    for name, own in sizes.items():
        part.append(name)
        size += own
        if size >= _AT_ONCE or len(part) >= 1000:
            yield part
            part, size = [], 0
    if part:
        yield part


def _one_of(names: Iterable[str]) -> str:
    return f"job_name in ({_quoted(names)})"


def _quoted(names: Iterable[str]) -> str:
    return ",".join(f"'{name}'" for name in names)


SCHEDULER = OarScheduler
