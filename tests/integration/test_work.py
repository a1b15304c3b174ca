"""`espnet3 work`: machines that join a run. Real processes, real signals; GPUs are a stand-in's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from espnet3.run import Run, submit_run
from espnet3.specs import layout
from espnet3.status.worker_signs import worker_signs
from espnet3.submit import submitter
from tests.support.cli_project import COMMAND
from tests.support.commands import said
from tests.support.helpers import (
    attempts,
    ended,
    files_of,
    kill_all,
    lines_kept,
    locally,
    noted,
    once,
    parallel,
    processes_of,
    states,
    submit_noting,
    wait_for,
)
from tests.support.runners import GATE, MENDED, Device, Workshop
from tests.support.stand_ins import nvidia_smi

started: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def _nothing_stays_behind(tmp_path: Path) -> Iterator[None]:
    """A failing test leaves no worker behind that waits for ever."""
    yield
    (tmp_path / GATE).touch()
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    started.clear()


def dynamic(**keys: Any) -> Any:
    keys = {"n_workers": 2, "n_shards": 4, "checkpoint_every": 0.05, **keys}
    return parallel("local", schedule="dynamic", **keys)


def start(run: Run, *words: str, **keys: Any) -> subprocess.Popen[str]:
    """Join a run from another folder, in a process group of its own."""
    process = subprocess.Popen(
        [*COMMAND, "work", run.run_dir, *words],
        cwd="/",
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **keys,
    )
    started.append(process)
    return process


def work(run: Run, *words: str, code: int = 0, **keys: Any) -> tuple[str, list[str]]:
    """Join a run until the end.

    Returns:
        What was printed on standard output, and the lines on standard error.
    """
    process = start(run, *words, **keys)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, (out, err)
    assert "Traceback" not in err, err
    return out, err.splitlines()


def abandoned(folder: Path, n_items: int = 12, **keys: Any) -> Run:
    """A dynamic run of which all processes were killed while they were at two shards."""
    run = submit_noting(folder, n_items, dynamic(**keys), gated=range(n_items))
    wait_for(lambda: len(noted(folder, "begun")) == 2, "no two shards were begun")
    kill_all(run)
    return run


def test_a_worker_finishes_a_run_whose_own_workers_were_killed(tmp_path: Path) -> None:
    run = abandoned(tmp_path)
    (tmp_path / GATE).touch()
    out, lines = work(run)
    assert out == ""
    assert any("taken over from item" in line for line in lines), lines  # without a lease's wait
    assert run.status().done
    assert run.collect() == locally(tmp_path, 12)
    [joined] = [sign for sign in worker_signs(run.run_dir) if sign.task is None]
    assert (joined.place, joined.ended, joined.shards_done) == ("0001/joined", True, 4)


def test_of_a_static_run_it_takes_what_nobody_is_at(tmp_path: Path) -> None:
    config = parallel("local", n_workers=2, n_shards=6)
    run = submit_noting(tmp_path, 12, config, gated=[0, 2])
    wait_for(lambda: noted(tmp_path, "begun") == once([0, 2]), "two shards do not run")
    work(run)
    assert states(run) == {0: "running", 1: "running", **dict.fromkeys(range(2, 6), "done")}
    assert noted(tmp_path, "begun") == once([0, 2, *range(4, 12)])
    out, _ = work(run, "--json")  # there is nothing to do
    assert json.loads(out) == {
        "run_dir": run.run_dir, "shards_done": 0, "items_done": 0, "workers": [],
    }  # fmt: skip
    (tmp_path / GATE).touch()
    ended(run)
    assert run.collect() == locally(tmp_path, 12)
    assert noted(tmp_path, "begun") == once(range(12))


def test_each_submission_is_joined_as_its_schedule_is(tmp_path: Path) -> None:
    config = parallel("local", n_workers=2, n_shards=4)
    run = submit_noting(tmp_path, 24, config, gated=[0, 19], failing=[18])
    wait_for(lambda: states(run) == {0: "running", 1: "done", 2: "done", 3: "failed"}, "not so")
    (tmp_path / MENDED).touch()
    again = dynamic(n_workers=1, heartbeat=1.0)
    submit_noting(tmp_path, 24, again, gated=[0, 19], failing=[18])
    wait_for(lambda: noted(tmp_path, "begun")[19], "shard 3 is not computed again")
    out, _ = work(run, "--json")  # shares shard 3, which claims tell of; shard 0 is left alone
    assert json.loads(out)["shards_done"] >= 1
    assert noted(tmp_path, "finished")[23] == 1
    assert noted(tmp_path, "begun")[0] == 1
    assert states(run) == {0: "running", 1: "done", 2: "done", 3: "running"}
    (tmp_path / GATE).touch()
    ended(run)
    assert run.collect() == locally(tmp_path, 24)
    assert noted(tmp_path, "begun")[0] == 1


def test_so_many_shards_and_no_more(tmp_path: Path) -> None:
    run = abandoned(tmp_path)
    (tmp_path / GATE).touch()
    out, _ = work(run, "--max-shards", "1", "--json")
    did = json.loads(out)
    assert [*did] == ["run_dir", "shards_done", "items_done", "workers"]
    assert (did["run_dir"], did["shards_done"], did["items_done"]) == (run.run_dir, 1, 3)
    [worker] = did["workers"]
    assert [*worker] == ["worker", "shards_done", "items_done"]
    assert worker["worker"] in {sign.worker for sign in worker_signs(run.run_dir)}
    assert run.status().counts()["done"] == 1
    out, _ = work(run, "--json")
    assert json.loads(out)["shards_done"] == 3
    assert run.collect() == locally(tmp_path, 12)
    out, _ = work(run, "--json")
    assert json.loads(out)["workers"] == []


@pytest.mark.parametrize("seconds", ["1s", "4s"])  # the first are over before it has begun
def test_it_ends_when_its_time_is_up(tmp_path: Path, seconds: str) -> None:
    config = dynamic(n_workers=1, n_shards=2)
    run = submit_noting(tmp_path, 6, config, gated=[0, 1, 2, 5])
    wait_for(lambda: noted(tmp_path, "begun") == once([0]), "no shard was begun")
    kill_all(run)
    out, _ = work(run, "--time", seconds, "--json")  # it never comes to the end of a shard
    assert json.loads(out)["shards_done"] == 0
    assert run.status().counts().get("done", 0) == 0
    assert not processes_of(run)
    (tmp_path / GATE).touch()
    run.resume(force=True)
    ended(run)
    assert run.collect() == locally(tmp_path, 6)


def test_what_others_could_have_written_is_refused(tmp_path: Path) -> None:
    run = abandoned(tmp_path)
    folder = Path(run.run_dir, layout.SHARDS)
    folder.chmod(0o777)
    before = files_of(run.run_dir)
    out, [line] = work(run, "--json", code=2)
    assert (out, files_of(run.run_dir)) == ("", before)
    assert line.startswith(
        f"espnet3: {folder} is not to be trusted: it is world-writable; run `chmod "
    )
    folder.chmod(0o755)


def test_other_versions_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true = submitter.versions_here
    monkeypatch.setattr(submitter, "versions_here", lambda: {**true(), "torch": "0.0.1"})
    run = abandoned(tmp_path)
    (tmp_path / GATE).touch()
    _, lines = work(run)
    here = true().get("torch", "missing")
    said = f"espnet3: other versions than the submitter's: torch {here} here, 0.0.1 there"
    assert lines[0] == said
    assert run.collect() == locally(tmp_path, 12)


def test_a_run_that_cannot_be_joined_says_why_in_one_line(tmp_path: Path) -> None:
    run = abandoned(tmp_path)
    kept = Path(run.run_dir, layout.SUBMISSIONS)
    kept.rename(tmp_path / "kept")
    kept.mkdir()
    _, [line] = work(run, code=2)
    assert line == (
        f"espnet3: {run.run_dir}: nothing of it was submitted yet; submit it, and join then"
    )
    kept.rmdir()
    (tmp_path / "kept").rename(kept)
    run.cancel()
    _, [line] = work(run, code=2)
    assert line == (
        f"espnet3: {run.run_dir}: submission 0001 was cancelled; resume it, and join then"
    )
    run.run_dir = str(tmp_path / "nothing")
    _, [line] = work(run, code=2)
    assert line.startswith(f"espnet3: {tmp_path / 'nothing'}: ")


def test_cancel_ends_a_worker_that_joined(tmp_path: Path) -> None:
    run = abandoned(tmp_path, heartbeat=1.0, lease=60.0)
    process = start(run)
    wait_for(lambda: len(noted(tmp_path, "begun")) >= 2 and _joined_is_at_a_shard(run), "no shard")
    run.cancel()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, (out, err)
    assert "the run was cancelled" in err
    assert not processes_of(run)
    (tmp_path / GATE).touch()
    run.resume()
    ended(run)
    assert run.collect() == locally(tmp_path, 12)


def _joined_is_at_a_shard(run: Run) -> bool:
    signs = worker_signs(run.run_dir)
    return any(sign.task is None and sign.shard is not None for sign in signs)


@pytest.mark.parametrize("set_to", [None, "1, GPU-5,-1,2", "MIG-7,GPU-5"])
def test_a_worker_for_each_gpu(tmp_path: Path, set_to: str | None) -> None:
    provider = Workshop({"folder": str(tmp_path), "gated": [*range(12)]})
    run = submit_run(
        Device(provider), range(12), run_dir=tmp_path / "run", parallel=dynamic(n_workers=1)
    )
    wait_for(lambda: noted(tmp_path, "begun") == once([0]), "no shard was begun")
    kill_all(run)
    (tmp_path / "devices").unlink()
    env = nvidia_smi.install(tmp_path, 2)
    env.pop("CUDA_VISIBLE_DEVICES", None)
    wanted = {"0", "1"}
    if set_to is not None:
        env["CUDA_VISIBLE_DEVICES"] = set_to
        wanted = {"MIG-7" if "MIG-7" in set_to else "1", "GPU-5"}  # as CUDA, up to the first -1

    def devices() -> list[str]:
        file = tmp_path / "devices"
        return file.read_text().split() if file.exists() else []

    process = start(run, "--per-gpu", "--json", env=env)
    wait_for(lambda: len(devices()) == 2, "no two workers have begun")
    (tmp_path / GATE).touch()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert set(devices()) == wanted
    did = json.loads(out)  # one document, without a word of forward's
    assert "a word of forward's" in err
    assert len(did["workers"]) == 2
    assert did["shards_done"] == sum(worker["shards_done"] for worker in did["workers"])
    assert did["items_done"] >= 12
    assert len(run.collect()) == 12


@pytest.mark.parametrize(("n_gpus", "set_to"), [(None, None), (0, None), (2, ""), (2, "-1")])
def test_no_gpu(tmp_path: Path, n_gpus: int | None, set_to: str | None) -> None:
    run = abandoned(tmp_path)
    env = nvidia_smi.install(tmp_path, n_gpus)
    env.pop("CUDA_VISIBLE_DEVICES", None)
    env.update({} if set_to is None else {"CUDA_VISIBLE_DEVICES": set_to})
    out, [line] = work(run, "--per-gpu", "--json", code=2, env=env)
    assert (out, line) == (
        "", "espnet3: --per-gpu: no GPU is visible here (nvidia-smi, CUDA_VISIBLE_DEVICES)",
    )  # fmt: skip


def test_ctrl_c_keeps_what_is_done(tmp_path: Path) -> None:
    run = submit_noting(tmp_path, 8, dynamic(n_workers=1, n_shards=2), gated=[0, 7])
    wait_for(lambda: noted(tmp_path, "begun") == once([0]), "no shard was begun")
    kill_all(run)
    process = start(run, "--json")  # it begins with what nobody has claimed
    wait_for(lambda: noted(tmp_path, "begun") == once([0, 4, 5, 6, 7]), "not begun")
    wait_for(lambda: lines_kept(run, 1) == 3, "no checkpoint was made")
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, (out, err)
    assert json.loads(out)["items_done"] == 3
    [record] = attempts(run, 1, "interrupted")
    assert (record.items_done, record.task) == (3, None)
    assert not processes_of(run)
    (tmp_path / GATE).touch()
    work(run)
    assert run.collect() == locally(tmp_path, 8)
    assert noted(tmp_path, "finished") == once(range(8))


def test_the_workers_of_a_run_are_listed(tmp_path: Path) -> None:
    run = abandoned(tmp_path)
    (tmp_path / GATE).touch()
    work(run, "--max-shards", "1")

    def status(*words: str) -> str:
        code, out, err = said("status", run.run_dir, *words)
        assert code == 1, err
        return out

    rows = [line.split("\t") for line in status("--workers").splitlines()]
    rows = [row for row in rows if row[0] == "worker"]
    assert [row[3] for row in rows] == ["0001/0", "0001/1", "0001/joined"]
    assert [row[4] for row in rows] == ["0", "0", "1"]
    assert rows[2][-1] == "ended"
    told = json.loads(status("--workers", "--json"))["workers"]
    assert [worker["worker"] for worker in told] == [row[1] for row in rows]
    assert [worker["ended"] for worker in told] == [False, False, True]
    assert "workers" not in json.loads(status("--json"))
    assert "worker\t" not in status()
