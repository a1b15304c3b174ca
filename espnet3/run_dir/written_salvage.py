"""How far an attempt's writers are known to have come, where their files only grow."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from espnet3.errors import StoreError
from espnet3.run_dir.receipt_history import ReceiptHistory
from espnet3.run_dir.salvage import Kept, valid_lines
from espnet3.specs import layout
from espnet3.specs.models import RunSpec
from espnet3.specs.nested import within
from espnet3.storage.base import Store


class Checkpoint(NamedTuple):
    """A place up to which an attempt's lines are good and its files are known.

    Attributes:
        file: the attempt's result file.
        end: position after the item.
        sizes: path in the attempt's folder -> how many bytes were durable after that item.
    """

    file: layout.ResultFile
    end: int
    sizes: Mapping[str, int]


def takes_over(run: RunSpec, store: Store) -> bool:
    """Whether an attempt of a runner with writers goes on where an earlier one has ended."""
    return run.writers is not None and run.writers.append_only and store.can_append


def find_checkpoint(
    store: Store, file: layout.ResultFile, items: Sequence[Any], history: ReceiptHistory
) -> Checkpoint | None:
    """The last place of a result file that can be gone on from; None where there is none.

    Args:
        store: the run directory.
        file: which begins at the shard's first item, as each of such an attempt does.
        items: the shard's items, in order.
        history: what is known of the files beside what they hold.
    """
    if file.first or layout.result(*file).rpartition("/")[2] in history.damaged:
        return None
    errors_count = layout.submission_of(file.attempt) >= history.errors_from
    found = None
    for end, (line, is_error) in enumerate(valid_lines(store, file, items), 1):
        if is_error and not errors_count:  # this item is to be computed again
            break
        if not is_error and b'"written"' in line:
            sizes = _sizes_of(line)
            found = found if sizes is None else Checkpoint(file, end, sizes)
    return found


def _sizes_of(line: bytes) -> Mapping[str, int] | None:
    result = orjson.loads(line).get("result")
    sizes = result.get("written") if isinstance(result, dict) else None
    if not isinstance(sizes, dict):
        return None
    try:
        good = all(type(size) is int and size >= 0 and within(path) for path, size in sizes.items())
    except ValueError:
        return None
    return sizes if good else None


def kept_lines(
    store: Store, checkpoint: Checkpoint | None, items: Sequence[Any]
) -> Iterator[Kept | None]:
    """For each item of a shard its line, up to where an attempt goes on; then None.

    Raises:
        StoreError: there are fewer than a moment ago.
    """
    if checkpoint is not None:
        lines = valid_lines(store, checkpoint.file, items)
        n = 0
        for line in itertools.islice(lines, checkpoint.end):
            yield line
            n += 1
        if n < checkpoint.end:
            path = store.locate(layout.result(*checkpoint.file))
            raise StoreError(path, f"has {n} good records, and had {checkpoint.end} a moment ago")
    yield from itertools.repeat(None)
