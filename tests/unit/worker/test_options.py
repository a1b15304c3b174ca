"""A worker's arguments are the same, whether argparse reads them or not."""

from __future__ import annotations

import contextlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet3.worker import options

WORDS = st.sampled_from(
    ["--first-task", "--task", "--run-id", "--job", "--trust", "--first_task", "--tas", "--job=x",
     "--number", "--run", "--help", "--", "-", "-1", "--x y"]
)  # fmt: skip
VALUES = st.one_of(
    st.integers(-3, 30).map(str),
    st.sampled_from(
        ["9" * 5000, "0001", "owner", "group", "anyone", "/shared/decode", "", " 7", "1_0", "٣"]
    ),
    st.text(max_size=4),
)


@pytest.mark.parametrize(
    "argv",
    [
        ["/shared/decode", "0001"],
        ["/shared/decode", "0001", "--run-id", "462896163d9b", "--trust", "owner"],
        ["s3://bucket/decode", "0012", "--first-task", "1001", "--run-id", "4628"],
        ["/run", "0001", "--run-id", "4628", "--job", "espnet3-4628-0001-0", "--task", "5"],
    ],
)
def test_what_job_scripts_say_needs_no_argparse(argv: list[str]) -> None:
    assert options._parse_plain(argv) == options._parse_any(argv)


@given(st.lists(st.one_of(WORDS, VALUES), max_size=8))
def test_what_is_read_without_argparse_is_read_as_argparse_does(argv: list[str]) -> None:
    plain = options._parse_plain(argv)
    if plain is not None:
        with contextlib.redirect_stderr(io.StringIO()) as complaint:
            try:
                assert options._parse_any(argv) == plain
            except SystemExit:
                pytest.fail(f"argparse refuses {argv}: {complaint.getvalue()}")


def test_what_is_wrong_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        options.parse(["/shared/decode", "first"])
    assert "argument number: invalid int value: 'first'" in capsys.readouterr().err
