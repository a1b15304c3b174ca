"""What a submission notes of the command that a person typed."""

from __future__ import annotations

import os
import sys

import pytest

from espnet3.submit.typed import typed_command


@pytest.mark.parametrize(
    ("words", "typed"),
    [
        (["/venv/bin/python", "/venv/bin/espnet3", "resume", "a b"], "espnet3 resume 'a b'"),
        (["python", "decode.py", "--beam", "5"], "python decode.py --beam 5"),
        (["python", "d.py", "--hf-token", "hf_Zq9x"], "python d.py --hf-token ***"),
        (["python", "d.py", "hub.token=hf_Zq9y", "again=hf_Zq9y"],
         "python d.py hub.token=*** 'again=***'"),
        (["python"], "python"),
        ([], ""),
    ],
)  # fmt: skip
def test_the_words(monkeypatch: pytest.MonkeyPatch, words: list[str], typed: str) -> None:
    monkeypatch.setattr(sys, "orig_argv", words)
    assert typed_command().replace("'", "") == typed.replace("'", "")


def test_what_no_record_could_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", os.fsdecode(b"\xff.py"), "-c", "x" * 10_000])
    typed = typed_command()
    assert typed.encode().startswith(b"python '\\xff.py'")
    assert len(typed) < 5000
