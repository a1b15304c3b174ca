"""Items for which `forward` is not called: an error stands in their place (decision 0026)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from espnet3.run_dir.result_lines import SKIPPED, encode_error
from espnet3.run_dir.salvage import Kept
from espnet3.specs.models import ErrorRecord, Submission


def skips_of(submission: Submission) -> dict[int, dict[int, str]]:
    """What a submission passes over: rank -> position -> why."""
    found: dict[int, dict[int, str]] = {}
    for item in submission.skip:
        found.setdefault(item.rank, {})[item.position] = item.cause
    return found


def with_skipped(
    left: Iterable[tuple[Any, Kept | None]], skip: Mapping[int, str] | None, first: int
) -> Iterable[tuple[Any, Kept | None]]:
    """The items from a position on, where what is passed over has its line already.

    Args:
        left: each item, with the line that a predecessor left of it.
        skip: position -> why it is passed over.
        first: the position that is begun at.
    """
    return _with_lines(left, skip, first) if skip else left


def _with_lines(
    left: Iterable[tuple[Any, Kept | None]], skip: Mapping[int, str], first: int
) -> Iterator[tuple[Any, Kept | None]]:
    for position, (item, kept) in enumerate(left, first):
        if kept is None and position in skip:
            why = ErrorRecord(type=SKIPPED, message=f"skipped: {skip[position]}")
            kept = (encode_error(item, why), True)
        yield item, kept
