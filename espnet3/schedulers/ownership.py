"""Whose a job is, by its name: only such jobs may be stopped because of what a directory says."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from espnet3.schedulers.qsub import name_digest
from espnet3.specs.models import AcceptedJob, AcceptedJobs, RunSpec, Submission

if TYPE_CHECKING:  # workers import this module
    from espnet3.specs.finishing import Finisher

# Names there are too short for the run's id: see `short_name` of `qsub`.
_SHORTENED = frozenset({"pbs", "moab"})
_DIGESTS = (9, 11)  # letters; names of earlier versions have the longer one
_EARLIER = "espnet3"  # began the names of jobs for which the user had none


def is_own_job(run: RunSpec, submission: Submission, position: int) -> bool:
    """Whether a planned job has the name that espnet3 gives to that job, and to no other.

    Args:
        run: the run.
        submission: one of its submissions.
        position: the job's position in it.
    """
    end = f"-{run.run_id}-{submission.number:04d}-{position}"
    return _ends(run, submission, submission.jobs[position].name, end)


def is_own_finisher(run: RunSpec, finisher: Finisher) -> bool:
    """The same of the job of a finisher."""
    end = f"-finisher-{run.run_id}-{finisher.number:04d}-0"
    return _ends(run, finisher, finisher.job.name, end)


def looks_own(name: str) -> bool:
    """Whether a job's name ends as espnet3 ends those of its jobs, whatever the run.

    >>> looks_own("Runner-0123456789ab-0001-0"), looks_own("Runner-0001-0")
    (True, False)
    """
    return re.search(r"-[0-9a-f]{12}-[0-9]{4,}-[0-9]+$", name) is not None


def _ends(run: RunSpec, given: Submission | Finisher, name: str, end: str) -> bool:
    """Whether a name is that with such an end, before a scheduler's limits shortened it."""
    if given.scheduler not in _SHORTENED:
        return name.endswith(end)
    digest = name.rpartition("_")[2]
    chosen = str(given.options.get("job_name") or "")
    prefixes = (chosen, run.runner.qualname.rpartition(".")[2], _EARLIER)
    wholes = (prefix + end for prefix in prefixes)
    return len(digest) in _DIGESTS and any(
        name_digest(whole, len(digest)) == digest for whole in wholes
    )


def as_recorded(
    found: Iterable[AcceptedJob], submission: Submission, recorded: AcceptedJobs | None
) -> list[AcceptedJob]:
    """The planned jobs of a submission that a scheduler knows by their names.

    Args:
        found: what it has found.
        submission: the submission.
        recorded: its jobs as they were recorded, which may also tell the cluster of Slurm's that
            has a job (`7;gpu`).
    """
    named = {job.name: job for job in found}
    ids = {job.name: job.job_id for job in recorded.jobs} if recorded else {}
    return [
        job.model_copy(update={"job_id": ids[job.name]})
        if ids.get(job.name, "").startswith(f"{job.job_id};")
        else job
        for job in (named[planned.name] for planned in submission.jobs if planned.name in named)
    ]
