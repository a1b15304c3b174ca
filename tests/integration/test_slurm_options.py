"""What reaches the jobs: the options, the user's defaults, the hook's changes, the environment."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import dask
import pytest

import espnet3._jobqueue  # noqa: F401 (before we set one of its defaults)
from espnet3.config.model import as_parallel_config
from espnet3.errors import ClassError, ConfigError
from espnet3.parallel import BaseRunner
from espnet3.parallel.parallel import make_client
from espnet3.run import Run, submit_run
from espnet3.submit import dry_run
from tests.support import runners
from tests.support.helpers import (
    ended,
    files_of,
    jobs,
    noted,
    parallel,
    python,
    states,
    submission,
    submit_noting,
    wait_for,
)
from tests.support.runners import Echo, Shell
from tests.support.slurm_cluster import SlurmCluster


def _see(
    folder: Path, names: list[str], runner: type[BaseRunner] = Echo, **config: Any
) -> tuple[Run, dict[str, Any]]:
    """A finished run of one job, and what its worker saw of some environment variables."""
    run = submit_run(
        runner(Shell({})), names, run_dir=folder / "run", parallel=parallel(n_shards=1, **config)
    )
    return run, dict(zip(names, ended(run).collect(), strict=True))


def _shown(slurm: SlurmCluster, run: Run, field: str) -> str:
    [job] = jobs(run).jobs
    options = ("--noheader", "--states=all", f"--jobs={job.job_id}", f"--format={field}")
    return slurm.run("squeue", *options).stdout.strip()


# --- the hook -------------------------------------------------------------------------------------


def test_the_hook_changes_the_submit_command(slurm: SlurmCluster, tmp_path: Path) -> None:
    run, _ = _see(tmp_path, ["PATH"], runners.Commented)
    assert _shown(slurm, run, "%k") == "from the hook"
    assert submission(run).submit_command[:2] == ["sbatch", "--comment=from the hook"]


def test_the_hook_adds_to_the_prologue(slurm: SlurmCluster, tmp_path: Path) -> None:
    options = {"job_script_prologue": ["export FROM_OPTIONS=own", "export FROM_HOOK=no"]}
    _, seen = _see(tmp_path, ["FROM_OPTIONS", "FROM_HOOK"], runners.Exporting, options=options)
    assert seen == {"FROM_OPTIONS": "own", "FROM_HOOK": "a  $b"}


def test_the_hook_adds_to_the_prologue_of_the_users_jobqueue_yaml(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    with dask.config.set({"jobqueue.slurm.job-script-prologue": ["export FROM_YAML=site"]}):
        _, seen = _see(tmp_path, ["FROM_YAML", "FROM_HOOK"], runners.Exporting)
    assert seen == {"FROM_YAML": "site", "FROM_HOOK": "a  $b"}


def test_the_hook_replaces_the_prologue(slurm: SlurmCluster, tmp_path: Path) -> None:
    options = {"job_script_prologue": ["export FROM_OPTIONS=own", "exit 3"]}
    run, seen = _see(
        tmp_path, ["FROM_OPTIONS", "FROM_HOOK"], runners.OtherPrologue, options=options
    )
    assert seen == {"FROM_OPTIONS": None, "FROM_HOOK": "alone"}
    assert "exit 3" not in submission(run).script


def test_the_hook_wraps_the_command(slurm: SlurmCluster, tmp_path: Path) -> None:
    run, seen = _see(tmp_path, ["niceness"], runners.Nice)
    plain, usual = _see(tmp_path / "plain", ["niceness"])
    assert int(seen["niceness"]) == int(usual["niceness"]) + 5
    assert submission(run).script.rstrip().splitlines()[-1].startswith("nice -n 5 ")
    assert submission(plain).script.rstrip().splitlines()[-1].startswith("exec ")


@pytest.mark.parametrize("runner", [runners.Nonsense, runners.Foreign])
def test_a_hook_that_returns_nonsense(
    slurm: SlurmCluster, tmp_path: Path, runner: type[BaseRunner]
) -> None:
    before = slurm.jobs("--states=all")
    with pytest.raises(ClassError, match=rf"{runner.__name__}\.customize_job_cls: must return "):
        _see(tmp_path, ["PATH"], runner)
    assert [*tmp_path.iterdir()] == []
    assert slurm.jobs("--states=all") == before


@pytest.mark.parametrize("runner", [runners.Raising, runners.RaisingLater])
def test_a_hook_that_raises(slurm: SlurmCluster, tmp_path: Path, runner: type[BaseRunner]) -> None:
    said = rf"^{runner.__name__}\.customize_job_cls: raised KeyError: 'of the hook'$"
    with pytest.raises(ClassError, match=said):
        _see(tmp_path, ["PATH"], runner)
    assert [*tmp_path.iterdir()] == []


def test_the_hook_holds_for_a_resume_by_another_process(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    options = {"queue": "main", "job_script_prologue": ["exit 3"]}
    run = submit_run(
        runners.Commented(Shell({})), ["HOME"], run_dir=tmp_path / "run",
        parallel=parallel(n_shards=1, options=options),
    )  # fmt: skip
    ended(run)
    assert run.status().counts() == {"lost": 1}
    program = "import sys, espnet3; espnet3.Run(sys.argv[1]).resume(options=%r)"
    done = python("-c", program % {"job_script_prologue": []}, run.run_dir, cwd=Path("/"))
    assert done.returncode == 0, done.stderr
    assert ended(run).status().done
    [job] = jobs(run, 2).jobs
    shown = slurm.run("squeue", "-h", "--states=all", f"--jobs={job.job_id}", "--format=%k|%P")
    assert shown.stdout.strip() == "from the hook|main"


# --- the environment ------------------------------------------------------------------------------


def test_the_variables_of_an_enclosing_job_do_not_leak(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaked = {
        "SLURM_ARRAY_TASK_ID": "77",
        "SLURM_ARRAY_JOB_ID": "990",
        "SLURM_JOB_ID": "991",
        "SLURM_JOBID": "991",
        "SLURM_RESTART_COUNT": "4",
        "SLURM_CPUS_PER_TASK": "13",
        "SLURM_MEM_PER_NODE": "99999999",
        "SLURM_LEAKED": "yes",
        "SBATCH_PARTITION": "no-such-partition",
        "SBATCH_TIMELIMIT": "nonsense",
        "SBATCH_ARRAY_INX": "0-400",
        "SBATCH_EXPORT": "NONE",
        "SRUN_LEAKED": "yes",
        "PMI_RANK": "3",
    }
    for name, value in leaked.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OF_THE_USER", "a b")
    names = [*leaked, "SLURM_CONF", "OF_THE_USER", "PATH"]
    run, seen = _see(tmp_path, names, options={"cores": 2})
    [job] = jobs(run).jobs
    assert seen["SLURM_ARRAY_TASK_ID"] == "0"
    assert seen["SLURM_ARRAY_JOB_ID"] == job.job_id
    assert seen["SLURM_CPUS_PER_TASK"] == "2"
    assert seen["SLURM_JOB_ID"] == seen["SLURM_JOBID"] != "991"
    assert seen["SLURM_MEM_PER_NODE"] == "96"  # MB in each of 100 MB that dask-jobqueue asks for
    gone = ["SLURM_RESTART_COUNT", "SLURM_LEAKED", "SRUN_LEAKED", "PMI_RANK"]
    gone += [name for name in leaked if name.startswith("SBATCH_")]
    assert {name: seen[name] for name in gone} == dict.fromkeys(gone)
    assert seen["SLURM_CONF"] == str(slurm.conf)
    assert seen["OF_THE_USER"] == "a b"
    assert seen["PATH"]
    assert _shown(slurm, run, "%P") == "main"


def test_a_users_own_variables_are_obeyed(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As plain sbatch does it, but what the config says counts more."""
    own = {"SBATCH_PARTITION": "short", "SBATCH_TIMELIMIT": "00:04:00", "SBATCH_ARRAY_INX": "0-9"}
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    run, _ = _see(tmp_path, ["PATH"], job_array=False)
    assert _shown(slurm, run, "%P|%l") == "short|4:00"
    said, _ = _see(tmp_path / "said", ["PATH"], options={"queue": "main", "walltime": "00:02:00"})
    assert _shown(slurm, said, "%P|%l") == "main|2:00"
    with dask.config.set({"jobqueue.slurm.queue": "main"}):
        by_yaml, _ = _see(tmp_path / "yaml", ["PATH"])
    assert _shown(slurm, by_yaml, "%P|%l") == "main|4:00"


# --- options --------------------------------------------------------------------------------------


def test_values_that_yaml_reads_as_numbers(slurm: SlurmCluster, tmp_path: Path) -> None:
    file = tmp_path / "parallel.yaml"
    file.write_text(
        "env: slurm\noptions: {cores: 1, memory: 1e8, account: 0123, queue: 1e3}\n"
        "overrides: [{ranks: 1, options: {account: 0x1F}}]\n"
    )
    runner, config = Echo(Shell({})), as_parallel_config(file)
    [first, second] = asyncio.run(
        dry_run(runner, ["a", "b"], run_dir=tmp_path / "run", n_shards=2, parallel=config)
    )
    assert "#SBATCH -A 0123\n" in first.script
    assert "#SBATCH -A 0x1F\n" in second.script
    assert "#SBATCH -p 1e3\n" in first.script
    assert "#SBATCH --mem=96M\n" in first.script


def test_numbers_in_the_users_jobqueue_yaml(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "dask-config"
    folder.mkdir()
    (folder / "jobqueue.yaml").write_text("jobqueue: {slurm: {account: 0123, queue: on}}\n")
    monkeypatch.setattr(dask.config, "paths", [*dask.config.paths, str(folder)])
    [read] = dask.config.collect_yaml([str(folder)])  # as dask reads it
    assert read == {"jobqueue": {"slurm": {"account": 83, "queue": True}}}
    with dask.config.set({"jobqueue.slurm.account": 83, "jobqueue.slurm.queue": True}):
        [job] = asyncio.run(
            dry_run(Echo(Shell({})), ["a"], run_dir=tmp_path / "run", parallel=parallel())
        )
    assert "#SBATCH -A 0123\n" in job.script
    assert "#SBATCH -p on\n" in job.script


def test_wrong_shapes_in_the_users_jobqueue_yaml(slurm: SlurmCluster, tmp_path: Path) -> None:
    said = r"^jobqueue.yaml: jobqueue.slurm.job-script-prologue: is a list of .* \[\"export A=1\"\]"
    with dask.config.set({"jobqueue.slurm.job-script-prologue": "export A=1"}):
        with pytest.raises(ConfigError, match=said):
            _see(tmp_path, ["A"])
        with pytest.raises(ConfigError, match=said):
            make_client(parallel())
    assert [*tmp_path.iterdir()] == []


def test_the_old_name_of_the_prologue(slurm: SlurmCluster, tmp_path: Path) -> None:
    logs = str(tmp_path / "back\\slash")  # so that espnet3 has a line of its own
    options = {"env_extra": ["export OLD=1"], "job_extra": ["--nice=7"], "log_directory": logs}
    run, seen = _see(tmp_path, ["OLD"], options=options)
    assert seen == {"OLD": "1"}
    assert _shown(slurm, run, "%y") == "7"
    assert submission(run).options["job_script_prologue"] == ["export OLD=1"]
    with dask.config.set({"jobqueue.slurm.env-extra": ["export OLD=2"]}):
        _, seen = _see(tmp_path / "yaml", ["OLD"], options={"log_directory": logs})
    assert seen == {"OLD": "2"}


@pytest.mark.parametrize("job_array", [True, False])
def test_a_dry_run_writes_and_queues_nothing(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job_array: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    before = slurm.jobs("--states=all")
    config = parallel(n_workers=2, n_shards=4, job_array=job_array, options={"queue": "short"})
    run_dir = tmp_path / "new" / "run"
    runner, items = Echo(Shell({})), ["a", "b", "c", "d"]
    rendered = asyncio.run(dry_run(runner, items, run_dir=run_dir, parallel=config))
    assert [*tmp_path.iterdir()] == []
    assert slurm.jobs("--states=all") == before
    assert len(rendered) == (1 if job_array else 4)
    assert "#SBATCH -p short\n" in rendered[0].script
    assert rendered[0].command[:2] == ["sbatch", "--parsable"]
    assert ("--array=0-3%2" in rendered[0].command) == job_array
    waits = [_waits(job.command) for job in rendered]
    assert [len(words) for words in waits] == ([0] if job_array else [0, 0, 1, 1])


def _waits(command: list[str]) -> list[str]:
    return [word for word in command if word.startswith("--dependency")]


def test_a_dry_run_shows_the_finisher_and_when_it_runs(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = parallel(
        n_workers=2,
        n_shards=4,
        options={"walltime": "10:00:00"},
        finish=True,
        job_array=False,
        schedule="static",
    )
    runner, items = Echo(Shell({})), ["a", "b", "c", "d"]
    *jobs, finisher = asyncio.run(dry_run(runner, items, run_dir=tmp_path / "run", parallel=config))
    assert [*tmp_path.iterdir()] == []
    assert not slurm.jobs()
    assert [job.when for job in jobs] == [""] * 4
    assert finisher.when == "starts when these jobs have ended, in whatever way"
    assert "#SBATCH -t 00:15:00\n" in finisher.script
    assert "espnet3.finish" in finisher.script
    names = [word.removeprefix("--job-name=") for job in jobs for word in job.command
             if word.startswith("--job-name=")]  # fmt: skip
    [waits] = _waits(finisher.command)
    assert waits == "--dependency=afterany:" + ":".join(f"<id of {name}>" for name in names)


def test_the_log_directory_is_honoured(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"log_directory": "some logs/here"}
    run = submit_noting(tmp_path, 2, parallel(n_shards=2, options=options))
    ended(run)
    assert files_of(tmp_path / "some logs/here") == {"0001-0.0.log", "0001-0.1.log"}
    assert run.logs(1) == [str(tmp_path / "some logs/here/0001-0.1.log")]
    assert files_of(Path(run.run_dir, "logs")) == set()
    assert "shard 1: done" in Path(run.logs(1)[0]).read_text()


def test_the_user_s_jobqueue_yaml_counts_and_is_recorded(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    folder = tmp_path / "dask-config"
    folder.mkdir()
    (folder / "jobqueue.yaml").write_text(
        "jobqueue:\n  slurm:\n    cores: 1\n    memory: 50MB\n    queue: short\n"
        "    walltime: '00:03:00'\n    name: of-the-user\n    shebang: '#!/bin/bash'\n"
        f"    log-directory: {tmp_path}/user logs\n"
        "    job-script-prologue: ['export FROM_YAML=1']\n    job-extra-directives: ['--nice=7']\n"
    )
    script = tmp_path / "submit.py"
    script.write_text(
        "import sys\nfrom tests.support.runners import Echo, Shell\n"
        "from espnet3.run import submit_run\n"
        "config = {'env': 'slurm', 'options': {'memory': '60MB'}}\n"
        "names = ['FROM_YAML']\n"
        "if __name__ == '__main__':\n"
        "    submit_run(Echo(Shell({})), names, run_dir=sys.argv[1], parallel=config)\n"
    )
    root = str(Path(__file__).parents[2])
    env = {"DASK_CONFIG": str(folder), "PYTHONPATH": root}
    done = python(script, str(tmp_path / "run"), env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = ended(Run(tmp_path / "run"))
    assert run.collect() == ["1"]
    assert _shown(slurm, run, "%P|%l|%y") == "short|3:00|7"
    assert _shown(slurm, run, "%j").startswith("of-the-user-")
    assert files_of(tmp_path / "user logs") == {"0001-0.0.log"}
    recorded = submission(run).options
    expected = {
        "cores": 1, "memory": "60MB", "queue": "short", "walltime": "00:03:00",
        "job_name": "of-the-user", "job_script_prologue": ["export FROM_YAML=1"],
        "job_extra_directives": ["--nice=7"], "log_directory": f"{tmp_path}/user logs",
    }  # fmt: skip
    assert {name: recorded[name] for name in expected} == expected


def test_it_works_within_a_running_event_loop(slurm: SlurmCluster, tmp_path: Path) -> None:
    async def notebook() -> list[Any]:
        run = submit_noting(tmp_path, 2, parallel(n_shards=1))
        results: list[Any] = ended(run).collect()
        return results

    assert [record["square"] for record in asyncio.run(notebook())] == [0, 1]
    assert json.loads(Path(tmp_path, "run", "run.json").read_text())["world_size"] == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SQUEUE_PARTITION", "short"),
        ("SQUEUE_NAMES", "another"),
        ("SQUEUE_USERS", "nobody"),
    ],
)
def test_a_users_defaults_for_squeue_hide_no_job(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    run = submit_noting(tmp_path, 2, parallel(n_shards=1), gated=[0])
    wait_for(lambda: noted(tmp_path, "begun"), "it does not run")
    assert states(run) == {0: "running"}
    assert run.resume().ranks == []


def test_a_users_defaults_for_scancel_keep_no_job(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCANCEL_STATE", "PENDING")
    run = submit_noting(tmp_path, 2, parallel(n_shards=1), gated=[0])
    wait_for(lambda: noted(tmp_path, "begun"), "it does not run")
    [job] = jobs(run).jobs
    assert run.cancel() == [job.job_id]
    slurm.wait_until_idle()
    assert states(run) == {0: "interrupted"}
