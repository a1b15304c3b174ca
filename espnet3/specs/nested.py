"""What persisted models are made of; they have no files of their own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, Field, JsonValue

from espnet3.specs.base import NestedModel
from espnet3.specs.plain import finite

ATTEMPT = r"[0-9]{4,}-[0-9a-f]{12}"


def _utf8(text: str) -> str:
    """Python holds bytes of foreign file names as lone surrogates, which JSON cannot hold."""
    return text.encode("utf-8", "backslashreplace").decode()


def within(path: str) -> str:
    """A file's path, which may not lead out of its folder, whoever wrote the record.

    Raises:
        ValueError: it does.

    Example:
        >>> within("audio/7.npy")
        'audio/7.npy'
    """
    if not path or path.startswith("/") or "\0" in path or ".." in path.split("/"):
        raise ValueError("leads out of the folder")
    return path


Text = Annotated[str, AfterValidator(_utf8)]
PlainJson = Annotated[JsonValue, AfterValidator(finite)]
Rank = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Generation = Annotated[int, Field(ge=1)]
# A worker's name is made as an attempt's is: the submission that it works for, and a random token.
WorkerName = Annotated[str, Field(pattern=rf"^{ATTEMPT}$")]
AttemptName = Annotated[str, Field(pattern=rf"^{ATTEMPT}$")]
ResultName = Annotated[str, Field(pattern=rf"^[0-9]{{6,}}\.{ATTEMPT}\.[0-9]+\.jsonl$")]
Checksum = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]

# Seconds of audio, say, or any other measure of how long an item or shard takes.
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PowerOfTwo = Annotated[int, Field(ge=-30, le=30)]  # of seconds: nanoseconds to decades
MAX_SHARDS = 1_000_000  # so that a number in a file cannot keep a reader busy for ever


class ClassReference(NestedModel):
    """Where a worker finds a class again.

    `file` is set where the class was defined in the submitted script itself, which has no module
    name that can be imported.
    """

    module: str
    qualname: str
    file: str | None = None

    def __str__(self) -> str:
        return f"{self.file or self.module}:{self.qualname}"


Kind = Literal[
    "enum", "path", "bytes", "number", "scalar", "tuple", "list", "set", "mapping", "pairs",
    "fields", "interpolation", "omegaconf", "function",
]  # fmt: skip


class RestoredValue(NestedModel):
    """A value of which JSON holds the contents only: where it stands, and what it was.

    `at` are the keys and positions that lead to it; inner values come before what holds them.
    `docs/format.md` has what stands in the JSON for each kind. `flags` are the set ones of an
    OmegaConf container, `text` is that of an interpolation, whose result stands in the JSON.
    """

    at: list[str | int]
    kind: Kind
    cls: ClassReference | None = None
    flags: dict[Literal["struct", "readonly"], bool] = {}
    text: str | None = None


class Argument(NestedModel):
    """A value as JSON; `omegaconf` says that it was a DictConfig or ListConfig."""

    value: PlainJson
    omegaconf: bool = False
    restored: list[RestoredValue] = []


class ProviderSpec(NestedModel):
    """How to construct the provider again: its class and the arguments it was constructed with.

    `attributes` are those that were changed since, as they were at the call.
    """

    cls: ClassReference
    args: list[Argument] = []
    kwargs: dict[str, Argument] = {}
    attributes: dict[str, Argument] = {}

    def given(self) -> list[Argument]:
        """All values that the provider is made of."""
        return [*self.args, *self.kwargs.values(), *self.attributes.values()]


class WritersSpec(NestedModel):
    """What is needed of a runner that writes its results; see `docs/format.md`.

    `attributes` are the runner's own, which `merge` may read.
    """

    output_dir: str
    shard_subdir: str = ""
    append_only: bool = False
    attributes: dict[str, Argument] = {}


class Assignment(NestedModel):
    """A variable of a class or module that the user's process had changed since the import.

    `qualname` of `target` is empty where it is the module itself.
    """

    target: ClassReference
    name: str
    value: Argument


class WarningFilter(NestedModel):
    """An entry of `warnings.filters`; `message` and `module` are patterns."""

    action: str
    message: str | None = None
    category: ClassReference
    module: str | None = None
    lineno: Count = 0


class ProcessState(NestedModel):
    """What else of the submitter's process a worker takes over; see `docs/process-state.md`.

    `main` is its main module, with an empty `qualname`, and `initial_argv` what that saw as
    `sys.argv`, where this was changed since. `flags` and `start_environment` are what an
    interpreter has to be started with; `environment` are the variables that were changed in Python,
    None for those that were removed. `hidden_modules` are imported before `sys_path` is entered,
    where they would be hidden.
    """

    argv: list[str]
    initial_argv: list[str] | None = None
    main: ClassReference | None = None
    flags: list[str] = []
    start_environment: dict[str, str] = {}
    environment: dict[str, str | None] = {}
    umask: Count | None = None
    recursion_limit: Annotated[int, Field(ge=1)] | None = None
    int_max_str_digits: Count | None = None
    start_method: Literal["fork", "forkserver", "spawn"] | None = None
    locale: dict[str, str] = {}
    warning_filters: list[WarningFilter] = []
    hidden_modules: list[str] = []


class ProcessIdentity(NestedModel):
    """A process, so that another process of the same host can tell whether it still lives."""

    host: str
    pid: Annotated[int, Field(ge=1)]
    started: float
    user: str


class PlannedJob(NestedModel):
    """One job or job array of a submission: tasks `first_task` … `first_task + n_tasks - 1`.

    It starts when the job at position `after` has ended, in whatever way. In `log`, `{index}`
    stands for the index in the job.
    """

    name: str
    first_task: Count
    n_tasks: Annotated[int, Field(ge=1)]
    throttle: Annotated[int, Field(ge=1)] | None = None
    after: Count | None = None
    log: str


class QueuedAhead(NestedModel):
    """That a submission is a wave which was queued before anybody knew whether it is needed.

    Its jobs start when the jobs `waits_for` have ended, and have nothing to do where the end of the
    run with the number `end` is there by then.
    """

    wave: Annotated[int, Field(ge=1)]
    end: Generation
    waits_for: list[str]


class AcceptedJob(NestedModel):
    """A job that the scheduler accepted; `name` is the unique name of its planned job."""

    name: str
    job_id: str


class ErrorRecord(NestedModel):
    """An exception of the user's code."""

    type: Text
    message: Text
    traceback: Text = ""


class SkippedItem(NestedModel):
    """An item for which `forward` is not called: its shard, its position there, and why."""

    rank: Rank
    position: Count
    cause: Text = ""


class Usage(NestedModel):
    """What an attempt took, as its worker measured it.

    Attributes:
        began: when the attempt began.
        seconds: from there to the record that this stands in.
        environment: seconds that building the environment took before that; 0 unless this is the
            first record of its process.
        forward: seconds within the user's `forward`.
        cpu: CPU seconds since `began`, for a process's first record since that process began: its
            own, and those of children that were waited for.
        items: how many items the attempt computed, those that were taken over left out.
        item_seconds: how many of them took how long: pairs of e and a count, in order, for items
            of 2^e seconds and more, but less than 2^(e + 1).
        peak_memory: the most bytes that its process, a child of that, or the job's own cgroup is
            known to have needed by then; None where nothing tells it.
        peak_gpu_memory: the most bytes that were seen in use on any one of the GPUs that the
            process sees; None where nothing tells it.
        gpu_utilisation: mean over these GPUs and over the attempt, 0 to 1; likewise.
    """

    began: AwareDatetime
    seconds: Weight
    environment: Weight = 0.0
    forward: Weight = 0.0
    cpu: Weight = 0.0
    items: Count = 0
    item_seconds: list[tuple[PowerOfTwo, Count]] = []
    peak_memory: Count | None = None
    peak_gpu_memory: Count | None = None
    gpu_utilisation: Annotated[float, Field(ge=0, le=1)] | None = None


class ResultPart(NestedModel):
    """The first `records` lines, `bytes` long, of a result file; `first` is their position."""

    file: ResultName
    first: Count
    records: Annotated[int, Field(ge=1)]
    bytes: Annotated[int, Field(ge=1)]
    checksum: Checksum


class WrittenFile(NestedModel):
    """A file in the folder that an attempt's writers have written to; `path` is relative to it."""

    path: Annotated[Text, AfterValidator(within)]
    bytes: Count
    checksum: Checksum


class Written(NestedModel):
    """What an attempt's writers have written; `folder` is the path at which they saw theirs."""

    folder: Text
    files: list[WrittenFile] = []


def require_in_order(rank: int, parts: Iterable[ResultPart], position: int) -> int:
    """Raise ValueError where parts of a shard leave a gap, overlap or are of another shard.

    Args:
        rank: the shard.
        parts: in order.
        position: where the first of them begins.

    Returns:
        The position after the last one.
    """
    for part in parts:
        if part.first != position or not part.file.startswith(f"{rank:06d}."):
            raise ValueError(f"parts: {part.file} does not follow at position {position}")
        position += part.records
    return position
