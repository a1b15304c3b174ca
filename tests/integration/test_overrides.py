"""Options for some shards (decision 0012), on a real Slurm and on this host."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from espnet3.errors import ConfigError, UsageError
from espnet3.run import Run
from espnet3.submit import dry_run
from tests.support.cli_project import Project
from tests.support.helpers import (
    ended,
    jobs,
    locally,
    noted,
    once,
    parallel,
    python,
    states,
    submission,
    submit_noting,
    wrap,
)
from tests.support.runners import MENDED, Noting, Workshop
from tests.support.slurm_cluster import SlurmCluster

MORE = [{"ranks": "1,3-4", "options": {"memory": "300MB"}}]


def _memory(slurm: SlurmCluster, run: Run, number: int) -> set[str]:
    """What Slurm was asked for, by all tasks of a submission."""
    [job] = jobs(run, number).jobs
    told = slurm.run("scontrol", "show", "job", job.job_id).stdout
    return set(re.findall(r"MinMemoryNode=(\S+)", told))


def _ranks(run: Run, number: int) -> list[Any]:
    return [*submission(run, number).ranks.plain()]


def test_some_shards_get_more_memory(slurm: SlurmCluster, tmp_path: Path) -> None:
    run = submit_noting(tmp_path, 6, parallel(n_shards=6, overrides=MORE))
    assert run.submitted is not None
    assert (run.submitted.number, run.submitted.further) == (1, [2])
    assert run.submitted.ranks == [*range(6)]
    assert len(run.submitted.job_ids) == 2
    assert ended(run).collect() == locally(tmp_path, 6)
    assert noted(tmp_path, "begun") == once(range(6))
    assert (_ranks(run, 1), _ranks(run, 2)) == ([0, 2, 5], [1, 3, 4])
    assert (_memory(slurm, run, 1), _memory(slurm, run, 2)) == ({"96M"}, {"287M"})
    assert submission(run, 2).options["memory"] == "300MB"


def test_a_resume_keeps_them(slurm: SlurmCluster, tmp_path: Path) -> None:
    """Each shard is submitted again with its own options, also after a resume of others."""
    run = ended(submit_noting(tmp_path, 6, parallel(n_shards=6, overrides=MORE), failing=[0, 3, 4]))
    (tmp_path / MENDED).touch()
    assert run.resume([3]).ranks == [3]
    submitted = run.resume()
    assert (submitted.number, submitted.further) == (4, [5])
    assert [_ranks(run, number) for number in (3, 4, 5)] == [[3], [0], [4]]
    assert ended(run).collect() == locally(tmp_path, 6)
    assert _memory(slurm, run, 3) == _memory(slurm, run, 5) == {"287M"}
    assert _memory(slurm, run, 4) == {"96M"}


def test_what_a_resume_sets_counts_for_them_too(slurm: SlurmCluster, tmp_path: Path) -> None:
    more = [{"ranks": 1, "options": {"memory": "300MB", "walltime": "00:20:00"}}]
    run = ended(submit_noting(tmp_path, 2, parallel(n_shards=2, overrides=more), failing=[0, 1]))
    (tmp_path / MENDED).touch()
    run.resume(options={"memory": "500MB"})
    assert _memory(slurm, run, 3) == _memory(slurm, run, 4) == {"477M"}
    assert submission(run, 4).options["walltime"] == "00:20:00"
    assert submission(run, 3).options["walltime"] != "00:20:00"
    assert ended(run).collect() == locally(tmp_path, 2)


SUBMIT = """
import sys
from pathlib import Path

from tests.support.helpers import parallel, submit_noting
from tests.integration.test_overrides import MORE

submit_noting(Path(sys.argv[1]), 6, parallel(n_shards=6, overrides=MORE))
"""


def test_a_driver_that_is_killed_between_the_submissions(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    """No submission holds the other shards then; a resume submits them with their options."""
    dying = f"""
    if mkdir '{tmp_path}/first' 2>/dev/null; then "$real" "$@"; else kill -9 $PPID; fi
    """
    done = python("-c", SUBMIT, str(tmp_path), env={"PATH": wrap(tmp_path, "sbatch", dying)})
    assert done.returncode == -9, done.stderr
    run = Run(tmp_path / "run")
    assert _ranks(run, 1) == [0, 2, 5]
    assert {states(run)[rank] for rank in (1, 3, 4)} == {"pending"}
    submitted = run.resume()
    assert submitted.ranks == [1, 3, 4]
    assert ended(run).collect() == locally(tmp_path, 6)
    assert noted(tmp_path, "begun") == once(range(6))
    assert _memory(slurm, run, submitted.number or 0) == {"287M"}
    assert run.resume().number is None


def test_a_driver_that_is_killed_before_the_second_intent(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    config = parallel(n_shards=6, overrides=MORE)
    run = ended(submit_noting(tmp_path, 6, config))
    for file in Path(run.run_dir).glob("*/0002*"):
        file.unlink()
    for rank in (1, 3, 4):
        for file in Path(run.run_dir).glob(f"[ar]*/{rank:06d}.*"):
            file.unlink()
    assert states(run) == {r: "pending" if r in (1, 3, 4) else "done" for r in range(6)}
    again = submit_noting(tmp_path, 6, config)  # the same call
    assert again.submitted is not None
    assert again.submitted.ranks == [1, 3, 4]
    assert _memory(slurm, again, 2) == {"287M"}
    assert ended(run).collect() == locally(tmp_path, 6)


def test_the_workers_are_shared_out(tmp_path: Path) -> None:
    more = [
        {"ranks": "0-4", "options": {"note": "b"}},
        {"ranks": "18-19", "options": {"n_workers": 3}},
    ]
    config = parallel("local", n_shards=20, overrides=more)
    run = submit_noting(tmp_path, 20, {**config, "n_workers": 6})
    assert [submission(run, number).n_workers for number in (1, 2, 3)] == [4, 2, 3]
    assert [len(_ranks(run, number)) for number in (1, 2, 3)] == [13, 5, 2]
    assert submission(run, 2).parallel["n_workers"] == 6
    assert ended(run).collect() == locally(tmp_path, 20)


def test_a_later_override_counts(tmp_path: Path) -> None:
    more = [
        {"ranks": ["0-1", 2], "options": {"a": 1, "b": 1}},
        {"ranks": 1, "options": {"b": 2}},
        {"ranks": "2", "options": {"b": 1}},
    ]
    run = submit_noting(tmp_path, 3, parallel("local", n_shards=3, overrides=more))
    assert [(_ranks(run, n), submission(run, n).options) for n in (1, 2)] == [
        ([0, 2], {"a": 1, "b": 1}),
        ([1], {"a": 1, "b": 2}),
    ]
    assert ended(run).collect() == locally(tmp_path, 3)


def test_a_dry_run_shows_all_jobs(slurm: SlurmCluster, tmp_path: Path) -> None:
    runner = Noting(Workshop({"folder": str(tmp_path)}))
    config = parallel(n_shards=6, overrides=MORE)
    shown = asyncio.run(dry_run(runner, range(6), run_dir=tmp_path / "run", parallel=config))
    assert ["--mem=287M" in job.script for job in shown] == [False, True]
    assert ["--array=0-2" in job.command for job in shown] == [True, True]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ({"ranks": "4", "options": {"memory": "1GB"}}, r"overrides\.0\.ranks: rank 4: .* 0 to 3"),
        ({"ranks": "2", "options": {"memroy": "1GB"}}, r"overrides: rank 2: .*did you mean memory"),
        ({"ranks": "2", "options": {"env": "local"}}, r"overrides: rank 2: env: cannot be changed"),
        ({"ranks": "2", "options": {"n_worker": 1}}, r"n_worker: unknown key; did you mean n_wor"),
        ({"ranks": "2-x", "options": {"memory": "1GB"}}, r"overrides\.0\.ranks: must be ranks"),
        ({"ranks": "3-2", "options": {"memory": "1GB"}}, r"ends before it begins"),
        ({"ranks": "2"}, r"overrides\.0\.options"),
        ({"ranks": "2", "options": {}}, r"overrides\.0\.options"),
    ],
)
def test_wrong_overrides(
    slurm: SlurmCluster, tmp_path: Path, override: dict[str, Any], complaint: str
) -> None:
    """They are found before anything is written."""
    with pytest.raises(ConfigError, match=complaint):
        submit_noting(tmp_path, 4, parallel(n_shards=4, overrides=[override]))
    assert not (tmp_path / "run").exists()


def test_overrides_cannot_be_set_by_a_resume(tmp_path: Path) -> None:
    run = ended(submit_noting(tmp_path, 2, parallel("local", n_shards=2)))
    with pytest.raises(UsageError, match=r"overrides: cannot be changed by a resume; .*on_error"):
        run.resume(options={"overrides": MORE})


def test_a_mistyped_key_of_a_resume_is_no_option_of_a_scheduler(tmp_path: Path) -> None:
    """The local one would take any, and do nothing about it."""
    run = ended(submit_noting(tmp_path, 2, parallel("local", n_shards=2)))
    for word, meant in [("n_worker", "n_workers"), ("max_error", "max_errors")]:
        with pytest.raises(UsageError, match=f"{word}: unknown key; did you mean {meant}"):
            run.resume(options={word: 3})


def test_in_the_shell(tmp_path: Path) -> None:
    project = Project(tmp_path, "local")
    more = json.dumps([{"ranks": "2", "options": {"n_workers": 1}}])
    lines = project.lines("submit", project.config, f"parallel.overrides={more}")
    assert "submission\t0001 0002" in lines
    project.watch()
    seen = project.json("doctor", project.config, f"parallel.overrides={more}")
    assert seen["fine"]
