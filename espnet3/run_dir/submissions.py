"""A submission together with what became of it."""

from __future__ import annotations

from typing import NamedTuple

from espnet3.specs import layout
from espnet3.specs.models import AcceptedJobs, Submission
from espnet3.storage.base import Store


def newest_submission(store: Store) -> str | None:
    """Path of the newest submission; None where there is none."""
    names = map(layout.submission_number, store.names(layout.SUBMISSIONS))
    newest = max((number for number in names if number is not None), default=None)
    return None if newest is None else layout.submission(newest)


class KnownSubmission(NamedTuple):
    """A submission together with the jobs known for it; `recorded` is None before they are."""

    submission: Submission
    recorded: AcceptedJobs | None

    def job_ids(self) -> dict[str, str]:
        """Unique job name -> scheduler id."""
        return {job.name: job.job_id for job in self.recorded.jobs} if self.recorded else {}


class Submissions(NamedTuple):
    """All submissions of a run, in order.

    Attributes:
        known: each with its jobs.
        cancelled: the numbers of those that were cancelled, with the cause or "".
    """

    known: list[KnownSubmission]
    cancelled: dict[int, str]
