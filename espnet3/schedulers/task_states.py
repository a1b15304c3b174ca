"""What a scheduler says of many tasks, held so that a hundred thousand of them cost little."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping

from espnet3.schedulers.base import TaskKey, TaskState


class TaskStates(MutableMapping[TaskKey, TaskState]):
    """Submission and task -> state, as a dict of such pairs would be.

    Example:
        >>> states = TaskStates()
        >>> states.fill(1, range(1000), TaskState("queued"))
        >>> states[2, 0] = TaskState("ended")
        >>> len(states), states[1, 999].state, states.of(2)[0].state
        (1001, 'queued', 'ended')
    """

    def __init__(self, states: Mapping[TaskKey, TaskState] | None = None) -> None:
        self._states: dict[int, dict[int, TaskState]] = {}
        self.update(states or {})

    def fill(self, submission: int, tasks: Iterable[int], state: TaskState) -> None:
        """Give many tasks of a submission the same state."""
        self._states.setdefault(submission, {}).update(dict.fromkeys(tasks, state))

    def of(self, submission: int) -> Mapping[int, TaskState]:
        """The tasks of a submission: task -> state."""
        return self._states.get(submission, {})

    def merge(self, other: Mapping[TaskKey, TaskState]) -> None:
        """As `update`, without a step for each task where the other is of this kind."""
        if isinstance(other, TaskStates):
            for submission, states in other._states.items():
                self._states.setdefault(submission, {}).update(states)
        else:
            self.update(other)

    def __getitem__(self, key: TaskKey) -> TaskState:
        return self._states[key[0]][key[1]]

    def __setitem__(self, key: TaskKey, state: TaskState) -> None:
        self._states.setdefault(key[0], {})[key[1]] = state

    def __delitem__(self, key: TaskKey) -> None:
        del self._states[key[0]][key[1]]

    def __iter__(self) -> Iterator[TaskKey]:
        return ((number, task) for number, tasks in self._states.items() for task in tasks)

    def __len__(self) -> int:
        return sum(map(len, self._states.values()))

    def __repr__(self) -> str:
        return f"TaskStates({dict(self)!r})"
