"""Outputs that cannot be written are refused in one line that says so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from espnet3.collect.output import open_output
from espnet3.errors import StoreError, UsageError
from espnet3.run_dir.output_names import require_outside


def test_an_output_without_a_name_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^output: is empty; name a file or URL$"):
        require_outside("/shared/run", "")


def test_a_file_system_that_cannot_write_is_named() -> None:
    with (
        pytest.raises(StoreError, match=r"^http://127\.0\.0\.1:9/x: http URLs cannot be written; "),
        open_output("http://127.0.0.1:9/x") as target,
    ):
        target.write(b"")


def test_what_has_the_name_is_replaced_in_one_step_or_stays_as_it_was(tmp_path: Path) -> None:
    there, link, other = tmp_path / "there.csv", tmp_path / "link.csv", tmp_path / "other.csv"
    there.write_text("somebody's")
    there.chmod(0o444)
    link.symlink_to(there)
    os.link(there, other)

    def write_and_fail() -> None:
        with open_output(str(link)) as target:
            target.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        write_and_fail()
    assert there.read_text() == "somebody's"
    with open_output(str(link)) as target:
        target.write(b"ours")
        assert there.read_text() == "somebody's"
    assert (there.read_text(), other.read_text(), link.is_symlink()) == ("ours", "somebody's", True)
    assert there.stat().st_mode & 0o200
    with pytest.raises(StoreError), open_output(str(tmp_path)) as target:
        target.write(b"ours")
    assert sorted(tmp_path.iterdir()) == [link, other, there]
