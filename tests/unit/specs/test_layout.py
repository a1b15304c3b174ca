"""Paths: names say who wrote a file, one name for each thing, and foreign names mean nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from espnet3.specs import layout
from espnet3.specs.nested import AttemptName, ResultName

NUMBERS = st.integers(0, 10**8)
NAMES = (
    st.text(max_size=30)
    | st.from_regex(r"[0-9]{1,9}(\.[0-9a-f-]{1,20})?(\.[0-9a-z]{1,8})?\.jsonl?\n?", fullmatch=True)
    | st.from_regex(r"0*[0-9]{6}(\.[0-9]{1,3})?\.json", fullmatch=True)
)
_attempt: TypeAdapter[str] = TypeAdapter(AttemptName)
_result: TypeAdapter[str] = TypeAdapter(ResultName)


def name_of(path: str, folder: str) -> str:
    head, _, name = path.partition("/")
    assert head == folder
    assert head in (*layout.FOLDERS, layout.WITHDRAWALS)
    assert "/" not in name
    assert not name.startswith(".")
    return name


@given(NUMBERS, st.integers(1, 999_999_999))
def test_generations_are_found_in_names(rank: int, generation: int) -> None:
    receipt = name_of(layout.receipt(rank, generation), layout.RECEIPTS)
    assert layout.parse_receipt(receipt) == (rank, generation)
    withdrawal = name_of(layout.withdrawal(rank, generation), layout.WITHDRAWALS)
    assert layout.parse_withdrawal(withdrawal) == (rank, generation)
    assert layout.parse_result(withdrawal) is None
    assert layout.parse_attempt_record(withdrawal) is None
    assert layout.parse_receipt(name_of(layout.receipt(rank), layout.RECEIPTS)) == (rank, 1)


@given(NUMBERS)
def test_submission_numbers_are_found_in_names(number: int) -> None:
    name = name_of(layout.submission(number), layout.SUBMISSIONS)
    assert layout.submission_number(name) == number
    for other in (layout.accepted_jobs(number), layout.cancellation(number)):
        assert layout.submission_number(name_of(other, layout.SUBMISSIONS)) is None


@given(NUMBERS, NUMBERS, NUMBERS, st.sampled_from(["started", "failed", "interrupted"]))
def test_attempts_and_results_are_found_in_names(
    rank: int, number: int, first: int, event: str
) -> None:
    attempt = layout.new_attempt(number)
    assert _attempt.validate_python(attempt) == attempt
    assert layout.submission_of(attempt) == number
    record = name_of(layout.attempt_record(rank, attempt, event), layout.ATTEMPTS)
    assert layout.parse_attempt_record(record) == (rank, attempt, event)
    result = name_of(layout.result(rank, attempt, first), layout.RESULTS)
    assert layout.parse_result(result) == (rank, attempt, first)
    assert _result.validate_python(result) == result
    assert layout.parse_result(record) is None
    assert layout.parse_attempt_record(result) is None


@given(NAMES)
def test_no_two_names_mean_the_same(name: str) -> None:
    number = layout.submission_number(name)
    assert number is None or layout.submission(number) == f"submissions/{name}"
    receipt, withdrawal = layout.parse_receipt(name), layout.parse_withdrawal(name)
    assert receipt is None or layout.receipt(*receipt) == f"receipts/{name}"
    assert withdrawal is None or layout.withdrawal(*withdrawal) == f"withdrawals/{name}"
    record, result = layout.parse_attempt_record(name), layout.parse_result(name)
    assert record is None or layout.attempt_record(*record) == f"attempts/{name}"
    assert result is None or layout.result(*result) == f"results/{name}"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "42.json",
        "0000042.json",
        "000042.json\n",
        "000042.json.tmp",
        "000042.JSON",
        "x000042.json",
        "-00042.json",
        "٠٠٠٠٤٢.json",
        "000042.1-0123456789ab.0.jsonl",
        "000042.0001-0123456789AB.0.jsonl",
        "000042.0001-0123456789ab.00.jsonl",
        "000042.0001-0123456789ab.jsonl",
        "000042.0001-0123456789ab.started.jsonl",
        "000042.0001-0123456789ab.finished.json",
        "../000042.json",
        "000042.0.json",
        "000042.02.json",
        "000042.-1.json",
        "000042.2.json.tmp",
        "000042.2.2.json",
    ],
)
def test_foreign_names(name: str) -> None:
    assert layout.parse_receipt(name) is layout.parse_withdrawal(name) is None
    assert layout.parse_attempt_record(name) is None
    assert layout.parse_result(name) is None


def test_the_first_receipt_has_one_name() -> None:
    assert layout.parse_receipt("000042.1.json") is None
    assert layout.parse_withdrawal("000042.json") is None


def test_attempts_are_never_the_same() -> None:
    assert len({layout.new_attempt(1) for _ in range(1000)}) == 1000


def test_names_of_runs_of_usual_size_sort_in_their_order() -> None:
    names = [layout.shard(rank) for rank in range(0, 10**6, 999)]
    assert names == sorted(names)
