"""Blocks of whole lines, from streams of any size."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet3.run_dir import verification


@given(st.binary(max_size=60), st.integers(1, 9), st.integers(0, 70))
def test_blocks_end_where_lines_end(data: bytes, most: int, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verification, "IN_MEMORY", most)
        blocks = [*verification.line_blocks(io.BytesIO(data), size, "x")]
    assert b"".join(blocks) == data[:size]
    assert all(block.endswith(b"\n") for block in blocks[:-1])
