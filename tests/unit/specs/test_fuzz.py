"""Whatever bytes a file holds: a model or result record, or the one error that says so."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from espnet3.config.yaml_values import parse_yaml
from espnet3.errors import ConfigError, FormatError
from espnet3.run_dir import result_lines
from espnet3.specs.models import ErrorRecord, PersistedModel, decode, encode
from espnet3.specs.schema import ALL
from tests.support.strategies import JSON, models

EXAMPLES = int(os.environ.get("ESPNET3_FUZZ", "25"))  # of each kind
QUICK = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
)
TOKENS = st.sampled_from(
    [b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"null", b"true", b"NaN", b"-Infinity",
     b"1e999", b"9" * 400, b"-1", b'""', b'"a":', b"\0", b"\xff", b"\xef\xbb\xbf", b"\\ud800",
     b"\n", b"../"]
)  # fmt: skip


@st.composite
def mutated(draw: Any, data: bytes) -> bytes:
    """The data after a few changes: cut, bits flipped, pieces inserted, removed and repeated."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 30)))
        kind = draw(st.sampled_from(["cut", "flip", "insert", "remove", "repeat", "swap"]))
        if kind == "cut":
            data = data[:at]
        elif kind == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
        elif kind == "insert":
            data = data[:at] + draw(TOKENS) + data[at:]
        elif kind == "remove":
            data = data[:at] + data[end:]
        elif kind == "repeat":
            data = data[:end] + data[at:]
        else:
            data = data[end:] + data[:end]
    return data


def refusal(read: Callable[[], object], beginning: str) -> bool:
    """Whether bytes are refused; with one line, and with no other error."""
    try:
        read()
    except (FormatError, ConfigError) as error:
        message = str(error)
    else:
        return False
    assert message.startswith(beginning)
    assert "\n" not in message
    assert len(message) < 1200
    return True


@pytest.mark.parametrize("model", ALL, ids=lambda model: model.title)
@QUICK
@given(data=st.data())
def test_a_mutated_file_is_read_or_refused(
    model: type[PersistedModel], data: st.DataObject
) -> None:
    changed = data.draw(models(model).map(encode).flatmap(mutated))
    if not refusal(lambda: decode(model, changed, "file.json"), "file.json: "):
        found = decode(model, changed, "file.json")
        assert decode(model, encode(found), "file.json") == found


@QUICK
@given(
    st.sampled_from(ALL),
    st.binary(max_size=200) | st.lists(TOKENS, max_size=40).map(b"".join),
)
def test_arbitrary_bytes_are_refused(model: type[PersistedModel], data: bytes) -> None:
    assert refusal(lambda: decode(model, data, "file.json"), "file.json: ")


LINES = st.one_of(
    st.builds(result_lines.encode_json, JSON, JSON),
    st.builds(
        lambda item: result_lines.encode_error(item, ErrorRecord(type="E", message="m")), JSON
    ),
    st.builds(result_lines.encode_pickle, JSON, JSON),
)


@settings(QUICK, max_examples=4 * EXAMPLES)
@given(LINES.flatmap(mutated) | st.binary(max_size=60) | st.lists(TOKENS).map(b"".join))
def test_a_result_line_is_read_or_refused(line: bytes) -> None:
    def read() -> None:
        found = result_lines.decode_line(line, "results of shard 0")
        assert found.error is None or isinstance(found.error, ErrorRecord)

    refusal(read, "results of shard 0: holds a")


YAML = st.lists(
    st.sampled_from(
        ["a", ": ", "\n", "  ", "- ", "[", "]", "{", "}", ", ", "&a ", "*a", "!!int ", "!x ",
         "<<: *a", "'", '"', "|", ">", "#", "?", "0x", "1_0", "1e5", ".nan", "12:00:00", "---\n",
         "%", "@", "\t"]
    ),
    max_size=30,
)  # fmt: skip


@settings(QUICK, max_examples=4 * EXAMPLES)
@given(YAML.map("".join) | st.text(max_size=40))
@example("!!int ")
@example("!!bool x")
@example("!!timestamp x")
def test_yaml_is_read_or_refused(text: str) -> None:
    refusal(lambda: parse_yaml(text, "decode.yaml"), "decode.yaml: is not YAML")
