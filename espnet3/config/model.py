"""The `parallel` section of a user's YAML: which scheduler, how wide, with which options."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from espnet3.config.finish import Finish
from espnet3.config.like_dict_config import LikeDictConfig, Options
from espnet3.errors import ConfigError
from espnet3.redaction import shown_value
from espnet3.run_dir.trust import Trust
from espnet3.specs.nested import PlainJson
from espnet3.specs.plain import plain_config, plain_json

Schedule = Literal["static", "dynamic"]
Env = Literal[
    "local",
    "local_gpu",
    "kube",
    "ssh",
    "slurm",
    "pbs",
    "sge",
    "lsf",
    "htcondor",
    "moab",
    "oar",
]
ENVS: tuple[str, ...] = get_args(Env)
_SPAN = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")


def _rank_words(given: object) -> str:
    """Ranks as one text: from a number, from text such as `3,20-25`, or from a list of these."""
    words: list[str] = []
    for one in given if isinstance(given, list) else [given]:
        if not isinstance(one, int | str) or isinstance(one, bool):
            raise PydanticCustomError("ranks", "must be ranks such as 3,20-25 or a list of them")
        words += str(one).split(",")
    for word in words:
        span = _SPAN.fullmatch(word.strip())
        if span is None:
            raise PydanticCustomError("ranks", "must be ranks such as 3,20-25 or a list of them")
        if span[2] is not None and int(span[2]) < int(span[1]):
            raise PydanticCustomError("ranks", "has a range that ends before it begins")
    return ",".join(word.strip() for word in words)


def _finish(given: object) -> object:
    """`true` for the defaults, `false` for none."""
    if isinstance(given, bool):
        return {} if given else None
    return given


NodeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=253)]


class Override(BaseModel):
    """Other options for some shards (`docs/decisions/0012-overrides.md`).

    Attributes:
        ranks: the shards, as in `3,20-25`.
        options: what is different for them; as for a resume, keys such as `n_workers` too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    ranks: Annotated[str, BeforeValidator(_rank_words)]
    options: Annotated[dict[str, PlainJson], Field(min_length=1)]

    def spans(self) -> list[tuple[int, int]]:
        """First and last rank of each range.

        >>> Override(ranks="3,20-25", options={"memory": "64GB"}).spans()
        [(3, 3), (20, 25)]
        """
        spans = [word.partition("-") for word in self.ranks.split(",")]
        return [(int(first), int(last or first)) for first, _, last in spans]


class ParallelConfig(LikeDictConfig, BaseModel):
    """The validated `parallel` config. It is read as an OmegaConf DictConfig is, too.

    Attributes:
        env: where the work runs; one of `ENVS`.
        n_workers: how many workers (tasks) run at the same time.
        options: keyword arguments of Dask's cluster or job class, unchanged.
        overrides: other options for some shards, in the asynchronous mode.
        async_mode: submit and return at once instead of waiting for results.
        n_shards: how many shards a run has; `n_workers` where unset, 64 times as many with
            `schedule: dynamic`, 10,000 at most.
        schedule: `static` gives each task its shards from the start; with `dynamic` each of the
            `n_workers` workers claims the next one (`docs/schedules.md`). Unset: see `schedule_of`.
        lease: with `schedule: dynamic`, seconds without a sign of life after which a worker's
            shard is taken over.
        heartbeat: seconds between two signs of life, at most.
        weights: what each item weighs, such as its seconds of audio: shards are cut to equal
            weight, and claimed heaviest first. A list, the path of a file with one number on each
            line, or a function of an item, as in `my_module:seconds`.
        speculate: whether workers for which nothing is left compute what others are at, too.
        shards_per_job: how many shards one job (array task) computes one after the other, so that
            a model is loaded once for all of them.
        job_array: submit job arrays; False submits one job per task.
        exclude_nodes: nodes that no job is to run on, where the scheduler can be told so.
        max_array_size: the site's limit on array indices; asked from the scheduler where unset.
        checkpoint_every: seconds after which finished results are durable, at the latest.
        on_error: `stop` fails a shard at its first failing item, `record` goes on.
        max_errors: with `on_error: record`, how many items of a shard may fail before the shard
            does; any number where unset.
        results: how results are stored, `json` or `pickle`.
        preflight: check in a clean process that provider and runner can be rebuilt, before
            anything is submitted; with `build` that the environment can be built, too.
        snapshot: copy the user's own source files into the run, and let its workers import from
            there, whatever becomes of the files (`docs/code.md`).
        usage: let workers ask GPUs, every few seconds, for their memory and utilisation; what else
            an attempt takes is measured in any case.
        submit_timeout: seconds after which a submit command that gives no answer is ended, and the
            queue searched for its job.
        start_timeout: seconds that the synchronous mode waits for a worker where there is none.
        environment_variables: names of further variables that workers get as they are now.
        finish: what is done when the jobs have ended: what is missing is submitted again, and the
            results are collected (`docs/finishing.md`); true takes the defaults.
        trust: whose run directories are believed: `owner` refuses those that the group may write,
            `group` accepts other owners in one's groups; unset, see `docs/trust.md`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    env: Env = "local"
    n_workers: Annotated[int, Field(ge=1)] = 1
    options: Annotated[dict[str, PlainJson], AfterValidator(Options)] = Options()
    overrides: list[Override] = []
    async_mode: bool = False
    n_shards: Annotated[int, Field(ge=1)] | None = None
    schedule: Schedule | None = None
    lease: Annotated[float, Field(gt=0, strict=False, allow_inf_nan=False)] = 180.0
    heartbeat: Annotated[
        float, Field(gt=0, strict=False, allow_inf_nan=False, validate_default=True)
    ] = 30.0  # a shorter lease needs it said, too
    speculate: bool = False
    weights: list[float] | str | None = None
    shards_per_job: Annotated[int, Field(ge=1)] = 1
    job_array: bool = True
    exclude_nodes: list[NodeName] = []
    max_array_size: Annotated[int, Field(ge=1)] | None = None
    checkpoint_every: Annotated[float, Field(gt=0, allow_inf_nan=False, strict=False)] = 30.0
    on_error: Literal["stop", "record"] = "stop"
    max_errors: Annotated[int, Field(ge=0)] | None = None
    results: Literal["json", "pickle"] = "json"
    preflight: bool | Literal["build"] = True
    snapshot: bool = False
    usage: bool = True
    environment_variables: list[str] = []
    finish: Annotated[Finish | None, BeforeValidator(_finish)] = None
    trust: Trust | None = None
    submit_timeout: Annotated[float, Field(gt=0, strict=False, allow_inf_nan=False)] = 300.0
    start_timeout: Annotated[float, Field(gt=0, strict=False, allow_inf_nan=False)] = 300.0

    def schedule_of(self, n_shards: int) -> Schedule:
        """The schedule of a submission.

        Where the config does not say, it is dynamic if there are more shards than workers and a
        finisher behind them, which submits what the workers' time was too short for.

        Args:
            n_shards: how many shards are submitted.

        Example:
            >>> config = ParallelConfig(n_workers=4, finish=True)
            >>> config.schedule_of(4), config.schedule_of(5)
            ('static', 'dynamic')
        """
        if self.schedule is not None:
            return self.schedule
        shared = self.finish is not None and self.shards_per_job == 1 and n_shards > self.n_workers
        return "dynamic" if shared else "static"

    def persisted(self) -> dict[str, Any]:
        """As it is stored: the weights are in the plan."""
        return self.model_dump(exclude={"weights"})

    @field_validator("shards_per_job")
    @classmethod
    def _only_where_tasks_have_shards(cls, value: int, info: ValidationInfo) -> int:
        if value > 1 and info.data.get("schedule") == "dynamic":
            raise PydanticCustomError("shards_per_job", "needs schedule: static")
        return value

    @field_validator("heartbeat")
    @classmethod
    def _fits_the_lease(cls, value: float, info: ValidationInfo) -> float:
        lease = info.data.get("lease")
        if lease is not None and value > lease / 2:
            raise PydanticCustomError("heartbeat", "can be half of the lease at most")
        return value

    @field_validator("max_errors")
    @classmethod
    def _only_where_errors_are_recorded(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("on_error") == "stop":
            raise PydanticCustomError("max_errors", "needs on_error: record")
        return value


def as_parallel_config(config: Any) -> ParallelConfig:
    """Validate and copy a parallel config.

    Args:
        config: a ParallelConfig, a dict, an OmegaConf DictConfig, or the path of a YAML file that
            holds the section alone.

    Raises:
        ConfigError: names the field that is wrong and the nearest valid name.
    """
    if isinstance(config, ParallelConfig):
        return config.model_copy(deep=True)
    if isinstance(config, (str, os.PathLike)):
        config = _read_yaml(os.fspath(config))
    plain = plain_json(config, "parallel")
    if not isinstance(plain, Mapping):
        raise ConfigError("parallel", f"expected a mapping, got {shown_value(plain)}")
    return parse_parallel(plain)


def _read_yaml(file: str) -> Any:
    """A YAML file, read so that a walltime of 12:00:00 stays text, and resolved."""
    from omegaconf import OmegaConf

    from espnet3.config.yaml_values import read_yaml

    try:
        raw = read_yaml(file)
    except OSError as error:
        raise ConfigError("parallel", f"{file}: {error.strerror}") from None
    return plain_config(OmegaConf.create(raw), file) if isinstance(raw, dict) else raw


def did_you_mean(word: str, valid: Iterable[str]) -> str:
    """`; did you mean X?`, or the valid words where none is near."""
    names = sorted(valid)
    near = _nearest(word, names)
    return f"; did you mean {near}?" if near else f"; valid are {', '.join(names)}"


def _nearest(word: str, names: Iterable[str]) -> str | None:
    in_lower_case = {name.lower(): name for name in names}
    near = difflib.get_close_matches(word.lower(), in_lower_case, n=1)
    return in_lower_case[near[0]] if near else None


_NESTED: Mapping[str, type[BaseModel]] = {"finish": Finish, "overrides": Override}


def parse_parallel(raw: Mapping[str, Any], where: str = "parallel") -> ParallelConfig:
    """Validate a parallel config.

    Args:
        raw: plain JSON values, as resolved from YAML.
        where: the section's name, for errors.

    Raises:
        ConfigError: names the field, what is wrong, and the nearest valid name.

    Example:
        >>> parse_parallel({"env": "local", "n_workers": 2}).n_workers
        2
    """
    fields = ParallelConfig.model_fields
    for key in raw:
        if key not in fields:
            raise ConfigError(f"{where}.{key}", f"unknown key{did_you_mean(str(key), fields)}")
    env = raw.get("env", "local")
    if env not in ENVS:
        near = did_you_mean(str(env), ENVS)
        raise ConfigError(f"{where}.env", f"{env!r} is not an env that espnet3 knows{near}")
    cleaned = {key: value for key, value in raw.items() if value is not None or key == "n_shards"}
    try:
        return ParallelConfig.model_validate(cleaned)
    except ValidationError as error:
        first, *others = error.errors(include_url=False)
        name = ".".join(str(step) for step in first["loc"] if step != "constrained-int")
        if name.endswith(".bool") and others:  # or a word, whose literal is the next error
            first = {**others[0], "msg": f"{first['msg']}, or {others[0]['ctx']['expected']}"}
            name = name.removesuffix(".bool")
        if first["type"] == "extra_forbidden":
            known = _NESTED.get(str(first["loc"][0]), ParallelConfig).model_fields
            near = did_you_mean(str(first["loc"][-1]), known)
            raise ConfigError(f"{where}.{name}", f"unknown key{near}") from None
        given = shown_value(first["input"], name)
        hint = ""
        if first["type"] == "literal_error":  # its message has all valid values
            valid = re.findall(r"'(\w+)'", first["ctx"]["expected"])
            nearest = _nearest(str(first["input"]), valid)
            hint = f"; did you mean {nearest}?" if nearest else ""
        raise ConfigError(f"{where}.{name}", f"{first['msg']}, got {given}{hint}") from None
