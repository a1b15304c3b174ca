"""`env: local`: real detached processes, their deaths, and what is left of their work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from espnet3.errors import ConfigError, IncompleteRun, UsageError
from espnet3.run import Run
from espnet3.run_dir.processes import is_alive
from tests.support.helpers import (
    attempts,
    causes,
    ended,
    files_of,
    jobs,
    lines_kept,
    locally,
    noted,
    once,
    parallel,
    processes_of,
    python,
    receipt,
    states,
    submission,
    submit_noting,
    wait_for,
)
from tests.support.runners import GATE, MENDED, Collecting, Workshop

pytestmark = pytest.mark.usefixtures("gate_opens_at_last")


def _supervisor(run: Run, number: int = 1) -> int:
    """The supervisor's pid."""
    [job] = jobs(run, number).jobs
    return int(job.job_id)


def test_failing_shards_are_resumed_alone(tmp_path: Path) -> None:
    run = submit_noting(tmp_path, 18, parallel("local", n_workers=4, n_shards=6), failing=[4, 16])
    ended(run)
    assert states(run) == {0: "done", 1: "failed", 2: "done", 3: "done", 4: "done", 5: "failed"}
    assert causes(run)[1].startswith("forward failed at item 4: ValueError: item 4 is bad")
    with pytest.raises(IncompleteRun) as no:
        run.collect()
    assert no.value.ranks == [1, 5]
    (tmp_path / MENDED).touch()
    assert run.resume().ranks == [1, 5]
    ended(run)
    assert run.collect() == locally(tmp_path, 18)
    assert noted(tmp_path, "begun") == once([*range(18), 4, 16])
    assert files_of(Path(run.run_dir, "logs")) == {
        *(f"0001-0.{task}.log" for task in range(6)),
        *(f"0002-0.{task}.log" for task in range(2)),
    }


def test_a_resume_may_change_the_shape_of_its_jobs(tmp_path: Path) -> None:
    run = submit_noting(tmp_path, 4, parallel("local", n_workers=1, n_shards=4), failing=[0, 1])
    ended(run)
    assert "ValueError: item 0 is bad" in Path(*run.logs(0)).read_text()  # with its traceback
    with pytest.raises(ConfigError, match="n_workers"):
        run.resume(options={"n_workers": 0})
    with pytest.raises(UsageError, match="n_shards: cannot be changed by a resume"):
        run.resume(options={"n_shards": 2})
    (tmp_path / MENDED).touch()
    assert run.resume(options={"n_workers": 2, "shards_per_job": 2}).ranks == [0, 1]
    assert (submission(run, 2).n_workers, submission(run, 2).n_tasks) == (2, 1)
    ended(run)
    assert run.collect() == locally(tmp_path, 4)


def test_at_most_n_workers_run_and_cancel_stops_them(tmp_path: Path) -> None:
    config = parallel("local", n_workers=2, n_shards=4)
    run = submit_noting(tmp_path, 8, config, gated=[1, 3, 5, 7])
    wait_for(lambda: noted(tmp_path, "begun") == once(range(4)), "two shards do not run")
    assert states(run) == {0: "running", 1: "running", 2: "queued", 3: "queued"}
    pids = [attempts(run, rank)[0].pid for rank in (0, 1)]
    recorded = jobs(run).recorded_by
    assert run.cancel() == [str(_supervisor(run))]
    ended(run)
    assert states(run) == dict.fromkeys(range(4), "interrupted")
    assert causes(run)[0].endswith("signal SIGTERM, 1 item done")
    assert causes(run)[3].startswith("cancelled")
    wait_for(lambda: not is_alive(recorded), "the supervisor lives on")
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    (tmp_path / GATE).touch()
    run.resume()
    ended(run)
    assert run.collect() == locally(tmp_path, 8)
    assert noted(tmp_path, "begun") == once([*range(8), 1, 3])
    assert noted(tmp_path, "finished") == once(range(8))


def test_a_worker_is_killed_and_the_others_go_on(tmp_path: Path) -> None:
    config = parallel("local", n_workers=1, n_shards=3, checkpoint_every=0.05)
    run = submit_noting(tmp_path, 9, config, gated=[2])
    wait_for(lambda: noted(tmp_path, "begun")[2], "rank 0 does not run")
    wait_for(lambda: lines_kept(run, 0) == 2, "no checkpoint was made")
    [started] = attempts(run, 0)
    os.kill(started.pid, signal.SIGKILL)
    ended(run)
    assert states(run) == {0: "interrupted", 1: "done", 2: "done"}
    assert f"attempt {started.attempt} on {started.host} ended without a word" in causes(run)[0]
    (tmp_path / GATE).touch()
    assert run.resume().ranks == [0]
    ended(run)
    assert run.collect() == locally(tmp_path, 9)
    assert receipt(run, 0).salvaged == 2
    assert noted(tmp_path, "finished") == once(range(9))


def test_a_killed_supervisor_leaves_its_workers_alone(tmp_path: Path) -> None:
    config = parallel("local", n_workers=1, n_shards=3)
    run = submit_noting(tmp_path, 6, config, gated=[1])
    wait_for(lambda: noted(tmp_path, "begun")[1], "rank 0 does not run")
    os.kill(_supervisor(run), signal.SIGKILL)
    wait_for(lambda: states(run)[2] == "lost", "rank 2 still seems to be queued")
    assert states(run) == {0: "running", 1: "lost", 2: "lost"}
    # The live worker keeps its shard; the other two are taken over.
    again = run.resume()
    assert (again.ranks, [*again.left_alone]) == ([1, 2], [0])
    (tmp_path / GATE).touch()
    ended(run)
    assert run.collect() == locally(tmp_path, 6)
    assert noted(tmp_path, "begun") == once(range(6))


def test_no_shard_is_lost_while_its_task_starts(tmp_path: Path) -> None:
    run = submit_noting(tmp_path, 15, parallel("local", n_workers=2, n_shards=15))
    seen = run.status()
    while seen.live:
        assert seen.counts().keys() <= {"done", "running", "queued"}, seen
        seen = run.status()
    assert seen.done, seen


def test_cancel_reaches_a_worker_that_lost_its_supervisor(tmp_path: Path) -> None:
    run = submit_noting(tmp_path, 2, parallel("local", n_shards=1), gated=[1])
    wait_for(lambda: noted(tmp_path, "begun")[1], "rank 0 does not run")
    os.kill(_supervisor(run), signal.SIGKILL)
    run.cancel()
    ended(run)
    assert states(run) == {0: "interrupted"}
    assert noted(tmp_path, "finished") == once([0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU])
def test_a_signal_keeps_what_is_done(tmp_path: Path, number: signal.Signals) -> None:
    run = submit_noting(tmp_path, 4, parallel("local", n_shards=1), gated=[2])
    wait_for(lambda: noted(tmp_path, "begun")[2], "rank 0 does not run")
    os.kill(attempts(run, 0)[0].pid, number)
    ended(run)
    assert run.status().unfinished() == {0: f"interrupted: signal {number.name}, 2 items done"}
    assert lines_kept(run, 0) == 2
    (tmp_path / GATE).touch()
    run.resume()
    ended(run)
    assert run.collect() == locally(tmp_path, 4)
    assert noted(tmp_path, "finished") == once(range(4))
    assert receipt(run, 0).salvaged == 2


@pytest.mark.parametrize("name", ["it's $(id) `x` \\n 100%", "-日本 #;&", "<a>|*?"])
def test_awkward_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    start = tmp_path / name
    start.mkdir()
    monkeypatch.chdir(start)
    run = submit_noting(start, 4, parallel("local", n_shards=2))
    ended(run)
    assert run.collect() == locally(start, 4)
    assert files_of(Path(run.run_dir, "logs")) == {"0001-0.0.log", "0001-0.1.log"}


def test_the_same_call_again_continues(tmp_path: Path) -> None:
    config = parallel("local", n_shards=2)
    run = submit_noting(tmp_path, 4, config, failing=[3])
    ended(run)
    (tmp_path / MENDED).touch()
    again = submit_noting(tmp_path, 4, config, failing=[3])
    assert again.submitted is not None
    assert again.submitted.ranks == [1]
    ended(again)
    assert again.collect() == locally(tmp_path, 4)
    once_more = submit_noting(tmp_path, 4, config, failing=[3])
    assert once_more.submitted is not None
    assert once_more.submitted.number is None
    assert noted(tmp_path, "begun") == once([0, 1, 2, 3, 3])


SCRIPT = """
import sys
from espnet3.parallel import BaseRunner, EnvironmentProvider, set_parallel

class Hypothesis:
    def __init__(self, text):
        self.text = text

class Nothing(EnvironmentProvider):
    def build_env_local(self):
        return {}

class Decode(BaseRunner):
    @staticmethod
    def forward(idx):
        return Hypothesis(f"text {idx}")

print("imported")
if __name__ == "__main__":
    set_parallel({"env": "local", "results": "pickle", "n_shards": 2})
    run = Decode(Nothing({}), async_mode=True, run_dir=sys.argv[1])(range(3))
    run.wait(interval=0.1)
    found = run.collect()
    print(all(type(one) is Hypothesis for one in found), [one.text for one in found])
"""


def test_pickled_objects_of_the_submitted_script(tmp_path: Path) -> None:
    """Workers and collectors know its classes under different names than the script itself."""
    script, run_dir = tmp_path / "decode.py", tmp_path / "run"
    script.write_text(SCRIPT)
    done = python(script, run_dir)
    texts = "['text 0', 'text 1', 'text 2']"
    assert (done.stdout, done.stderr) == (f"imported\nTrue {texts}\n", "")
    program = "import sys, espnet3; print([one.text for one in espnet3.Run(sys.argv[1]).collect()])"
    done = python("-c", program, run_dir, cwd=Path("/"))
    assert (done.stdout, done.stderr) == (f"imported\n{texts}\n", "")
    # The script, started again, finds the run done.
    done = python(script, run_dir)
    assert (done.stdout, done.stderr) == (f"imported\nTrue {texts}\n", "")


@pytest.mark.parametrize("name", [".run.json.0123456789ab.tmp", ".nfs00000000deadbeef00000001"])
def test_what_a_dead_submitter_or_nfs_left_is_in_nobodys_way(tmp_path: Path, name: str) -> None:
    (tmp_path / "run" / "shards").mkdir(parents=True)
    (tmp_path / "run" / name).write_text("{")
    run = submit_noting(tmp_path, 2, parallel("local", n_shards=1))
    ended(run)
    assert run.collect() == locally(tmp_path, 2)


@pytest.mark.parametrize(
    "words",
    [
        ["--job"],
        ["espnet3.worker", "--job"],
        ["espnet3.worker", "--job", "{job}", "--task"],
        ["espnet3.worker", "--job", "{job}", "--task", "first"],
        ["espnet3.worker.supervisor", "--job", "{job}"],  # of no session of its own
    ],
)
def test_foreign_processes_with_such_words_are_no_workers(tmp_path: Path, words: list[str]) -> None:
    run = submit_noting(tmp_path, 2, parallel("local", n_shards=1), gated=[0])
    [job] = jobs(run).jobs
    program = "import sys; print('here', flush=True); sys.stdin.read()"
    arguments = [word.format(job=job.name) for word in words]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program, *arguments], **pipes) as foreign:
        assert foreign.stdout is not None
        assert foreign.stdout.readline() == b"here\n"
        wait_for(lambda: noted(tmp_path, "begun"), "rank 0 does not run")
        assert states(run) == {0: "running"}
        assert run.cancel() == [job.job_id]
        ended(run)
        assert states(run) == {0: "interrupted"}
        assert foreign.poll() is None


def test_a_receipt_of_no_shard_counts_for_none(tmp_path: Path) -> None:
    run = submit_noting(tmp_path, 4, parallel("local", n_shards=2))
    ended(run)
    wait_for(lambda: not processes_of(run), "a process lives on")
    folder = Path(run.run_dir, "receipts")
    (folder / "000001.json").rename(folder / "000007.json")
    # There are as many receipts as shards all the same.
    assert states(run)[1] != "done"
    with pytest.raises(IncompleteRun):
        run.collect(patience=0)
    assert run.resume().ranks == [1]
    ended(run)
    assert run.collect() == locally(tmp_path, 4)


def test_a_worker_that_has_no_pydantic_reads_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path / "bytecode"))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "")
    python("-m", "espnet3.worker", "--help")  # keeps the schemas
    first = ended(submit_noting(tmp_path, 5, parallel("local", n_shards=2)))
    second = Collecting(Workshop({"folder": str(tmp_path)}), run_dir=tmp_path / "second")
    run = ended(second.submit([0]))
    [found] = run.collect()
    assert found == {"light": True, "counts": {"done": 2}, "results": first.collect()}
