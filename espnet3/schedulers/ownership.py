"""Whose a job is, by its name: only such jobs may be stopped because of what a directory says."""

from __future__ import annotations

import re

# Schedulers whose names are too short for the run's id take a digest of the whole name:
# `espnet3.schedulers.qsub_style.short_name`.
_SHORTENED = frozenset({"pbs", "moab"})
_SHORT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*_[a-z2-7]{11}")


def is_named_after(run_id: str, job_name: str, scheduler: str) -> bool:
    """Whether a job has a name that espnet3 gives to jobs of a run, and to no other job.

    Args:
        run_id: the run's id.
        job_name: the job's unique name; what stands around the id is the user's choice.
        scheduler: the scheduler's name.

    Example:
        >>> is_named_after("d9cf3a5b7e11", "decode-d9cf3a5b7e11-0001-0", "slurm")
        True
        >>> is_named_after("d9cf3a5b7e11", "train", "slurm")
        False
    """
    shortened = scheduler in _SHORTENED and _SHORT_NAME.fullmatch(job_name) is not None
    return shortened or run_id in job_name
