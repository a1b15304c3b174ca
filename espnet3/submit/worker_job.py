"""dask-jobqueue's job classes, made to run espnet3's worker where they run Dask's."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, NamedTuple

from pydantic import JsonValue

from espnet3._jobqueue import Job
from espnet3.schedulers.commands import ask
from espnet3.schedulers.dialect import Dialect, JobParts
from espnet3.submit.shell_traps import in_place_of_the_shell

# The base class builds Dask's command in its constructor, and HTCondor's folds the prologue into it
# there; this stands for the worker until the script is rendered.
_MARKER = "<espnet3 worker>"


def worker_job_cls(
    base: type[Job],
    dialect: Dialect,
    options: Mapping[str, JsonValue],
    submit_timeout: float,
    stated: Collection[str] = (),
) -> type[Job]:
    """A subclass that runs espnet3's worker where the base class runs Dask's.

    Args:
        base: a job class of dask-jobqueue.
        dialect: of its scheduler.
        options: those that are really used.
        submit_timeout: seconds that the submit command is given.
        stated: names of the options that somebody has set.

    Attributes that a hook may use: `submit_command` (class), `worker_command` and
    `submit_arguments` (instance, set when the job is rendered), and all of the base class.
    """

    class EspnetJob(_WorkerJob, base):  # type: ignore[misc,valid-type]
        made_for = _MadeFor(base, dialect, options, submit_timeout, stated)

    return EspnetJob


class _MadeFor(NamedTuple):
    """What `worker_job_cls` is given."""

    base: type[Job]
    dialect: Dialect
    options: Mapping[str, JsonValue]
    submit_timeout: float
    stated: Collection[str]


class _WorkerJob(Job):
    """What differs from a job of Dask's; stands before the base class in the order of look-up."""

    made_for: ClassVar[_MadeFor]
    worker_command = ""
    submit_arguments: list[str] = []  # noqa: RUF012 (replaced in each instance)
    parts = JobParts([])  # replaced in each instance

    @property
    def _command_template(self) -> str:
        if not self.worker_command:
            return self._template
        # Replacing the shell lets signals meant for the batch script reach the worker.
        worker = self.worker_command
        if self._template == _MARKER:
            lines = [one for one in self._job_script_prologue or () if one.strip()]
            users = [one for one in lines if one not in self.parts.prologue]
            worker = in_place_of_the_shell(worker, users, self.shebang or "")
        command = self._template.replace(_MARKER, worker)
        if not self.made_for.dialect.prologue_in_command:
            return command
        return "\n".join([*filter(None, self._job_script_prologue or ()), command])

    @_command_template.setter
    def _command_template(self, command: str) -> None:
        # What the constructors make of it; later ones are a hook's. The prologue is put in when
        # all is known, since a hook may change that, too.
        folded = "; ".join([*(self._job_script_prologue or ()), _MARKER])
        ours = not hasattr(self, "_template") or command == folded
        self._template = _MARKER if ours else command

    def job_script(self) -> str:
        return self.parts.amend(super().job_script())  # type: ignore[no-untyped-call]

    def submit_words(self) -> list[str]:
        words = shlex.split(self.submit_command)
        # HTCondor's constructor appends options to the base's command; a hook may replace that.
        before = shlex.split(self.made_for.base.submit_command)
        if "submit_command" in vars(self) and words[: len(before)] == before:
            words = [*shlex.split(type(self).submit_command), *words[len(before) :]]
        return [*words, *self.submit_arguments]

    async def _submit_job(self, script_filename: str) -> str:
        with open(script_filename) as file:  # noqa: ASYNC230 (a moment ago written, here)
            script = file.read()
        call = self.made_for.dialect.submit_call(
            self.submit_words(), script_filename, script, self.made_for.options
        )
        return await self._call(call.words, stdin=call.stdin)

    @classmethod
    async def _call(
        cls, cmd: list[str], *, shell: bool = False, stdin: str | None = None, **kwargs: Any
    ) -> str:
        # Instead of the base class's, which waits for ever and hands on the variables of an
        # enclosing job.
        dialect = cls.made_for.dialect
        environ = kwargs.get("env") or dialect.submit_environ(os.environ, cls.made_for.stated)
        answer = await ask(
            dialect.name,
            cmd,
            environ=environ,
            timeout=cls.made_for.submit_timeout,
            shell=shell,
            stdin=stdin,
        )
        if answer.code != 0:
            said = answer.err.strip() or answer.out.strip()
            raise RuntimeError(said or f"{cmd[0]} ended with exit code {answer.code}")
        return answer.out
