"""Making the report of a run; what `espnet3 report` and `Run.report` call."""

from __future__ import annotations

import asyncio
import os
from functools import partial

from espnet3.collect.output import open_output
from espnet3.errors import UsageError
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.output_names import require_outside
from espnet3.status.observation import observe
from espnet3.storage.opening import absolute_root

_SUFFIX = ".report.html"


async def render(run_dir: str | os.PathLike[str]) -> bytes:
    """The report of a run, as an HTML document that needs no other file.

    Args:
        run_dir: the run directory.

    Raises:
        UsageError: what draws it is not installed.
        RunDirectoryError: it is not a run directory.
        FormatError: run.json or a submission cannot be read.

    Example:
        >>> document = await render("/shared/decode")  # doctest: +SKIP
    """
    _require_installed()
    # Thousands of records are read: not by programs that only import this module.
    from espnet3.report.page import page
    from espnet3.report.reading import read_facts

    facts = await observe(partial(RunDirectory.open, run_dir), read_facts)
    return await asyncio.to_thread(page, facts)


async def report(
    run_dir: str | os.PathLike[str], output: str | os.PathLike[str] | None = None
) -> str:
    """Write the report of a run: one HTML file, which replaces an earlier one when it is whole.

    Args:
        run_dir: the run directory.
        output: a path or fsspec URL; beside the run directory, with the ending `.report.html`,
            where unset.

    Returns:
        Where it is.

    Raises:
        UsageError: what draws it is not installed, or the output is a name of the run's own.
        RunDirectoryError: it is not a run directory.
        FormatError: run.json or a submission cannot be read.
        StoreError: it cannot be written.

    Example:
        >>> await report("/shared/decode")  # doctest: +SKIP
        '/shared/decode.report.html'
    """
    root = absolute_root(run_dir)
    target = f"{root.rstrip('/')}{_SUFFIX}" if output is None else os.fspath(output)
    require_outside(root, target)
    document = await render(run_dir)

    def write() -> None:
        with open_output(target) as file:
            file.write(document)

    await asyncio.to_thread(write)
    return target


def _require_installed() -> None:
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        missing = error.name or "matplotlib"
        raise UsageError(
            f"report: {missing} is not installed; pip install 'espnet3[report]'"
        ) from None
