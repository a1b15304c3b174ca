"""Result lines: one JSON object per item, in the items' order.

A line is `{"item": …, "result": …}`, or with `"error"` where the item was recorded as failed, or
with `"pickle"` (base64) where the run says `results: pickle`.
"""

# Where annotations are strings, NamedTuple compiles each, which every worker would wait for.

import binascii
import dataclasses
import enum
import io
import math
import pickle
import sys
from operator import itemgetter
from typing import Any, NamedTuple

import orjson

from espnet3.errors import InvalidFile, UnserializableResult
from espnet3.specs.models import ErrorRecord
from espnet3.specs.plain import JsonWalk, NotJson, numpy_plain
from espnet3.user_code.main_module import MainModule, name_here

# By itself orjson leaves out the fields of a dataclass whose names begin with an underscore.
_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE | orjson.OPT_PASSTHROUGH_DATACLASS


SKIPPED = "Skipped"  # the type of the error that stands for an item that was passed over
MAX_LINE = 1 << 30  # bytes; what has more is not a line, or a reader could be made to hold anything
_RESULT = itemgetter("result")
_DOCUMENT = 10_000  # bytes of lines that are decoded at once; what comes of more leaves the cache
_NEVER_NULL = frozenset({int, str, bool})  # the search costs as much as the encoding


class ResultRecord(NamedTuple):
    """One item and what became of it: `error` is None where `forward` returned `result`."""

    item: Any
    result: Any
    error: ErrorRecord | None = None


def encode_json(item: Any, result: Any) -> bytes:
    r"""One line for a result that JSON can hold.

    NumPy scalars and arrays, dataclasses, paths and dates become what JSON has for them, tuples
    become lists.

    Raises:
        UnserializableResult: names the type that JSON cannot hold.

    Example:
        >>> encode_json(3, {"text": "hello"})
        b'{"item":3,"result":{"text":"hello"}}\n'
    """
    try:
        line = orjson.dumps({"item": item, "result": result}, _plain, _OPTIONS)
    except orjson.JSONEncodeError as error:
        try:
            found = _culprit(result)
        except RecursionError:  # it holds itself
            found = None
        culprit, problem = found or (type(result).__name__, str(error))
        raise UnserializableResult(item, culprit, problem) from None
    # orjson writes NaN and infinities as null, which would change the result without a word.
    if type(result) not in _NEVER_NULL and b"null" in line:
        found = _culprit(result)
        if found is not None:
            raise UnserializableResult(item, *found)
    return line if len(line) <= MAX_LINE else _fitting(line, item, result)


def encode_pickle(item: Any, result: Any) -> bytes:
    """One line for a result of any type that can be pickled.

    Raises:
        UnserializableResult: it cannot be pickled.
    """
    try:
        data = pickle.dumps(result, protocol=5)
    except Exception as error:  # noqa: BLE001 (pickling runs the user's code)
        raise UnserializableResult(item, type(result).__name__, str(error), "pickle") from None
    text = binascii.b2a_base64(data, newline=False).decode()
    line = orjson.dumps({"item": item, "pickle": text}, None, _OPTIONS)
    return _fitting(line, item, result)


def _fitting(line: bytes, item: Any, result: Any) -> bytes:
    """The line, which readers take.

    Raises:
        UnserializableResult: they would not.
    """
    if len(line) > MAX_LINE:
        problem = f"its line would have {len(line)} bytes; the limit is {MAX_LINE}"
        raise UnserializableResult(item, type(result).__name__, problem)
    return line


def encode_error(item: Any, error: ErrorRecord) -> bytes:
    """One line for an item that failed."""
    return orjson.dumps({"item": item, "error": error.model_dump()}, None, _OPTIONS)


def decode_line(
    line: bytes, where: str, *, unpickle: bool = False, main: MainModule | None = None
) -> ResultRecord:
    """Read one result line.

    Args:
        line: the line, with or without its newline.
        where: the file, for errors.
        unpickle: whether the run says `results: pickle`; nothing is unpickled otherwise.
        main: the main module that pickled results speak of; this process's own where unset.

    Raises:
        InvalidFile: the line is not a result line.
    """
    try:
        raw = orjson.loads(line)
        item = raw["item"]
        if "result" in raw:
            return ResultRecord(item, raw["result"])
        if "error" in raw:
            return ResultRecord(item, None, ErrorRecord.model_validate(raw["error"]))
        if unpickle:
            data = binascii.a2b_base64(raw["pickle"])
            return ResultRecord(item, unpickle_value(data, where, main))
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidFile(where, "", f"holds a line that is not a result: {error}") from None
    raise InvalidFile(where, "", "holds a pickled result, but the run says `results: json`")


def decode_results(
    lines: bytes, where: str, *, unpickle: bool = False, main: MainModule | None = None
) -> list[Any]:
    r"""The results of many lines at once; an ErrorRecord where an item failed.

    Args:
        lines: whole lines.
        where: the file, for errors.
        unpickle: as for `decode_line`.
        main: as for `decode_line`.

    Raises:
        InvalidFile: a line is not a result line.

    Example:
        >>> decode_results(b'{"item":3,"result":9}\n{"item":4,"result":16}\n', "results")
        [9, 16]
    """
    results: list[Any] = []
    start = 0
    while start < len(lines):
        end = lines.find(b"\n", start + _DOCUMENT) + 1 or len(lines)
        results += _decode_document(lines[start:end], where, unpickle, main)
        start = end
    return results


def _decode_document(
    lines: bytes, where: str, unpickle: bool, main: MainModule | None
) -> list[Any]:
    try:  # half the time of a call for each line
        records = orjson.loads(b"[%b]" % lines.removesuffix(b"\n").replace(b"\n", b","))
        return list(map(_RESULT, records))
    except (ValueError, KeyError, TypeError):  # items that failed, pickles, or what is not a line
        how: Any = {"unpickle": unpickle, "main": main}
        decoded = [decode_line(line, where, **how) for line in lines.splitlines()]
        return [record.error or record.result for record in decoded]


class _Unpickler(pickle.Unpickler):
    """Finds what the submitted script defined, whatever this process's main module is."""

    def __init__(self, data: bytes, main: MainModule) -> None:
        super().__init__(io.BytesIO(data))
        self._main = main

    def find_class(self, module: str, name: str, /) -> Any:
        return super().find_class(name_here(self._main, module), name)


def unpickle_value(data: bytes, where: str, main: MainModule | None) -> Any:
    """What another process of a run has pickled; to be asked only where that is to be believed.

    Args:
        data: the pickle.
        where: what it stands in, for errors.
        main: the main module that it speaks of; this process's own where unset.

    Raises:
        InvalidFile: it cannot be unpickled here.
    """
    try:
        if main is not None:
            return _Unpickler(data, main).load()
        return pickle.loads(data)  # noqa: S301 (only where the run says so)
    except (Exception, SystemExit) as error:  # unpickling runs the user's code
        problem = f"holds a result that cannot be unpickled here: {type(error).__name__}: {error}"
        raise InvalidFile(where, "", problem) from error


def _plain(value: Any) -> Any:
    """What orjson asks for values that it does not know."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    from pathlib import PurePath  # here, since most workers never ask

    if isinstance(value, PurePath):
        return str(value)
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        plain = value.tolist()
        if isinstance(plain, list | int | float | str | bool):
            return plain
    raise TypeError


class _ResultWalk(JsonWalk):
    """Looks for what orjson does not hold, or holds as null."""

    def plainer(self, value: Any) -> Any:
        if isinstance(value, float):  # named by its own class
            if not math.isfinite(value):
                raise NotJson("number", value)
            return float(value)
        if isinstance(value, dict | list):
            return dict(value) if isinstance(value, dict) else [*value]
        if isinstance(value, enum.Enum):
            return value.value
        if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
            return numpy_plain(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return _plain(value)
        # A named tuple would lose its names, so orjson does not take one.
        return orjson.loads(_encoded(value))

    def check_keys(self, mapping: dict[Any, Any]) -> None:
        for key in mapping:
            if type(key) is not str:
                raise NotJson("key", key)

    def check_leaf(self, value: str | int) -> None:
        if not (value.isascii() if isinstance(value, str) else -(2**63) <= value < 2**63):
            _encoded(value)


_RESULTS = _ResultWalk(sys.maxsize)  # orjson has a limit of its own


def _encoded(value: Any) -> bytes:
    try:
        return orjson.dumps(value, _plain, _OPTIONS)
    except orjson.JSONEncodeError as error:
        raise NotJson("kind", value) from error


def _culprit(result: Any) -> tuple[str, str] | None:
    """The first part of a result that JSON cannot hold: its type, and a clause for a person."""
    try:
        _RESULTS.plain(result)
    except NotJson as error:
        place = error.place.removeprefix(".")
        at = f" at {place}" if place else ""
        if error.reason == "key":
            return type(error.part).__name__, f"the key {error.part!r}{at} is not a plain string"
        if error.reason == "number":
            return error.kind, f"{error.part}{at} is not JSON"
        cause = str(error.__cause__ or "")
        reason = f" ({cause})" if cause and "not JSON serializable" not in cause else ""
        return error.kind, f"type {error.kind}{at} is not JSON{reason}"
    return None
