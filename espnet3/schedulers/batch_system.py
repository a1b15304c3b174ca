"""The engine below the dialects: runs the commands that they ask for, and makes sense of rows."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from espnet3.errors import SchedulerUnavailable
from espnet3.run_dir.processes import is_of, this_process, this_user, user_ids
from espnet3.run_dir.submissions import KnownSubmission
from espnet3.schedulers.base import Scheduler, Wanted
from espnet3.schedulers.commands import Answer, ask
from espnet3.schedulers.dialect import Command, Dialect, Dialogue, JobRequest, asking
from espnet3.schedulers.job_keys import JobKeys
from espnet3.schedulers.ownership import looks_own
from espnet3.schedulers.task_states import TaskStates
from espnet3.specs.models import AcceptedJob, PlannedJob, Submission

T = TypeVar("T")


class BatchSystem(Scheduler):
    """A batch system, through its dialect.

    Args:
        dialect: the dialect. Where one `env` has several, that which `Dialect.identify` tells is
            asked for when it is first needed.
        run: runs a command, as `commands.ask` does.
    """

    def __init__(self, dialect: Dialect, run: Callable[..., Awaitable[Answer]] = ask) -> None:
        self.dialect = dialect
        self.name = dialect.name
        self.inherited = dialect.inherited
        self.first_index = dialect.first_index
        self.passes_environment = dialect.passes_environment
        self.no_answer = dialect.no_answer
        self._run = run
        self._identified: Dialect | None = None

    async def identified(self) -> Dialect:
        """The dialect that is spoken here.

        Raises:
            SchedulerUnavailable: it does not answer.
        """
        if self._identified is None:
            self._identified = await self._talk(self.dialect.identify())
        return self._identified

    # What needs no command.

    def array_index(self, environ: Mapping[str, str]) -> int | None:
        return self.dialect.task(environ).array_index

    def job_id(self, environ: Mapping[str, str]) -> str | None:
        return self.dialect.task(environ).job_id

    def was_requeued(self, environ: Mapping[str, str]) -> bool:
        return self.dialect.task(environ).restarted

    def unique_name(self, prefix: str, run_id: str, number: int, position: int) -> str:
        return self.dialect.unique_name(prefix, run_id, number, position)

    def walltime_seconds(self, walltime: object) -> float | None:
        return self.dialect.walltime_seconds(walltime)

    def job_ids(self, output: str) -> list[str]:
        return self.dialect.job_ids(output)

    def task_name(self, job_id: str, index: int | None) -> str:
        return self.dialect.task_name(job_id, index)

    def scrubbed(self, environ: Mapping[str, str]) -> dict[str, str]:
        return self.dialect.scrubbed(environ)

    def submit_environ(
        self, environ: Mapping[str, str], stated: Iterable[str] = ()
    ) -> dict[str, str]:
        return self.dialect.submit_environ(environ, stated)

    def is_submitting(self, submission: Submission) -> bool:
        import psutil  # workers, which import the engine, never come here

        names = {
            word
            for job in submission.jobs
            for array in (True, False)
            for word in self.dialect.request(
                JobRequest(job, submission.log_directory, array=array)
            ).arguments
            if job.name in word
        }
        users = user_ids(submission.submitter.user)
        return any(
            names.intersection(process.info["cmdline"] or ()) and is_of(process, users)
            for process in psutil.process_iter(["cmdline"])
        )

    # What is asked.

    async def max_array_size(self) -> int:
        return await self._talk(self.dialect.array_limit(os.environ))

    async def query(
        self, submissions: Sequence[KnownSubmission], wanted: Wanted | None = None
    ) -> TaskStates:
        keys = JobKeys(submissions, wanted)
        if not keys.by_name:
            return TaskStates()
        rows = await self._talk((await self.identified()).look(keys))
        return keys.states(rows, first=self.first_index)

    async def find(self, planned: Iterable[PlannedJob], user: str) -> list[AcceptedJob]:
        jobs = list(planned)
        names = {job.name for job in jobs}
        found = await self._talk((await self.identified()).find(jobs, user))
        return [AcceptedJob(name=n, job_id=i) for n, i in sorted(found.items()) if n in names]

    async def find_working_in(self, run_dir: str, user: str) -> list[AcceptedJob]:
        found = await self._talk((await self.identified()).find_logging_to(f"{run_dir}/logs", user))
        return [
            AcceptedJob(name=name, job_id=job_id)
            for name, job_id in sorted(found.items())
            if looks_own(name)
        ]

    async def awaited(self, job_ids: Sequence[str]) -> Sequence[str]:
        """The ids that a job names which waits for jobs; see `Dialect.awaited`."""
        return await self._talk((await self.identified()).awaited(job_ids))

    async def not_ended(self, job_ids: Sequence[str]) -> list[str]:
        """Those of the ids whose jobs are queued or running."""
        keys = JobKeys.of_ids(job_ids, this_user())
        rows = await self._talk((await self.identified()).look(keys))
        live = {row.job_id for row in rows if row.state.state != "ended"}
        return [job_id for job_id in job_ids if job_id in live]

    async def node_names(self, hosts: Sequence[str]) -> Sequence[str]:
        """What it calls the nodes with these host names; see `Dialect.node_names`."""
        dialect = await self.identified()
        if not (hosts and dialect.can_exclude):
            return ()
        return await self._talk(dialect.node_names(hosts, os.environ))

    async def cancel(self, jobs: Iterable[AcceptedJob]) -> None:
        await self._talk(self.dialect.cancel([job.job_id for job in jobs]))

    async def reasons(self, job_ids: Sequence[str]) -> str:
        dialect = await self.identified()
        return ", ".join(await self._talk(dialect.reasons(job_ids, this_process().user)))

    async def version(self) -> str:
        answer = await self._talk(asking(*self.dialect.version_command, strict=False))
        lines = f"{answer.out}\n{answer.err}".strip().splitlines()
        if answer.code != 0 or not lines:
            raise SchedulerUnavailable(self.name, answer.err or "does not tell its version")
        return lines[0].strip()

    async def _talk(self, dialogue: Dialogue[T]) -> T:
        """Run the commands of a dialogue, one after another.

        Raises:
            SchedulerUnavailable: one is not there, gives no answer or fails.
        """
        answer: Answer | None = None
        problem: SchedulerUnavailable | None = None
        while True:
            try:
                if problem is not None:
                    command = dialogue.throw(problem)
                else:
                    # A generator's first step is sent None.
                    command = next(dialogue) if answer is None else dialogue.send(answer)
            except StopIteration as end:
                told: T = end.value
                return told
            problem = None
            try:
                answer = await self._answer(command)
            except SchedulerUnavailable as error:
                problem = error

    async def _answer(self, command: Command) -> Answer:
        environ = self.dialect.query_environ(os.environ)
        answer = await self._run(self.name, command.words, environ=environ, timeout=command.timeout)
        return self.dialect.require(answer) if command.strict else answer
