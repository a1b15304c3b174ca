"""Submit commands that answer late, wrongly or never: no job is lost, and none submitted twice.

`sbatch` is the real one, behind a script that delays it or hides its answer.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from espnet3.errors import SchedulerUnavailable
from espnet3.run import Run
from tests.support.helpers import (
    ROOT,
    attempts,
    causes,
    ended,
    jobs,
    locally,
    noted,
    once,
    parallel,
    states,
    submission,
    submit_noting,
    wait_for,
    wrap,
)
from tests.support.runners import GATE
from tests.support.slurm_cluster import SlurmCluster

TIMED_OUT = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
# The script is a file that espnet3 removes when it gives up; a slow sbatch has read it before.
LATER = """
for script; do :; done
cp "$script" '{keep}'
eval "set -- $(for word; do [ "$word" = "$script" ] || printf "'%s' " "$word"; done)"
setsid sh -c 'while [ ! -e "{gate}" ]; do sleep 0.05; done; exec "$@"' sh \\
    "$real" "$@" '{keep}' >/dev/null 2>&1 &
exec sleep 60
"""


@pytest.mark.parametrize(
    "script",
    [
        f'"$real" "$@" >/dev/null; echo \'{TIMED_OUT}\' >&2; exit 1',
        '"$real" "$@" >/dev/null; sleep 60',
    ],
    ids=["timed out", "hangs"],
)
def test_a_job_that_was_accepted_without_an_answer(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setenv("PATH", wrap(tmp_path, "sbatch", script))
    run = submit_noting(tmp_path, 4, parallel(n_shards=2, submit_timeout=4))
    assert run.submitted is not None
    [job_id] = run.submitted.job_ids
    assert [job.job_id for job in jobs(run).jobs] == [job_id]
    shown = {job.id.partition("_")[0] for job in slurm.jobs("--states=all", f"--jobs={job_id}")}
    assert shown == {job_id}
    ended(run)
    assert run.collect() == locally(tmp_path, 4)
    assert noted(tmp_path, "begun") == once(range(4))
    assert len(slurm.jobs("--states=all", f"--name={jobs(run).jobs[0].name}")) == 2


def test_a_submit_command_that_hangs(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is ended, with what it has started; a job accepted after all is found by its name."""
    gate, keep = tmp_path / "accept", tmp_path / "script"
    script = LATER.format(gate=gate, keep=keep)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", wrap(tmp_path, "sbatch", script))
        with pytest.raises(SchedulerUnavailable) as told:
            submit_noting(tmp_path, 4, parallel(n_shards=2, submit_timeout=0.5))
    words = str(told.value)
    run = Run(tmp_path / "run")
    assert words.startswith("slurm: sbatch gave no answer within 0.5 s, and no job Noting-")
    assert words.endswith("or raise parallel.submit_timeout")
    assert "\n" not in words
    assert states(run) == {0: "pending", 1: "pending"}
    assert causes(run)[0].startswith("slurm: sbatch gave no answer within 0.5 s")

    gate.touch()
    wait_for(lambda: "pending" not in states(run).values(), "the job is not found by its name")
    assert run.resume().ranks == []
    wait_for(lambda: run.status().done, "the run does not end")
    assert run.collect() == locally(tmp_path, 4)
    assert noted(tmp_path, "begun") == once(range(4))


def test_a_queue_that_is_full(
    short_tmp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At MaxJobCount sbatch tries again and again for minutes, and says nothing meanwhile."""
    limits = {"MaxArraySize": 4, "MaxJobCount": 5, "MinJobAge": 2}
    with SlurmCluster(short_tmp, config=limits) as small:
        monkeypatch.setenv("SLURM_CONF", str(small.conf))
        for _ in range(4):
            small.run("sbatch", "--hold", "--output=/dev/null", "--wrap=true")
        with pytest.raises(SchedulerUnavailable, match="sbatch gave no answer within 2 s, and no"):
            submit_noting(tmp_path, 6, parallel(n_shards=3, submit_timeout=2))
        run = Run(tmp_path / "run")
        assert set(states(run).values()) == {"pending"}
        small.run("scancel", "--state=PENDING")
        assert run.resume(options={"submit_timeout": 60}).ranks == [0, 1, 2]  # it waits for room
        ended(run)
        assert run.collect() == locally(tmp_path, 6)
        assert noted(tmp_path, "begun") == once(range(6))


DRIVER = """
import sys
from pathlib import Path
from tests.support.helpers import parallel, submit_noting
submit_noting(Path(sys.argv[1]), 4, parallel(n_shards=2))
"""


def test_the_driver_is_killed_while_its_submit_command_lives(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resume at that moment would submit the same shards again."""
    gate = tmp_path / GATE
    script = f"touch {tmp_path}/asked; while [ ! -e {gate} ]; do sleep 0.05; done"
    environ = {**os.environ, "PATH": wrap(tmp_path, "sbatch", f'{script}; exec "$real" "$@"')}
    # The script that is submitted has to outlive the driver, whose end would not remove it.
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)], env={**environ, "PYTHONPATH": str(ROOT)}
    )
    wait_for((tmp_path / "asked").exists, "sbatch is not called")
    os.kill(driver.pid, signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    run = Run(tmp_path / "run")
    assert states(run) == {0: "queued", 1: "queued"}
    assert causes(run)[0].startswith("being submitted by process ")
    assert run.resume().ranks == []
    gate.touch()
    name = submission(run).jobs[0].name
    wait_for(lambda: slurm.jobs("--states=all", f"--name={name}"), "nothing is submitted")
    wait_for(lambda: run.status().done, "the run does not end")
    assert run.resume().ranks == []
    assert run.collect() == locally(tmp_path, 4)
    assert noted(tmp_path, "begun") == once(range(4))
    assert [len(attempts(run, rank, "started")) for rank in (0, 1)] == [1, 1]
