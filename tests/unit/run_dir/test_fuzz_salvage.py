"""Result files after any harm: salvage believes whole lines of the right items, and no others."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from espnet3.errors import EspnetError
from espnet3.run_dir import result_lines
from espnet3.run_dir.salvage import later_lines, list_results, salvage
from espnet3.specs import layout
from espnet3.specs.models import ErrorRecord
from espnet3.storage.opening import open_store
from tests.unit.specs.test_fuzz import EXAMPLES, mutated

ITEMS: list[Any] = [0, 1, "a", "a", None, {"x": 1}, [1, 2], 7, 8, "ü\n"]


@st.composite
def harmed(draw: Any) -> tuple[int, bytes]:
    """Where a file begins, and what is left of it; lines may be repeated, lost or swapped."""
    first = draw(st.integers(0, len(ITEMS) - 1))
    lines = []
    for position, item in enumerate(ITEMS[first:], first):
        failed = draw(st.integers(0, 5)) == 0
        error = ErrorRecord(type="ValueError", message="bad")
        line = (
            result_lines.encode_error(item, error)
            if failed
            else result_lines.encode_json(item, position)
        )
        lines.append(line)
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(lines) - 1))
        lines.insert(draw(st.integers(0, len(lines))), lines[at])
    if draw(st.booleans()):
        lines.pop(draw(st.integers(0, len(lines) - 1)))
    data = b"".join(lines)
    return first, draw(mutated(data)) if draw(st.booleans()) else data


def good(line: bytes, item: Any) -> bool:
    """Said independently of the product: one whole JSON line for that item."""
    try:
        record = orjson.loads(line)
    except ValueError:
        return False
    return line.endswith(b"\n") and line.count(b"\n") == 1 and bool(record["item"] == item)


@settings(
    max_examples=6 * EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
)
@given(st.lists(harmed(), min_size=1, max_size=3))
def test_whatever_became_of_result_files(files: list[tuple[int, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        store = open_store(temporary)
        folder = Path(temporary, layout.RESULTS)
        folder.mkdir()
        for n, (first, data) in enumerate(files):
            name = layout.result(3, f"0001-{n:012x}", first)
            Path(temporary, name).write_bytes(data)
        try:
            found = salvage(store, list_results(store)[3], ITEMS)
            later = list(later_lines(store, found, ITEMS)) if found.later else []
        except EspnetError as error:
            raise AssertionError(f"salvage is for harmed files: {error}") from error
        position, errors = 0, 0
        for part in found.parts:
            data = (folder / part.file).read_bytes()[: part.bytes]
            lines = data.splitlines(keepends=True)
            assert part.first == position
            assert len(lines) == part.records
            assert part.checksum == f"sha256:{hashlib.sha256(data).hexdigest()}"
            for line in lines:
                assert good(line, ITEMS[position])
                errors += b'"error"' in line
                result_lines.decode_line(line, "a salvaged line")
                position += 1
        assert (position, errors) == (found.records, found.errors)
        for item, entry in zip(ITEMS[found.records :], later, strict=False):
            assert entry is None or good(entry[0], item)
