"""Results that JSON cannot hold: refused in one clear line, with nothing half-written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from espnet3.errors import (
    IncompleteRun,
    InvalidFile,
)
from espnet3.specs.models import AttemptRecord, decode
from tests.support.refusals import Odd, OddProvider, Opaque, one_clear_line, refused, start


@pytest.mark.parametrize(
    ("kind", "type_name"),
    [("object", "Opaque"), ("nan", "float"), ("keys", "int"), ("set", "set")],
)
def test_a_result_that_json_cannot_hold_fails_its_shard(
    here: Path, kind: str, type_name: str
) -> None:
    run = start(Odd(OddProvider({"kind": kind})))
    seen = run.wait(60, 0.1)
    assert seen.counts() == {"failed": 1}
    [file] = (here / "run/attempts").glob("*.failed.json")
    record = decode(AttemptRecord, file.read_bytes(), str(file))
    one_clear_line(record.cause, "item 1 cannot be stored as JSON", "set `results: pickle`")
    assert record.item == 1
    assert record.items_done == 1
    assert record.error is not None
    assert record.error.type == "UnserializableResult"
    where = {"object": "Opaque", "nan": "nan at loss", "keys": "the key 1", "set": "set"}[kind]
    assert where in record.cause
    with pytest.raises(IncompleteRun) as caught:
        run.collect()
    one_clear_line(str(caught.value), "0 failed: the result of item 1 cannot be stored as JSON")


def test_pickle_takes_such_results(here: Path) -> None:
    run = start(Odd(OddProvider({"kind": "set"})), parallel={"results": "pickle"})
    assert run.wait(60, 0.1).done
    assert run.collect() == [0, {1, 2}, 2, 3]


def test_nothing_is_unpickled_where_the_run_says_json(here: Path, monkeypatch: Any) -> None:
    """Neither a pickled line nor one with a receipt of its own makes collect run its code."""
    run = start(Odd(OddProvider({"kind": "object"})), parallel={"results": "pickle"})
    assert run.wait(60, 0.1).done
    monkeypatch.setattr(Opaque, "unpickled", 0)
    file = here / "run/run.json"
    file.write_text(file.read_text().replace('"pickle"', '"json"'))
    words = ["results of shard 0", "a pickled result, but the run says `results: json`"]
    with refused(InvalidFile, *words, folder=here):
        run.collect(patience=0)
    with refused(InvalidFile, *words, folder=here):
        list(run.stream(patience=0))
    assert Opaque.unpickled == 0
