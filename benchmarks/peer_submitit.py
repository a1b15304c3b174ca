"""What submitit does, measured in its own environment: no import of espnet3.

`tail FOLDER SECONDS` prints the seconds that `map_array` takes for items, whose own seconds are a
JSON list, in 16 chunks, to the last result. `submit FOLDER N` prints the seconds that `map_array`
of N calls takes in process, after imports and one call to warm up. `prepare FOLDER ID` pickles a
trivial call as submitit's executors do.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path

import submitit
from submitit.core.utils import DelayedSubmission, JobPaths


def trivial(number: int) -> int:
    return number


def submit(folder: str, n_calls: int) -> dict[str, float]:
    executor = submitit.AutoExecutor(folder=folder, cluster="slurm")
    executor.update_parameters(timeout_min=10, slurm_array_parallelism=n_calls)
    executor.map_array(trivial, range(1))
    began = time.perf_counter()
    jobs = executor.map_array(trivial, range(n_calls))
    seconds = time.perf_counter() - began
    if len(jobs) != n_calls:
        raise SystemExit("not all calls were submitted")
    return {"seconds": seconds}


def prepare(folder: str, job_id: str) -> dict[str, float]:
    paths = JobPaths(folder, job_id, 0)
    paths.folder.mkdir(parents=True, exist_ok=True)
    DelayedSubmission(trivial, 1).dump(paths.submitted_pickle)
    if not Path(paths.submitted_pickle).exists():
        raise SystemExit("nothing was prepared")
    return {}


def sleep(load: float, items: list[float]) -> int:
    time.sleep(load)
    for seconds in items:
        time.sleep(seconds)
    return len(items)


def tail(
    folder: str, seconds: list[float], load: float = 2.0, n_chunks: int = 16
) -> dict[str, float]:
    executor = submitit.AutoExecutor(folder=folder, cluster="slurm")
    executor.update_parameters(
        timeout_min=10, slurm_array_parallelism=n_chunks, slurm_mem="100M", cpus_per_task=1
    )
    bounds = [len(seconds) * i // n_chunks for i in range(n_chunks + 1)]
    chunks = [seconds[a:b] for a, b in itertools.pairwise(bounds)]
    began = time.perf_counter()
    jobs = executor.map_array(sleep, [load] * n_chunks, chunks)
    for job in jobs:  # not by `result`, which looks every few seconds
        while not job.paths.result_pickle.exists():
            time.sleep(0.02)
    taken = time.perf_counter() - began
    if sum(job.result() for job in jobs) != len(seconds):
        raise SystemExit("not all items were computed")
    return {"seconds": taken}


if __name__ == "__main__":
    command, where, what = sys.argv[1:]
    if command == "tail":
        print(json.dumps(tail(where, json.loads(what))))
    else:
        print(json.dumps(submit(where, int(what)) if command == "submit" else prepare(where, what)))
