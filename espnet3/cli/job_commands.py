"""The commands that start or stop work: submit, resume, finish, cancel, run-shard, work, doctor.

Each imports what it needs when it runs, so that `espnet3 --help` costs nothing.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from espnet3.cli import options
from espnet3.cli.arguments import Duration, Seconds
from espnet3.cli.completion import FILE
from espnet3.cli.options import DONE, INTERRUPTED, NOT_COMPLETE
from espnet3.cli.sections import Command, Section

if TYPE_CHECKING:
    from espnet3.run_dir.trust import Trust
    from espnet3.submit.code import WhichCode
    from espnet3.submit.resumption import WhichItems
    from espnet3.submit.submission import Submitted

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


@click.command(cls=Command, section=Section.SUBMIT, epilog=_CONFIG)
@options.config
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--dry-run", is_flag=True, help="Print the jobs; write and submit nothing.")
@click.option("--finish", is_flag=True, help="As parallel.finish=true: the run finishes itself.")
@options.code
@options.as_json
def submit(
    config: str,
    overrides: tuple[str, ...],
    dry_run: bool,
    finish: bool,
    code: WhichCode | None,
    as_json: bool,
) -> int:
    """Submit a run and return at once.

    CONFIG.yaml describes it. Modules are found in the current folder and beside the file. KEY=VALUE
    replaces a value, as in parallel.n_workers=8. The same call again continues the run: only what
    is missing is submitted.
    """
    from espnet3._blocking import run_blocking
    from espnet3.cli import show
    from espnet3.cli.config_file import import_path, load_request, with_finish
    from espnet3.submit.new_run import dry_run as render
    from espnet3.submit.new_run import submit as submit_request

    # What the user's modules print at their import is not an answer from this command.
    with show.plain_warnings(), import_path(config), contextlib.redirect_stdout(sys.stderr):
        request = load_request(config, overrides)
        if finish:
            request = with_finish(request)
        arguments = request._asdict()
        if dry_run:
            jobs = run_blocking(render(**arguments))
        else:
            with show.waiting("checking and submitting"):
                result = run_blocking(submit_request(**arguments, code=code))
    if dry_run and as_json:
        show.json_document(show.rendered_document(jobs))
    elif dry_run:
        show.rendered(jobs)
    elif as_json:
        show.json_document(show.submitted_document(result))
    else:
        _show_submitted(result)
    return DONE


@click.command(cls=Command, section=Section.SUBMIT)
@options.run_dir
@click.argument("words", nargs=-1, metavar="[RANK | FIRST-LAST | SPEC.json]...", type=FILE)
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
    type=click.Choice(["missing", "failed", "skipped"]),
    default="missing",
    show_default=True,
    help="failed: also items that failed and were recorded; skipped: those, and what was skipped.",
)
@click.option("--skip", multiple=True, metavar="X", help="Pass over this item: JSON or @POSITION.")
@click.option("--skip-failing", is_flag=True, help="Pass over the items that shards ended at.")
@options.code
@options.patience
@options.trust
@options.as_json
def resume(
    run_dir: str,
    words: tuple[str, ...],
    settings: tuple[str, ...],
    force: bool,
    repair: bool,
    items: WhichItems,
    skip: tuple[str, ...],
    skip_failing: bool,
    code: WhichCode | None,
    patience: float,
    trust: Trust | None,
    as_json: bool,
) -> int:
    """Submit what is missing.

    These are the shards that are not done and neither queued nor running; of the named ones, where
    any are named. Each goes on from the items that are finished. An item that is passed over is
    recorded with `Skipped` for its error, and stays so until --items skipped. Of a folder of
    runs all are resumed in turn.
    """
    from espnet3.cli import several_runs, show
    from espnet3.cli.arguments import as_options, ranks_and_files, split_settings
    from espnet3.run import Run
    from espnet3.run_dir.item_words import wanted_item

    named, given = split_settings(words, settings)
    changes = as_options(given)
    if named or skip:
        several_runs.require_one(run_dir, "a rank or an item")

    def resume_one(each: str) -> tuple[int, Any]:
        # The runner's module is imported for its hook.
        with show.waiting("checking and submitting"), contextlib.redirect_stdout(sys.stderr):
            result = Run(each, trust=trust).resume(
                ranks_and_files(named) if named else None,
                options=changes,
                force=force,
                repair=repair,
                items=items,
                patience=patience,
                code=code,
                skip=[wanted_item(word) for word in skip],
                skip_failing=skip_failing,
            )
        if not as_json:
            _show_submitted(result)
        return DONE, show.submitted_document(result)

    return several_runs.each_run(several_runs.own_runs_of(run_dir), resume_one, as_json=as_json)


def _show_submitted(result: Submitted) -> None:
    from espnet3.cli import show
    from espnet3.run import Run
    from espnet3.run_dir.directory import RunDirectory

    run, steps = RunDirectory.open(result.run_dir).run(), None
    if result.number is None and {*result.left_alone.values()} <= {"done"}:
        from espnet3.cli.shard_groups import groups_of, next_steps

        seen = Run(result.run_dir).status()
        steps = next_steps(seen, groups_of(seen).groups)
    show.submitted(result, merges=run.writers is not None, steps=steps)


@click.command(cls=Command, section=Section.SUBMIT)
@options.run_dir
@click.option("--now", is_flag=True, help="Do its work here, once nothing of the run is alive.")
@options.trust
def finish(run_dir: str, now: bool, trust: Trust | None) -> int:
    """Let a run finish itself.

    A finisher is queued behind it, which submits again what can still succeed, and collects. It
    goes by `finish` of the run's parallel config; by the defaults where that has none. Where every
    shard is done, the results are collected at once, unless they are where they are wanted. Of a
    folder of runs each gets one.
    """
    from espnet3.cli import several_runs, show

    run_dirs = several_runs.own_runs_of(run_dir)

    def finish_one(each: str) -> tuple[int, None]:
        if len(run_dirs) > 1:
            show.lines([("run directory", each)])
        return _finish(each, trust, now=now), None

    return several_runs.each_run(run_dirs, finish_one)


def _finish(run_dir: str, trust: Trust | None, *, now: bool) -> int:
    from espnet3._blocking import run_blocking
    from espnet3.cli import show
    from espnet3.finish.calls import finish_now
    from espnet3.run import Run
    from espnet3.specs.finishing import QueuedFinisher
    from espnet3.status.finishing import with_a_shard
    from espnet3.text import one_line

    if now:
        end = run_blocking(finish_now(run_dir, trust))
    else:
        with show.waiting("queueing"):
            found = Run(run_dir, trust=trust).finish()
        if isinstance(found, QueuedFinisher):
            show.say(f"finisher {found.number}, job {found.job_id}")
            return DONE
        end = found
    if end is None:
        show.say("left to another finisher")
        return NOT_COMPLETE
    words = one_line(with_a_shard(end))
    show.say(words if now else f"the run is over: {words}")
    return DONE if end.outcome == "done" and not end.errors else NOT_COMPLETE


@click.command(cls=Command, section=Section.SUBMIT)
@options.run_dir
@options.trust
@options.as_json
def cancel(run_dir: str, trust: Trust | None, as_json: bool) -> int:
    """Stop all jobs of a run, or of all runs in a folder.

    What is finished is kept, and `resume` goes on from it. A run to which a link leads out of the
    folder is left alone, here as by all that changes runs.
    """
    from espnet3.cli import several_runs, show
    from espnet3.run import Run

    run_dirs = several_runs.own_runs_of(run_dir)

    def cancel_one(each: str) -> tuple[int, Any]:
        run = Run(each, trust=trust)
        stopped = run.cancel()
        if not as_json:
            what = " ".join(stopped) or "nothing, since nothing is queued or running"
            where = [("run directory", each)] if len(run_dirs) > 1 else []
            steps = [("next", show.command("resume", run.run_dir))] if stopped else []
            show.lines([*where, ("cancelled", what), *steps])
        return DONE, {"run_dir": run.run_dir, "cancelled": stopped}

    return several_runs.each_run(run_dirs, cancel_one, as_json=as_json)


@click.command("run-shard", cls=Command, section=Section.HERE)
@options.shard
@click.option("--item", metavar="X", help="Only this item: its JSON value, or @POSITION.")
@options.trust
def run_shard(words: tuple[str, ...], item: str | None, trust: Trust | None) -> int:
    """Compute one shard here, for debugging.

    RUN_DIR RANK or a file of the run's folder shards says which. It goes on from what is finished,
    breakpoint() works, and results count as any others. With --item that item alone is computed,
    be it done or not; its result or traceback is printed, and nothing kept: what a runner writes
    itself goes to a temporary folder. RUN_DIR alone will do then.
    """
    from espnet3.cli.arguments import spec_of
    from espnet3.cli.foreground import RUN_SHARD, Started, run_in_foreground
    from espnet3.cli.several_runs import the_own_run_of

    words = (the_own_run_of(words[0]), *words[1:])
    options = [] if trust is None else ["--trust", trust]
    if item is not None and len(words) == 1 and not words[0].endswith(".json"):
        from espnet3.cli.item_log import found_item

        found = found_item(words, item)
        words, item = (words[0], str(found.rank)), f"@{found.position}"
    options += [] if item is None else [f"--item={item}"]
    code, told = run_in_foreground(RUN_SHARD, [Started([*options, "--", spec_of(words)])])
    return _exit_code(code, told)


def _exit_code(code: int, signal_number: int | None) -> int:
    """Ours, for that of a worker that was run in the foreground."""
    from espnet3.worker import exit_codes

    if code == exit_codes.INTERRUPTED:
        return INTERRUPTED if signal_number is None else 128 + signal_number
    return code if code in (exit_codes.DONE, exit_codes.USAGE) else NOT_COMPLETE


@click.command(cls=Command, section=Section.HERE)
@options.run_dir
@click.option("--max-shards", type=click.IntRange(min=1), help="Claim at most as many shards.")
@click.option("--time", "duration", type=Duration(), help="End after that long, as in 1h or 90m.")
@click.option("--per-gpu", is_flag=True, help="One worker for each visible GPU.")
@options.trust
@options.as_json
def work(
    run_dir: str,
    max_shards: int | None,
    duration: float | None,
    per_gpu: bool,
    trust: Trust | None,
    as_json: bool,
) -> int:
    """Join a run with this machine.

    It claims what is free and shares what others are at, until nothing is left; of a static run it
    takes what nobody is at. Results count as any others. Ctrl-C keeps what is done.
    With --json what `forward` prints goes to standard error.
    """
    from espnet3._blocking import run_blocking
    from espnet3.cli import joining, show
    from espnet3.cli.several_runs import the_own_run_of
    from espnet3.worker import exit_codes

    environs = joining.gpu_environs() if per_gpu else [{}]
    to_join = run_blocking(joining.joinable(the_own_run_of(run_dir), trust))
    words = [] if trust is None else ["--trust", trust]
    words += [] if max_shards is None else ["--max-shards", str(max_shards)]
    words += [] if duration is None else ["--seconds", str(duration)]
    if to_join.ranks == []:
        environs = []
        if not as_json:
            what = "nothing is left to compute"
            show.say(what if to_join.is_done else "nothing is free: all that is left is running")
    else:
        joining.tell_differences(to_join.run)
    code, told, did = joining.run_workers(to_join, words, environs, quiet=as_json)
    if as_json and code != exit_codes.USAGE:
        show.json_document(joining.work_document(to_join, did))
    return _exit_code(code, told)


@click.command(cls=Command, section=Section.AROUND)
@click.argument("words", nargs=-1, metavar="[CONFIG.yaml] [KEY=VALUE]...", type=FILE)
@click.option(
    "--timeout",
    type=Seconds(min=0),
    default=600.0,
    show_default=True,
    help="Seconds that the job may wait in the queue; it is cancelled then.",
)
@options.as_json
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
