"""A submission together with what became of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from espnet3._structs import Struct
from espnet3.specs import layout
from espnet3.specs.models import AcceptedJobs, Submission
from espnet3.storage.base import Store


def newest_submission(store: Store) -> str | None:
    """Path of the newest submission; None where there is none."""
    names = map(layout.submission_number, store.names(layout.SUBMISSIONS))
    newest = max((number for number in names if number is not None), default=None)
    return None if newest is None else layout.submission(newest)


class KnownSubmission(Struct):
    """A submission together with the jobs known for it; `recorded` is None before they are."""

    submission: Submission
    recorded: AcceptedJobs | None

    def job_ids(self) -> dict[str, str]:
        """Unique job name -> scheduler id."""
        return {job.name: job.job_id for job in self.recorded.jobs} if self.recorded else {}


def errors_from(submissions: Iterable[KnownSubmission]) -> Callable[[int], int]:
    """Tells of a shard from which submission on recorded errors of its attempts count.

    Args:
        submissions: all of the run.
    """
    given = [
        (known.submission.errors_from_submission, known.submission.ranks.plain())
        for known in submissions
        if known.submission.errors_from_submission
    ]
    return lambda rank: max((number for number, ranks in given if rank in ranks), default=0)


class Submissions(Struct):
    """All submissions of a run, in order.

    Attributes:
        known: each with its jobs.
        cancelled: the numbers of those that were cancelled, with the cause or "".
    """

    known: list[KnownSubmission]
    cancelled: dict[int, str]
