"""What a run directory holds of its finishers, waves and ends (decision 0021)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import NamedTuple

from espnet3.errors import FileMissing
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.processes import this_process
from espnet3.run_dir.submissions import KnownSubmission
from espnet3.specs import layout
from espnet3.specs.finishing import Finished, Finisher, Notified, QueuedFinisher, Wave
from espnet3.specs.items import ItemRange
from espnet3.specs.models import AcceptedJob, AcceptedJobs, Submission, now

# Where no batch system starts it: a process of the submitting host.
ON_THIS_HOST = frozenset({"local", "local_gpu", "ssh"})


class KnownFinisher(NamedTuple):
    """A finisher together with its job; `queued` is None before that is recorded."""

    finisher: Finisher
    queued: QueuedFinisher | None

    @property
    def job_id(self) -> str | None:
        """The scheduler's id of its job, as far as it is known."""
        return self.queued.job_id if self.queued else None

    @property
    def refused(self) -> bool:
        """Whether the scheduler did not take it."""
        return self.queued is not None and self.queued.job_id is None

    def as_submission(self) -> KnownSubmission:
        """As a submission of one task, of which schedulers can be asked.

        Its number is negative, so that it is none of the run's.
        """
        given = self.finisher
        submission = Submission(
            number=given.number,
            created=given.created,
            submitter=given.submitter,
            scheduler=given.scheduler,
            n_workers=1,
            shards_per_job=1,
            options=given.options,
            parallel={},
            worker_command=given.command,
            submit_command=given.submit_command,
            script=given.script,
            log_directory=given.log_directory,
            ranks=ItemRange(start=0, stop=1),
            jobs=[given.job],
        )
        submission = submission.model_copy(update={"number": -given.number})
        if self.queued is None:
            return KnownSubmission(submission, None)
        jobs = [] if self.job_id is None else [AcceptedJob(name=given.job.name, job_id=self.job_id)]
        recorded = AcceptedJobs(
            number=given.number,
            created=self.queued.created,
            recorded_by=self.queued.recorded_by,
            jobs=jobs,
            refused=self.queued.refused,
        )
        return KnownSubmission(submission, recorded)


class Ending(NamedTuple):
    """How a run is brought to its end, as far as its directory tells.

    Attributes:
        finishers: all of them, in order.
        all_waves: all waves, in order.
        end: the last end; None where there is none.
        notified: that the user's command was run after it; None where it was not, or not yet.
    """

    finishers: list[KnownFinisher]
    all_waves: list[Wave]
    end: Finished | None
    notified: Notified | None = None

    @property
    def waves(self) -> list[Wave]:
        """The waves since the last end."""
        since = 0 if self.end is None else self.end.finisher
        return [wave for wave in self.all_waves if wave.finisher > since]

    @property
    def next_wave(self) -> int:
        """The number of the next wave: those that were queued up front leave gaps."""
        return self.all_waves[-1].number + 1 if self.all_waves else 1

    @property
    def is_over(self) -> bool:
        """Whether no finisher is to come: the last one has brought the run to an end."""
        end = self.end
        if end is None:
            return False
        # Those that could not be queued before the end may be why it is one.
        other = [
            k.finisher for k in self.finishers if not k.refused or k.finisher.created > end.created
        ]
        return not other or other[-1].end <= end.number


def read_ending(directory: RunDirectory) -> Ending | None:
    """Read what there is of finishers; None where there never was one.

    Raises:
        FormatError: a record cannot be used.
    """
    store = directory.store
    names = store.names(layout.FINISHERS)
    if not names:
        return None
    finishers = []
    for number in _numbers(names):
        queued = None
        with contextlib.suppress(FileMissing):
            queued = directory.read(QueuedFinisher, layout.queued_finisher(number))
        finishers.append(KnownFinisher(directory.read(Finisher, layout.finisher(number)), queued))
    last = _last_end(directory)
    end, notified = None, None
    if last:
        end = directory.read(Finished, layout.finished(last))
        with contextlib.suppress(FileMissing):
            notified = directory.read(Notified, layout.notified(last))
    waves = [directory.read(Wave, layout.wave(n)) for n in _numbers(store.names(layout.WAVES))]
    return Ending(finishers, waves, end, notified)


def queued_record(number: int, job_id: str | None, refused: str | None = None) -> QueuedFinisher:
    """The record of a finisher's job, made by this process."""
    return QueuedFinisher(
        number=number, created=now(), recorded_by=this_process(), job_id=job_id, refused=refused
    )


def next_end(directory: RunDirectory) -> int:
    """The number of the next end of a run."""
    return _last_end(directory) + 1


def next_number(names: Iterable[str]) -> int:
    """The first number beyond those of a folder's files."""
    return max(_numbers(names), default=0) + 1


def last_wave(directory: RunDirectory) -> int:
    """The number of the last wave of a run that was decided; 0 for none."""
    return next_number(directory.store.names(layout.WAVES)) - 1


def _numbers(names: Iterable[str]) -> list[int]:
    return sorted(n for n in map(layout.submission_number, names) if n is not None)


def _last_end(directory: RunDirectory) -> int:
    """The number of the last end, 0 for none; they are looked for one by one, being few."""
    number = 0
    while directory.store.exists(layout.finished(number + 1)):
        number += 1
    return number
