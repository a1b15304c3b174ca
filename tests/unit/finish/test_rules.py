"""What is submitted again, by cause: a table."""

from __future__ import annotations

import pytest

from espnet3.finish.evidence import before
from espnet3.finish.rules import (
    Again,
    Before,
    End,
    Missing,
    NextWave,
    Policy,
    bad_nodes,
    decide,
    judge,
)
from espnet3.run_dir.processes import this_process
from espnet3.specs.finishing import Portion, Wave
from espnet3.specs.items import ItemList
from espnet3.specs.models import now
from espnet3.submit.asked_memory import in_bytes

GB = 10**9
MOST = Policy(max_memory=8 * GB, max_walltime=7200.0)


@pytest.mark.parametrize(
    ("shard", "policy", "expected"),
    [
        (Missing(0, "memory", memory=4 * GB), MOST, {"memory": 6 * GB}),
        (Missing(0, "memory", memory=4 * GB, peak=5 * GB), MOST, {"memory": 7_500_000_000}),
        (Missing(0, "memory", memory=4 * GB, peak=1 * GB), MOST, {"memory": 6 * GB}),
        (Missing(0, "memory", memory=6 * GB), MOST, {"memory": 8 * GB}),
        (Missing(0, "memory", memory=8 * GB), MOST, "which is max_memory"),
        (Missing(0, "memory", memory=80 * GB), Policy(), {"memory": 120 * GB}),
        (Missing(0, "memory"), MOST, {}),
        (Missing(0, "memory", memory=4 * GB, attempts=3), MOST, "3 attempts"),
        (Missing(0, "time", items_done=3, walltime=3600.0), MOST, {}),
        (Missing(0, "time", walltime=3600.0), MOST, {"walltime": 7200.0}),
        (Missing(0, "time", walltime=5400.0), MOST, {"walltime": 7200.0}),
        (Missing(0, "time", walltime=7200.0), MOST, "which is max_walltime"),
        (Missing(0, "time"), MOST, {}),
        (Missing(0, "preempted"), MOST, {"counted": False}),
        (Missing(0, "preempted", attempts=99), MOST, {"counted": False}),
        (Missing(0, "node", attempts=99), MOST, {"counted": False}),
        (Missing(0, "not-submitted", attempts=3), MOST, {"counted": False}),
        (Missing(0, "not-begun", attempts=3, walltime=60.0), MOST, {"counted": False}),
        (Missing(0, "error", "ValueError: no"), MOST, "ValueError: no"),
        (Missing(0, "error"), Policy(retry_errors=1), {"retries_errors": True}),
        (Missing(0, "error", "bad", retries=1), Policy(retry_errors=1), "bad"),
        (Missing(0, "error", attempts=3), Policy(retry_errors=5), "3 attempts"),
        (Missing(0, "cuda-memory", "CUDA out of memory"), MOST, "CUDA out of memory"),
        (Missing(0, "cuda-memory"), Policy(retry_errors=1), {"retries_errors": True}),
        (Missing(0, "killed"), MOST, {}),
        (Missing(0, "crashed", attempts=2), MOST, {}),
        (Missing(0, "crashed", "SIGSEGV", attempts=3), MOST, "3 attempts, the last one: SIGSEGV"),
        (Missing(0, "silent"), MOST, {}),
        (Missing(0, "refused", attempts=3), MOST, {"counted": False}),
        (Missing(0, "what is new"), MOST, {}),
    ],
)
def test_one_shard(shard: Missing, policy: Policy, expected: dict[str, object] | str) -> None:
    how = judge(shard, policy)
    if isinstance(expected, str):
        assert isinstance(how, str)
        assert expected in how
        return
    assert isinstance(how, Again)
    found = {k: v for k, v in how._asdict().items() if k != "cause" and v not in (None, False)}
    usual = {"counted": True}
    assert found == {k: v for k, v in (usual | expected).items() if v is not False}


def test_all_is_done() -> None:
    assert decide([], 5, Policy(), Before(), {}) == End("done")


def test_what_was_cancelled_is_not_tried_again() -> None:
    missing = [Missing(0, "memory", memory=GB), Missing(1, "cancelled", "cancelled, job 7_1")]
    found = decide(missing, 3, Policy(), Before(), {})
    assert isinstance(found, NextWave)  # one job, by the scheduler's own command
    assert found.left == {1: "cancelled, job 7_1"}
    end = decide(missing, 3, Policy(), Before(), {}, "cancelled, a typo")
    assert end == End("stopped", "cancelled, a typo", {0: "memory", 1: "cancelled, job 7_1"})


def test_the_waves_are_spent() -> None:
    end = decide([Missing(0, "preempted")], 3, Policy(waves=2), Before(2), {})
    assert end == End("incomplete", "2 waves spent", {0: "preempted"})
    end = decide([Missing(0, "preempted")], 3, Policy(waves=0), Before(), {})
    assert isinstance(end, End)
    assert end.cause == "no wave is wanted"


def wave(number: int, n_done: int, items_done: int = 0, counted: bool = False) -> Wave:
    """A wave that found so much done."""
    portion = Portion(ranks=ItemList(values=[0]), like=1, cause="c", counted=counted)
    return Wave(
        number=number, finisher=number, created=now(), by=this_process(), submission=number + 1,
        portions=[portion], n_done=n_done, items_done=items_done,
    )  # fmt: skip


def test_waves_that_are_nobodys_fault_and_get_further_do_not_count() -> None:
    waves = [wave(1, 3), wave(2, 5), wave(3, 5, 7), wave(4, 5, 7), wave(5, 6, counted=True)]
    found = before(waves, 9, 0)
    assert found == Before(5, 6, 0, 3)  # the fourth stood still, and the fifth counts
    assert isinstance(decide([Missing(0, "preempted")], 9, Policy(waves=3), found, {}), NextWave)
    found = before(waves, 6, 0)
    end = decide([Missing(0, "preempted")], 6, Policy(waves=2), found, {})
    assert isinstance(end, End)
    assert end.cause == "2 waves spent"


def test_nothing_would_be_tried_again() -> None:
    end = decide([Missing(4, "error", "ValueError: 7")], 3, Policy(), Before(), {})
    assert end == End(
        "incomplete", "the finisher does not retry what is missing", {4: "ValueError: 7"}
    )


@pytest.mark.parametrize(
    ("shard", "n_done", "goes_on"),
    [
        (Missing(0, "silent"), 3, False),
        (Missing(0, "silent"), 4, True),
        (Missing(0, "time", items_done=5, walltime=60.0), 3, True),
        (Missing(0, "time", items_done=2, walltime=60.0), 3, True),  # with more time
        (Missing(0, "time", items_done=2), 3, False),
        (Missing(0, "memory", memory=GB), 3, True),  # more is asked for
        (Missing(0, "preempted"), 3, True),  # which is nobody's fault
        (Missing(0, "not-submitted"), 3, True),  # whoever decided it has died meanwhile
        (Missing(0, "refused"), 3, True),
    ],
)
def test_a_wave_without_progress_ends_it(shard: Missing, n_done: int, goes_on: bool) -> None:
    found = decide([shard], n_done, Policy(), Before(1, 3, 2), {})
    assert isinstance(found, NextWave) == goes_on
    if isinstance(found, End):
        assert found.cause == "the last wave got no further"


def test_an_item_that_takes_longer_than_the_limit_gets_more_time() -> None:
    """Though items before it are done."""
    shard = Missing(0, "time", items_done=2, walltime=60.0)
    found = decide([shard], 3, Policy(), Before(1, 3, 1), {})
    assert isinstance(found, NextWave)
    assert not any(how.changes for how in found.portions)
    found = decide([shard], 3, Policy(), Before(1, 3, 2), {})
    assert isinstance(found, NextWave)
    [how] = found.portions
    assert how.walltime == 120.0
    assert how.cause == "time limit of 60 s with no further item done, now 120 s"


def test_shards_that_are_tried_alike_are_one_portion() -> None:
    missing = [
        Missing(1, "memory", memory=4 * GB),
        Missing(2, "preempted"),
        Missing(5, "memory", memory=4 * GB),
        Missing(7, "error", "ValueError: no"),
    ]
    found = decide(missing, 3, Policy(), Before(), {})
    assert isinstance(found, NextWave)
    assert [*found.portions.values()] == [[1, 5], [2]]
    assert found.left == {7: "ValueError: no"}


def _failed(rank: int, host: str = "n7", elapsed: float = 2.0, kind: str = "error") -> Missing:
    return Missing(rank, kind, "RuntimeError: no GPU", host=host, elapsed=elapsed)


@pytest.mark.parametrize(
    ("missing", "done_on", "found"),
    [
        ([_failed(1), _failed(2)], {"n1": 3}, {"n7"}),
        ([_failed(1)], {"n1": 3}, set()),  # one shard may be to blame itself
        ([_failed(1), _failed(2)], {"n1": 3, "n7": 1}, set()),
        ([_failed(1), _failed(2)], {}, set()),  # as it would be with a typo
        ([_failed(1), _failed(2, elapsed=90.0)], {"n1": 3}, set()),
        ([_failed(1), _failed(2, kind="preempted")], {"n1": 3}, set()),
        ([_failed(1), _failed(2, "n8")], {"n1": 3}, set()),
    ],
)
def test_bad_nodes(missing: list[Missing], done_on: dict[str, int], found: set[str]) -> None:
    assert bad_nodes(missing, done_on).keys() == found


def test_what_failed_on_a_bad_node_is_tried_elsewhere_and_not_counted() -> None:
    missing = [_failed(1), _failed(2), _failed(3, "n1", 100.0)]
    found = decide(missing, 9, Policy(), Before(), {"n1": 9})
    assert isinstance(found, NextWave)
    [(how, ranks)] = found.portions.items()
    assert (ranks, how.counted) == ([1, 2], False)
    assert found.left == {3: "RuntimeError: no GPU"}
    assert "none was done there, and 9 elsewhere" in found.bad_nodes["n7"]


@pytest.mark.parametrize(
    ("size", "words"),
    [(6 * GB, "6GB"), (7_500_000_000, "7500MB"), (1, "1B"), (1500, "1500B"), (10**15, "1000TB"),
     (1_234_567_890_123, "1235GB")],
)  # fmt: skip
def test_sizes(size: int, words: str) -> None:
    assert in_bytes(size) == words
