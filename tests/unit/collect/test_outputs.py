"""Outputs that cannot be written are refused in one line that says so."""

from __future__ import annotations

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
