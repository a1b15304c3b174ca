"""What the conformance suite needs of a cluster besides espnet3 itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar


class Site(ABC):
    """A cluster with room for at least eight tasks at a time, reached by commands on PATH.

    Attributes:
        env: of the parallel config.
        options: of a small job, for dask-jobqueue.
        submit: the submit command.
        queries: the commands by which espnet3 asks; a test lets them fail.
        leaked: variables that an enclosing job would leave in the environment, with such values.
        refused: options that the submit command refuses, and a pattern of the words it has for it.
        directive: an entry for the option `job_extra_directives`, and what `shown` then shows.
        version: a pattern of what the doctor says of the scheduler.
        more_memory: options that ask for 200 MB, and a pattern of what `shown` then shows.
        four_hours: a pattern of what `shown` shows for a walltime of 04:00:00.
        gpu: options that ask for a GPU, and a pattern of what `shown` then shows; None where the
            cluster has none.
        limit: the shortest walltime that the scheduler enforces; None where that takes minutes.
    """

    env: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {"cores": 1, "memory": "100MB"}
    submit: ClassVar[str]
    queries: ClassVar[tuple[str, ...]]
    leaked: ClassVar[Mapping[str, str]]
    refused: ClassVar[tuple[Mapping[str, Any], str]]
    directive: ClassVar[tuple[Any, str]]
    version: ClassVar[str]
    more_memory: ClassVar[tuple[Mapping[str, Any], str]]
    four_hours: ClassVar[str]
    gpu: ClassVar[tuple[Mapping[str, Any], str] | None] = None
    limit: ClassVar[str | None] = None

    def environ(self) -> Mapping[str, str]:
        """Variables by which the commands find the cluster."""
        return {}

    @abstractmethod
    def hold(self) -> None:
        """Let nothing new start until `release`."""

    @abstractmethod
    def release(self) -> None:
        """Let jobs start again."""

    @abstractmethod
    def cancel_task(self, job_id: str, index: int | None) -> None:
        """Cancel a task by the scheduler's own command; its index counts from 0."""

    @abstractmethod
    def shown(self, job_id: str) -> str:
        """All that the scheduler's own command tells of a job that is queued or runs."""

    @abstractmethod
    def reset(self) -> None:
        """End all jobs, release what is held, and wait until all is quiet."""
