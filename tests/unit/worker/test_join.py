"""What a worker that joins is told by files that it inherits."""

from __future__ import annotations

import json
import tempfile

from espnet3.worker.join import _read_ranks


def test_more_ranks_than_a_command_line_holds_are_read_by_each_worker() -> None:
    ranks = [*range(200_000, 0, -1)]
    with tempfile.TemporaryFile() as file:
        file.write(json.dumps(ranks).encode())
        file.flush()
        assert _read_ranks(file.fileno()) == ranks
        assert _read_ranks(file.fileno()) == ranks  # the next one has the same file


def test_none_are_told_where_all_may_be_claimed() -> None:
    assert _read_ranks(None) is None
    with tempfile.TemporaryFile() as file:
        assert _read_ranks(file.fileno()) is None
        file.write(b"[]")
        file.flush()
        assert _read_ranks(file.fileno()) == []
