"""Every path of a run directory, in one place. Paths are relative to the run directory."""

# Where annotations are strings, NamedTuple compiles each, which every worker would wait for.

import os
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from espnet3.specs.base import PersistedModel
from espnet3.specs.models import (
    AcceptedJobs,
    AttemptRecord,
    Cancellation,
    Claim,
    CodeRecord,
    PartialReceipt,
    Receipt,
    Remaining,
    RunSpec,
    ShardSpec,
    Submission,
    Withdrawal,
    WorkerState,
)
from espnet3.specs.nested import ATTEMPT

RUN = "run.json"
REMOVAL = "removal.json"
COLLECTED = "results.jsonl"  # by a finisher, unless it is told otherwise
RUN_FOLDER = "espnet3_run"  # a run directory that lies in the output folder of its runner
SHARDS = "shards"
SUBMISSIONS = "submissions"
RESULTS = "results"
ATTEMPTS = "attempts"
RECEIPTS = "receipts"
WITHDRAWALS = "withdrawals"  # made when first needed, as are:
CLAIMS = "claims"
REMAINING = f"{CLAIMS}/remaining.json"
WORKERS = "workers"
FINISHERS = "finishers"
WAVES = "waves"
CODE = "code"
WRITTEN = "written"
LOGS = "logs"
FOLDERS = (SHARDS, SUBMISSIONS, RESULTS, ATTEMPTS, RECEIPTS, LOGS)
MADE_LATER = (WITHDRAWALS, CLAIMS, WORKERS, FINISHERS, WAVES, CODE, WRITTEN)


def is_own(name: str) -> bool:
    """Whether a run directory may hold a file or folder of that name.

    >>> is_own("run.json"), is_own("finished.2.json"), is_own("notes.txt")
    (True, True, False)
    """
    return name in (RUN, REMOVAL, *FOLDERS, *MADE_LATER) or parse_end(name) is not None


class AttemptFile(NamedTuple):
    """What the name of an attempt record says."""

    rank: int
    attempt: str
    event: str


class ResultFile(NamedTuple):
    """What the name of a result file says: whose it is and the position of its first record."""

    rank: int
    attempt: str
    first: int


class ReceiptName(NamedTuple):
    """What the name of a receipt or withdrawal says."""

    rank: int
    generation: int


class ClaimName(NamedTuple):
    """What the name of a claim says; `is_part` where it is the name of its partial receipt."""

    rank: int
    generation: int
    number: int
    is_part: bool = False


def shard(rank: int) -> str:
    """Path of a shard's spec.

    >>> shard(42)
    'shards/000042.json'
    """
    return f"{SHARDS}/{shard_name(rank)}"


def shard_name(rank: int) -> str:
    """Name of a shard's spec in its folder.

    >>> shard_name(42)
    '000042.json'
    """
    return f"{rank:06d}.json"


def receipt(rank: int, generation: int = 1) -> str:
    """Path of a shard's receipt; those after the first one have their generation in the name.

    >>> receipt(42), receipt(42, 2)
    ('receipts/000042.json', 'receipts/000042.2.json')
    """
    return f"{RECEIPTS}/{rank:06d}{'' if generation == 1 else f'.{generation}'}.json"


def withdrawal(rank: int, generation: int) -> str:
    """Path of the record by which the receipt of that generation counts no more.

    >>> withdrawal(42, 1)
    'withdrawals/000042.1.json'
    """
    return f"{WITHDRAWALS}/{rank:06d}.{generation}.json"


def submission(number: int) -> str:
    """Path of a submission's intent."""
    return f"{SUBMISSIONS}/{number:04d}.json"


def accepted_jobs(number: int) -> str:
    """Path of the record of a submission's jobs."""
    return f"{SUBMISSIONS}/{number:04d}.jobs.json"


def cancellation(number: int) -> str:
    """Path of the record that a submission was cancelled."""
    return f"{SUBMISSIONS}/{number:04d}.cancelled.json"


def code_record(number: int) -> str:
    """Path of a record of source files."""
    return f"{CODE}/{number:04d}.json"


def snapshot(number: int) -> str:
    """Path of the folder of copies of source files.

    >>> snapshot(1)
    'code/0001'
    """
    return f"{CODE}/{number:04d}"


def attempt_record(rank: int, attempt: str, event: str) -> str:
    """Path of one event of an attempt."""
    return f"{ATTEMPTS}/{rank:06d}.{attempt}.{event}.json"


def result(rank: int, attempt: str, first: int) -> str:
    """Path of the result file of an attempt whose first record has that position in the shard."""
    return f"{RESULTS}/{rank:06d}.{attempt}.{first}.jsonl"


def written(rank: int, attempt: str) -> str:
    """Path of the folder that an attempt's writers write to.

    >>> written(42, "0001-3f9ac81b2d4e")
    'written/000042.0001-3f9ac81b2d4e'
    """
    return f"{WRITTEN}/{rank:06d}.{attempt}"


def claim(rank: int, generation: int, number: int) -> str:
    """Path of a claim.

    >>> claim(42, 1, 0)
    'claims/000042.1.0.json'
    """
    return f"{CLAIMS}/{rank:06d}.{generation}.{number}.json"


def partial_receipt(rank: int, generation: int, number: int) -> str:
    """Path of the partial receipt of a claim.

    >>> partial_receipt(42, 1, 0)
    'claims/000042.1.0.part.json'
    """
    return f"{CLAIMS}/{rank:06d}.{generation}.{number}.part.json"


def worker(name: str) -> str:
    """Path of a worker's last sign of life."""
    return f"{WORKERS}/{name}.json"


def finisher(number: int) -> str:
    """Path of a finisher's intent."""
    return f"{FINISHERS}/{number:04d}.json"


def queued_finisher(number: int) -> str:
    """Path of the record of a finisher's job."""
    return f"{FINISHERS}/{number:04d}.job.json"


def wave(number: int) -> str:
    """Path of what a finisher decided to submit."""
    return f"{WAVES}/{number:04d}.json"


def finished(number: int) -> str:
    """Path of the record that a run is over; those after the first have their number in the name.

    >>> finished(1), finished(2)
    ('finished.json', 'finished.2.json')
    """
    return f"finished{'' if number == 1 else f'.{number}'}.json"


def notified(number: int) -> str:
    """Path of the record that the user was told of such an end."""
    return f"notified{'' if number == 1 else f'.{number}'}.json"


# Of models that workers do not load: by their titles.
_NUMBERED: dict[str, Callable[[int], str]] = {
    "finisher": finisher,
    "queued-finisher": queued_finisher,
    "wave": wave,
    "finished": finished,
    "notified": notified,
}


def path_of(record: PersistedModel, generation: int = 1) -> str:
    """Path of a record, by what it says.

    Args:
        record: any persisted model.
        generation: of a receipt, which does not say it.

    Raises:
        TypeError: it is not a record of a run directory.
    """
    if isinstance(record, AttemptRecord):
        return attempt_record(record.rank, record.attempt, record.event)
    if isinstance(record, Receipt):
        return receipt(record.rank, generation)
    if isinstance(record, RunSpec):
        return RUN
    if isinstance(record, ShardSpec):
        return shard(record.rank)
    if isinstance(record, Submission):
        return submission(record.number)
    if isinstance(record, AcceptedJobs):
        return accepted_jobs(record.number)
    if isinstance(record, Cancellation):
        return cancellation(record.number)
    if isinstance(record, CodeRecord):
        return code_record(record.number)
    if isinstance(record, Withdrawal):
        return withdrawal(record.rank, record.generation)
    if isinstance(record, Claim):
        return claim(record.rank, record.generation, record.number)
    if isinstance(record, PartialReceipt):
        return partial_receipt(record.rank, record.generation, record.number)
    if isinstance(record, WorkerState):
        return worker(record.worker)
    if isinstance(record, Remaining):
        return REMAINING
    if record.title == "removal":
        return REMOVAL
    if record.title in _NUMBERED:
        number: int = record.number  # type: ignore[attr-defined]  # each of them has one
        return _NUMBERED[record.title](number)
    raise TypeError(type(record).__name__)


def new_attempt(submission_number: int) -> str:
    """A name for an attempt or worker that nobody else has: submission number and a random token.

    A scheduler's requeue keeps the job id, so the id alone cannot tell two live copies apart.
    """
    return f"{submission_number:04d}-{os.urandom(6).hex()}"


def submission_of(attempt: str) -> int:
    """The submission number in an attempt's name."""
    return int(attempt.partition("-")[0])


# As text, since `re` keeps what it has compiled and a worker needs hardly any of it.
_PADDED = "[0-9]{6}|[1-9][0-9]{6,}"  # one name per number: 0000042 is not 000042
_RECEIPT = rf"({_PADDED})(?:\.([2-9]|[1-9][0-9]{{1,8}}))?\.json"
_FIRST_RECEIPTS = rf"(?<=/)({_PADDED})\.json(?=/)"
_WITHDRAWAL = rf"({_PADDED})\.([1-9][0-9]{{0,8}})\.json"
_SUBMISSION = r"([0-9]{4}|[1-9][0-9]{4,})\.json"
_END = r"(?:finished|notified)(?:\.([2-9]|[1-9][0-9]{1,8}))?\.json"
_ATTEMPT = rf"({_PADDED})\.({ATTEMPT})\.(started|failed|interrupted)\.json"
_CLAIM = rf"({_PADDED})\.([1-9][0-9]{{0,8}})\.(0|[1-9][0-9]{{0,8}})(\.part)?\.json"
_WORKER = rf"({ATTEMPT})\.json"
_WRITTEN = rf"({_PADDED})\.({ATTEMPT})"
_RESULT = rf"({_PADDED})\.({ATTEMPT})\.(0|[1-9][0-9]*)\.jsonl"


def parse_receipt(name: str) -> ReceiptName | None:
    """What the name of a receipt says, or None for a foreign file."""
    found = re.fullmatch(_RECEIPT, name)
    return ReceiptName(int(found[1]), int(found[2] or 1)) if found else None


def parse_withdrawal(name: str) -> ReceiptName | None:
    """What the name of a withdrawal says, or None for a foreign file."""
    found = re.fullmatch(_WITHDRAWAL, name)
    return ReceiptName(int(found[1]), int(found[2])) if found else None


def newest_receipts(names: Iterable[str], world_size: int) -> dict[int, int]:
    """Rank -> generation of the newest receipt among some names.

    >>> newest_receipts(["000042.json", "000042.2.json", "000007.json", "notes.txt"], 100)
    {42: 2, 7: 1}
    """
    # Nearly always all are first receipts: one search through all names, which hold no slash.
    names = list(names)
    ranks = dict.fromkeys(map(int, re.findall(_FIRST_RECEIPTS, f"/{'/'.join(names)}/")), 1)
    if len(ranks) == len(names) and max(ranks, default=0) < world_size:
        return ranks
    return _newest(_RECEIPT, names, world_size)


def newest_withdrawals(names: Iterable[str], world_size: int) -> dict[int, int]:
    """Rank -> generation of the newest withdrawal among some names."""
    return _newest(_WITHDRAWAL, names, world_size)


def _newest(pattern: str, names: Iterable[str], world_size: int) -> dict[int, int]:
    newest: dict[int, int] = {}
    for found in filter(None, map(re.compile(pattern).fullmatch, names)):
        rank, generation = int(found[1]), int(found[2] or 1)
        if rank < world_size and generation > newest.get(rank, 0):
            newest[rank] = generation
    return newest


def parse_end(name: str) -> int | None:
    """Which end of the run a file's name is about; None for any other file.

    >>> parse_end("finished.json"), parse_end("notified.3.json"), parse_end("results.json")
    (1, 3, None)
    """
    found = re.fullmatch(_END, name)
    return int(found[1] or 1) if found else None


def submission_number(name: str) -> int | None:
    """The number in the name of a submission's intent, a finisher's, or the like; else None."""
    found = re.fullmatch(_SUBMISSION, name)
    return int(found[1]) if found else None


def parse_attempt_record(name: str) -> AttemptFile | None:
    """What the name of an attempt record says, or None for a foreign file."""
    found = re.fullmatch(_ATTEMPT, name)
    return AttemptFile(int(found[1]), found[2], found[3]) if found else None


def parse_claim(name: str) -> ClaimName | None:
    """What the name of a claim or partial receipt says, or None for a foreign file."""
    found = re.fullmatch(_CLAIM, name)
    return found and ClaimName(int(found[1]), int(found[2]), int(found[3]), bool(found[4]))


def is_written(name: str) -> bool:
    """Whether a folder's name is that of one that an attempt's writers write to."""
    return re.fullmatch(_WRITTEN, name) is not None


def parse_worker(name: str) -> str | None:
    """The worker whose sign of life has this name, or None for a foreign file."""
    found = re.fullmatch(_WORKER, name)
    return found and found[1]


def parse_result(name: str) -> ResultFile | None:
    """What the name of a result file says, or None for a foreign file."""
    found = re.fullmatch(_RESULT, name)
    return ResultFile(int(found[1]), found[2], int(found[3])) if found else None
