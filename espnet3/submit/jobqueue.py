"""Jobs through dask-jobqueue's own job classes.

No cluster object is made: a job class renders and submits a script without a Dask scheduler, so
nothing of the submitter has to live on. Users keep all options and their jobqueue.yaml.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import shlex
import shutil
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, cast

import dask
from pydantic import JsonValue

from espnet3._jobqueue import CLUSTERS, Job, JobQueueCluster, used_options
from espnet3.config.model import ParallelConfig, did_you_mean
from espnet3.config.option_kinds import RENAMED
from espnet3.errors import ClassError, ConfigError, SchedulerUnavailable, SubmissionRefused
from espnet3.redaction import masked_text
from espnet3.run_dir.processes import this_process
from espnet3.run_dir.worker_command import changed, without_python
from espnet3.schedulers import get_dialect
from espnet3.schedulers.batch_system import BatchSystem
from espnet3.schedulers.commands import NoAnswer
from espnet3.schedulers.dialect import Dialect, JobRequest
from espnet3.schedulers.job_options import check_options, with_new_names
from espnet3.schedulers.walltimes import hours_minutes_seconds
from espnet3.specs.finishing import Finisher
from espnet3.specs.models import AcceptedJob, PlannedJob, Submission
from espnet3.storage.paths import as_entered
from espnet3.submit.launcher import Launcher, Rendered
from espnet3.submit.plan import JobShape, shape_jobs
from espnet3.submit.worker_job import worker_job_cls
from espnet3.text import one_line

# Given by espnet3 or by a cluster object, never by a user's options.
_RESERVED = frozenset({"self", "scheduler", "name", "job_cls"})
# How long after a submit command without an answer the queue is searched for its job, in seconds.
_LOOKS = (0.0, 1.0, 2.0)


class JobQueueLauncher(Launcher):
    """Submits through the job class of a dask-jobqueue cluster."""

    def __init__(self, parallel: ParallelConfig, runner: type[Any]) -> None:
        self._dialect = get_dialect(parallel.env)
        self._scheduler = BatchSystem(self._dialect)
        self._n_workers, self._job_array = parallel.n_workers, parallel.job_array
        self._submit_timeout = parallel.submit_timeout
        self.without_nodes = parallel.exclude_nodes
        self._runner_name = runner.__name__
        cluster = CLUSTERS[parallel.env]
        self._base: type[Job] = cluster.job_cls
        job_options = _parameters(self._base) | self._dialect.own_options
        known = job_options | _parameters(cluster)
        for name in parallel.options:
            if name == "n_workers":
                raise ConfigError("parallel.options.n_workers", "belongs beside options, not in it")
            if name not in known:
                raise ConfigError(
                    f"parallel.options.{name}",
                    f"dask-jobqueue's {self._base.__name__} has no such option"
                    f"{did_you_mean(name, known)}",
                )
        # Options of the cluster object alone concern a Dask scheduler; there is none here.
        given = {k: v for k, v in parallel.options.items() if k in job_options}
        used = used_options(self._base, given, job_options)
        check_options(
            self._dialect, used.values, lambda name: used.place(given, name), detached=True
        )
        values = with_new_names(used.values)
        # The others dask-jobqueue finds by itself, but not what we have corrected or renamed.
        found = {n: v for n, v in used.values.items() if n not in {*given, *used.corrected}}
        ours = {n: v for n, v in values.items() if n not in found or found[n] != v}
        self._given = self._dialect.adapted(ours)
        self._section, self._stated = used.section, used.stated
        self.options = dict(sorted({**values, **self._given}.items()))
        for name in ("cores", "memory"):
            if self.options.get(name) is None:
                raise ConfigError(
                    f"parallel.options.{name}",
                    f"is missing; dask-jobqueue needs it, for example `{name}: "
                    f"{'1' if name == 'cores' else '4GB'}`",
                )
        _check_sizes(self.options)
        self._dialect.check(self.options)
        _check_walltime(self.options.get("walltime"), self._dialect)
        _check_lines(self.options)
        self.python = str(self.options.get("python") or shlex.quote(as_entered(sys.executable)))
        self.log_directory = cast("str | None", self.options.get("log_directory"))
        self._job_cls = self._make_job_cls(runner)
        self._new_job()  # so that a wrong option is found before anything is written
        self._require_command()

    def _make_job_cls(self, runner: type[Any]) -> type[Job]:
        """One subclass for the whole submission, changed by the runner's hook."""
        mine = worker_job_cls(
            self._base, self._dialect, self.options, self._submit_timeout, self._stated
        )
        self._hook = f"{runner.__qualname__}.customize_job_cls"
        try:
            chosen = runner.customize_job_cls(mine)
        except Exception as error:  # the hook is the user's code
            raise self._hook_failed(error) from error
        if not (isinstance(chosen, type) and issubclass(chosen, mine)):
            raise ClassError(
                self._hook,
                f"must return the class that it was given or a subclass of it, "
                f"got {one_line(repr(chosen), 80)}",
            )
        return chosen

    def _hook_failed(self, error: Exception) -> ClassError:
        return ClassError(self._hook, f"raised {type(error).__name__}: {one_line(str(error))}")

    def _require_command(self) -> None:
        command = shlex.split(self._job_cls.submit_command)[0]
        if shutil.which(command) is None:
            raise SchedulerUnavailable(
                self._scheduler.name,
                f"{command} is not on this host's PATH; submit from a login node of the cluster",
            )

    async def require_reachable(self) -> None:
        await self._scheduler.identified()

    async def max_array_size(self) -> int:
        return await self._scheduler.max_array_size()

    def shape_jobs(self, n_tasks: int, max_array_size: int) -> Sequence[JobShape]:
        throttled = self._dialect.can_throttle or n_tasks <= self._n_workers
        shapes = shape_jobs(
            n_tasks,
            self._n_workers,
            job_array=self._job_array and throttled,
            max_array_size=max_array_size,
        )
        if not self._dialect.can_wait and any(job.after is not None for job in shapes):
            other = "raise max_array_size" if self._job_array else "leave job_array on"
            raise ConfigError(
                "parallel.n_workers",
                f"is {self._n_workers} for {len(shapes)} jobs, so some would have to wait for "
                f"others, and {self._scheduler.name} cannot do that; {other}, or raise n_workers "
                f"to {len(shapes)}",
            )
        return shapes

    def job_name_prefix(self) -> str:
        name = str(self.options.get("job_name") or "")
        if re.search(r"[\x00-\x1f\x7f]", name):
            raise ConfigError("parallel.options.job_name", "has a control character")
        return self._runner_name if name in ("", "dask-worker") else name

    def _new_job(self, prologue: Sequence[str] = ()) -> Any:
        own = self._dialect.own_options
        options: dict[str, Any] = {k: v for k, v in self._given.items() if k not in own}
        lines = cast("list[str]", self.options.get("job_script_prologue") or [])
        if prologue or lines:  # the user's jobqueue.yaml included, so that a hook can add to it
            options["job_script_prologue"] = [*prologue, *lines]
        # Name and logs are given on the command line, where nothing has to be quoted.
        options["job_name"] = re.sub(r"[^A-Za-z0-9._-]", "_", self.job_name_prefix())
        options.pop("log_directory", None)
        # What has old names stands under the new ones already.
        unset = ("log-directory", *(name.replace("_", "-") for name in RENAMED))
        with dask.config.set({f"jobqueue.{self._section}.{key}": None for key in unset}):
            try:
                return self._job_cls(scheduler=None, name="espnet3", **options)
            except (TypeError, ValueError) as error:
                raise ConfigError("parallel.options", one_line(str(error))) from None
            except Exception as error:  # a constructor of the user's hook
                raise self._hook_failed(error) from error

    async def _job(self, submission: Submission, job: PlannedJob, after: Sequence[str] = ()) -> Any:
        """A job to be rendered or submitted; `after` is as for `JobRequest`."""
        words = changed(submission.worker_command, first_task=job.first_task)
        return await self._job_of(words, job, submission.log_directory, after)

    async def _job_of(
        self, words: Sequence[str], job: PlannedJob, log_directory: str, after: Sequence[str]
    ) -> Any:
        worker = f"{self.python} {shlex.join(without_python(words, self.python))}"
        nodes = await self._scheduler.node_names(self.without_nodes)
        array = self._job_array
        request = JobRequest(job, log_directory, array, after, self.options, nodes)
        parts = (await self._scheduler.identified()).request(request)
        rendered = self._new_job(parts.prologue)
        rendered.parts = parts
        rendered.worker_command = worker
        rendered.submit_arguments = list(parts.arguments)
        return rendered

    async def render(self, submission: Submission, job: PlannedJob) -> Rendered:
        after = () if job.after is None else (f"<id of {submission.jobs[job.after].name}>",)
        rendered = await self._job(submission, job, after)
        return Rendered(rendered.job_script(), rendered.submit_words())

    def require_finishers(self) -> None:
        if not self._dialect.can_wait:
            raise ConfigError(
                "parallel.finish",
                f"needs jobs that wait for the end of others, which {self._scheduler.name} does "
                "not have; leave it out, and call `espnet3 finish RUN_DIR --now` when they ended",
            )

    async def _finisher(self, finisher: Finisher, waits_for: Sequence[str]) -> Any:
        after = await self._scheduler.awaited(waits_for)
        return await self._job_of(finisher.command, finisher.job, finisher.log_directory, after)

    async def render_finisher(self, finisher: Finisher) -> Rendered:
        rendered = await self._finisher(finisher, finisher.waits_for)
        return Rendered(rendered.job_script(), rendered.submit_words())

    async def launch_finisher(self, finisher: Finisher) -> str:
        waits_for: Sequence[str] = finisher.waits_for
        try:
            return await self._submit(await self._finisher(finisher, waits_for), finisher.job)
        except SubmissionRefused:
            # A job that is over may be unknown by now, and then none can be told to wait for it.
            waits_for = await self._scheduler.not_ended(waits_for)
            if waits_for == finisher.waits_for:
                raise
        return await self._submit(await self._finisher(finisher, waits_for), finisher.job)

    async def launch(self, submission: Submission) -> AsyncGenerator[AcceptedJob]:
        ids: list[str] = []
        for planned in submission.jobs:
            after: Sequence[str] = () if submission.ahead is None else submission.ahead.waits_for
            if planned.after is not None:
                after = (ids[planned.after],)
                if submission.jobs[planned.after].n_tasks > 1:
                    after = await self._scheduler.awaited(after)
            job = await self._job(submission, planned, after)
            ids.append(await self._submit(job, planned))
            yield AcceptedJob(name=planned.name, job_id=ids[-1])

    async def _submit(self, job: Any, planned: PlannedJob) -> str:
        """Submit a job; its id, also where the command failed and the job is in the queue."""
        silent = False
        with job.job_file() as script:
            try:
                output = await job._submit_job(script)
            except NoAnswer as error:
                words, silent = str(error), True
            except SchedulerUnavailable:
                raise  # the command could not be run, so nobody has refused anything
            except (OSError, RuntimeError) as error:
                words = str(error)
            else:
                job_id = self._scheduler.parse_job_id(output)
                if job_id is not None:
                    return job_id
                words = output or "the submit command printed nothing"
                ids = dict.fromkeys(self._scheduler.job_ids(output))
                if ids:  # a wrong one would be another job's, which a cancel would end
                    words = f"the submit command printed several ids ({', '.join(ids)})"
                    silent = True
        words = masked_text(words)  # a site's command may repeat the options that it was given
        # The command may have failed although the job was accepted ("Socket timed out").
        silent = silent or self._scheduler.no_answer.search(words) is not None
        there = f"and no job {planned.name} is in the queue"
        try:
            found = await self._look_up(planned, patiently=silent)
        except SchedulerUnavailable as error:
            there = f"nor can the queue be searched for {planned.name} ({error})"
        else:
            if found is not None:
                return found
        if not silent:
            raise SubmissionRefused(self._scheduler.name, words)
        said = words.removeprefix(f"{self._scheduler.name}: ").partition("; ")[0]
        raise SchedulerUnavailable(
            self._scheduler.name,
            f"{one_line(said, 200)}, {there}; resume the run later (a job that was accepted all "
            "the same is found then), or raise parallel.submit_timeout",
        )

    async def _look_up(self, planned: PlannedJob, *, patiently: bool) -> str | None:
        """The id of a job that the scheduler may have accepted, by its unique name.

        A busy scheduler may accept it a moment after the command that asked for it has given up.
        """
        for pause in _LOOKS if patiently else _LOOKS[:1]:
            await asyncio.sleep(pause)
            found = await self._scheduler.find([planned], this_process().user)
            if found:
                return found[0].job_id
        return None


def _parameters(cls: type[Any]) -> set[str]:
    """The keyword arguments that a job or cluster class takes, with those of its bases."""
    ends = (Job, JobQueueCluster)
    names: set[str] = set()
    for base in cls.__mro__[: next(i for i, c in enumerate(cls.__mro__) if c in ends) + 1]:
        given = inspect.signature(cast(Any, base).__init__).parameters
        names |= {name for name, one in given.items() if one.kind is not one.VAR_KEYWORD}
    return names - _RESERVED


def _check_sizes(options: Mapping[str, JsonValue]) -> None:
    """Refuse what dask-jobqueue would fail to compute with, in the words of its arithmetic."""
    for name in ("cores", "processes"):
        value = options.get(name)
        if value is not None and (type(value) is not int or value < 1):
            problem = f"must be an integer from 1, got {one_line(repr(value), 60)}"
            raise ConfigError(f"parallel.options.{name}", problem)
    memory = options["memory"]
    try:
        fine = isinstance(memory, str | int | float) and dask.utils.parse_bytes(memory) > 0
    except ValueError:
        fine = False
    if not fine:
        problem = f"must be a size such as 4GB, got {one_line(repr(memory), 60)}"
        raise ConfigError("parallel.options.memory", problem)


def _check_lines(options: Mapping[str, JsonValue]) -> None:
    """Options stand in one line of the script each; what follows a line break would be run."""
    for name, value in options.items():
        if isinstance(value, list) and name != "job_extra_directives":
            continue  # a prologue, whose lines are meant to be run
        parts = value if isinstance(value, list) else [value]
        if name != "job_name" and any(re.search(r"[\n\r\0]", str(part)) for part in parts):
            raise ConfigError(f"parallel.options.{name}", "has a line break or a NUL")
    try:
        shlex.split(str(options.get("python") or ""))
    except ValueError as error:
        raise ConfigError("parallel.options.python", f"is not a command: {error}") from None


def _check_walltime(walltime: JsonValue, dialect: Dialect) -> None:
    """YAML 1.1 reads 12:00:00 as a number to the base of 60, of seconds."""
    if not isinstance(walltime, int) or walltime < 3600:
        return
    if dialect.walltime_seconds(walltime) != walltime:
        raise ConfigError(
            "parallel.options.walltime",
            f"is the number {walltime}, which is what YAML makes of "
            f"{hours_minutes_seconds(walltime)}; put it in quotes",
        )
