"""The code that a worker runs: a snapshot of it, or the user's files as they are now."""

from __future__ import annotations

import atexit
import logging
import sys
from collections.abc import Container

from espnet3.run_dir.directory import RunDirectory
from espnet3.specs import layout
from espnet3.specs.models import RunSpec, Submission

log = logging.getLogger("espnet3.worker")


def enter_code(directory: RunDirectory, run: RunSpec, submission: Submission | None) -> RunSpec:
    """The run, whose modules are found where the submission has them.

    Without a snapshot, files that were edited since are named in the log; they are what runs.

    Args:
        directory: the run directory, which is trusted.
        run: its run.json.
        submission: the one that this worker belongs to, or the last one.

    Raises:
        Untrusted: others could have written the snapshot.
        StoreError, FormatError: the record or the snapshot cannot be used.
    """
    if submission is None or submission.code is None:
        return run
    directory.require_files([layout.CODE, layout.code_record(submission.code)])
    record = directory.code(submission)
    if record is None:
        return run
    if record.snapshot:  # what others need not load
        from espnet3.run_dir.snapshots import with_snapshot

        log.info("code: as it was submitted, from %s", layout.snapshot(record.number))
        atexit.register(_tell_of_originals, {*map(record.path_of, record.files)})
        return with_snapshot(directory, run, record)
    from espnet3.user_code.sources import differing, named

    if changed := differing(record):
        words = named(record, changed)
        log.warning("code: source files differ from those that were submitted: %s", words)
    return run


def _tell_of_originals(copied: Container[str]) -> None:
    """Name modules that did not come from the snapshot: code may add folders to `sys.path`."""
    for module in [*sys.modules.values()]:
        file = getattr(module, "__dict__", {}).get("__file__")
        if isinstance(file, str) and file in copied:
            log.warning("code: %s was imported from there, and not from the snapshot", file)
