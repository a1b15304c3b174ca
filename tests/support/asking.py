"""What tests of dialects share: submissions to ask for, and commands that print what is given."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from espnet3.run_dir.submissions import KnownSubmission
from espnet3.specs.items import ItemRange
from espnet3.specs.models import AcceptedJob, AcceptedJobs, PlannedJob, ProcessIdentity, Submission

ME = ProcessIdentity(host="login", pid=1, started=0.0, user="me")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def entry(
    *jobs: tuple[str, int, str | None], number: int = 1, scheduler: str = "slurm"
) -> KnownSubmission:
    """A submission of jobs (name, number of tasks, id); no record where no job has an id."""
    planned, first = [], 0
    for name, n_tasks, _ in jobs:
        planned.append(PlannedJob(name=name, first_task=first, n_tasks=n_tasks, log="l"))
        first += n_tasks
    submission = Submission(
        number=number, created=NOW, submitter=ME, scheduler=scheduler, n_workers=1,
        shards_per_job=1,
        options={}, worker_command=["python"], submit_command=["submit"], script="",
        log_directory="/logs", parallel={"env": scheduler},
        ranks=ItemRange(start=0, stop=first), jobs=planned,
    )  # fmt: skip
    accepted = [AcceptedJob(name=n, job_id=i) for n, _, i in jobs if i is not None]
    recorded = AcceptedJobs(number=number, created=NOW, recorded_by=ME, jobs=accepted)
    return KnownSubmission(submission, recorded if accepted else None)


class Commands:
    """Programs on the PATH that print a given text."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def say(self, name: str, out: str = "", err: str = "", code: int = 0) -> None:
        (self.folder / f"{name}.out").write_text(out)
        (self.folder / f"{name}.err").write_text(err)
        program = self.folder / name
        program.write_text(
            f'#!/bin/sh\nprintf "%s\\n" "$@" >> {self.folder}/{name}.args\n'
            f"/bin/cat {self.folder}/{name}.out; /bin/cat {self.folder}/{name}.err >&2\n"
            f"exit {code}\n"
        )
        program.chmod(0o755)

    def asked(self, name: str) -> list[str]:
        file = self.folder / f"{name}.args"
        return file.read_text().splitlines() if file.exists() else []
