"""The commands that look at a run, and change nothing of it.

Each imports what it needs when it runs, so that `espnet3 --help` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from espnet3.cli import options
from espnet3.cli.arguments import Seconds
from espnet3.cli.completion import FILE, FOLDER
from espnet3.cli.options import DONE, NOT_COMPLETE
from espnet3.cli.sections import Command, Section
from espnet3.cli.streams import require_stdout

if TYPE_CHECKING:
    from espnet3.run_dir.trust import Trust
    from espnet3.status.run_status import RunStatus


@click.command(cls=Command, section=Section.LOOK)
@options.run_dir
@click.option("--workers", is_flag=True, help="Also a row for each worker that claims shards.")
@options.as_json
def status(run_dir: str, workers: bool, as_json: bool) -> int:
    """Show how far a run has come.

    How many items are done, how fast that goes, which shards are not done, and why; and how many
    items failed and were recorded (on_error: record). The exit code is 0 where every shard is done
    and no item failed or was skipped, so that `collect` does not refuse it.

    In a pipe: one line with the counts, then one line for each shard that is not done, with rank,
    state, submission, task, cause and, after a failure, its log separated by tabs. With --workers,
    lines follow that begin with `worker`. When a worker gave its last sign of life is told by its
    own clock.

    Of a folder of runs, such as several test sets are, each is shown as by `list --ask`, with how
    many items failed or were skipped; the exit code is 0 where that of each would be.
    """
    from espnet3.cli import several_runs, show, status_lines, status_views
    from espnet3.run import Run

    run_dirs = several_runs.runs_of(run_dir)
    if len(run_dirs) > 1:
        if workers:
            several_runs.require_one(run_dir, "--workers")
        return several_runs.show_status(run_dirs, as_json=as_json)
    seen = Run(run_dirs[0]).status()
    signs = None
    if workers:
        from espnet3.cli import worker_rows
        from espnet3.status.worker_signs import worker_signs

        signs = worker_signs(seen.run_dir)
    if as_json:
        told = {} if signs is None else {"workers": worker_rows.documents(signs)}
        show.json_document({**status_lines.status_document(seen), **told})
    else:
        status_views.status(seen)
        if signs is not None:
            worker_rows.show_workers(signs)
    return DONE if seen.needs_nobody else NOT_COMPLETE


@click.command(cls=Command, section=Section.LOOK)
@options.run_dir
@click.option(
    "--interval",
    type=Seconds(min=0.1),
    default=5.0,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document for each change.")
def watch(run_dir: str, interval: float, as_json: bool) -> int:
    """Follow a run until nothing of it is queued or running.

    The exit code is that of `status`. Nothing depends on it: interrupt it, and the run goes on.
    With --json each change is a line, a document as of `status --json`. The runs in a folder of
    several are followed one after the other.
    """
    from espnet3._blocking import run_blocking
    from espnet3.cli import several_runs, show
    from espnet3.text import one_line

    run_dirs = several_runs.runs_of(run_dir)

    def follow(each: str) -> tuple[int, None]:
        if len(run_dirs) > 1 and not as_json and not show.on_terminal():
            show.say(one_line(each, 10_000))  # a terminal's table begins with it
        seen = run_blocking(_watch(each, interval, as_json))
        return DONE if seen.needs_nobody else NOT_COMPLETE, None

    return several_runs.each_run(run_dirs, follow)


async def _watch(run_dir: str, interval: float, as_json: bool) -> RunStatus:
    import asyncio

    from espnet3.cli import status_views
    from espnet3.status.watching import watch as looks

    with status_views.follower(as_json=as_json) as view:
        async for seen in looks(run_dir, interval):
            await asyncio.to_thread(view.look_at_logs, seen)
            view.update(seen)
        view.end(seen)
    return seen


@click.command(cls=Command, section=Section.RESULTS)
@options.run_dir
@options.output
@click.option(
    "--to",
    type=(click.Choice(["kaldi"]), FOLDER),
    metavar="kaldi DIR",
    help="Write a sorted file for each field of the results, as ESPnet and Kaldi read them.",
)
@click.option(
    "--key", metavar="FIELD", help="Which field has the keys for --to; `item` is the item."
)
@click.option(
    "--partial",
    is_flag=True,
    help="Take what there is, also of shards that are not done.",
)
@click.option(
    "--errors",
    type=click.Choice(["raise", "keep"]),
    default="raise",
    show_default=True,
    help="What to do about items that failed and were recorded (on_error: record).",
)
@options.patience
@options.trust
@options.as_json
def collect(
    run_dir: str,
    output: str | None,
    to: tuple[str, str] | None,
    key: str | None,
    partial: bool,
    errors: Literal["raise", "keep"],
    patience: float,
    trust: Trust | None,
    as_json: bool,
) -> int:
    """Gather the results, complete and in order.

    They are verified, and stand in the items' order: as JSON lines, or in the form that the end of
    FILE's name says. Without -o they go to standard output. Where the runner writes its results
    itself, its `merge` makes the output, and what it returns is printed; RUN_DIR may then be a
    folder of such runs.
    """
    from espnet3.cli.collecting import collect_results

    folder = None if to is None else to[1]
    how = {"partial": partial, "errors": errors, "patience": patience}
    return collect_results(run_dir, output, folder, key, as_json, trust, **how)


@click.command(cls=Command, section=Section.LOOK)
@options.run_dir
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=FILE,
    help="A path or URL; - is standard output. RUN_DIR.report.html where unset.",
)
def report(run_dir: str, output: str | None) -> int:
    """Write a run as one HTML page.

    What ran, when, what it took against what was asked for, and what failed. The file needs no
    other one and no network; it can be sent, printed and kept. Of a folder of runs each gets its
    own.
    """
    import sys

    from espnet3._blocking import run_blocking
    from espnet3.cli import several_runs, show
    from espnet3.report.calls import render
    from espnet3.report.calls import report as write

    if output is not None:
        several_runs.require_one(run_dir, "-o")
    if output == "-":
        require_stdout("name a file with -o FILE")
        with show.waiting("reading the run"):
            document = run_blocking(render(several_runs.the_run_of(run_dir)))
        sys.stdout.buffer.write(document)
        return DONE

    def write_one(each: str) -> tuple[int, None]:
        with show.waiting("reading the run"):
            file = run_blocking(write(each, output))
        show.lines([("report", file)])
        return DONE, None

    if output is not None:
        return write_one(several_runs.the_run_of(run_dir))[0]
    return several_runs.each_run(several_runs.own_runs_of(run_dir), write_one)  # beside each


@click.command(cls=Command, section=Section.LOOK)
@options.shard
@click.option("-f", "--follow", is_flag=True, help="Print it as it grows, until the shard's end.")
@click.option("--item", metavar="X", help="Of the shard with this item: JSON value, or @POSITION.")
@click.option("--path", is_flag=True, help="Print the names of all its logs, oldest first.")
@click.option("--raw", is_flag=True, help="Print its bytes as they are, escape sequences too.")
@options.as_json
def logs(
    words: tuple[str, ...], follow: bool, item: str | None, path: bool, raw: bool, as_json: bool
) -> int:
    """Print the newest log of a shard.

    RUN_DIR RANK or a file of the run's folder shards says which; RUN_DIR alone with --item, which
    prints an item's traceback where one is recorded. What a terminal would obey is made visible.
    With --json, the names of all its logs, oldest first.
    """
    from espnet3.cli import show
    from espnet3.cli.arguments import shard_of
    from espnet3.cli.record_output import print_log
    from espnet3.cli.several_runs import the_run_of
    from espnet3.run import Run

    words = (the_run_of(words[0]), *words[1:])
    if path and as_json:
        raise click.UsageError("--json prints the names of the logs already; leave out --path")
    if (raw or follow) and (path or as_json):
        raise click.UsageError(
            f"--{'raw' if raw else 'follow'} applies only to the contents of the log; leave out "
            "--path and --json"
        )
    found = None
    if item is None:
        run_dir, rank = shard_of(words)
    else:
        from espnet3.cli.item_log import found_item

        found = found_item(words, item)
        run_dir, rank = words[0], found.rank
    if follow:
        from espnet3._blocking import run_blocking
        from espnet3.cli.following import follow as print_growing

        require_stdout("--path names the file")
        return DONE if run_blocking(print_growing(run_dir, rank, raw=raw)) else NOT_COMPLETE
    run = Run(run_dir)
    files = run.logs(rank)
    if found is not None and not path:
        from espnet3.cli.item_log import show_item

        if show_item(run.run_dir, found, files, as_json=as_json):
            return DONE
    if not files:
        show.problem(f"{run.run_dir}: there is no log of shard {rank} yet")
        return NOT_COMPLETE
    if as_json:
        show.json_document({"run_dir": run.run_dir, "rank": rank, "logs": files})
        return DONE
    if path:
        for file in files:
            show.say(file)
        return DONE
    require_stdout("--path names the file")
    print_log(files[-1], raw=raw)
    return DONE
