"""What `espnet3 collect` does with the results: a file, files for Kaldi, or standard output."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import click
import orjson

from espnet3._blocking import run_blocking
from espnet3.cli import show
from espnet3.cli.options import DONE
from espnet3.cli.record_output import print_records
from espnet3.cli.several_runs import each_run, own_runs_of, require_one, runs_of
from espnet3.cli.streams import require_stdout
from espnet3.collect.merge import Collected
from espnet3.collect.unfinished import positions_in_words
from espnet3.collect.vouching import PartialResults
from espnet3.collect.written import Merged, merge_written
from espnet3.errors import EspnetError, UnserializableResult, UsageError
from espnet3.run import Run
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.result_lines import encode_json
from espnet3.run_dir.trust import Trust
from espnet3.text import counted, one_line

STDOUT = "-"
_MERGES = (
    "its runner writes the results itself, and its merge makes the output, so -o and --to do not "
    "apply"
)


def collect_results(
    run_dir: str,
    output: str | None,
    folder: str | None,
    key: str | None,
    as_json: bool,
    trust: Trust | None,
    **how: Any,
) -> int:
    """Gather the results of a run, and print what became of them.

    Args:
        run_dir: a path or URL.
        output: the file for them; standard output where unset, or `-`.
        folder: the folder for files that Kaldi reads, instead.
        key: the field with the keys of these.
        as_json: print a JSON document.
        trust: whose run directories are believed.
        how: other arguments of `Run.collect`.

    Returns:
        The exit code.

    Raises:
        click.UsageError: options do not go together.
        EspnetError: as for `espnet3.collect.collect`.
    """
    if (folder is None) is not (key is None):
        raise click.UsageError("--to kaldi DIR and --key FIELD need each other")
    if folder is not None and output is not None:
        raise click.UsageError("-o names one file, and --to a folder for many; give one of them")
    run_dirs = runs_of(run_dir)
    if _all_have_writers(run_dirs):
        if folder is not None or output is not None:
            raise UsageError(f"{run_dir}: {_MERGES}")
        return _merge_each(own_runs_of(run_dir), as_json, trust, **how)
    require_one(run_dir, "collecting results")
    run_dir = run_dirs[0]
    to_stdout = folder is None and output in (None, STDOUT)
    if to_stdout and as_json:
        raise click.UsageError(
            "--json describes the file of -o; the records themselves are JSON lines already"
        )
    if to_stdout:
        require_stdout("name a file with -o FILE")
    with show.lines_for(PartialResults):
        if to_stdout:
            print_records(run_dir, trust=trust, **how)
            return DONE
        run = Run(run_dir, trust=trust)
        with show.waiting("collecting"):
            if folder is not None and key is not None:
                found = run.to_kaldi(folder, key, **how)
            else:
                found = run.collect(output or STDOUT, **how)
    _show(found, as_json)
    return DONE


def _all_have_writers(run_dirs: Sequence[str]) -> bool:
    """Whether the runners of all runs that can be read write the results themselves."""
    found = []
    for each in run_dirs:
        with contextlib.suppress(EspnetError):  # said where it is collected
            found.append(RunDirectory.open(each).run().writers is not None)
    return bool(found) and all(found)


def _merge_each(run_dirs: Sequence[str], as_json: bool, trust: Trust | None, **how: Any) -> int:
    """Have the runner's own `merge` make the output; what it prints comes between."""

    def merge(run_dir: str) -> tuple[int, Any]:
        with show.lines_for(PartialResults):
            merged = run_blocking(merge_written(run_dir, trust=trust, quiet=as_json, **how))
        if as_json:
            return DONE, asdict(replace(merged, value=_as_json(merged.value)))
        _show_merged(merged)
        return DONE, None

    return each_run(run_dirs, merge, as_json=as_json)


def _as_json(value: Any) -> Any:
    """What `merge` returned; None where that is not JSON."""
    try:
        return orjson.loads(encode_json(None, value))["result"]
    except UnserializableResult:
        return None


def _show_merged(merged: Merged) -> None:
    value = _as_json(merged.value)
    show.say(f"merged {counted(merged.shards, 'shard')} into {one_line(merged.output, 10_000)}")
    show.lines([*_wrong(merged), *_left_out(merged)])
    if value not in (None, {}):
        show.json_document(value)


def _show(found: Collected, as_json: bool) -> None:
    if as_json:
        show.json_document(asdict(found))
        return
    show.lines(
        [
            ("output", found.output),
            ("records", str(found.records)),
            *_wrong(found),
            *_left_out(found),
        ]
    )


def _wrong(found: Collected | Merged) -> list[tuple[str, str]]:
    counts = {"failed items": found.errors - found.skipped, "skipped items": found.skipped}
    return [(name, str(n)) for name, n in counts.items() if n]


def _left_out(found: Collected | Merged) -> list[tuple[str, str]]:
    """What a partial collection lacks: how many items, at which positions, of which shards."""
    if not found.missing:
        return []
    n = sum(end - first for first, end in found.missing)
    return [
        ("items left out", f"{n}: {positions_in_words(found.missing)}"),
        ("of shards", positions_in_words([(rank, rank + 1) for rank in sorted(found.left_out)])),
    ]
