"""A shard's receipt, made of what several workers have vouched for."""

from __future__ import annotations

import hashlib

import pytest

from espnet3.errors import StoreError
from espnet3.run_dir import result_lines
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.processes import this_process
from espnet3.specs import layout
from espnet3.specs.models import Claim, ErrorRecord, PartialReceipt, ResultPart, RunSpec, now
from espnet3.storage.base import Store
from espnet3.worker.attempt import Attempt, SchedulerTask
from espnet3.worker.computing import Work
from espnet3.worker.shard import publish_covered
from espnet3.worker.signals import Signals
from espnet3.worker.spare_descriptors import Spare
from espnet3.worker.usage import Meter
from tests.support.worker_runs import receipt_of, write_run

N_ITEMS = 10
NOWHERE = SchedulerTask(None, None)


@pytest.fixture
def work(store: Store) -> Work:
    """What a worker of a run of one shard knows."""
    run = write_run(store, {}, range(N_ITEMS), schedule="dynamic", n_shards=1, on_error="record")
    store.prepare([layout.CLAIMS, layout.WORKERS])
    return Work(RunDirectory(store), run, lambda item: item, {}, Signals(), NOWHERE)


def attempt_of(work: Work, run: RunSpec) -> Attempt:
    """An attempt at the shard."""
    return Attempt(work.directory, run, 0, 1, NOWHERE, 1, Spare(), Meter())


def vouch(work: Work, number: int, first: int, end: int, failed: set[int]) -> str:
    """A claim, its results with failed items among them, and its partial receipt.

    Returns:
        The result file.
    """
    attempt = attempt_of(work, work.run)
    error = ErrorRecord(type="ValueError", message="no")
    lines = [
        result_lines.encode_error(item, error)
        if item in failed
        else result_lines.encode_json(item, 2 * item)
        for item in range(first, end)
    ]
    data = b"".join(lines)
    path = layout.result(0, attempt.name, first)
    work.directory.store.create(path, data)
    claim = Claim(
        rank=0,
        generation=1,
        number=number,
        first=first,
        attempt=attempt.name,
        worker=layout.new_attempt(1),
        process=this_process(),
        task=None,
        job_id=None,
        time=now(),
    )
    part = ResultPart(
        file=path.rpartition("/")[2],
        first=first,
        records=end - first,
        bytes=len(data),
        checksum=f"sha256:{hashlib.sha256(data).hexdigest()}",
    )
    vouched = PartialReceipt(
        rank=0,
        generation=1,
        number=number,
        attempt=attempt.name,
        fingerprint=work.run.fingerprint,
        errors=len(failed & {*range(first, end)}),
        salvaged=0,
        parts=[part],
        host="here",
        created=now(),
    )
    work.directory.publish(claim)
    work.directory.publish(vouched)
    return path


def test_parts_make_a_receipt(work: Work) -> None:
    vouch(work, 0, 0, 6, {2})
    assert not publish_covered(work, attempt_of(work, work.run))
    vouch(work, 1, 6, N_ITEMS, {9})
    assert publish_covered(work, attempt_of(work, work.run))
    receipt = receipt_of(work.directory.store)
    assert [(part.first, part.records) for part in receipt.parts] == [(0, 6), (6, 4)]
    assert receipt.errors == 2
    assert receipt.usage is None  # the parts have theirs


@pytest.mark.parametrize("failed", [set[int](), {7}, {9}, {7, 9}, {6, 7, 8, 9}])
def test_parts_that_overlap_make_one_too(work: Work, failed: set[int]) -> None:
    """Also where an item failed at the end of one, which is not believed without a receipt."""
    vouch(work, 0, 0, 8, failed)
    vouch(work, 1, 6, N_ITEMS, failed)
    assert publish_covered(work, attempt_of(work, work.run))
    receipt = receipt_of(work.directory.store)
    assert receipt.records == N_ITEMS
    assert receipt.errors == len(failed)
    position = 0
    for part in receipt.parts:
        assert part.first == position
        position += part.records


def test_results_that_are_gone_are_named(work: Work) -> None:
    vouch(work, 0, 0, 8, set())
    path = vouch(work, 1, 6, N_ITEMS, set())
    store = work.directory.store
    store.replace(path, store.read(path)[:20])
    with pytest.raises(StoreError, match="items 0 to 7 are there only"):
        publish_covered(work, attempt_of(work, work.run))
