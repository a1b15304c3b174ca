"""What several commands share: arguments, options, and the exit codes."""

from __future__ import annotations

import click

from espnet3.cli.arguments import Seconds
from espnet3.cli.completion import FILE, RUN_DIRECTORY

DONE, NOT_COMPLETE, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130  # exit codes

run_dir = click.argument("run_dir", metavar="RUN_DIR", type=RUN_DIRECTORY)
trust = click.option(
    "--trust",
    type=click.Choice(["owner", "group"]),
    help="Believe only what no group may write; or also what others of your groups own.",
)


def _usual_patience() -> float:
    from espnet3.storage.retry import PATIENCE

    return PATIENCE


patience = click.option(
    "--patience",
    type=Seconds(min=0),
    default=_usual_patience,
    show_default="ESPNET3_PATIENCE, or 60",
    help="Seconds in which results may still arrive through a network file system.",
)
code = click.option(
    "--code",
    type=click.Choice(["current", "submitted"]),
    help="Where source files were edited: go on with them as they are, or with the run's snapshot.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
shard = click.argument(
    "words", nargs=-1, required=True, metavar="RUN_DIR RANK | SPEC.json", type=RUN_DIRECTORY
)
output = click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=FILE,
    help="A path or URL that ends in .jsonl, .jsonl.gz, .jsonl.zst, .csv, .parquet or .arrow; "
    "exists only once complete. - is standard output.",
)
config = click.argument("config", metavar="CONFIG.yaml", type=FILE)
