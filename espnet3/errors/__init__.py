"""Every error that espnet3 raises on purpose, grouped by what a handler would do about it.

```
EspnetError
├── UsageError             the call or a file that the user wrote is wrong: mend it, call again
│   ├── ConfigError            a value of the parallel config, the config file or an option
│   │   └── MissingExtra           it needs a package that is not installed
│   ├── ItemsError             the items cannot be planned
│   ├── ClassError             a provider or runner cannot be found again on a worker
│   ├── PreflightError         provider or runner cannot be rebuilt in a clean process
│   ├── PlanMismatch           the run directory holds a run of another plan
│   ├── OutputError            the folder for what a runner writes is missing, or of another plan
│   ├── CodeChanged            source files differ from those that were submitted: say which
│   ├── RunDirectoryError      the path is not a run directory, or cannot be one
│   └── Untrusted              others could have written what would be run here
├── FormatError            a persisted file cannot be used as it is
│   ├── InvalidFile            it breaks its schema: truncated, unknown field, wrong type
│   │   └── FileTooLarge           it has more bytes than any of its kind
│   └── NewerFormat            a later espnet3 wrote it: upgrade
├── StoreError             the storage said no
│   ├── FileMissing            there is no such file
│   └── FileTaken              an exclusive create found the name taken
├── SchedulerError         the scheduler said no, or nothing
│   ├── NoWorkers              a Dask cluster got no worker in time
│   ├── SchedulerUnavailable   it does not answer: nothing is known, try again
│   └── SubmissionRefused      it refused a job; its own words are in the message
├── RunError               the run's results are not what was asked for
│   ├── IncompleteRun          shards have no receipt: resume, or collect what there is
│   ├── DamagedResult          a receipt, or a result file that it vouches for: resume with repair
│   └── FailedItems            items were recorded as failed (on_error: record)
└── WorkError              the user's own code failed while items were computed
    ├── EnvironmentFailed      the provider raised while it built the environment
    ├── ForwardFailed          `forward` raised
    ├── WriterFailed           a hook that writes results raised
    ├── UnserializableResult   `forward` returned what the result format cannot hold
    ├── TooManyErrors          more items of a shard failed than `max_errors` allows
    └── WorkersKilled          an item keeps killing the Dask workers that compute it
```

Each error is one line for a person: what was wrong, where, what to do. Fields are for programs.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from espnet3.errors.base import EspnetError
from espnet3.errors.work import (
    EnvironmentFailed,
    ForwardFailed,
    TooManyErrors,
    UnserializableResult,
    WorkError,
    WorkersKilled,
    WriterFailed,
)
from espnet3.text import counted, one_line, plural

__all__ = [
    "ClassError", "CodeChanged", "ConfigError", "DamagedResult", "EnvironmentFailed", "EspnetError",
    "FailedItems", "FileMissing", "FileTaken", "FileTooLarge", "FormatError", "ForwardFailed",
    "IncompleteRun", "InvalidFile", "ItemsError", "MissingExtra", "NewerFormat", "NoWorkers",
    "OutputError", "PlanMismatch", "PreflightError", "RunDirectoryError", "RunError",
    "SchedulerError",
    "SchedulerUnavailable", "StoreError", "SubmissionRefused", "TooManyErrors",
    "UnserializableResult", "Untrusted", "UsageError", "WorkError", "WorkersKilled", "WriterFailed",
]  # fmt: skip


class UsageError(EspnetError):
    """What the user wrote is wrong; the same call will fail again until it is mended."""


class ConfigError(UsageError, ValueError):
    """A configuration value is wrong; `field` is its dotted name (`parallel.n_workers`).

    It is a ValueError, too, as ESPnet3 raises.
    """

    def __init__(self, field: str, problem: str) -> None:
        self.field = field
        super().__init__(f"{field}: {problem}" if field else problem)


class MissingExtra(ConfigError, ImportError, RuntimeError):
    """A configuration value needs a package that is not installed; the message says which.

    It is a RuntimeError, too, as ESPnet3 raises, and an ImportError.
    """


class ItemsError(UsageError):
    """The items cannot be planned: there are none, or one of them is not JSON."""


class ClassError(UsageError):
    """A class cannot be found again by a worker; `name` is what the user calls it."""

    def __init__(self, name: str, problem: str) -> None:
        self.name = name
        super().__init__(f"{name}: {problem}")


class PreflightError(UsageError):
    """Provider or runner cannot be rebuilt in a clean process; `output` is all that it printed."""

    def __init__(self, problem: str, output: str) -> None:
        self.output = output
        super().__init__(f"{problem}; nothing was submitted (preflight: false skips this check)")


class PlanMismatch(UsageError, RuntimeError):
    """The run directory holds a run of another plan.

    It is a RuntimeError, too, as ESPnet3 raises.

    Attributes:
        run_dir: the run directory.
        field: the first field in which the plans differ.
    """

    def __init__(
        self, run_dir: str, field: str, there: str, here: str, *, has_writers: bool = False
    ) -> None:
        self.run_dir, self.field, self.there, self.here = run_dir, field, there, here
        what = field
        for name, word in _OF_THE_PLAN.items():
            if field == name or field.startswith(f"{name}."):
                what = word + field.removeprefix(name)
        advice = "choose another run_dir"
        if has_writers:  # the run lies in its output folder, which is what their users name
            words = shlex.join(["espnet3", "remove", run_dir])
            advice = (
                f"choose another output_dir, or remove that run by `{words}`, which says what else "
                "would go"
            )
        if field == "on_error":
            setting = "on_error=" + here.strip("'")
            words = shlex.join(["espnet3", "resume", run_dir, "--set", setting])
            advice += f", or go on with it by `{words}`"
        verb = "is " if there == "not set" else ""  # as `submit.plan` says it of what is missing
        super().__init__(
            f"{run_dir} holds another run: {what} is {one_line(there, 120)} in that run and "
            f"{verb}{one_line(here, 120)} here; {advice}"
        )


# What a user calls the fields of a plan that have another name in run.json.
_OF_THE_PLAN = {
    "provider.args.0.value": "config",  # as the YAML does, and what an EnvironmentProvider takes
    "n_inputs": "the number of items",
    "items_digest": "the checksum of the items",
    "world_size": "the number of shards (n_shards)",
    "fingerprint": "the checksum of the plan",
}


class CodeChanged(UsageError):
    """Source `files` differ from those that the run in `run_dir` was submitted with."""

    def __init__(self, run_dir: str, files: list[str], problem: str) -> None:
        self.run_dir, self.files = run_dir, files
        super().__init__(f"{run_dir}: {problem}")


class OutputError(UsageError, RuntimeError):
    """The `output_dir` of a runner that writes its results is missing, or cannot be used.

    It is a RuntimeError, too, as ESPnet3 raises.

    Attributes:
        folder: which it is; empty where there is none.
    """

    def __init__(self, folder: str, problem: str) -> None:
        self.folder = folder
        super().__init__(f"{folder}: {problem}" if folder else f"output_dir: {problem}")


class RunDirectoryError(UsageError):
    """A path or URL, `run_dir`, is not a run directory, or cannot become one."""

    def __init__(self, run_dir: str, problem: str) -> None:
        self.run_dir = run_dir
        super().__init__(f"{run_dir}: {problem}")


class Untrusted(UsageError):
    """Others could have written what this process would import or unpickle.

    Of the file or folder `path`, `problem` says who could, and what to do about it.
    """

    def __init__(self, path: str, problem: str) -> None:
        self.path, self.problem = path, problem
        super().__init__(f"{path} is not to be trusted: {problem}")


class FormatError(EspnetError):
    """A persisted file, `file`, cannot be used as it is."""

    file: str


class InvalidFile(FormatError):
    """A persisted file breaks its schema.

    Attributes:
        file: the file.
        field: dotted name of the first wrong field, or "" where the file as a whole is wrong.
    """

    def __init__(self, file: str, field: str, problem: str) -> None:
        self.file, self.field = file, field
        where = f"{file}: field {one_line(field)}" if field else file
        super().__init__(f"{where}: {one_line(problem)}")


class FileTooLarge(InvalidFile):
    """A file has more bytes than any of its kind; it was not read."""

    def __init__(self, file: str, size: int, limit: int) -> None:
        super().__init__(file, "", f"has {size} bytes; the limit is {limit}, so it was not read")


class NewerFormat(FormatError):
    """A persisted file was written by a later espnet3."""

    def __init__(self, file: str, found: int, supported: int) -> None:
        self.file, self.found, self.supported = file, found, supported
        super().__init__(
            f"{file}: field schema_version: is {found}, but this espnet3 reads up to {supported}; "
            "upgrade espnet3"
        )


class StoreError(EspnetError):
    """The storage said no; `file` is the file or folder."""

    def __init__(self, file: str, problem: str) -> None:
        self.file = file
        super().__init__(f"{file}: {problem}")


class FileMissing(StoreError):
    """There is no such file."""

    def __init__(self, file: str) -> None:
        super().__init__(file, "no such file")


class FileTaken(StoreError):
    """An exclusive create found the name taken; what is published is never edited."""

    def __init__(self, file: str) -> None:
        super().__init__(file, "exists already")


class SchedulerError(EspnetError):
    """The scheduler said no, or nothing."""


class SchedulerUnavailable(SchedulerError):
    """The scheduler does not answer, so nothing is known of its jobs; `scheduler` is its name."""

    def __init__(self, scheduler: str, problem: str) -> None:
        self.scheduler = scheduler
        advice = "" if "; " in problem else "; try again, on a host where its commands work"
        super().__init__(f"{scheduler}: {one_line(problem)}{advice}")


class NoWorkers(SchedulerError):
    """A Dask cluster got no worker in time.

    Attributes:
        env: where the workers should run.
        reason: what the scheduler says of the jobs, or "".
    """

    def __init__(self, env: str, seconds: float, reason: str) -> None:
        self.env, self.reason = env, reason
        said = f" (the scheduler says: {one_line(reason)})" if reason else ""
        super().__init__(
            f"{env}: no worker came within {seconds:g} s{said}; fix the options, or wait longer "
            "with parallel.start_timeout"
        )


class SubmissionRefused(SchedulerError):
    """The scheduler, whose name is `scheduler`, refused a job, and said `words`."""

    def __init__(self, scheduler: str, words: str, then: str = "resume the run") -> None:
        self.scheduler, self.words = scheduler, words
        super().__init__(
            f"{scheduler} refused the job: {one_line(words)}; fix the options and {then}"
        )


class RunError(EspnetError):
    """The run's results are not what was asked for."""


class IncompleteRun(RunError):
    """Shards have no receipt.

    Attributes:
        run_dir: the run directory.
        causes: rank -> state and cause, for every shard that is not done.
    """

    def __init__(self, run_dir: str, world_size: int, causes: Mapping[int, str]) -> None:
        self.run_dir, self.causes = run_dir, dict(causes)
        first = sorted(causes.items())[:5]
        shown = "; ".join(f"shard {rank} {one_line(cause, 160)}" for rank, cause in first)
        more = f"; and {len(causes) - 5} more" if len(causes) > 5 else ""
        live = all(cause.startswith(("queued", "running")) for cause in causes.values())
        are, them = ("is", "it") if len(causes) == 1 else ("are", "them")
        advice = f"wait for {them}" if live else "resume the run"
        super().__init__(
            f"{run_dir}: {len(causes)} of {counted(world_size, 'shard')} {are} not done: "
            f"{shown}{more}; "
            f"{advice}, or collect what there is with `--partial`"
        )

    @property
    def ranks(self) -> list[int]:
        """Ranks of the shards that are not done, in order."""
        return sorted(self.causes)


class DamagedResult(RunError):
    """A result file is not what its receipt vouched for, or the receipt itself is damaged.

    Attributes:
        file: the result file, or the receipt.
        rank: the shard.
        run_dir: the run directory.
        problem: what is wrong with the file.
    """

    def __init__(self, file: str, rank: int, problem: str, run_dir: str) -> None:
        self.file, self.rank, self.run_dir, self.problem = file, rank, run_dir, problem
        super().__init__(
            f"{file}: {problem}; to compute again what is damaged of shard {rank}, run "
            f"`espnet3 resume {shlex.quote(run_dir)} --repair`"
        )


class FailedItems(RunError):
    """Items were recorded as failed (`on_error: record`), or passed over (`resume --skip`).

    `count` is how many they are, in the shards `ranks`; `skipped` of them were passed over. Where
    the runner's `merge` makes the output (`merges`), there are no places for their errors in it.
    """

    def __init__(
        self,
        run_dir: str,
        count: int,
        ranks: list[int],
        skipped: int = 0,
        *,
        merges: bool = False,
    ) -> None:
        self.run_dir, self.count, self.ranks, self.skipped = run_dir, count, ranks, skipped
        shown = ", ".join(map(str, ranks[:10])) + (" …" if len(ranks) > 10 else "")
        words = []
        for n, what in ((count - skipped, "failed and {} recorded"), (skipped, "{} skipped")):
            if n:
                words.append(f"{counted(n, 'item')} {what.format('was' if n == 1 else 'were')}")
        which = "failed" if skipped < count else "skipped"
        them, places = ("it", "its place") if count == 1 else ("them", "their places")
        keep = f"merge the others without {them}" if merges else f"get {them} in {places}"
        super().__init__(
            f"{run_dir}: {', '.join(words)}, in {plural(len(ranks), 'shard')} {shown}; "
            f"collect with `--errors keep` to {keep}, or compute {them} again: "
            f"`espnet3 resume {shlex.quote(run_dir)} --items {which}`"
        )
