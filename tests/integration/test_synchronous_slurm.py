"""Dask workers as jobs of a real Slurm."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from omegaconf import OmegaConf

from espnet3.errors import ConfigError, NoWorkers, SchedulerUnavailable, SubmissionRefused
from espnet3.parallel import set_parallel
from espnet3.parallel.parallel import (
    DictReturnWorkerPlugin,
    close_cluster,
    get_client,
    make_client,
    parallel_for,
)
from tests.support.helpers import TINY, noted, python, wait_for, wrap
from tests.support.scripts import POOL
from tests.support.slurm_cluster import SlurmCluster
from tests.support.sync_runners import Env, Misbehaving, Scale, Wait, add_offset, make_env

JOBS: dict[str, Any] = {
    "env": "slurm",
    "n_workers": 2,
    "options": {**TINY, "memory": "300MB", "interface": "lo", "walltime": "00:30:00"},
}


def with_options(**options: Any) -> dict[str, Any]:
    """The config with further options."""
    return {**JOBS, "options": {**JOBS["options"], **options}}


@pytest.fixture(autouse=True)
def _elsewhere(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Slurm writes logs to the current folder; the workers find the tests all the same."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    yield
    set_parallel(None)


def test_one_call(slurm: SlurmCluster, tmp_path: Path) -> None:
    set_parallel(JOBS)
    provider = Env({"scale": 2, "folder": str(tmp_path)})
    assert Scale(provider)(range(2000)) == [*range(0, 4000, 2)]
    wait_for(lambda: len(slurm.jobs("--states=RUNNING")) == 2, "there are not two workers")
    # The environment is there before a worker that comes later takes its first task.
    wait_for(lambda: len(noted(tmp_path, "built")) == 2, "the environment was not built twice")
    assert Scale(provider)(range(2000)) == [*range(0, 4000, 2)]
    assert set(noted(tmp_path, "built").values()) == {1}
    set_parallel(None)
    wait_for(lambda: not slurm.jobs("--states=PENDING,RUNNING"), "jobs are left")


def test_the_example_of_the_guide() -> None:
    cfg = OmegaConf.create({"parallel_cpu": JOBS})
    with get_client(cfg.parallel_cpu) as client:
        plugin = DictReturnWorkerPlugin(setup_fn=make_env)
        client.register_worker_plugin(plugin, name="env")
        items = [*parallel_for(add_offset, range(10), client=client)]
    assert sorted(items) == [*range(100, 110)]


def test_a_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    set_parallel(JOBS)
    runner = Misbehaving(Env({"deed": "kill once", "folder": str(tmp_path)}))
    assert runner(range(100)) == [*range(100)]
    assert (tmp_path / "killed").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"queue": "short", "walltime": "01:00:00"}, "PartitionTimeLimit"),  # it ends jobs at 5 min
        ({"queue": "wide"}, "PartitionNodeLimit"),  # its jobs have two nodes at least
        ({"job_extra_directives": ["--hold"]}, "JobHeldUser"),
    ],
)
def test_slurm_says_why_no_worker_comes(
    slurm: SlurmCluster, options: dict[str, Any], reason: str
) -> None:
    slurm.run("scontrol", "create", "PartitionName=wide", "Nodes=ALL", "MinNodes=2", "State=UP")
    config = with_options(**options)
    with pytest.raises(NoWorkers, match=f"PENDING {reason}") as caught:
        make_client({**config, "start_timeout": 4})
    assert caught.value.env == "slurm"
    assert slurm.jobs("--states=PENDING,RUNNING") == []
    slurm.run("scontrol", "delete", "PartitionName=wide")


def test_what_is_waited_for_is_said(slurm: SlurmCluster, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NoWorkers):
        make_client({**with_options(job_extra_directives=["--hold"]), "start_timeout": 15})
    said = capfd.readouterr().err
    assert said.count("espnet3: waiting for workers: 0 of 2, PENDING JobHeldUser\n") == 1


def test_what_workers_print_reaches_the_caller_and_the_jobs_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with make_client(with_options(log_directory=str(tmp_path))) as client:
        client.submit(print, "hello from a job").result()
        err = ""

        def reached() -> bool:
            nonlocal err
            err += capfd.readouterr().err
            return "] hello from a job\n" in err

        wait_for(reached, "nothing was printed here")
        cluster = client.cluster
    close_cluster(cluster)
    wait_for(
        lambda: any("hello from a job\n" in f.read_text() for f in tmp_path.iterdir()),
        "nothing is in the job's log",
    )


def test_slurm_says_why_no_worker_is_replaced(slurm: SlurmCluster, tmp_path: Path) -> None:
    set_parallel({**with_options(queue="short", walltime="00:04:00"), "start_timeout": 20})
    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(Wait(Env({"folder": str(tmp_path)})), [0])
        wait_for((tmp_path / "waiting").exists, "the item was not begun")
        slurm.run("scontrol", "update", "PartitionName=short", "State=DOWN")
        slurm.run("scancel", *(job.id for job in slurm.jobs("--states=RUNNING")))
        with pytest.raises(NoWorkers, match=r"within 20 s .*PENDING PartitionDown"):
            call.result()
    assert slurm.jobs("--states=PENDING,RUNNING") == []
    slurm.run("scontrol", "update", "PartitionName=short", "State=UP")


def test_the_users_variables_and_those_of_an_enclosing_job(
    slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = with_options(job_extra_directives=["--hold"])

    def shown() -> str:
        with pytest.raises(NoWorkers):
            make_client({**held, "start_timeout": 1})
        newest_first = ("--noheader", "--states=all", "--sort=-i", "--format=%P %m")
        return slurm.run("squeue", *newest_first).stdout.splitlines()[0]

    monkeypatch.setenv("SBATCH_PARTITION", "short")
    assert shown() == "short 287M"
    monkeypatch.setenv("SLURM_JOB_ID", "991")  # and now they are those of a job
    monkeypatch.setenv("SBATCH_MEM_PER_NODE", "7")
    assert shown() == "main 287M"


def test_a_number_in_front_of_the_id_is_no_id(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing the client would end the job that has it."""
    another = slurm.run("sbatch", "--parsable", "--hold", "--wrap=true").stdout.strip()
    said = f'echo "Welcome to node{another}"; "$real" "$@"; code=$?; echo " 1200"; exit $code'
    monkeypatch.setenv("PATH", wrap(tmp_path, "sbatch", said))
    with get_client(JOBS) as client:
        assert client.submit(add_offset, 1, offset=1).result() == 2
    wait_for(lambda: len(slurm.jobs("--states=PENDING,RUNNING")) == 1, "jobs are left")
    [left] = slurm.jobs("--states=PENDING,RUNNING")
    assert (left.id, left.state) == (another, "PENDING")


def test_wrong_shapes_are_refused_before_anything_starts(slurm: SlurmCluster) -> None:
    for options, words in (
        ({"job_script_prologue": "export A=1"}, r'write \["export A=1"\]'),
        ({"job_extra_directives": ["#SBATCH --hold"]}, 'write "--hold"'),
        ({"job_extra_directives": ["--array=0-3"]}, "n_shards and n_workers"),
        ({"queue": 1000.0}, "is text, got 1000.0"),
    ):
        with pytest.raises(ConfigError, match=rf"^parallel.options.\w+: .*{words}"):
            make_client(with_options(**options))
    assert slurm.jobs() == []


def test_slurm_refuses_the_job(slurm: SlurmCluster) -> None:
    with pytest.raises(SubmissionRefused, match="invalid partition specified: nowhere"):
        make_client(with_options(queue="nowhere"))


def test_slurm_does_not_answer(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was refused then, and no option is to be mended."""
    script = (
        "echo 'sbatch: error: Unable to contact slurm controller (connect failure)' >&2; exit 1"
    )
    monkeypatch.setenv("PATH", wrap(tmp_path, "sbatch", script))
    with pytest.raises(SchedulerUnavailable, match="connect failure"):
        make_client(with_options())


SCRIPT = """
import sys, time
from pathlib import Path
from espnet3.parallel import BaseRunner, EnvironmentProvider, set_parallel

HERE = Path(__file__).parent

class Provider(EnvironmentProvider):
    def build_env_local(self):
        return {}

class Wait(BaseRunner):
    @staticmethod
    def forward(idx):
        Path(HERE, "waiting").touch()
        time.sleep(600)

if __name__ == "__main__":
    set_parallel(CONFIG)
    Wait(Provider({}))(range(4))
"""


@pytest.mark.parametrize("running", [True, False], ids=["running", "queued"])
def test_ctrl_c_leaves_no_job(slurm: SlurmCluster, tmp_path: Path, running: bool) -> None:
    config = JOBS if running else with_options(job_extra_directives=["--hold"])
    script = tmp_path / "wait.py"
    script.write_text(SCRIPT.replace("CONFIG", repr({**config, "n_workers": 3})))
    driver = subprocess.Popen(
        [sys.executable, str(script)], start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    if running:
        wait_for((tmp_path / "waiting").exists, "no item was begun")
    else:
        wait_for(lambda: slurm.jobs("--states=PENDING"), "no job was queued")
    os.killpg(driver.pid, signal.SIGINT)
    _, errors = driver.communicate(timeout=60)
    assert re.search(r"^KeyboardInterrupt", errors, re.MULTILINE)
    assert not psutil.pid_exists(driver.pid)
    wait_for(lambda: not slurm.jobs("--states=PENDING,RUNNING"), "jobs are left")


def test_ctrl_c_while_jobs_are_accepted(slurm: SlurmCluster, tmp_path: Path) -> None:
    """Slurm has the jobs, but the driver has not heard of them: all are cancelled."""
    said = tmp_path / "said"
    path = wrap(
        tmp_path,
        "sbatch",
        f'out=$("$real" "$@") && touch {tmp_path}/accepted.$$\n'
        f'until [ -e {said} ]; do sleep 0.05; done\necho "$out"',
    )
    script = tmp_path / "wait.py"
    script.write_text(SCRIPT.replace("CONFIG", repr({**JOBS, "n_workers": 3})))
    driver = subprocess.Popen(
        [sys.executable, str(script)], start_new_session=True, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PATH": path},
    )  # fmt: skip
    wait_for(lambda: len([*tmp_path.glob("accepted.*")]) == 3, "not all are accepted")
    assert len(slurm.jobs("--states=PENDING,RUNNING")) == 3
    os.killpg(driver.pid, signal.SIGINT)
    said.touch()
    _, errors = driver.communicate(timeout=60)
    assert re.search(r"^KeyboardInterrupt", errors, re.MULTILINE)
    wait_for(lambda: not slurm.jobs("--states=PENDING,RUNNING"), "jobs are left")


def test_pools_of_the_scripts_own_functions(tmp_path: Path) -> None:
    """There, the main module is Dask's own, which has none of them."""
    one = {**JOBS, "n_workers": 1}
    (tmp_path / "pools.py").write_text(POOL.replace('{"env": "local", "n_workers": 1}', repr(one)))
    done = python("pools.py", "fork", cwd=tmp_path)
    assert done.stdout == "True [[2, 2.0, 2, 2]]\n", done.stderr
