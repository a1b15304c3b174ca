"""Many task states, as a dict would hold them."""

from __future__ import annotations

from espnet3.schedulers.base import TaskState
from espnet3.schedulers.job_keys import JobKeys, positions, tasks_at
from espnet3.schedulers.task_states import TaskStates
from tests.unit.status.test_shard_states import submission

QUEUED, ENDED = TaskState("queued"), TaskState("ended")


def test_they_are_a_dict_of_pairs() -> None:
    states = TaskStates({(1, 0): ENDED})
    states.fill(1, range(3), QUEUED)
    states[2, 7] = ENDED
    states.merge({(1, 2): ENDED})
    states.merge(TaskStates({(3, 0): ENDED}))
    assert states == {
        (1, 0): QUEUED, (1, 1): QUEUED, (1, 2): ENDED, (2, 7): ENDED, (3, 0): ENDED,
    }  # fmt: skip
    assert (1, 3) not in states
    assert (4, 0) not in states
    assert states.get((4, 0)) is None
    del states[2, 7]
    assert len(states) == 4
    assert list(states.of(2)) == []


def test_tasks_of_an_array() -> None:
    known = submission(1, ranks=list(range(20)), jobs=[(10, "12"), (10, "13")])
    keys = JobKeys([known], {1: [2, 3, 11, 15, 19]})
    _, second = keys.by_name["job-1-1"]
    assert tasks_at(second, positions("0-9", 10)) == range(10, 20)
    assert tasks_at(second, positions("2-8:3", 10)) == range(12, 19, 3)
    assert tasks_at(second, [0, 4]) == [10, 14]
    states = TaskStates({(1, 2): QUEUED, (1, 11): QUEUED, (1, 15): QUEUED, (1, 19): QUEUED})
    assert keys.not_in(states) == keys.not_in(dict(states)) == ({(1, 3)}, ["12"])


def test_positions_in_steps_from_the_schedulers_first_index() -> None:
    assert list(positions("0-9:3", 10, first=1)) == [2, 5, 8]
    assert list(positions("0-3", 10, first=1)) == [0, 1, 2]
    assert list(positions("2,4-20:2", 6, first=1)) == [1, 3, 5]
    assert list(positions("7-3", 10)) == []
