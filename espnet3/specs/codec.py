"""How a persisted model becomes the bytes of its file, and strictly back: `encode` and `decode`.

What the models hold stands in `espnet3.specs.models`.
"""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

from pydantic_core._pydantic_core import ValidationError

from espnet3.errors import InvalidFile, NewerFormat, UsageError
from espnet3.specs.base import PersistedModel
from espnet3.text import one_line

Model = TypeVar("Model", bound=PersistedModel)


def encode(model: PersistedModel) -> bytes:
    """A persisted model as the bytes of its file.

    Raises:
        UsageError: nobody would read a file of that size.

    Example:
        >>> from espnet3.specs.items import ItemRange
        >>> from espnet3.specs.models import ShardSpec
        >>> spec = ShardSpec(rank=0, world_size=1, run="/r/run.json",
        ...                  fingerprint="sha256:" + "0" * 64, items=ItemRange(start=0, stop=3))
        >>> decode(ShardSpec, encode(spec), "shards/000000.json") == spec
        True
    """
    data = model.model_dump_json().encode() + b"\n"
    if len(data) > model.MOST_BYTES:
        raise UsageError(
            f"a record of the kind {model.title!r} would have {len(data)} bytes; the limit is "
            f"{model.MOST_BYTES}; pass paths of files in place of what they hold"
        )
    return data


_VERSION = rb'"schema_version"\s*:\s*([0-9]{1,18})'


def decode(model: type[Model], data: bytes, file: str) -> Model:
    """Read a persisted model.

    Args:
        model: which model the file should hold.
        data: its bytes.
        file: its name, for errors.

    Raises:
        NewerFormat: a later espnet3 wrote it.
        InvalidFile: it is truncated, has an unknown field or a wrong type; names the first one.
    """
    try:
        found = model.model_validate_json(data)
    except ValidationError as error:
        version = re.search(_VERSION, data)
        if version is not None and int(version[1]) > model.version:
            raise NewerFormat(file, int(version[1]), model.version) from None
        first = error.errors(include_url=False, include_input=False)[0]
        raise InvalidFile(file, _field_name(first["loc"]), _explain(first)) from None
    _require_strict(data, file)
    if "schema_version" not in found.model_fields_set:
        raise InvalidFile(file, "schema_version", "is missing")
    return found


def _require_strict(data: bytes, file: str) -> None:
    """Refuse what pydantic's parser takes without a word: double keys, NaN and infinities.

    Raises:
        InvalidFile: it holds some.
    """

    def once(pairs: list[tuple[str, Any]]) -> None:
        if len({key for key, _ in pairs}) < len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise ValueError(f"duplicate key {one_line(repr(twice), 100)}")

    def constant(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        json.loads(data, object_pairs_hook=once, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise InvalidFile(file, "", str(error)) from None


def _field_name(loc: tuple[int | str, ...]) -> str:
    """A pydantic location as a person writes it: `jobs.0.name`."""
    return ".".join(str(step) for step in loc)


def _explain(error: Any) -> str:
    """One pydantic error as one clause."""
    kind = error["type"]
    if kind == "json_invalid":
        return f"not valid JSON ({error['ctx']['error']}); the file is truncated or damaged"
    if kind == "extra_forbidden":
        return "unknown field; was it edited by hand, or written by another espnet3?"
    if kind == "missing":
        return "is missing"
    message: str = error["msg"]
    return message.removeprefix("Value error, ")
