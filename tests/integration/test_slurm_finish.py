"""Runs that finish themselves, on a real Slurm."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from espnet3.run import Run, submit_run
from espnet3.specs import layout
from tests.support import ends, slurm_memory
from tests.support.ends import results_of
from tests.support.helpers import (
    LONG,
    ROOT,
    TINY,
    jobs,
    noted,
    python,
    states,
    submission,
    wait_for,
)
from tests.support.runners import GATE
from tests.support.slurm_cluster import SlurmCluster
from tests.support.slurm_memory import LIMITS_MEMORY
from tests.support.troubles import Troubled, Troubles

pytestmark = pytest.mark.slurm
SMALL = {"memory": "100MB"}  # of the finisher


def submit(folder: Path, n_items: int, trouble: dict[str, Any], **keys: Any) -> Run:
    """Submit `Troubled` with a finisher that notes what it tells."""
    finish = {"notify": f'echo "$ESPNET3_WORDS" >> {folder}/told', "options": SMALL}
    finish = finish | keys.pop("finish", {})
    config = {"env": "slurm", "n_workers": 16, "options": TINY, "finish": finish, **keys}
    provider = Troubles({"folder": str(folder), **trouble})
    return submit_run(Troubled(provider), range(n_items), run_dir=folder / "run", parallel=config)


def end_of(run: Run, seconds: float = 200, number: int = 1) -> Any:
    """What `finished.json` says, once it is there; nobody touches anything meanwhile."""
    end = ends.end_of(run, number, seconds)
    wait_for(Path(run.run_dir, layout.notified(number)).exists, "nobody was told")
    return end


@pytest.fixture
def three(
    slurm_packages: None, short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SlurmCluster]:
    """A cluster of three nodes, each with its own host name, that limits the memory of jobs."""
    cluster = slurm_memory.limiting if LIMITS_MEMORY else SlurmCluster
    with cluster(short_tmp, nodes=3, cpus=8, hostnames=True) as started:
        for name, value in started.env.items():
            monkeypatch.setenv(name, value)
        yield started


TROUBLE: dict[str, Any] = {
    "kills": [4],
    "large": [10, 20],  # in different shards: they need 500 MB
    "slow": {"30": 110, "34": 40, "35": 55},  # seconds: one item beyond the limit, and two together
    "seconds": 1,
}


@pytest.mark.timeout(1200)  # it is about minutes: Slurm has no shorter time limits
@pytest.mark.parametrize(
    "raising",
    [
        pytest.param([], id="all is well in the end"),
        pytest.param([47], id="an item raises", marks=pytest.mark.skipif(not LONG, reason="long")),
    ],
)
def test_whatever_befalls_it_the_run_comes_to_its_end(
    three: SlurmCluster, tmp_path: Path, raising: list[int]
) -> None:
    """Nobody touches anything but to requeue one task; the submitter has ended."""
    bad_node = three.names[-1]
    trouble = {**TROUBLE, "raising": raising, "bad_node": bad_node}
    (tmp_path / "config.json").write_text(json.dumps(trouble))
    done = python("-c", SUBMITS, str(tmp_path), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    run = Run(tmp_path / "run")
    wait_for(lambda: "running" in states(run).values(), "nothing runs")
    running = next(rank for rank, state in states(run).items() if state == "running")
    [job] = jobs(run).jobs
    three.run("scontrol", "requeue", f"{job.job_id}_{running}")
    end = end_of(run, 900)
    words = "; ".join(wave["words"] for wave in end["waves"])
    assert "out of memory at 300MB, now 450MB" in words or not LIMITS_MEMORY
    assert "with no item done, now 120 s" in words
    assert "time limit, some items done" in words
    assert f"not on {bad_node}" in words
    if raising:
        assert (end["outcome"], end["n_done"]) == ("incomplete", 23), end
        [shard] = end["unfinished"]
        assert shard["rank"] == 23
        assert "item 47 is bad" in shard["cause"]
    else:
        assert end["outcome"] == "done", end
        assert results_of(end) == [{"item": item} for item in range(48)]
    wait_for(lambda: not three.jobs(), "a job is left")


SUBMITS = """
import json, sys
from pathlib import Path
from tests.integration.test_slurm_finish import TROUBLED, submit

folder = Path(sys.argv[1])
trouble = json.loads((folder / "config.json").read_text())
submit(folder, 48, trouble, **TROUBLED)
"""
TROUBLED: dict[str, Any] = {
    "n_shards": 24,
    "n_workers": 24,
    "checkpoint_every": 0.2,
    "options": {"cores": 1, "memory": "300MB", "walltime": "00:01:00"},
    "finish": {"waves": 5, "max_attempts": 5},
}


@pytest.mark.parametrize("mode", ["CANCEL", "REQUEUE"])
def test_a_worker_is_preempted_by_another_partition(
    slurm_packages: None,
    short_tmp: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
) -> None:
    """It is tried again, and not for its `max_attempts`: one of these is all that there is."""
    config = {"PreemptType": "preempt/partition_prio", "PreemptMode": mode}
    urgent = {"urgent": "PriorityTier=10 PreemptMode=OFF"}
    with SlurmCluster(short_tmp, cpus=4, config=config, partitions=urgent) as cluster:
        for name, value in cluster.env.items():
            monkeypatch.setenv(name, value)
        gate = tmp_path / GATE
        finish = {"max_attempts": 1}
        trouble = {"gate": str(gate)}
        run = submit(tmp_path, 8, trouble, n_shards=4, n_workers=4, finish=finish)
        wait_for(lambda: noted(tmp_path, "begun").total() == 4, "not all shards run")
        cluster.run("sbatch", "--partition=urgent", "--ntasks=1", "--output=/dev/null", "--wrap",
                    f"until test -e {gate}; do sleep 0.1; done")  # fmt: skip
        out = ("squeue", "--noheader", "--partition=urgent", "--states=RUNNING")
        wait_for(lambda: cluster.run(*out).stdout.strip() != "", "nothing is preempted", 120)
        gate.touch()
        end = end_of(run)
        assert end["outcome"] == "done", end
        assert results_of(end) == [{"item": item} for item in range(8)]
        waves = [*Path(run.run_dir, layout.WAVES).glob("*.json")]
        if mode == "REQUEUE":  # Slurm itself tries it again, and the finisher waits for that
            assert (waves, end["waves"]) == ([], [])
            assert max(noted(tmp_path, "begun").values()) == 2
            return
        [wave] = waves
        [portion] = json.loads(wave.read_bytes())["portions"]
        assert (portion["cause"], portion["counted"]) == ("preempted", False)
        assert end["waves"][0]["words"] == "wave 1: 1 shard again (preempted)"


BROKEN_LATER = """
import os, signal, time
from pathlib import Path
from espnet3.parallel import BaseRunner, EnvironmentProvider


class Provider(EnvironmentProvider):
    def build_env_local(self):
        return {"folder": Path(self.config["folder"])}


class Runner(BaseRunner):
    @staticmethod
    def forward(idx, folder):
        while not (folder / "gate").exists():
            time.sleep(0.02)
        if idx == 1 and not (folder / "killed").exists():
            (folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return idx
"""


def test_waves_with_a_snapshot_need_no_more_than_that(slurm: SlurmCluster, tmp_path: Path) -> None:
    """Also where the file that is there now cannot even be imported."""
    (tmp_path / "decode.py").write_text(BROKEN_LATER)
    config = {
        "provider": {"_target_": "decode.Provider"},
        "runner": {"_target_": "decode.Runner"},
        "items": 4,
        "n_shards": 2,
        "run_dir": str(tmp_path / "run"),
        "config": {"folder": str(tmp_path)},
        "parallel": {
            "env": "slurm", "n_workers": 2, "options": TINY, "snapshot": True,
            "finish": {"options": SMALL},
        },
    }  # fmt: skip
    (tmp_path / "go.yaml").write_text(json.dumps(config))
    done = python("-m", "espnet3", "submit", "go.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "decode.py").write_text("class Runner(  # at work\n")
    (tmp_path / GATE).touch()
    end = ends.end_of(Run(tmp_path / "run"), seconds=200)
    assert (end["outcome"], len(end["waves"])) == ("done", 1), end
    assert results_of(end) == [0, 1, 2, 3]


def test_a_typo_costs_a_minute_and_not_the_allocation(slurm: SlurmCluster, tmp_path: Path) -> None:
    run = submit(tmp_path, 400, {"raising": [*range(400)]}, n_shards=400)
    end = end_of(run)
    assert end["outcome"] == "stopped", end
    assert "ValueError" in end["cause"]
    assert "in the first three shards that failed" in end["cause"]
    assert (tmp_path / "told").read_text().startswith("stopped: 0 of 400 shards done")
    assert sum(noted(tmp_path, "begun").values()) < 100


def test_killed_workers_are_tried_again_and_all_is_collected(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    run = submit(tmp_path, 24, {"kills": [3, 11]}, n_shards=8)
    end = end_of(run)
    assert end["outcome"] == "done", end
    assert results_of(end) == [{"item": item} for item in range(24)]
    assert len(end["waves"]) == 1


def test_waves_that_were_queued_up_front(slurm: SlurmCluster, tmp_path: Path) -> None:
    """No command of Slurm's is to be had in a job: finishers decide, and what waits does it."""
    (tmp_path / "bin").mkdir()
    for name in ("sh", "bash", "env", "cat", "hostname"):
        os.symlink(f"/bin/{name}", tmp_path / "bin" / name)
    options = {**TINY, "job_script_prologue": [f"export PATH={tmp_path}/bin"]}
    finish = {"up_front": True, "waves": 3, "max_memory": "200MB"}
    trouble = {"kills": [3, 11], "raising": [20]}
    run = submit(tmp_path, 24, trouble, n_shards=8, options=options, finish=finish)
    end = end_of(run)
    assert (end["outcome"], end["n_done"], len(end["waves"])) == ("incomplete", 7, 1), end
    [shard] = end["unfinished"]
    assert "item 20 is bad" in shard["cause"]
    wait_for(lambda: not slurm.jobs(), "a job is left")
    assert noted(tmp_path, "begun")[20] == 1
    assert [submission(run, n).options["memory"] for n in (1, 2, 3, 4)] == [
        "100MB", "150MB", "200MB", "200MB",
    ]  # fmt: skip
    assert "nothing to do: the run is over" in log_of(run, 3)
    assert not run.status().live
    run.resume(skip=[20])
    end = end_of(run, number=2)
    assert (end["outcome"], end["errors"]) == ("done", 1)
    assert [[s.position for s in submission(run, n).skip] for n in range(5, 9)] == [[2]] * 4


def log_of(run: Run, number: int) -> str:
    """What the first task of a submission's first job has said."""
    [log] = Path(run.run_dir, layout.LOGS).glob(f"{number:04d}-0.0.log")
    return log.read_text()
