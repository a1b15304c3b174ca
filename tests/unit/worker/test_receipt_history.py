"""Which receipt a shard needs next, and what a worker makes of withdrawn ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.processes import this_process
from espnet3.run_dir.receipt_history import next_generations, read_receipt_history
from espnet3.run_dir.receipts import look_at_receipts
from espnet3.specs import layout
from espnet3.specs.models import RunSpec, Withdrawal, encode, now
from espnet3.storage.base import Store
from espnet3.worker import exit_codes
from espnet3.worker.attempt import SchedulerTask
from espnet3.worker.computing import Limits
from espnet3.worker.task import run_task
from tests.support.worker_runs import records_of, write_run


def run_here(
    store: Store,
    run: RunSpec,
    number: int = 2,
    limits: Limits = Limits(),  # noqa: B008 (frozen)
) -> int:
    return run_task(
        RunDirectory(store), run, [*range(run.world_size)], number, SchedulerTask(0, "1"),
        may_have_predecessors=number > 1, limits=limits,
    )  # fmt: skip


def withdraw(store: Store, rank: int, generation: int = 1, **fields: Any) -> None:
    store.prepare([layout.WITHDRAWALS])
    record = Withdrawal(
        rank=rank, generation=generation, created=now(), by=this_process(),
        **{"reason": "damaged", "cause": "", **fields},
    )  # fmt: skip
    store.create(layout.withdrawal(rank, generation), encode(record))


def failing_run(store: Store, at: int | None = 2, **parallel: Any) -> RunSpec:
    """A run of one shard whose item `at` failed and was recorded; then the item is mended."""
    config = {} if at is None else {"at": at, "do": "raise", "trouble": "ValueError"}
    run = write_run(store, config, n_shards=1, on_error="record", **parallel)
    assert run_here(store, run, 1) == exit_codes.DONE
    plain = run.provider.model_copy(
        update={"args": [run.provider.args[0].model_copy(update={"value": {}})]}
    )
    return run.model_copy(update={"provider": plain})


def file_of(store: Store, rank: int = 0) -> Path:
    [file] = Path(store.root).glob(f"results/{rank:06d}.0001*")
    return file


@pytest.mark.parametrize("look", [False, True])
def test_the_names_alone_say_what_is_open(store: Store, look: bool) -> None:
    names = [
        layout.receipt(1),
        layout.receipt(2), layout.withdrawal(2, 1),
        layout.receipt(3), layout.withdrawal(3, 1), layout.receipt(3, 2),
        layout.receipt(4), layout.withdrawal(4, 1), layout.receipt(4, 2), layout.withdrawal(4, 2),
        "withdrawals/README",
        layout.withdrawal(6, 1),
    ]  # fmt: skip
    store.prepare([layout.WITHDRAWALS])
    for name in names:
        store.create(name, b"")
    ranks = range(7)
    # Somebody removed the receipt of shard 6 by hand.
    expected = {0: 1, 2: 2, 4: 3, 5: 1, 6: 2}
    assert next_generations(store, ranks, look=look) == expected
    assert next_generations(store, [0, 5], look=look) == {0: 1, 5: 1}
    seen = look_at_receipts(store, 7)
    assert seen.done == {1: 1, 3: 2}
    assert seen.withdrawn == {2: 2, 4: 3, 6: 2}


def test_errors_of_before_the_withdrawal_are_computed_again(store: Store) -> None:
    run = failing_run(store)
    withdraw(store, 0, reason="failed-items", from_submission=2)
    before = Path(store.root, layout.receipt(0)).read_bytes()
    assert run_here(store, run) == exit_codes.DONE
    receipt = RunDirectory(store).receipt(run, 0, 2)
    assert (receipt.records, receipt.errors, receipt.salvaged) == (6, 0, 5)
    assert [part.first for part in receipt.parts] == [0, 2]
    assert store.read(layout.receipt(0)) == before
    assert [record.generation for record in records_of(store, "started")] == [1, 2]
    assert run_here(store, run, 3) == exit_codes.DONE  # nothing to do
    assert len(records_of(store, "started")) == 2


def test_what_is_vouched_for_stays_with_its_errors(store: Store) -> None:
    run = failing_run(store, at=5)  # at the end, where nobody but the receipt speaks for it
    withdraw(store, 0)
    assert run_here(store, run) == exit_codes.DONE
    receipt = RunDirectory(store).receipt(run, 0, 2)
    assert (receipt.errors, receipt.salvaged) == (1, 6)


def test_a_file_that_does_not_match_is_not_believed_even_if_nobody_names_it(store: Store) -> None:
    run = failing_run(store, at=None)
    file = file_of(store)
    file.write_bytes(file.read_bytes().replace(b'"result":2}', b'"result":3}'))
    withdraw(store, 0)
    assert read_receipt_history(store, run, 0, 2).damaged == {file.name}
    assert run_here(store, run) == exit_codes.DONE
    assert RunDirectory(store).receipt(run, 0, 2).salvaged == 0


def test_a_file_that_a_withdrawal_names_is_not_believed_even_if_it_matches(store: Store) -> None:
    run = failing_run(store, at=None)
    withdraw(store, 0, files=[file_of(store).name])
    assert run_here(store, run) == exit_codes.DONE
    assert RunDirectory(store).receipt(run, 0, 2).salvaged == 0


@pytest.mark.parametrize("contents", [b"", b"null", b'{"schema_version": 9}'])
def test_where_a_withdrawal_cannot_be_read_no_error_counts(store: Store, contents: bytes) -> None:
    run = failing_run(store)
    store.prepare([layout.WITHDRAWALS])
    store.create(layout.withdrawal(0, 1), contents)
    assert run_here(store, run) == exit_codes.DONE
    assert RunDirectory(store).receipt(run, 0, 2).errors == 0


@pytest.mark.parametrize("contents", [None, b"", b"null"])
def test_a_receipt_that_cannot_be_read_vouches_for_nothing(
    store: Store, contents: bytes | None
) -> None:
    run = failing_run(store)
    path = Path(store.root, layout.receipt(0))
    if contents is None:
        path.unlink()
    else:
        path.write_bytes(contents)
    withdraw(store, 0)
    assert run_here(store, run) == exit_codes.DONE
    receipt = RunDirectory(store).receipt(run, 0, 2)
    assert (receipt.errors, receipt.salvaged) == (1, 6)  # as after an interruption


def test_a_submission_says_which_errors_count(store: Store) -> None:
    run = failing_run(store)
    Path(store.root, layout.receipt(0)).unlink()
    assert run_here(store, run, 2, Limits(errors_from_submission=2)) == exit_codes.DONE
    assert RunDirectory(store).receipt(run, 0).errors == 0


def test_errors_that_are_taken_over_count_against_the_limit(store: Store) -> None:
    run = failing_run(store)
    Path(store.root, layout.receipt(0)).unlink()
    assert run_here(store, run, 2, Limits(max_errors=0)) == exit_codes.FAILED
    [failed] = records_of(store, "failed")
    assert failed.cause.startswith("1 item of shard 0 failed, and max_errors is 0; ")
    assert run_here(store, run, 3, Limits(max_errors=1)) == exit_codes.DONE


def test_an_attempt_that_began_before_the_withdrawal_loses(store: Store) -> None:
    # While its item 2 is computed, another worker makes the receipt, and it is withdrawn.
    config = {"at": 2, "do": "overtake", "folder": str(Path(store.root).parent)}
    run = write_run(store, config, n_shards=1)

    assert run_here(store, run, 1) == exit_codes.DONE
    first = RunDirectory(store).receipt(run, 0)
    withdraw(store, 0, files=[part.file for part in first.parts])
    assert [r.generation for r in records_of(store, "started")] == [1, 1]
    assert set(store.names(layout.RECEIPTS)) == {"000000.json"}
    assert run_here(store, run) == exit_codes.DONE
    second = RunDirectory(store).receipt(run, 0, 2)
    assert not {part.file for part in second.parts} & {part.file for part in first.parts}
