"""The records of a run on standard output."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

from espnet3.run import Run
from espnet3.specs.errors import UsageError
from espnet3.specs.records import encode_error, encode_json
from espnet3.specs.store import open_store
from espnet3.status.observe import read_run

if TYPE_CHECKING:
    from espnet3.specs.trust import Trust


def print_records(
    run_dir: str,
    partial: bool,
    errors: Literal["raise", "keep"],
    patience: float,
    trust: Trust | None,
) -> None:
    """Print the records of a run, the same lines as in the file that `collect` writes, one by one.

    Args:
        run_dir: a path or URL.
        partial: leave out the shards that are not done.
        errors: what to do about items that failed and were recorded.
        patience: seconds in which results may still arrive through a network file system.
        trust: whose run directories are believed.

    Raises:
        UsageError: the results are pickled, which no line shows.
        EspnetError: as for `espnet3.collect.stream`.
    """
    if read_run(open_store(run_dir)).results == "pickle":
        raise UsageError(f"{run_dir}: holds pickled results; collect them into a file with -o FILE")
    out = sys.stdout.buffer
    run = Run(run_dir, trust=trust)
    for record in run.stream(partial=partial, errors=errors, patience=patience):
        if record.error is None:
            out.write(encode_json(record.item, record.result))
        else:
            out.write(encode_error(record.item, record.error))
    out.flush()
