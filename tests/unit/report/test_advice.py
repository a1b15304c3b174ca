"""The line to copy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from espnet3.cli.app import app
from espnet3.report.advice import advice
from espnet3.report.model import Asked, Attempt, Facts, Unfinished

GB = 10**9


def facts(peak: int | None, asked: int | None, **more: Any) -> Facts:
    submission = Asked(1, 0.0, memory=asked, memory_option=more.pop("option", "memory"))
    attempts = (Attempt(0, "0001-000000000000", 1, "0001/0", peak_memory=peak),)
    values: dict[str, Any] = {"states": {"done": 1}, "submissions": (submission,), **more}
    return Facts("/my runs/a", "d:D", 10, 1, 0.0, attempts=attempts, **values)


FAILED: dict[str, Any] = {
    "states": {"done": 1, "interrupted": 1},
    "unfinished": (Unfinished(1, "interrupted", "memory", "out of memory"),),
}


@pytest.mark.parametrize(
    ("known", "line"),
    [
        (facts(4 * GB, 16 * GB), "espnet3 submit CONFIG.yaml parallel.options.memory=5GB"),
        (
            facts(4 * GB, 16 * GB, states={"done": 1, "failed": 1}),
            "espnet3 resume '/my runs/a' --set memory=5GB",
        ),
        (facts(4 * GB, 4 * GB, **FAILED), "espnet3 resume '/my runs/a' --set memory=6GB"),
        (facts(9 * GB, 4 * GB, **FAILED), "espnet3 resume '/my runs/a' --set memory=14GB"),
        (facts(None, 4 * GB, **FAILED), "espnet3 resume '/my runs/a' --set memory=6GB"),
        (
            facts(3 * 2**30, 8 * 2**30, option="job_mem", states={"lost": 1}),
            "espnet3 resume '/my runs/a' --set job_mem=4292M",
        ),
        (facts(int(3.9 * GB), 4 * GB), "espnet3 submit CONFIG.yaml parallel.options.memory=5GB"),
        (facts(4 * GB, 5 * GB), ""),
        (facts(None, 5 * GB), ""),
        (facts(4 * GB, None), ""),
        (facts(None, None, submissions=()), ""),
    ],
)
def test_the_line(known: Facts, line: str) -> None:
    found = advice(known)
    assert found.line == line
    assert found.words.endswith(".")


def test_attempts_without_figures_are_told() -> None:
    seen = facts(4 * GB, 16 * GB)
    silent = Attempt(1, "0001-000000000001", 1, "0001/1", outcome="interrupted")
    found = advice(replace(seen, attempts=(*seen.attempts, silent)))
    assert "What 1 of 2 attempts needed is not known." in found.words
    assert found.line.endswith("memory=5GB")
    killed = replace(silent, outcome="lost")
    found = advice(replace(seen, attempts=(*seen.attempts, killed)))
    assert "ended without a word and may have needed more" in found.words
    assert found.line == ""
    running = replace(silent, outcome="running")
    assert advice(replace(seen, attempts=(*seen.attempts, running))) == advice(seen)


def test_the_line_is_one_that_the_command_takes() -> None:
    for name, option in (("resume", "--set"), ("submit", None)):
        command = app.commands[name]
        known = {word for parameter in command.params for word in parameter.opts}
        assert option is None or option in known
