"""The commands: parse, call, print.

Each imports what it needs when it runs, so that `espnet3 --help` costs nothing.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import click

import espnet3
from espnet3.cli.arguments import Seconds
from espnet3.cli.streams import give_up, open_streams, require_stdout
from espnet3.errors import EspnetError, UsageError

if TYPE_CHECKING:
    from espnet3.run_dir.trust import Trust
    from espnet3.status.run_status import RunStatus

DONE, NOT_COMPLETE, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130


class _App(click.Group):
    """Commands in the order of their use; a reader that goes away (`| head`) is not an error."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            give_up(sys.stdout)
            return NOT_COMPLETE
        return code


_EPILOG = """\b
Example:
  espnet3 submit decode.yaml            a run, in its run directory
  espnet3 watch RUN_DIR                 until nothing of it is queued or running
  espnet3 resume RUN_DIR                what is missing, if anything is
  espnet3 collect RUN_DIR -o hyp.jsonl  the results, complete and in order

Exit codes: 0 done, 1 not complete or failed, 2 wrong usage, 130 interrupted.
"""
_CONFIG = """\b
Example of a CONFIG.yaml:
  provider: {_target_: decode.MyProvider, params: {beam: 5}}
  runner: {_target_: decode.MyRunner, batch_size: 8}
  items: 1000      # or a list, {start, stop, step}, {_target_: decode.items}
  run_dir: /shared/runs/${config.name}
  n_shards: 40
  config: {name: test-clean, model: /shared/model.pt}
  parallel:
    env: slurm
    n_workers: 16
    options: {cores: 1, memory: 4GB, walltime: 02:00:00}
"""


@click.group(cls=_App, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(espnet3.__version__, prog_name="espnet3")
def app() -> None:
    """Submit sharded work from a login node, log out, collect later."""


def main() -> NoReturn:
    """The entry point of the `espnet3` command."""
    sys.exit(run())


def run(args: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        args: its words; those of this process where unset.

    Returns:
        The exit code. Every error that espnet3 raises on purpose is one line on standard error.
    """
    from espnet3.cli.show import problem, say

    open_streams()
    try:
        code = app.main(args, prog_name="espnet3", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except click.ClickException as error:
        error.show(words := io.StringIO())
        say(words.getvalue().rstrip("\n"), err=True)
        return error.exit_code
    except EspnetError as error:
        problem(str(error))
        return WRONG_USAGE if isinstance(error, UsageError) else NOT_COMPLETE
    except OSError as error:
        place = f"{error.filename}: " if error.filename is not None else ""
        if not place and error.errno in (errno.ENOSPC, errno.EDQUOT):  # run files have their names
            place = "standard output: "
        problem(f"{place}{error.strerror or error}")
        give_up(sys.stdout)
        return NOT_COMPLETE
    except MemoryError:
        problem("there is not enough memory for this here; is there a `ulimit -v`?")
        return NOT_COMPLETE
    except RuntimeError as error:
        if "can't start new thread" not in str(error):
            raise
        problem("no thread can be started here; is there a `ulimit -v` or `ulimit -u`?")
        return NOT_COMPLETE
    return code if isinstance(code, int) else DONE


_run_dir = click.argument("run_dir", metavar="RUN_DIR")
_trust = click.option(
    "--trust",
    type=click.Choice(["owner", "group"]),
    help="Believe only what no group may write; or also what others of your groups own.",
)


def _usual_patience() -> float:
    from espnet3.storage.retry import PATIENCE

    return PATIENCE


_patience = click.option(
    "--patience",
    type=Seconds(min=0),
    default=_usual_patience,
    show_default="ESPNET3_PATIENCE, or 60",
    help="Seconds in which results may still arrive through a network file system.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@app.command(epilog=_CONFIG)
@click.argument("config", metavar="CONFIG.yaml")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--dry-run", is_flag=True, help="Print the jobs; write and submit nothing.")
@_json
def submit(config: str, overrides: tuple[str, ...], dry_run: bool, as_json: bool) -> int:
    """Submit a run and return at once.

    CONFIG.yaml describes it. Modules are found in the current folder and beside the file. KEY=VALUE
    replaces a value, as in parallel.n_workers=8. The same call again continues the run: only what
    is missing is submitted.
    """
    from espnet3._blocking import run_blocking
    from espnet3.cli import show
    from espnet3.cli.config_file import import_path, load_request
    from espnet3.submit.new_run import dry_run as render
    from espnet3.submit.new_run import submit as submit_request

    # What the user's modules print at their import is not an answer from this command.
    with show.plain_warnings(), import_path(config), contextlib.redirect_stdout(sys.stderr):
        request = load_request(config, overrides)
        arguments = request._asdict()
        if dry_run:
            jobs = run_blocking(render(**arguments))
        else:
            with show.waiting("checking and submitting"):
                result = run_blocking(submit_request(**arguments))
    if dry_run and as_json:
        show.json_document(show.rendered_document(jobs))
    elif dry_run:
        show.rendered(jobs)
    elif as_json:
        show.json_document(show.submitted_document(result))
    else:
        show.submitted(result)
    return DONE


@app.command()
@_run_dir
@_json
def status(run_dir: str, as_json: bool) -> int:
    """Show which shards are not done, and why.

    Also how many items failed and were recorded (on_error: record). The exit code is 0 where every
    shard is done and no item failed, so that `collect` does not refuse it.

    In a pipe: one line with the counts, then one line for each shard that is not done, with rank,
    state, submission, task and cause separated by tabs.
    """
    from espnet3.cli import show, views
    from espnet3.run import Run

    seen = Run(run_dir).status()
    if as_json:
        show.json_document(show.status_document(seen))
    else:
        views.status(seen)
    return DONE if seen.sound else NOT_COMPLETE


@app.command()
@_run_dir
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
    With --json each change is a line, a document as of `status --json`.
    """
    from espnet3._blocking import run_blocking

    seen = run_blocking(_watch(run_dir, interval, as_json))
    return DONE if seen.sound else NOT_COMPLETE


async def _watch(run_dir: str, interval: float, as_json: bool) -> RunStatus:
    from espnet3.cli import views
    from espnet3.collect.progress import watch as looks

    with views.follower(as_json=as_json) as view:
        async for seen in looks(run_dir, interval):
            view.update(seen)
        view.end(seen)
    return seen


@app.command()
@_run_dir
@click.option("-o", "--output", metavar="FILE", help="A path or URL; exists only once complete.")
@click.option("--partial", is_flag=True, help="Leave out the shards that are not done.")
@click.option(
    "--errors",
    type=click.Choice(["raise", "keep"]),
    default="raise",
    show_default=True,
    help="What to do about items that failed and were recorded (on_error: record).",
)
@_patience
@_trust
@_json
def collect(
    run_dir: str,
    output: str | None,
    partial: bool,
    errors: Literal["raise", "keep"],
    patience: float,
    trust: Trust | None,
    as_json: bool,
) -> int:
    """Gather the results, complete and in order.

    They are verified, and stand as JSON lines in the items' order. Without -o they go to standard
    output.
    """
    import warnings

    from espnet3.cli import show
    from espnet3.cli.printing import print_records
    from espnet3.collect.merge import PartialResults
    from espnet3.run import Run

    if output is None and as_json:
        raise click.UsageError(
            "--json describes the file of -o; the records themselves are JSON lines already"
        )
    if output is None:
        require_stdout("name a file with -o FILE")
    with warnings.catch_warnings():
        warnings.simplefilter("always", PartialResults)
        warnings.showwarning = lambda message, *_, **__: show.problem(str(message))
        if output is None:
            print_records(run_dir, partial, errors, patience, trust)
            return DONE
        with show.waiting("collecting"):
            run = Run(run_dir, trust=trust)
            found = run.collect(output, partial=partial, errors=errors, patience=patience)
    if as_json:
        show.json_document(asdict(found))
    else:
        show.lines(
            [
                ("output", found.output),
                ("records", str(found.records)),
                *([("failed items", str(found.errors))] if found.errors else []),
                *([("shards left out", str(len(found.left_out)))] if found.left_out else []),
            ]
        )
    return DONE


@app.command()
@_run_dir
@click.argument("words", nargs=-1, metavar="[RANK | FIRST-LAST | SPEC.json]...")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE...",
    help="Options of the scheduler to change, as in --set memory=64GB walltime=04:00:00.",
)
@click.option("--force", is_flag=True, help="Also what seems to be queued or running.")
@click.option("--repair", is_flag=True, help="Read all results; compute again what is damaged.")
@click.option(
    "--items",
    type=click.Choice(["missing", "failed"]),
    default="missing",
    show_default=True,
    help="failed: also the items that failed and were recorded (on_error: record).",
)
@_patience
@_trust
@_json
def resume(
    run_dir: str,
    words: tuple[str, ...],
    settings: tuple[str, ...],
    force: bool,
    repair: bool,
    items: Literal["missing", "failed"],
    patience: float,
    trust: Trust | None,
    as_json: bool,
) -> int:
    """Submit what is missing.

    These are the shards that are not done and neither queued nor running; of the named ones, where
    any are named. Each goes on from the items that are finished.
    """
    from espnet3.cli import show
    from espnet3.cli.arguments import as_options, ranks_and_files, split_settings
    from espnet3.run import Run

    named, given = split_settings(words, settings)
    options = as_options(given)
    # The runner's module is imported for its hook.
    with show.waiting("checking and submitting"), contextlib.redirect_stdout(sys.stderr):
        result = Run(run_dir, trust=trust).resume(
            ranks_and_files(named) if named else None,
            options=options,
            force=force,
            repair=repair,
            items=items,
            patience=patience,
        )
    if as_json:
        show.json_document(show.submitted_document(result))
    else:
        show.submitted(result)
    return DONE


@app.command()
@_run_dir
@_trust
@_json
def cancel(run_dir: str, trust: Trust | None, as_json: bool) -> int:
    """Stop all jobs of a run. What is finished is kept, and `resume` goes on from it."""
    from espnet3.cli import show
    from espnet3.run import Run

    run = Run(run_dir, trust=trust)
    stopped = run.cancel()
    if as_json:
        show.json_document({"run_dir": run.run_dir, "cancelled": stopped})
    elif stopped:
        show.lines(
            [("cancelled", " ".join(stopped)), ("next", show.command("resume", run.run_dir))]
        )
    else:
        show.lines([("cancelled", "nothing, since nothing is queued or running")])
    return DONE


_shard = click.argument("words", nargs=-1, required=True, metavar="RUN_DIR RANK | SPEC.json")


@app.command()
@_shard
@click.option("--path", is_flag=True, help="Print the names of all its logs, oldest first.")
@click.option("--raw", is_flag=True, help="Print its bytes as they are, escape sequences too.")
@_json
def logs(words: tuple[str, ...], path: bool, raw: bool, as_json: bool) -> int:
    """Print the newest log of a shard.

    RUN_DIR RANK or a file of the run's folder shards says which. What a terminal would obey is made
    visible. With --json, the names of all its logs, oldest first.
    """
    from espnet3.cli import show
    from espnet3.cli.arguments import shard_of
    from espnet3.cli.printing import print_log
    from espnet3.run import Run

    if path and as_json:
        raise click.UsageError("--json prints the names of the logs already; leave out --path")
    if raw and (path or as_json):
        raise click.UsageError("--raw is of the log itself; leave out --path and --json")
    run_dir, rank = shard_of(words)
    run = Run(run_dir)
    files = run.logs(rank)
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


@app.command("run-shard")
@_shard
@_trust
def run_shard(words: tuple[str, ...], trust: Trust | None) -> int:
    """Compute one shard here, for debugging.

    RUN_DIR RANK or a file of the run's folder shards says which. It goes on from what is finished,
    breakpoint() works, and results count as any others.
    """
    from espnet3.cli.arguments import spec_of
    from espnet3.cli.foreground import run_in_foreground
    from espnet3.worker import exit_codes

    options = [] if trust is None else ["--trust", trust]
    code, signal_number = run_in_foreground([*options, "--", spec_of(words)])
    if code == exit_codes.INTERRUPTED:
        return INTERRUPTED if signal_number is None else 128 + signal_number
    return code if code in (exit_codes.DONE, exit_codes.USAGE) else NOT_COMPLETE


@app.command()
@click.argument("words", nargs=-1, metavar="[CONFIG.yaml] [KEY=VALUE]...")
@click.option(
    "--timeout",
    type=Seconds(min=0),
    default=600.0,
    show_default=True,
    help="Seconds that the job may wait in the queue; it is cancelled then.",
)
@_json
def doctor(words: tuple[str, ...], timeout: float, as_json: bool) -> int:
    """Submit a tiny job, and tell what matters before a long run.

    It gets the options of the parallel config, and a folder beside CONFIG.yaml's run_dir (without
    one: in espnet3_runs), which is removed in the end. Without CONFIG.yaml, KEY=VALUE says all, as
    in parallel.env=slurm.
    """
    from espnet3._blocking import run_blocking
    from espnet3.cli import show
    from espnet3.cli.config_file import load_parallel
    from espnet3.doctor.diagnosis import diagnose, left_there

    file = words[0] if words and "=" not in words[0] else None
    parallel, run_dir = load_parallel(file, words if file is None else words[1:])
    folder = "espnet3_runs" if run_dir is None else os.path.dirname(run_dir.rstrip("/")) or "."
    # Where it is cut short, the folder is all that is left to say.
    tell = show.left_behind if as_json else show.finding
    seen = run_blocking(diagnose(parallel, folder, timeout=timeout, tell=tell))
    if as_json:
        show.json_document(show.diagnosis_document(seen))
    elif seen.left is not None:
        show.finding(left_there(seen.left))
    return DONE if seen.fine else NOT_COMPLETE
