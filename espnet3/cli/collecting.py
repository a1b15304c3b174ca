"""What `espnet3 collect` does with the results: a file, files for Kaldi, or standard output."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from typing import Any

import click

from espnet3.cli import show
from espnet3.cli.options import DONE
from espnet3.cli.record_output import print_records
from espnet3.cli.streams import require_stdout
from espnet3.collect.merge import Collected, PartialResults
from espnet3.collect.unfinished import positions_in_words
from espnet3.run import Run
from espnet3.run_dir.trust import Trust

STDOUT = "-"


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
    to_stdout = folder is None and output in (None, STDOUT)
    if to_stdout and as_json:
        raise click.UsageError(
            "--json describes the file of -o; the records themselves are JSON lines already"
        )
    if to_stdout:
        require_stdout("name a file with -o FILE")
    with warnings.catch_warnings():
        warnings.simplefilter("always", PartialResults)
        warnings.showwarning = lambda message, *_, **__: show.problem(str(message))
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


def _show(found: Collected, as_json: bool) -> None:
    if as_json:
        show.json_document(asdict(found))
        return
    show.lines(
        [
            ("output", found.output),
            ("records", str(found.records)),
            *([("failed items", str(found.errors))] if found.errors else []),
            *_left_out(found),
        ]
    )


def _left_out(found: Collected) -> list[tuple[str, str]]:
    """What a partial collection lacks: how many items, at which positions, of which shards."""
    if not found.missing:
        return []
    n = sum(end - first for first, end in found.missing)
    return [
        ("items left out", f"{n}: {positions_in_words(found.missing)}"),
        ("of shards", positions_in_words([(rank, rank + 1) for rank in sorted(found.left_out)])),
    ]
