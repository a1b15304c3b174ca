"""Failures by their exceptions, and shards by the causes why they are not done."""

from __future__ import annotations

from typing import Any

from espnet3.report.failures import causes, groups
from espnet3.report.model import Facts, Failure, Unfinished


def facts(**more: Any) -> Facts:
    return Facts("/r", "d:D", 10, 10, 0.0, {}, **more)


def test_messages_that_differ_in_numbers_are_one_group() -> None:
    failures = [
        Failure(r, "ValueError", f"item {r} at 0x7f{r}a is bad", host="n1") for r in range(9)
    ]
    failures += [Failure(3, "KeyError", "'text'", "Traceback\nKeyError", item="7", recorded=True)]
    first, second = groups(facts(failures=tuple(failures)))
    assert (first.type, first.message) == ("ValueError", "item 0 at 0x7f0a is bad")
    assert (first.n, first.shards, first.hosts["n1"]) == (9, "0-8", 9)
    assert (second.n_recorded, second.traceback, second.item) == (1, "Traceback\nKeyError", "7")


def test_a_traceback_is_cut_in_its_middle() -> None:
    trace = "Traceback\n" + 100_000 * "x" + "\nValueError: why"
    [group] = groups(facts(failures=(Failure(0, "ValueError", "why", trace),)))
    assert len(group.traceback) < 7000
    assert group.traceback.startswith("Traceback")
    assert group.traceback.endswith("ValueError: why")
    assert "bytes are left out" in group.traceback


def test_a_group_has_a_traceback_though_its_first_failure_has_none() -> None:
    both = (Failure(0, "OSError", "no"), Failure(1, "OSError", "no", "Traceback …"))
    assert groups(facts(failures=both))[0].traceback == "Traceback …"


def test_causes_by_state_and_kind() -> None:
    shards = [Unfinished(r, "interrupted", "time", f"time limit, {r}") for r in (4, 5, 8)]
    shards += [Unfinished(0, "queued", None, "job 12")]
    first, second = causes(facts(unfinished=tuple(shards)))
    assert (first.state, first.kind, first.shards) == ("interrupted", "time", "4-5 8")
    assert first.words == "time limit, 4"
    assert (second.kind, second.ranks) == ("", (0,))
