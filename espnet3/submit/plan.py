"""The plan: from a runner and items to the specs of a run. Pure, but for what it is given."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import orjson

from espnet3.checksums import checksum
from espnet3.config.model import ParallelConfig
from espnet3.errors import ClassError, ConfigError, PlanMismatch
from espnet3.redaction import masked
from espnet3.specs.base import NestedModel
from espnet3.specs.items import ItemList, ItemRange, count_batches
from espnet3.specs.models import (
    MAX_SHARDS,
    Assignment,
    ClassReference,
    ProcessState,
    ProviderSpec,
    RunSpec,
    ShardSpec,
    now,
)
from espnet3.storage.paths import as_entered, same_file
from espnet3.submit.provider_state import changed_variables, describe_instance
from espnet3.submit.weights import by_call, equal_weight_bounds, shard_weights, weights_of
from espnet3.submit.writers import describe_writers
from espnet3.text import one_line
from espnet3.user_code.parallel_section import PARALLEL, without_parallel
from espnet3.user_code.references import refer_to, require_static_forward

# Fields that older plans lack: they are part of a checksum where there is something in them.
_LATER_FIELDS = frozenset({"assignments", "bounds", "weights"})


class Runner(Protocol):
    """What a submission needs of a `BaseRunner`."""

    provider: Any
    batch_size: int | None
    run_dir: str | os.PathLike[str] | None
    async_result_dir: str | os.PathLike[str]


class SubmitterProcess(NamedTuple):
    """Where the submitter runs, to be found again on a node; see RunSpec."""

    python: str
    working_directory: str
    sys_path: list[str]
    environment_variables: dict[str, str]
    versions: dict[str, str]
    git_commit: str | None
    process: ProcessState | None = None


class Plan(NamedTuple):
    """A run of which nothing is written yet."""

    run: RunSpec
    items: ItemRange | ItemList

    def shards(self, run_file: str) -> Iterator[ShardSpec]:
        """The specs of all shards, by rank; `run_file` is where run.json will be."""
        size, world = self.run.batch_size or 1, self.run.world_size
        for rank in range(world):
            first, last = (bound * size for bound in self.run.bounds_of(rank))
            yield ShardSpec(
                rank=rank,
                world_size=world,
                run=run_file,
                fingerprint=self.run.fingerprint,
                items=self.items.part(first, min(last, self.run.n_inputs)),
            )


def plan_run(
    runner: Runner,
    items: ItemRange | ItemList,
    parallel: ParallelConfig,
    submitter: SubmitterProcess,
    *,
    n_shards: int | None = None,
) -> Plan:
    """Plan a run.

    Args:
        runner: an instance of a BaseRunner subclass.
        items: the planned items.
        parallel: the validated parallel config.
        submitter: where the submitter runs.
        n_shards: how many shards; the config's `n_shards`, else by its schedule and `n_workers`,
            where unset. Never more than there are calls of `forward`.

    Raises:
        ClassError: a worker could not find or call the runner or the provider.
        ConfigError: an argument of the provider is not JSON, or a number is wrong; names it.
        OutputError: the runner writes its results itself, and has no `output_dir`.
    """
    check_runner(runner)
    _require_count("batch_size", runner.batch_size)
    _require_count("n_shards", n_shards)
    wanted = n_shards or parallel.n_shards or _usual_number(parallel)
    if wanted > MAX_SHARDS:
        raise ConfigError("n_shards", f"is {wanted}, but can be {MAX_SHARDS} at most")
    world_size = min(wanted, count_batches(len(items), runner.batch_size))
    bounds, weights = _cut(parallel, items, runner.batch_size, world_size)
    plan: dict[str, Any] = {
        "runner": refer_to(type(runner)),
        "provider": describe_provider(runner.provider),
        "n_inputs": len(items),
        "items_digest": items.digest(),
        "batch_size": runner.batch_size,
        "world_size": world_size,
        "bounds": bounds,
        "weights": weights,
        "results": parallel.results,
        "on_error": parallel.on_error,
        "assignments": changed_variables(type(runner), type(runner.provider)),
    }
    run = RunSpec(
        **{name: _as_entered(value) for name, value in plan.items()},
        run_id=secrets.token_hex(6),
        created=now(),
        fingerprint=fingerprint(plan),
        writers=_as_entered(describe_writers(runner)),
        checkpoint_every=parallel.checkpoint_every,
        parallel=parallel.persisted(),
        **{name: _as_entered(value) for name, value in submitter._asdict().items()},
    )
    return Plan(run, items)


def _usual_number(parallel: ParallelConfig) -> int:
    """How many shards a run has whose user does not say."""
    if parallel.schedule != "dynamic":
        return parallel.n_workers
    return max(parallel.n_workers, min(64 * parallel.n_workers, 10_000))


def _cut(
    parallel: ParallelConfig, items: ItemRange | ItemList, batch_size: int | None, n_shards: int
) -> tuple[list[int] | None, list[float] | None]:
    """Bounds and weights of shards whose user says what items weigh; else None."""
    if parallel.weights is None:
        return None, None
    weights = by_call(weights_of(parallel.weights, items), batch_size)
    bounds = equal_weight_bounds(weights, n_shards)
    return bounds, shard_weights(weights, bounds)


def _as_entered(value: Any) -> Any:
    """A reference to a script by the name that nodes know; the plan is the same by any name."""
    if isinstance(value, ClassReference):
        return (
            value
            if value.file is None
            else value.model_copy(update={"file": as_entered(value.file)})
        )
    if isinstance(value, NestedModel):
        fields = {
            name: getattr(value, name) for name in type(value).model_fields if name != "value"
        }
        return value.model_copy(update={name: _as_entered(part) for name, part in fields.items()})
    if isinstance(value, dict):
        return {key: _as_entered(part) for key, part in value.items()}
    return [_as_entered(part) for part in value] if isinstance(value, list) else value


def _require_count(name: str, value: object) -> None:
    if value is not None and (type(value) is not int or value < 1):
        raise ConfigError(name, f"must be an integer from 1, got {one_line(repr(value), 60)}")


def check_runner(runner: object) -> None:
    """Check that an object is a runner that can be submitted.

    Raises:
        ClassError: it is not; says why.
    """
    if isinstance(runner, type):
        raise ClassError(runner.__qualname__, "is a class; pass an instance of it")
    if not hasattr(runner, "provider") or not hasattr(type(runner), "forward"):
        raise ClassError(
            one_line(repr(runner), 80), "is not a runner; pass an instance of a BaseRunner subclass"
        )
    require_static_forward(type(runner))
    if "forward" in vars(runner):
        raise ClassError(
            type(runner).__qualname__,
            "has a forward of its own (runner.forward = …), which a worker cannot have; define it "
            "in the class",
        )


def describe_provider(provider: Any) -> ProviderSpec:
    """A provider as its class, its constructor arguments and what was changed in it since.

    Raises:
        ClassError: it is not an EnvironmentProvider, or a worker could not import its class.
        ConfigError: a worker could not have an argument or attribute alike; names it.
    """
    if isinstance(provider, type):
        raise ClassError(provider.__qualname__, "is a class; pass an instance of it as provider")
    reference = refer_to(type(provider))
    try:
        args, kwargs = provider.constructor_arguments
    except AttributeError:
        raise ClassError(
            type(provider).__qualname__, "is not a provider; subclass EnvironmentProvider"
        ) from None
    return describe_instance(provider, reference, args, kwargs)


def fingerprint(plan: Mapping[str, Any]) -> str:
    """A checksum of what makes two plans the same: RunSpec.PLAN_FIELDS."""
    plain = {
        name: _plain(value) for name, value in plan.items() if name not in _LATER_FIELDS or value
    }
    return _checksum(plain)


def _checksum(plain: Mapping[str, Any]) -> str:
    return checksum(orjson.dumps(plain, option=orjson.OPT_SORT_KEYS))


def require_same_plan(run_dir: str, there: RunSpec, here: RunSpec) -> None:
    """Refuse to go on with a run of another plan, or of which `merge` would make something else.

    Raises:
        PlanMismatch: shows the first field that differs.
    """
    difference = _difference(there, here)
    if difference is not None:
        raise PlanMismatch(run_dir, *difference, has_writers=there.writers is not None)


def _difference(there: RunSpec, here: RunSpec) -> tuple[str, str, str] | None:
    """The first field in which two plans differ, and what it is there and here."""
    difference = _first_difference(_output_of(there), _output_of(here), "runner")
    if difference is not None:
        return difference
    version = min(there.schema_version, here.schema_version)
    old, new = (_compared(run, version) for run in (there, here))
    if there.fingerprint == here.fingerprint or _checksum(new) == there.fingerprint:
        return None
    for field in RunSpec.PLAN_FIELDS:
        difference = _first_difference(_named(old.get(field)), _named(new.get(field)), field)
        if difference is not None:
            return difference
    if _checksum(old) == _checksum(new):
        return None
    return "fingerprint", there.fingerprint, here.fingerprint


def _compared(run: RunSpec, version: int) -> dict[str, Any]:
    """The plan of a run as JSON, as far as a version could tell."""
    fields = {name: getattr(run, name) for name in RunSpec.PLAN_FIELDS}
    return {
        name: _plain(value, version)
        for name, value in fields.items()
        if name not in _LATER_FIELDS or value
    }


def _output_of(run: RunSpec) -> dict[str, Any]:
    """What `merge` reads of a runner with writers; nothing of others."""
    writers = run.writers
    if writers is None:
        return {}
    return {
        "output_dir": os.path.normpath(os.path.join(run.working_directory, writers.output_dir)),
        "shard_subdir": writers.shard_subdir,
        **{name: argument.model_dump() for name, argument in writers.attributes.items()},
    }


def _named(value: Any) -> Any:
    """Assignments by what they set, so that a difference names it."""
    if not isinstance(value, list):
        return value
    return {
        ".".join(filter(None, (a["target"]["module"], a["target"]["qualname"], a["name"]))): a
        for a in value
    }


def _plain(value: Any, version: int = 2) -> Any:
    """A part of the plan as JSON; what version 1 lacked is left out where it says nothing.

    Version 1 did not tell an interpolation from its result, and knew no flags: with that alone, a
    run of version 1 is still the same plan.
    """
    if isinstance(value, list):
        return [_plain(part, version) for part in value]
    if not isinstance(value, ClassReference | ProviderSpec | Assignment):
        return value
    plain = value.model_dump()
    if isinstance(value, ProviderSpec):
        if not value.attributes:
            del plain["attributes"]
        changed = plain.get("attributes", {}).values()
        for argument in (*plain["args"], *plain["kwargs"].values(), *changed):
            _leave_out_parallel(argument)
        for argument in (*plain["args"], *plain["kwargs"].values()):
            if version == 1:
                argument["restored"] = [n for n in argument["restored"] if not _of_config_only(n)]
            if not argument["restored"]:
                del argument["restored"]
    return plain


def _leave_out_parallel(argument: dict[str, Any]) -> None:
    value = without_parallel(argument["value"])
    if value is not argument["value"]:
        argument["value"] = value
        argument["restored"] = [
            note for note in argument["restored"] if PARALLEL not in note["at"][:1]
        ]


def _of_config_only(note: Mapping[str, Any]) -> bool:
    if note["kind"] == "interpolation":
        return True
    return note["kind"] == "omegaconf" and note["cls"] is None


def _first_difference(old: Any, new: Any, where: str) -> tuple[str, str, str] | None:
    """Where two JSON values first differ, and what stands there."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            if key not in old or key not in new:
                sides = (
                    repr(masked(side[key], f"{where}.{key}")) if key in side else "not set"
                    for side in (old, new)
                )
                return f"{where}.{key}", *sides  # type: ignore[return-value]
            found = _first_difference(old[key], new[key], f"{where}.{key}")
            if found is not None:
                return found
        return None
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            found = _first_difference(a, b, f"{where}.{i}")
            if found is not None:
                return found
        return None
    if old == new or (where in _PATHS and same_file(str(old), str(new))):
        return None
    return where, repr(masked(old, where)), repr(masked(new, where))


_PATHS = frozenset({"runner.file", "provider.cls.file", "runner.output_dir"})


class JobShape(NamedTuple):
    """One job of a submission, before it has a name."""

    first_task: int
    n_tasks: int
    throttle: int | None
    after: int | None


def shape_jobs(
    n_tasks: int, n_workers: int, *, job_array: bool, max_array_size: int
) -> Sequence[JobShape]:
    """Cut tasks into jobs so that at most `n_workers` tasks run at the same time in all of them.

    Arrays get an equal number of tasks and a share of the throttle each. Where there are more jobs
    than workers, a job waits for an earlier one.

    Example:
        >>> [tuple(job) for job in shape_jobs(1500, 16, job_array=True, max_array_size=1001)]
        [(0, 750, 8, None), (750, 750, 8, None)]
        >>> [tuple(job) for job in shape_jobs(3, 2, job_array=False, max_array_size=1001)]
        [(0, 1, None, None), (1, 1, None, None), (2, 1, None, 0)]
    """
    size = max_array_size if job_array else 1
    n_jobs = -(-n_tasks // size)
    chains = min(n_jobs, n_workers)
    jobs = []
    for j in range(n_jobs):
        first, last = n_tasks * j // n_jobs, n_tasks * (j + 1) // n_jobs
        share = n_workers // chains + (j % chains < n_workers % chains)
        throttle = share if share < last - first else None
        jobs.append(JobShape(first, last - first, throttle, j - chains if j >= chains else None))
    return jobs
