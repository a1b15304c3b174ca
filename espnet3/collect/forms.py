"""The forms that results are written in: JSON lines, also compressed, and tables."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import BinaryIO

from espnet3.collect.output import Target, open_output
from espnet3.collect.result_parts import Shard, Vouched, read_in_turn
from espnet3.run_dir.output_names import TABLES, require_form
from espnet3.run_dir.verification import blocks
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
    def copied(shard: Shard, part: ResultPart, source: BinaryIO) -> Iterator[bytes]:
        for block in blocks(source, part.bytes):
            vouched.require_wanted()  # or the unfinished file is removed
            target.write(block)
            yield block

    read_in_turn(vouched, copied)


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
