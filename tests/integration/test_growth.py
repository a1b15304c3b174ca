"""What a run costs for each shard and item. Exact, and the same that docs/scaling.md states.

Where a number changes on purpose, change it here and run `make scaling`.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from espnet3.config.model import parse_parallel
from espnet3.run import Run, submit_run
from espnet3.specs.items import plan_items
from espnet3.specs.models import encode
from espnet3.submit.plan import plan_run
from espnet3.submit.submitter import this_submitter
from tests.support import counting
from tests.support.counting import STEPS
from tests.support.helpers import ended, parallel, wrap
from tests.support.slurm_cluster import SlurmCluster

pytestmark = pytest.mark.skipif(
    not (counting.ROOT / "benchmarks").is_dir(), reason="the benchmarks are in the repository only"
)

# For each shard; of the steps that are not named, none depends on the number of shards.
STORE_OPERATIONS: dict[str, dict[str, float]] = {
    "submit": {"create": 1},
    "work": {"read": 11, "exists": 2, "create": 2, "append": 1, "write": 1, "sync": 1},
    "collect to a file": {"read": 1, "read_beginning": 1},
    "collect to a list": {"read": 1, "read_beginning": 1},
}
REQUESTS: dict[str, dict[str, float]] = {
    "submit": {"PUT": 1},
    "work": {"PUT": 3, "GET": 11, "HEAD": 2},
    "collect to a file": {"GET": 2},
    "collect to a list": {"GET": 2},
}
COMMANDS = ("sbatch", "squeue", "sacct", "scontrol", "scancel")


def for_each_shard(
    count: Callable[[Path, int], dict[str, Counter[str]]], few: int = 3, step: int = 4
) -> dict[str, dict[str, float]]:
    """Step -> kind -> how many for each shard; the same from the first on, or it is not linear."""
    found = []
    for n_shards in (few, few + step, few + 2 * step):
        with tempfile.TemporaryDirectory() as folder:
            found.append(count(Path(folder), n_shards))
    first, second, third = found
    each: dict[str, dict[str, float]] = {}
    for name in STEPS:
        more = {kind: (n - second[name][kind]) / step for kind, n in third[name].items()}
        before = {kind: (n - first[name][kind]) / step for kind, n in second[name].items()}
        assert more == before, f"{name}: {before} for each shard, then {more}"
        if any(more.values()):
            each[name] = {kind: n for kind, n in more.items() if n}
    return each


def documented(what: str) -> dict[str, dict[str, float]]:
    """Step -> kind -> how many for each shard, as docs/scaling.md says."""
    from benchmarks import scaling_report

    lines = scaling_report.lines(scaling_report.read()[what])
    each = {
        step: {kind: line.each for kind, line in kinds.items() if line.each}
        for step, kinds in lines.items()
    }
    return {step: kinds for step, kinds in each.items() if kinds}


def test_operations_on_the_store() -> None:
    assert for_each_shard(counting.store_operations) == STORE_OPERATIONS
    assert documented("store operations") == STORE_OPERATIONS


@pytest.mark.s3
def test_requests_on_s3() -> None:
    assert for_each_shard(counting.requests, few=2, step=2) == REQUESTS
    assert documented("requests") == REQUESTS


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not counting.has_strace(), reason="strace cannot count system calls here")
def test_system_calls_are_those_of_the_document() -> None:
    """But for listings: one getdents for some hundred names."""

    def without_listings(counts: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
        kept = {s: {k: n for k, n in kinds.items() if k != "list"} for s, kinds in counts.items()}
        return {step: kinds for step, kinds in kept.items() if kinds}

    assert without_listings(documented("system calls")) == without_listings(
        for_each_shard(counting.system_calls)
    )


def test_tables_are_made_from_what_was_measured() -> None:
    from benchmarks import scaling_report

    page = scaling_report.PAGE.read_text()
    assert page == scaling_report.with_tables(page, scaling_report.read()), "run `make scaling`"
    assert scaling_report.worse_than_linear(scaling_report.read()) == []


# --- items ----------------------------------------------------------------------------------------


def spec_bytes(items: Any) -> int:
    """The size of the spec of the only shard of a run of these items."""
    runner = counting.Same(counting.Nothing({}))
    config = parse_parallel({"env": "local"})
    plan = plan_run(runner, plan_items(items), config, this_submitter(sys.executable))
    (spec,) = plan.shards("/shared/run/run.json")
    return len(encode(spec))


def test_a_range_of_items_takes_no_room() -> None:
    assert spec_bytes(range(10**9)) - spec_bytes(range(9)) == len(str(10**9)) - len(str(9))


def test_a_list_of_items_takes_its_json_and_a_comma_each() -> None:
    names = [f"1089-134686-{i:04d}" for i in range(1001)]
    assert spec_bytes(names) - spec_bytes(names[:1]) == sum(
        len(orjson.dumps(name)) + 1 for name in names[1:]
    )


def test_bytes_are_those_of_the_document() -> None:
    from benchmarks import scaling, scaling_report

    assert scaling.bytes_per_item() == scaling_report.read()["bytes per item"]


# --- the scheduler --------------------------------------------------------------------------------


@pytest.mark.parametrize("n_arrays", [1, 3])
def test_commands_of_the_scheduler(
    n_arrays: int, slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sbatch for each array; all else takes as many as for one array."""
    for command in COMMANDS:
        note = f'echo {command} >>"{tmp_path}/called"; exec "$real" "$@"'
        path = wrap(tmp_path, command, note)
    monkeypatch.setenv("PATH", path)

    @contextmanager
    def calling(**expected: int) -> Iterator[None]:
        (tmp_path / "called").write_text("")
        yield
        assert Counter((tmp_path / "called").read_text().split()) == Counter(expected)

    config = parallel(
        n_shards=2 * n_arrays, n_workers=2 * n_arrays, max_array_size=2, preflight=False
    )
    runner = counting.Same(counting.Nothing({}))
    run_dir = tmp_path / "run"
    slurm.run("scontrol", "update", "PartitionName=main", "State=DOWN")
    try:
        with calling(sbatch=n_arrays):
            run = submit_run(runner, range(2 * n_arrays), run_dir=run_dir, parallel=config)
        with calling(squeue=1):
            assert run.status().counts() == {"queued": 2 * n_arrays}
        with calling(squeue=3, scancel=1):  # for the run's status, and for each submission
            run.cancel()
        with calling(squeue=1, sbatch=n_arrays):
            run.resume()
    finally:
        slurm.run("scontrol", "update", "PartitionName=main", "State=UP")
    ended(run)
    with calling():
        assert Run(run_dir).status().done
        assert run.collect() == [*range(2 * n_arrays)]
