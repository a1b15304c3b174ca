"""Which job computes which shard, in the words of ESPnet3's asynchronous mode."""

from __future__ import annotations

import asyncio
import os

from espnet3.run_dir.directory import RunDirectory
from espnet3.specs import layout


async def shard_jobs(run_dir: str | os.PathLike[str]) -> list[dict[str, str]]:
    """For each shard, by rank, what ESPnet3 returned of it.

    `job_id` is the scheduler's, or our name of the job before that is known; in the dynamic
    schedule, where any worker may claim the shard, those of all. `spec` is the path of the shard's
    spec, and `result` that of the folder where its results are, in files that begin with its rank.

    Args:
        run_dir: the run directory.

    Raises:
        RunDirectoryError: it is not a run directory.
    """
    return await asyncio.to_thread(_shard_jobs, run_dir)


def _shard_jobs(run_dir: str | os.PathLike[str]) -> list[dict[str, str]]:
    directory = RunDirectory.open(run_dir)
    ids: dict[int, str] = {}
    for known in directory.submissions().known:  # the last one that has a shard counts
        submission, recorded = known.submission, known.job_ids()
        if submission.schedule == "dynamic":
            names = (recorded.get(job.name, job.name) for job in submission.jobs)
            ids |= dict.fromkeys(submission.ranks_of(0), ",".join(names))
        else:
            ids |= {rank: recorded.get(job.name, job.name) for rank, _, job in submission.places()}
    locate = directory.store.locate
    return [
        {
            "job_id": ids.get(rank, ""),
            "spec": locate(layout.shard(rank)),
            "result": locate(layout.RESULTS),
        }
        for rank in range(directory.run().world_size)
    ]
