"""What a worker takes over of the submitter's process besides files, paths and classes.

`docs/process-state.md` says of each kind of state what becomes of it.
"""

from __future__ import annotations

import os
import sys

from espnet3.specs.models import RunSpec
from espnet3.user_code.taking_over import take_over

RESTARTED = "ESPNET3_RESTARTED"


def restart(run: RunSpec) -> None:
    """Start this process again where an interpreter must be told at its start what differs.

    The job's command has the flags, and most schedulers pass the environment on; so this happens
    in a shell of its own (`espnet3 run-shard`), and under schedulers that pass on nothing.
    """
    process = run.process
    if process is None or os.environ.pop(RESTARTED, None) is not None or not sys.executable:
        return
    words = sys.orig_argv
    module = words.index("-m") + 1 if "-m" in words else len(words)
    if module >= len(words) or not words[module].startswith("espnet3.worker"):
        return  # a program of somebody else that calls a worker's functions
    wanted, options = process.start_environment, words[1 : module - 1]
    flags = [] if {*process.flags} <= {*options} else process.flags
    if not flags and all(os.environ.get(name) == wanted[name] for name in wanted):
        return
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    command = [sys.executable, *flags, *words[1:]]
    os.execve(sys.executable, command, {**os.environ, **wanted, RESTARTED: "1"})  # noqa: S606


def enter_process_state(run: RunSpec) -> None:
    """Before the user's modules are imported: what they may look at.

    Raises:
        EspnetError: this host lacks what the submitter's process used.
    """
    process = run.process
    if process is None:
        return
    main = process.main
    of_main = main is not None and any(
        (reference.module, reference.file) == (main.module, main.file)
        for reference in (run.runner, run.provider.cls)
    )
    take_over(process, argv=process.initial_argv if of_main else None, imported=False)


def reenter_process_state(run: RunSpec) -> None:
    """After the user's modules were imported: as it was at the call, whatever they did to it.

    Raises:
        EspnetError: this host lacks what the submitter's process used.
    """
    if run.process is not None:
        take_over(run.process)
