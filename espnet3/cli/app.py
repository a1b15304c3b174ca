"""The `espnet3` command: its commands together, and what becomes of their errors."""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

import espnet3
from espnet3.cli import job_commands, look_commands, run_here, runs_commands
from espnet3.cli.options import DONE, INTERRUPTED, NOT_COMPLETE
from espnet3.cli.sections import SectionedGroup
from espnet3.cli.streams import give_up, open_streams
from espnet3.errors import EspnetError

_EPILOG = """\b
Example:
  espnet3 run decode.yaml --limit 3     a few items here, before it is submitted
  espnet3 submit decode.yaml            a run, in its run directory
  espnet3 watch RUN_DIR                 until nothing of it is queued or running
  espnet3 resume RUN_DIR                what is missing, if anything is
  espnet3 collect RUN_DIR -o hyp.jsonl  the results, complete and in order

Exit codes: 0 done, 1 not complete or failed, 2 wrong usage, 130 interrupted.
"""


class _App(SectionedGroup):
    """The commands; a reader that goes away (`| head`) is not an error."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            give_up(sys.stdout)
            return NOT_COMPLETE
        return code


@click.group(cls=_App, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(espnet3.__version__, prog_name="espnet3")
def app() -> None:
    """Submit sharded work from a login node, log out, collect later."""


for _command in (  # within a section of the help, in this order
    run_here.run,
    job_commands.submit,
    runs_commands.list_runs,
    look_commands.status,
    look_commands.watch,
    look_commands.collect,
    look_commands.report,
    job_commands.resume,
    job_commands.finish,
    job_commands.cancel,
    runs_commands.remove,
    look_commands.logs,
    job_commands.run_shard,
    job_commands.work,
    job_commands.doctor,
):
    app.add_command(_command)


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
    from espnet3.cli.show import problem, refused, say

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
        return refused(error)
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
