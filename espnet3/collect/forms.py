"""The forms that results are written in: JSON lines, also compressed, and tables."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO

from espnet3.collect.output import Target, open_output
from espnet3.collect.result_parts import Shard, Vouched, take_in_turn
from espnet3.errors import DamagedResult
from espnet3.run_dir.output_names import TABLES, require_form
from espnet3.run_dir.verification import IN_MEMORY, blocks, mismatch
from espnet3.specs import layout
from espnet3.specs.models import ResultPart

_GZIP_LEVEL = 6  # as gzip(1); Python's own 9 takes twice as long for a few percent


def write(vouched: Vouched, output: str) -> None:
    """Write all verified results to a file that exists only when it is complete.

    Args:
        vouched: the results.
        output: a path or an fsspec URL, whose suffix says in which form.

    Raises:
        UsageError: that form cannot be made here, or not of these results.
        DamagedResult: a result file is not what its receipt vouched for.
        StoreError: it cannot be written.
    """
    form = require_form(output, pickled=vouched.run.results == "pickle")
    if form not in TABLES:
        with open_output(output) as target, _compressed(target, form) as packed:
            _copy(vouched, packed)
    elif form == ".csv":
        from espnet3.collect.csv_file import write_csv

        write_csv(vouched, output)
    else:
        from espnet3.collect.table_files import write_table  # which needs pyarrow

        write_table(vouched, output, form)


def _copy(vouched: Vouched, target: Target) -> None:
    def copy(shard: Shard, part: ResultPart, source: BinaryIO) -> None:
        written = _copied(vouched, source, part, target)
        if part.bytes <= IN_MEMORY:
            deque(written, maxlen=0)
        # A large part is read a second time, and may have changed since the first.
        elif (problem := mismatch(written, part)) is not None:
            file = vouched.store.locate(f"{layout.RESULTS}/{part.file}")
            raise DamagedResult(file, shard.rank, problem, vouched.store.root)

    take_in_turn(vouched, copy)


def _copied(
    vouched: Vouched, source: BinaryIO, part: ResultPart, target: Target
) -> Iterator[bytes]:
    """The blocks of a part, each once it is written."""
    for block in blocks(source, part.bytes):
        vouched.require_wanted()  # or the unfinished file is removed
        target.write(block)
        yield block


@contextlib.contextmanager
def _compressed(target: Target, form: str) -> Iterator[Target]:
    """What compresses on the way to a target, if the form says so."""
    if form == ".jsonl.gz":
        import gzip

        # The same results are the same bytes: no time, no name.
        with gzip.GzipFile("", "wb", _GZIP_LEVEL, target, mtime=0) as packed:  # type: ignore[call-overload]  # it only writes
            yield packed
    elif form == ".jsonl.zst":
        import pyarrow

        from espnet3.collect.arrow_file import arrow_file

        with arrow_file(target) as file, pyarrow.CompressedOutputStream(file, "zstd") as packed:
            yield packed
    else:
        yield target
