"""Hypothesis strategies for JSON values and for every persisted model."""

from __future__ import annotations

import types
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

import annotated_types
from hypothesis import strategies as st
from pydantic import AwareDatetime, BaseModel, JsonValue
from pydantic.fields import FieldInfo

from espnet3.config.model import Override, ParallelConfig
from espnet3.specs.items import ItemList, ItemRange, count_batches
from espnet3.specs.models import (
    MAX_SHARDS,
    Argument,
    ClassReference,
    CodeRecord,
    PartialReceipt,
    Receipt,
    RestoredValue,
    ResultPart,
    RunSpec,
    SourceFile,
    Submission,
    Withdrawal,
    WrittenFile,
)

Model = TypeVar("Model", bound=BaseModel)

INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCALARS = (
    st.none() | st.booleans() | INT64 | st.floats(allow_nan=False, allow_infinity=False) | TEXT
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
TIMES = st.datetimes(
    datetime(1970, 1, 1),  # the time zone is drawn beside
    datetime(2200, 1, 1),
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))]),
)
RANKS = st.one_of(
    st.builds(
        lambda start, n, step: ItemRange(start=start, stop=start + n * step, step=step),
        st.integers(0, 10**6),
        st.integers(1, 10),
        st.integers(1, 10),
    ),
    st.builds(
        lambda values: ItemList(values=values),
        st.lists(st.integers(0, 10**7), min_size=1, max_size=8),
    ),
)


@cache
def models(model: type[Model]) -> st.SearchStrategy[Model]:
    """Instances of a model, drawn from the annotations of its fields."""
    drawn: dict[str, st.SearchStrategy[Any]] = {
        name: _annotated(field.annotation, field.metadata)
        for name, field in model.model_fields.items()
    }
    if model is RestoredValue:  # a run holds many, so they are simple
        drawn["at"] = st.lists(st.sampled_from(["a", "", 0, 1]), max_size=2)
        drawn["cls"] = st.none() | st.just(ClassReference(module="enum", qualname="Enum"))
        drawn["flags"] = st.sampled_from([{}, {"struct": True}])
    if model is Argument:
        drawn["restored"] = st.lists(models(RestoredValue), max_size=1)
    if model is WrittenFile:
        drawn["path"] = st.sampled_from(["done", "hyp.scp", "wav/sp ace.npy"])
    if model is Submission:
        drawn["ranks"] = RANKS
    if model is SourceFile:
        drawn["name"] = st.sampled_from(["decode.py", "lib/net.py", "lib/sp ace.so"])
    if model is Override:
        drawn["ranks"] = st.sampled_from(["0", "3,20-25", "7-9,1"])
        drawn["options"] = st.dictionaries(TEXT, JSON, min_size=1, max_size=3)
    if model is ParallelConfig:
        return st.fixed_dictionaries(drawn).map(_config)  # type: ignore[arg-type]
    if model is Withdrawal:
        return st.fixed_dictionaries(drawn).map(_withdrawal)  # type: ignore[arg-type]
    if model is Receipt:
        return st.builds(_receipt, st.fixed_dictionaries(drawn), models(ResultPart))  # type: ignore[arg-type]
    if model is PartialReceipt:
        return st.fixed_dictionaries(drawn).map(_partial_receipt)  # type: ignore[arg-type]
    if model is Submission:
        return st.fixed_dictionaries(drawn).map(_submission)  # type: ignore[arg-type]
    if model is CodeRecord:
        return st.fixed_dictionaries(drawn).map(_code)  # type: ignore[arg-type]
    if model is RunSpec:
        return st.fixed_dictionaries(drawn).map(_run)  # type: ignore[arg-type]
    return st.fixed_dictionaries(drawn).map(lambda fields: model(**fields))


def _run(fields: dict[str, Any]) -> RunSpec:
    """A run whose every shard has an item; of version 5, whose fields it has."""
    n_items = count_batches(fields["n_inputs"], fields["batch_size"])
    size = min(fields["world_size"], n_items, MAX_SHARDS)
    fields = {**fields, "schema_version": 5, "world_size": size}
    if fields["bounds"] is not None:
        size = fields["world_size"] = min(size, 8)
        fields["bounds"] = [*range(size), n_items]
    if fields["weights"] is not None:
        size = fields["world_size"] = min(size, 8)
        fields["weights"] = [(fields["weights"] or [0.0])[0]] * size
        fields["bounds"] = fields["bounds"] and [*range(size), n_items]
    return RunSpec(**fields)


def _submission(fields: dict[str, Any]) -> Submission:
    """A submission whose jobs follow each other and hold all tasks."""
    n_tasks = -(-len(fields["ranks"]) // fields["shards_per_job"])
    if fields["schedule"] == "dynamic":
        n_tasks = min(len(fields["ranks"]), fields["n_workers"])
    jobs = fields["jobs"][:n_tasks]
    first = [n_tasks * j // len(jobs) for j in range(len(jobs) + 1)]
    shapes = [
        {
            "first_task": first[j],
            "n_tasks": first[j + 1] - first[j],
            "after": None if job.after is None or j == 0 else job.after % j,
        }
        for j, job in enumerate(jobs)
    ]
    fields["jobs"] = [j.model_copy(update=s) for j, s in zip(jobs, shapes, strict=True)]
    return Submission(**fields)


def _code(fields: dict[str, Any]) -> CodeRecord:
    """A record whose files lie in its roots."""
    roots = fields["roots"] or ["/home/me"]
    files = [f.model_copy(update={"root": f.root % len(roots)}) for f in fields["files"]]
    return CodeRecord(**{**fields, "roots": roots, "files": files})


def _receipt(fields: dict[str, Any], part: ResultPart) -> Receipt:
    """A receipt whose parts follow each other."""
    parts = _in_order(fields["rank"], fields["parts"], 0)
    records = sum(part.records for part in parts)
    return Receipt(**{**fields, "parts": parts, "records": records})


def _partial_receipt(fields: dict[str, Any]) -> PartialReceipt:
    """A partial receipt whose parts follow each other, from anywhere in the shard."""
    first = fields["parts"][0].first
    return PartialReceipt(**{**fields, "parts": _in_order(fields["rank"], fields["parts"], first)})


def _in_order(rank: int, drawn: list[ResultPart], position: int) -> list[ResultPart]:
    """Parts of a shard that follow each other from a position on."""
    parts = []
    for part in drawn:
        tail = part.file.partition(".")[2]
        parts.append(part.model_copy(update={"file": f"{rank:06d}.{tail}", "first": position}))
        position += part.records
    return parts


def _config(fields: dict[str, Any]) -> ParallelConfig:
    """A config whose values fit each other: limits of errors, shards of a job, beats of a lease."""
    limited = fields["max_errors"] is not None
    fields["heartbeat"] = min(fields["heartbeat"], fields["lease"] / 2) or fields["lease"]
    fields["lease"] = max(fields["lease"], 2 * fields["heartbeat"])
    if fields["schedule"] == "dynamic":
        fields["shards_per_job"] = 1
    return ParallelConfig(**{**fields, **({"on_error": "record"} if limited else {})})


def _withdrawal(fields: dict[str, Any]) -> Withdrawal:
    """A withdrawal whose files are its shard's."""
    tails = (file.partition(".")[2] for file in fields["files"])
    return Withdrawal(**{**fields, "files": [f"{fields['rank']:06d}.{tail}" for tail in tails]})


def _annotated(annotation: Any, metadata: list[Any]) -> st.SearchStrategy[Any]:
    low, pattern, least, above, high = None, None, 0, None, None
    for entry in metadata:
        if isinstance(entry, FieldInfo):
            return _annotated(
                annotation, [*(m for m in metadata if m is not entry), *entry.metadata]
            )
        if isinstance(entry, annotated_types.Ge):
            low = entry.ge
        elif isinstance(entry, annotated_types.Le):
            high = entry.le
        elif isinstance(entry, annotated_types.Gt):
            above = entry.gt
        elif isinstance(entry, annotated_types.MinLen):
            least = entry.min_length
        elif getattr(entry, "pattern", None):
            pattern = str(entry.pattern)
    if annotation is int:
        smallest: Any = -(10**12) if low is None else low
        return st.integers(min_value=smallest, max_value=10**9 if high is None else cast(int, high))
    if annotation is float:
        bound: Any = above if above is not None else low
        return st.floats(
            min_value=bound,
            max_value=cast(float | None, high),
            exclude_min=above is not None,
            allow_nan=False,
            allow_infinity=False,
        )
    if annotation is str:
        return TEXT if pattern is None else st.from_regex(pattern.strip("^$"), fullmatch=True)
    if get_origin(annotation) is list:
        (inner,) = get_args(annotation)
        return st.lists(_annotated(inner, []), min_size=least, max_size=least + 2)
    return _plain(annotation)


def _plain(annotation: Any) -> st.SearchStrategy[Any]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is bool:
        return st.booleans()
    if annotation is type(None):
        return st.none()
    if annotation is JsonValue:
        return JSON
    if annotation is AwareDatetime:
        return TIMES
    if annotation is ItemList:
        return st.builds(lambda values: ItemList(values=values), st.lists(JSON, max_size=4))
    if origin is Annotated:
        return _annotated(arguments[0], list(arguments[1:]))
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, types.UnionType):
        return st.one_of([_annotated(argument, []) for argument in arguments])
    if origin is tuple:
        return st.tuples(*(_annotated(argument, []) for argument in arguments))
    if origin is dict:
        keys, values = (_annotated(argument, []) for argument in arguments)
        return st.dictionaries(keys, values, max_size=3)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return models(annotation)
    raise TypeError(f"no strategy for {annotation!r}; add one")
