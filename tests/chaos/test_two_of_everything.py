"""Two submissions, two drivers, two runs in one place: nothing is forgotten or done twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from espnet3.errors import RunDirectoryError
from espnet3.run import Run, submit_run
from espnet3.run_dir.processes import is_alive
from espnet3.specs import layout
from espnet3.status.run_status import LIVE
from espnet3.worker import exit_codes
from tests.support.helpers import (
    attempts,
    causes,
    ended,
    files_of,
    jobs,
    kill_all,
    locally,
    noted,
    once,
    parallel,
    processes_of,
    python,
    states,
    submission,
    submit_noting,
    wait_for,
    wrap,
)
from tests.support.rude import meet, rude, said
from tests.support.runners import GATE, MENDED, Child, Noting, Workshop
from tests.support.slurm_cluster import SlurmCluster

TWO = parallel("local", n_workers=2, n_shards=2)


@pytest.fixture(autouse=True)
def _nothing_stays(tmp_path: Path) -> Iterator[None]:
    """A failing test leaves no worker behind that waits for ever."""
    yield
    (tmp_path / GATE).touch()
    for run_dir in ("run", "copy"):
        kill_all(Run(tmp_path / run_dir))


def submitting(
    folder: Path, n_items: int, config: Any, gated: Iterable[int] = ()
) -> tuple[str, ...]:
    return ("submit", str(folder), str(n_items), json.dumps(config), json.dumps([*gated]))


def twice(folder: Path, n_items: int) -> Run:
    """A run whose two shards are computed by two submissions at once; each waits at the gate."""
    run = submit_noting(folder, n_items, TWO, gated=range(n_items))
    first = once([0, n_items // 2])
    wait_for(lambda: noted(folder, "begun") == first, "the first submission does not run")
    assert run.resume(force=True).ranks == [0, 1]
    wait_for(lambda: noted(folder, "begun") == first + first, "the second does not run")
    return run


def pids(run: Run, number: int) -> list[int]:
    """The workers of a submission."""
    found = [record for rank in (0, 1) for record in attempts(run, rank, "started")]
    return [r.pid for r in found if layout.submission_of(r.attempt) == number]


# --- two live submissions -------------------------------------------------------------------------


def test_cancel_ends_all_submissions(tmp_path: Path) -> None:
    run = twice(tmp_path, 4)
    supervisors = [jobs(run, number).jobs[0].job_id for number in (1, 2)]
    assert run.cancel() == supervisors
    wait_for(lambda: not processes_of(run), "something still runs")
    assert states(run) == {0: "interrupted", 1: "interrupted"}
    (tmp_path / GATE).touch()
    assert run.resume().ranks == [0, 1]
    ended(run)
    assert run.collect() == locally(tmp_path, 4)
    assert noted(tmp_path, "finished") == once(range(4))


def test_a_shard_is_live_while_an_older_submission_is_at_it(tmp_path: Path) -> None:
    run = twice(tmp_path, 4)
    for pid in pids(run, 2):
        os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids(run, 2)), "it lives")
    assert {(s.state, s.submission) for s in run.status().shards} == {("running", 1)}
    again = run.resume()
    assert (again.ranks, [*again.left_alone]) == ([], [0, 1])
    (tmp_path / GATE).touch()
    ended(run)
    assert run.collect() == locally(tmp_path, 4)


def test_cancel_stops_a_copy_that_goes_on_although_all_is_done(tmp_path: Path) -> None:
    run = twice(tmp_path, 2)
    copies = pids(run, 2)
    for pid in copies:
        os.kill(pid, signal.SIGSTOP)
    (tmp_path / GATE).touch()
    wait_for(lambda: run.status().done, "the first submission did not finish")
    (tmp_path / GATE).unlink()
    for pid in copies:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: not is_alive(jobs(run, 1).recorded_by), "the first supervisor lives on")
    assert run.cancel() == [jobs(run, 2).jobs[0].job_id]
    wait_for(lambda: not processes_of(run), "the copies still run")
    assert run.collect() == locally(tmp_path, 2)
    assert run.cancel() == []


def test_a_packed_task_passes_over_what_was_done_elsewhere(tmp_path: Path) -> None:
    config = parallel("local", n_workers=1, n_shards=3, shards_per_job=3)
    run = submit_noting(tmp_path, 6, config, gated=[0])
    wait_for(lambda: noted(tmp_path, "begun")[0], "rank 0 does not run")
    done = python("-m", "espnet3", "run-shard", Path(run.run_dir, layout.shard(2)))
    assert done.returncode == 0, done.stderr
    (tmp_path / GATE).touch()
    ended(run)
    assert run.collect() == locally(tmp_path, 6)
    assert noted(tmp_path, "begun") == once(range(6))


# --- two drivers ----------------------------------------------------------------------------------


def test_two_resumes_at_once(tmp_path: Path) -> None:
    run = submit_noting(tmp_path, 4, TWO, failing=[0, 2], gated=[1, 3])
    ended(run)
    (tmp_path / MENDED).touch()
    # Where one of them is refused its number, it looks again, and finds the shards live.
    words = meet(tmp_path, "0002.json", "espnet3", "resume", run.run_dir)
    assert sum("submission\tnone" in word for word in words) == 1, words
    assert not Path(run.run_dir, layout.submission(3)).exists()
    (tmp_path / GATE).touch()
    ended(run)
    assert run.collect() == locally(tmp_path, 4)
    assert noted(tmp_path, "begun") == once([0, 2, *range(4)])


def test_two_first_submissions_at_once(tmp_path: Path) -> None:
    words = meet(tmp_path, "0001.json", *submitting(tmp_path, 4, TWO, gated=[0, 2]))
    assert sorted(map(json.loads, words)) == [[], [0, 1]]
    run = Run(tmp_path / "run")
    (tmp_path / GATE).touch()
    ended(run)
    assert run.collect() == locally(tmp_path, 4)
    assert noted(tmp_path, "begun") == once(range(4))


# --- a driver that is interrupted and lives on ----------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "then"),
    [
        ("claim", "call"),
        ("claim", "resume"),
        ("claim", "cancel"),
        ("cancelled claim", "call"),
        ("launch", "call"),
        ("launch", "cancel"),
    ],
)
def test_a_driver_goes_on_after_an_interruption(tmp_path: Path, moment: str, then: str) -> None:
    out = json.loads(said(rude("interrupt", tmp_path, moment, then, "4", json.dumps(TWO))))
    # Somewhere in the launch the jobs have come to life; otherwise there are none.
    assert out["ranks"] == [0, 1] or (moment == "launch" and out["ranks"] in ([], [0], [1])), out
    assert not any("being submitted" in cause for cause in out["left"])
    run = ended(Run(tmp_path / "run"))
    assert run.collect() == locally(tmp_path, 4)
    assert noted(tmp_path, "finished") == once(range(4))


@pytest.mark.parametrize("accepted", [False, True])
def test_a_driver_goes_on_after_an_interruption_of_sbatch(
    slurm: SlurmCluster, tmp_path: Path, accepted: bool
) -> None:
    told = f'"{tmp_path}/told"'
    first = 'answer=$("$real" "$@")\n' if accepted else ""
    path = wrap(
        tmp_path,
        "sbatch",
        f'[ -e {told} ] && exec "$real" "$@"\ntouch {told}\n{first}kill -INT $PPID\n'
        f"while [ -d /proc/$PPID ]; do sleep 0.05; done",
    )
    config = parallel(n_workers=2, n_shards=2)
    driver = rude("interrupt", tmp_path, "sbatch", "call", "4", json.dumps(config), PATH=path)
    out = json.loads(said(driver))
    # What was accepted, though nobody heard of it, is found by its name.
    assert out["ranks"] == ([] if accepted else [0, 1])
    run = ended(Run(tmp_path / "run"))
    assert run.collect() == locally(tmp_path, 4)
    assert noted(tmp_path, "begun") == once(range(4))


def test_cancel_while_the_driver_still_submits(slurm: SlurmCluster, tmp_path: Path) -> None:
    asked, go = tmp_path / "asked", tmp_path / "go"
    path = wrap(
        tmp_path,
        "sbatch",
        f'echo x >>"{asked}"\n'
        f'while [ "$(wc -l <"{asked}")" -ge 2 ] && [ ! -e "{go}" ]; do sleep 0.05; done\n'
        'exec "$real" "$@"',
    )
    config = parallel(n_workers=3, n_shards=3, job_array=False)
    driver = rude(*submitting(tmp_path, 6, config, gated=range(6)), PATH=path)
    try:
        wait_for(lambda: asked.exists() and asked.read_text() == "x\n" * 2, "no second sbatch")
        run = Run(tmp_path / "run")
        assert {*states(run).values()} <= LIVE
        assert "being submitted by process" in causes(run)[2]
        run.cancel()
        slurm.wait_until_idle()
        # The note ends the history that somebody submits, though the driver lives.
        assert states(run) == dict.fromkeys(range(3), "interrupted")
        go.touch()
        assert "the run was cancelled meanwhile" in said(driver, 1)
    finally:
        driver.kill()
    # scancel may have come before the job's start, or ends it a moment after it.
    slurm.wait_until_idle()
    assert states(run) == dict.fromkeys(range(3), "interrupted")
    assert not processes_of(run)
    (tmp_path / GATE).touch()
    assert run.resume().ranks == [0, 1, 2]
    ended(run)
    assert run.collect() == locally(tmp_path, 6)


# --- two processes end together -------------------------------------------------------------------


def test_an_item_whose_child_was_ended_with_its_worker_has_not_failed(tmp_path: Path) -> None:
    """A scheduler signals all processes of a job, in any order: forward may fail just before."""
    provider = Workshop({"folder": str(tmp_path)})
    config = parallel("local", n_shards=1, on_error="record", checkpoint_every=0.05)
    run = submit_run(Child(provider), range(3), run_dir=tmp_path / "run", parallel=config)
    wait_for(lambda: noted(tmp_path, "children"), "item 0 has no child")
    [first] = noted(tmp_path, "children")
    os.kill(first, signal.SIGTERM)
    wait_for(lambda: len(noted(tmp_path, "children")) == 2, "item 1 has no child")
    supervisor = jobs(run).recorded_by.pid
    os.killpg(supervisor, signal.SIGTERM)
    wait_for(lambda: not processes_of(run), "it lives on")
    [file] = Path(run.run_dir, layout.RESULTS).iterdir()
    assert b'"error"' in file.read_bytes()
    assert states(run) == {0: "interrupted"}
    (tmp_path / MENDED).touch()
    assert run.resume().ranks == [0]
    ended(run)
    assert run.collect() == [0, 1, 2]


# --- two runs in one place ------------------------------------------------------------------------


def test_a_job_of_a_run_that_was_removed_touches_nothing(tmp_path: Path) -> None:
    """The old run has a shard under way and one to come when its directory is used again."""
    config = parallel("local", n_workers=1, n_shards=2)
    old = submit_noting(tmp_path, 4, config, gated=[0])
    wait_for(lambda: noted(tmp_path, "begun")[0], "rank 0 does not run")
    [worker] = pids(old, 1)
    supervisor = jobs(old).recorded_by.pid
    os.kill(supervisor, signal.SIGSTOP)  # so that its last task comes after all of the new run
    old_command = submission(old).worker_command
    shutil.rmtree(old.run_dir)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    provider = Workshop({"folder": str(elsewhere), "gated": [0, 10], "failing": []})
    new = submit_run(Noting(provider), range(20), run_dir=old.run_dir, parallel=TWO)
    wait_for(lambda: noted(elsewhere, "begun") == once([0, 10]), "the new run does not run")
    before = files_of(new.run_dir)

    # A job that was queued for the old run starts now.
    done = python(*old_command[1:], "--task", "1")
    assert done.returncode == exit_codes.USAGE
    assert "this job belongs to run" in done.stderr
    # The item that was under way ends, and so does its shard.
    (tmp_path / GATE).touch()
    wait_for(lambda: not Path(f"/proc/{worker}/cwd").exists(), "the old worker does not end")
    os.kill(supervisor, signal.SIGCONT)
    wait_for(lambda: not Path(f"/proc/{supervisor}/cwd").exists(), "the old supervisor lives")
    assert files_of(new.run_dir) == before
    assert states(new) == {0: "running", 1: "running"}

    (elsewhere / GATE).touch()
    ended(new)
    assert new.collect() == [{"item": i, "square": i * i, "text": f"„{i}“\n"} for i in range(20)]
    assert noted(elsewhere, "begun") == once(range(20))
    assert noted(tmp_path, "begun") - once([1]) == once([0])


@pytest.mark.parametrize("how", ["copied", "moved"])
def test_a_run_that_was_resumed_elsewhere_can_be_cancelled_there(tmp_path: Path, how: str) -> None:
    run, there = submit_noting(tmp_path, 2, TWO, gated=[0, 1]), Run(tmp_path / "copy")
    wait_for(lambda: noted(tmp_path, "begun") == once([0, 1]), "it does not run")
    run.cancel()
    wait_for(lambda: not processes_of(run), "it lives on")
    (shutil.copytree if how == "copied" else shutil.move)(run.run_dir, there.run_dir)
    assert there.resume().ranks == [0, 1]
    wait_for(lambda: noted(tmp_path, "begun") == once([0, 1, 0, 1]), "it does not run there")
    assert there.cancel() == [jobs(there, 2).jobs[0].job_id]
    wait_for(lambda: not processes_of(there), "it lives on there")
    assert states(there) == {0: "interrupted", 1: "interrupted"}


def test_a_copy_of_a_run_cannot_cancel_it(tmp_path: Path) -> None:
    run = submit_noting(tmp_path, 4, TWO, gated=[0, 2])
    wait_for(lambda: noted(tmp_path, "begun") == once([0, 2]), "it does not run")
    copy = Run(tmp_path / "copy")
    shutil.copytree(run.run_dir, copy.run_dir)
    before = files_of(copy.run_dir)
    with pytest.raises(RunDirectoryError, match="is a copy of"):
        copy.cancel()
    assert files_of(copy.run_dir) == before
    assert states(run) == {0: "running", 1: "running"}
    link = tmp_path / "link"
    link.symlink_to(run.run_dir)  # another name is not a copy
    (tmp_path / GATE).touch()
    ended(run)
    assert run.collect() == locally(tmp_path, 4)
    wait_for(lambda: not processes_of(run), "a process lives on")
    assert Run(link).cancel() == []
