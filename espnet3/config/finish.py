"""The `finish` section of a parallel config: a run that finishes itself (decision 0021)."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from espnet3.specs.nested import PlainJson


class Finish(BaseModel):
    """What a finisher does when a run's jobs have ended.

    Attributes:
        collect: path or URL of the file that the results go to, in the form that its suffix says;
            `results.jsonl` in the run directory where unset.
        notify: a shell command that is run when all is over; `docs/finishing.md` has the variables
            that it is given.
        waves: how many times shards that are missing are submitted again, at most.
        max_memory: what a shard that ran out of memory may ask for at most, such as `64GB`; no
            bound where unset.
        max_walltime: the same of shards that reached their time limit with no item done.
        retry_errors: how many times a shard is tried again at which `forward` raised.
        max_attempts: how many times a shard is tried in all; where it was preempted, or its node
            failed, is not counted.
        up_front: queue all waves at once, for sites where no job may submit jobs: each with 1.5
            times the memory of the one before and twice its time, up to the bounds. What has
            nothing to do ends in a second.
        options: the scheduler's options for the finisher's own job, such as a queue for short jobs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    collect: str | None = None
    notify: str | None = None
    waves: Annotated[int, Field(ge=0)] = 3
    max_memory: str | int | None = None
    max_walltime: str | int | None = None
    retry_errors: Annotated[int, Field(ge=0)] = 0
    max_attempts: Annotated[int, Field(ge=1)] = 3
    up_front: bool = False
    options: dict[str, PlainJson] = {}
