"""A soak: many small runs with random faults of all kinds. `make chaos FAULTS=1000 [SEED=7]`.

    python -m tests.chaos.soak --faults N [--seed S] [--only RUN] [--finishing]

Half of the runs are real processes on `env: local` (`soak_real.py`), half are simulated ones, which
die at any operation on the storage (`soak_simulated.py`). In half of either workers claim their
shards (`soak_claims.py`); others finish themselves, and nobody resumes them (`soak_finishing.py`),
with `--finishing` all of them. What is decided at random comes from the
seed and the run's number; `--only` repeats one run. Real processes race as they like, so that a run
with them may need some repetitions to fail again.

Exits with 1 if anything was lost, computed twice or damaged without a word.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import multiprocessing
import os
import random
import secrets
import sys
import tempfile
import time
import traceback
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

import pytest

from tests.chaos.soak_claims import ClaimedRun, SimulatedClaims
from tests.chaos.soak_finishing import RealFinishing, SimulatedFinishing
from tests.chaos.soak_real import RealRun
from tests.chaos.soak_simulated import SimulatedRun
from tests.chaos.tally import Tally
from tests.support import guard

AT_ONCE = 2  # runs
_FINISHING = (SimulatedFinishing, RealFinishing, *5 * (SimulatedFinishing,))
_KINDS = (RealRun, SimulatedRun, ClaimedRun, SimulatedClaims, *_FINISHING[:2])


def one_run(seed: int, number: int, *, finishing: bool = False) -> Tally:
    """One run, whatever it comes to."""
    kinds = _FINISHING if finishing else _KINDS
    tally, rng = Tally(), random.Random(f"{seed} {number}")
    logging.getLogger("espnet3").propagate = False
    with (
        tempfile.TemporaryDirectory(prefix=f"chaos-{number}-") as folder,
        pytest.MonkeyPatch.context() as patch,
        open(os.devnull, "w") as nowhere,
    ):
        patch.setenv("ESPNET3_PATIENCE", "2")
        try:
            with contextlib.redirect_stderr(nowhere):
                kinds[number % len(kinds)](Path(folder), rng, tally, patch).whole()
        except BaseException as error:
            words = "".join(traceback.format_exception(error))
            if isinstance(error, AssertionError):
                tally.duplicated += "computed again" in words
                tally.lost += "computed again" not in words
            tally.problems.append(f"run {number}: {words}")
            if not isinstance(error, Exception):
                raise
    return tally


def soak(seed: int, faults: int, *, finishing: bool = False) -> Tally:
    """Runs until so many faults were injected, or one of them went wrong."""
    total, number = Tally(), 0
    began = told = time.monotonic()
    with ProcessPoolExecutor(AT_ONCE, multiprocessing.get_context("spawn")) as pool:
        running: set[Future[Tally]] = set()
        while sum(total.faults.values()) < faults and not total.bad:
            while len(running) < AT_ONCE:
                running.add(pool.submit(one_run, seed, number, finishing=finishing))
                number += 1
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                found = future.result()
                print(*found.problems, sep="\n", end="", flush=True)
                total.add(found)
            if time.monotonic() - told > 30:
                told = time.monotonic()
                n = sum(total.faults.values())
                print(f"{told - began:5.0f} s: {n} faults, {total.runs} runs", flush=True)
        for future in running:
            total.add(future.result())
    return total


def main(argv: list[str]) -> int:
    """See above."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak")
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", type=int, metavar="RUN", help="only the run with this number")
    parser.add_argument("--finishing", action="store_true", help="only runs that finish themselves")
    options = parser.parse_args(argv)
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    only = options.only
    keys = {"finishing": options.finishing}
    total = soak(seed, options.faults, **keys) if only is None else one_run(seed, only, **keys)
    print(total.report())
    for problem in total.problems:
        print(problem, file=sys.stderr)
        number = problem.partition(":")[0].removeprefix("run ")
        same = f"--seed {seed} --only {number}{' --finishing' * options.finishing}"
        print(f"repeat it: python -m tests.chaos.soak {same}")
    return 1 if total.bad else 0


if __name__ == "__main__":
    guard.watch()
    sys.exit(main(sys.argv[1:]))
