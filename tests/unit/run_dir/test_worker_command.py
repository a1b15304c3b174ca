"""The words of a worker's command line, and what they say, are inverse functions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet3.errors import UsageError
from espnet3.run_dir.trust import POLICIES
from espnet3.run_dir.worker_command import (
    SUPERVISOR,
    WORKER,
    WorkerArguments,
    arguments_of,
    changed,
    command,
    parse_arguments,
    without_python,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
NUMBER = st.integers(0, 10**9)
ARGUMENTS = st.builds(
    WorkerArguments,
    run=TEXT.map(lambda path: f"/{path}"),
    number=NUMBER,
    first_task=NUMBER,
    task=st.none() | NUMBER,
    run_id=st.none() | TEXT,
    job=st.none() | TEXT,
    trust=st.sampled_from([None, *POLICIES]),
)
WORDS = TEXT.filter(lambda word: word not in (WORKER, SUPERVISOR))
INTERPRETERS = st.lists(WORDS, min_size=1, max_size=3)


@given(ARGUMENTS)
def test_the_words_are_read_back(arguments: WorkerArguments) -> None:
    assert parse_arguments(arguments.words()) == arguments


@given(INTERPRETERS, ARGUMENTS, st.sampled_from([WORKER, SUPERVISOR]), NUMBER)
def test_a_command_is_read_back(
    python: list[str], arguments: WorkerArguments, module: str, task: int
) -> None:
    words = command(python, ["-X", "utf8"], module, arguments)
    assert arguments_of(words, module) == arguments
    if module == WORKER:
        assert arguments_of(changed(words, task=task)) == arguments._replace(task=task)
    else:
        with pytest.raises(UsageError, match=r"runs no espnet3\.worker"):
            arguments_of(words)


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        (["/shared/decode", "0001"], WorkerArguments("/shared/decode", 1)),
        (
            ["s3://bucket/decode", "0012", "--first-task", "1001", "--run-id", "4628"],
            WorkerArguments("s3://bucket/decode", 12, first_task=1001, run_id="4628"),
        ),
        (
            ["/run", "0001", "--run-id", "4628", "--job", "espnet3-4628-0001-0", "--task", "5"],
            WorkerArguments("/run", 1, task=5, run_id="4628", job="espnet3-4628-0001-0"),
        ),
        (["--trust", "owner", "/r", "1"], WorkerArguments("/r", 1, trust="owner")),
    ],
)
def test_what_earlier_job_scripts_say(words: list[str], arguments: WorkerArguments) -> None:
    assert parse_arguments(words) == arguments


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ([], "usage: RUN NUMBER"),
        (["/run"], "usage"),
        (["/run", "first"], "number: 'first' is not a number"),
        (["/run", "9" * 5000], "is not a number"),
        (["/run", "٣"], "is not a number"),
        (["/run", "0001", "--task", "--1"], "task: '--1' is not a number"),
        (["/run", "0001", "--task"], "--task lacks its value"),
        (["/run", "0001", "--shard", "3"], "'--shard' is not an option"),
        (["/run", "0001", "--trust", "anyone"], "'anyone' is not one of owner, group"),
        (["/run", "0001", "0002"], "usage"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(words: list[str], problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        parse_arguments(words)
    assert "\n" not in str(caught.value)


def test_another_interpreter() -> None:
    words = command(["nice", "a python"], [], WORKER, WorkerArguments("/r", 1))
    assert without_python(words, "nice 'a python'")[:2] == ["-P", "-m"]
    with pytest.raises(UsageError, match="does not begin with python3"):
        without_python(words, "python3")
