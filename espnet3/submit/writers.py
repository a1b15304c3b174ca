"""What a submission persists of a runner that writes its results itself."""

from __future__ import annotations

import os
from typing import Any

from espnet3.errors import OutputError
from espnet3.specs import layout
from espnet3.specs.models import RunSpec, WritersSpec
from espnet3.specs.plain import utf8
from espnet3.user_code.instances import attributes_of
from espnet3.user_code.values import stored
from espnet3.user_code.writers import SET_BY_BASE, has_writers, output_dir_of


def describe_writers(runner: Any) -> WritersSpec | None:
    """Of a runner with writers what a worker and `merge` need to know; None for others.

    Raises:
        OutputError: it has no `output_dir`.
        ConfigError: an attribute of its own could not be had alike elsewhere; names it.
    """
    if not has_writers(type(runner)):
        return None
    return WritersSpec(
        output_dir=_output_dir(runner),
        shard_subdir=utf8(os.fspath(runner.shard_subdir), "runner.shard_subdir"),
        append_only=bool(runner.append_only),
        attributes={
            name: stored(value, f"runner.{name}")
            for name, value in attributes_of(runner)
            if name not in SET_BY_BASE
        },
    )


def usual_run_dir(runner: Any) -> str | None:
    """The run directory of a runner with writers: one for each test set; None for others.

    Raises:
        OutputError: it has no `output_dir`.
    """
    if not has_writers(type(runner)):
        return None
    return os.path.join(_output_dir(runner), runner.shard_subdir, layout.RUN_FOLDER)


def require_resume(runner: Any, run_dir: str, existing: RunSpec | None) -> None:
    """Refuse to go on with a run where the runner is to begin anew.

    Raises:
        OutputError: it was constructed with `resume=False`, and there is a run.
    """
    if existing is not None and has_writers(type(runner)) and not runner.resume:
        raise OutputError(
            run_dir,
            "holds this run already, and the runner has resume=False; remove it first, by "
            "`espnet3 remove`",
        )


def _output_dir(runner: Any) -> str:
    return utf8(output_dir_of(runner), "runner.output_dir")
