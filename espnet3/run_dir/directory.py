"""A run directory as one thing: whom to believe, what its records say, and how one is published."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from espnet3.errors import (
    DamagedResult,
    FileMissing,
    FileTaken,
    FormatError,
    InvalidFile,
    RunDirectoryError,
    UsageError,
)
from espnet3.run_dir.processes import this_process
from espnet3.run_dir.reading import read_persisted
from espnet3.run_dir.receipts import Receipts, look_at_receipts
from espnet3.run_dir.secrets import remember_run
from espnet3.run_dir.submissions import KnownSubmission, Submissions
from espnet3.run_dir.trust import (
    Trust,
    require_files,
    require_scripts,
    require_submissions,
    require_trusted,
    stricter,
)
from espnet3.specs import layout
from espnet3.specs.base import PersistedModel
from espnet3.specs.codec import Model, encode
from espnet3.specs.items import count_batches
from espnet3.specs.models import (
    AcceptedJob,
    AcceptedJobs,
    Cancellation,
    CodeRecord,
    Receipt,
    Remaining,
    RunSpec,
    ShardSpec,
    Submission,
    WorkerState,
    now,
)
from espnet3.storage.base import Store
from espnet3.storage.local import LocalStore
from espnet3.storage.opening import open_store
from espnet3.text import cut


class RunDirectory:
    """A run directory, whose files are believed as far as a policy of trust says.

    Reading alone asks nobody. Whoever imports, unpickles or ends something because of what a
    directory says calls `require_trusted` or `trusted_run` first.

    Attributes:
        store: its files.
        trust: whose files are believed: `owner`, `group`, or None for the usual policy.
            What the directory says of itself makes it stricter, never looser.
    """

    def __init__(self, store: Store, trust: Trust | None = None) -> None:
        self.store, self.trust = store, trust

    @classmethod
    def open(cls, run_dir: str | os.PathLike[str], trust: Trust | None = None) -> RunDirectory:
        """The run directory at a path or URL; nothing is read yet.

        Raises:
            RunDirectoryError: it is not a path, or the URL's file system cannot hold one.

        Example:
            >>> RunDirectory.open("/shared/decode").root
            '/shared/decode'
        """
        return cls(open_store(run_dir), trust)

    @property
    def root(self) -> str:
        """Absolute path or URL."""
        return self.store.root

    # --- whom to believe --------------------------------------------------------------------------

    def require_trusted(self, files: Iterable[str] = ()) -> None:
        """Refuse a directory that somebody else could have filled; see `trust.require_trusted`.

        Raises:
            Untrusted: names the first folder or file that others control.
        """
        require_trusted(self.store, self.trust, files)

    def require_files(self, files: Iterable[str]) -> None:
        """Refuse files of a trusted directory that others control.

        Raises:
            Untrusted: see `require_trusted`.
        """
        require_files(self.store, self.trust, files)

    def require_submissions(self) -> None:
        """Refuse a directory before something is done because of what its submissions say.

        Raises:
            Untrusted: see `require_trusted`.
        """
        require_submissions(self.store, self.trust)

    def require_scripts(self, run: RunSpec) -> None:
        """Refuse scripts of a run that others control.

        Raises:
            Untrusted: see `require_trusted`.
        """
        require_scripts(run, self.trust)

    def trust_at_most(self, *parallel: Mapping[str, Any]) -> bool:
        """Believe fewer from now on, where parallel configs that the directory holds say so.

        Returns:
            Whether the policy is stricter than it was.
        """
        before = self.trust
        for config in parallel:
            self.trust = stricter(self.trust, config)
        return self.trust != before

    def trusted_run(self, files: Iterable[str] = ()) -> RunSpec:
        """Read run.json of a directory that is to be believed, as far as files and scripts go.

        Raises:
            Untrusted: others could have written what would be imported.
            FileMissing, FormatError: there is no run.json, or it cannot be used.
        """
        believed = [*files]
        self.require_trusted(believed)
        run = self.read(RunSpec, layout.RUN)
        if self.trust_at_most(run.parallel):
            self.require_trusted(believed)
        self.require_scripts(run)
        remember_run(run)
        return run

    # --- what its records say ---------------------------------------------------------------------

    def read(self, model: type[Model], path: str) -> Model:
        """Read a record; see `reading.read_persisted`."""
        return read_persisted(self.store, model, path)

    def run(self) -> RunSpec:
        """Read run.json.

        Raises:
            RunDirectoryError: there is no whole plan in this directory.
        """
        run = self.run_if_there()
        if run is not None:
            return run
        if isinstance(self.store, LocalStore) and not os.path.lexists(self.root):
            raise RunDirectoryError(
                self.root, "does not exist; name the run directory that submit printed"
            )
        if isinstance(self.store, LocalStore) and os.path.isfile(self.root):
            raise RunDirectoryError(
                self.root, "is a file; name the run directory that submit printed"
            )
        if self.store.exists(layout.REMOVAL):
            raise RunDirectoryError(
                self.root,
                "is the rest of a run that was removed half; `espnet3 remove` finishes that",
            )
        from espnet3.run_dir.finding import named, run_dirs_in  # which few processes need

        if found := run_dirs_in(self.root):
            which = (
                f"runs: name one of {named(found)}"
                if len(found) > 1
                else f"one: {named(found)}; name that one"
            )
            raise RunDirectoryError(self.root, f"is not a run directory, but holds {which}")
        if isinstance(self.store, LocalStore) and self._is_foreign():
            look = shlex.join(["espnet3", "list", self.root])
            raise RunDirectoryError(
                self.root,
                f"is not a run directory, and no run is directly in it; `{look}` looks further "
                "down",
            )
        raise RunDirectoryError(
            self.root,
            "is not a run directory: it has no run.json; if a submission was cut short here, "
            "submit again with the same call",
        )

    def _is_foreign(self) -> bool:
        """Whether what is in this folder is nothing of a run."""
        names = []
        with contextlib.suppress(OSError):  # it is no folder, or somebody else's
            names = os.listdir(self.root)
        return bool(names) and not any(map(layout.is_own, names))

    def run_if_there(self) -> RunSpec | None:
        """Read run.json; None where there is none."""
        try:
            return read_persisted(self.store, RunSpec, layout.RUN, self.store.read_filled)
        except FileMissing:
            return None

    def require_run(self, run_id: str) -> None:
        """Refuse to work for another run than the job was submitted for.

        Asked again before each file that the new run would take for its own: a job that has begun
        goes on while its directory is removed and used again.

        Raises:
            UsageError: the run directory was removed and used again since.
            FileMissing: it was removed.
        """
        there = self.read(RunSpec, layout.RUN).run_id
        if there != run_id:
            raise UsageError(f"{self.root}: holds run {there}, this job belongs to run {run_id}")

    def submissions(self) -> Submissions:
        """All submissions in order, and which of them were cancelled."""
        names = set(self.store.names(layout.SUBMISSIONS))
        numbers = sorted(n for n in map(layout.submission_number, names) if n is not None)
        found: list[KnownSubmission] = []
        cancelled: dict[int, str] = {}
        await_file = self.store.await_file
        for number in numbers:
            path, jobs_path = layout.submission(number), layout.accepted_jobs(number)
            submission = read_persisted(self.store, Submission, path, await_file)
            recorded = None
            if jobs_path.rpartition("/")[2] in names:
                recorded = read_persisted(self.store, AcceptedJobs, jobs_path, await_file)
            found.append(KnownSubmission(submission, recorded))
            if layout.cancellation(number).rpartition("/")[2] in names:
                cancelled[number] = self._cause_of_cancellation(number)
        return Submissions(found, cancelled)

    def _cause_of_cancellation(self, number: int) -> str:
        """Why a submission was cancelled; "" also where that cannot be read: it counts as it is."""
        with contextlib.suppress(FileMissing, FormatError):
            path = layout.cancellation(number)
            return read_persisted(self.store, Cancellation, path, self.store.read_filled).cause
        return ""

    def code(self, submission: Submission | None) -> CodeRecord | None:
        """The record of the source files that a submission was made with; None where it has none.

        Raises:
            FileMissing, FormatError: it cannot be used.
        """
        if submission is None or submission.code is None:
            return None
        path = layout.code_record(submission.code)
        return read_persisted(self.store, CodeRecord, path, self.store.await_file)

    def shard(self, run: RunSpec, rank: int) -> ShardSpec:
        """Read a shard's spec and check that it belongs to the run.

        Raises:
            FileMissing, InvalidFile, NewerFormat: it cannot be used.
        """
        path = layout.shard(rank)
        spec = self.read(ShardSpec, path)

        def wrong(field: str, problem: str) -> InvalidFile:
            return InvalidFile(self.store.locate(path), field, problem)

        if spec.fingerprint != run.fingerprint:
            raise wrong("fingerprint", "belongs to another plan")
        if spec.rank != rank or spec.world_size != run.world_size:
            raise wrong("rank", f"is {spec.rank}, not {rank}")
        found = count_batches(len(spec.items), run.batch_size)
        if found != run.n_items_of(rank):
            raise wrong("items", f"are {found}, but the plan has {run.n_items_of(rank)}")
        return spec

    def receipts(
        self, world_size: int, before: Receipts | None = None, *, withdrawals: bool = True
    ) -> Receipts:
        """Which shards are done, by names alone; see `receipts.look_at_receipts`."""
        return look_at_receipts(self.store, world_size, before, withdrawals=withdrawals)

    def receipt(self, run: RunSpec, rank: int, generation: int = 1) -> Receipt:
        """Read a receipt and compare it with the plan.

        Raises:
            DamagedResult: it is not a receipt of this shard of this plan.
            FileMissing: there is none.
            NewerFormat: a later espnet3 wrote it.
        """
        path = layout.receipt(rank, generation)
        file = self.store.locate(path)
        try:
            receipt = self.read(Receipt, path)
            if receipt.rank != rank or receipt.fingerprint != run.fingerprint:
                raise InvalidFile(file, "fingerprint", "belongs to another shard or plan")
            if receipt.records != (wanted := run.n_items_of(rank)):
                raise InvalidFile(
                    file, "records", f"is {receipt.records}, but the plan has {wanted}"
                )
        except InvalidFile as error:
            problem = str(error).removeprefix(f"{file}: ")
            raise DamagedResult(file, rank, problem, self.root) from None
        return receipt

    # --- one more ---------------------------------------------------------------------------------

    def publish(self, record: PersistedModel, *, generation: int = 1, durable: bool = True) -> None:
        """Write a record under the name that it has in a run directory, atomically.

        Args:
            record: any but a shard's spec, which are published all at once.
            generation: of a receipt.
            durable: False where it is only a hint and may be lost with the host.

        Raises:
            FileTaken: there is one already, which stays.
            StoreError: it cannot be written.
        """
        self.store.create(layout.path_of(record, generation), encode(record), durable=durable)

    def renew(self, record: WorkerState | Remaining) -> None:
        """Write a worker's sign of life, or what is left of the run, in place of the last one.

        Both are hints: losing one is no matter.

        Raises:
            StoreError: it cannot be written.
        """
        self.store.replace(layout.path_of(record), encode(record))

    def publish_first(self, record: PersistedModel, *, durable: bool = True) -> None:
        """As `publish`, but where somebody else was first, theirs counts."""
        with contextlib.suppress(FileTaken):
            self.publish(record, durable=durable)


def jobs_record(number: int, jobs: list[AcceptedJob], refused: str | None = None) -> AcceptedJobs:
    """The record of a submission's jobs, made by this process.

    Args:
        number: of the submission.
        jobs: those that the scheduler accepted.
        refused: the scheduler's words where it did not accept every job.
    """
    return AcceptedJobs(
        number=number,
        created=now(),
        recorded_by=this_process(),
        jobs=jobs,
        refused=None if refused is None else cut(refused),
    )
