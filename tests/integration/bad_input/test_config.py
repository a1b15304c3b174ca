"""Bad input, the parallel config and items: refused in one clear line, nothing half-written."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import espnet3
from espnet3.errors import (
    ConfigError,
    ItemsError,
    SchedulerUnavailable,
)
from espnet3.parallel import set_parallel
from espnet3.submit.new_run import dry_run, submit
from tests.support.refusals import SLURM, Provider, Runner, refused, start, unfinish


@pytest.mark.parametrize(
    ("parallel", "words"),
    [
        ({"env": "slrum"}, ["parallel.env", "'slrum'", "did you mean slurm?"]),
        ({"env": None}, ["parallel.env", "None", "valid are htcondor", "local", "slurm"]),
        ({"env": ["slurm"]}, ["parallel.env", "did you mean slurm?"]),
        ({"env": "kube"}, ["parallel.env", "'kube'", "no asynchronous mode", "local,"]),
        ({"n_worker": 3}, ["parallel.n_worker", "unknown key", "did you mean n_workers?"]),
        ({"zzz": 3}, ["parallel.zzz", "unknown key", "valid are", "n_workers", "options"]),
        ({"n_workers": 0}, ["parallel.n_workers", "greater than or equal to 1", "got 0"]),
        ({"n_workers": -1}, ["parallel.n_workers", "greater than or equal to 1", "got -1"]),
        ({"n_workers": "4"}, ["parallel.n_workers", "valid integer", "got '4'"]),
        ({"n_workers": True}, ["parallel.n_workers", "valid integer", "got True"]),
        ({"n_workers": 2.0}, ["parallel.n_workers", "valid integer", "got 2.0"]),
        ({"n_shards": 0}, ["parallel.n_shards", "greater than or equal to 1", "got 0"]),
        ({"shards_per_job": 0}, ["parallel.shards_per_job", "greater than", "got 0"]),
        ({"max_array_size": 0}, ["parallel.max_array_size", "greater than", "got 0"]),
        ({"checkpoint_every": 0}, ["parallel.checkpoint_every", "greater than 0", "got 0"]),
        ({"results": "parquet"}, ["parallel.results", "'json' or 'pickle'", "got 'parquet'"]),
        ({"on_error": "ignore"}, ["parallel.on_error", "'stop' or 'record'", "got 'ignore'"]),
        ({"options": "--mem=3"}, ["parallel.options", "dictionary", "got '--mem=3'"]),
        ({"options": {"cores": {1}}}, ["parallel.options.cores", "of type builtins.set"]),
        ({"options": {"cores": float("nan")}}, ["parallel.options.cores", "nan is not JSON"]),
        (["slurm"], ["parallel", "expected a mapping"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("way", ["argument", "omegaconf", "set_parallel"])
def test_a_wrong_parallel_config_is_refused(
    here: Path, parallel: Any, words: list[str], way: str
) -> None:
    if way == "omegaconf":
        parallel = OmegaConf.create(parallel, flags={"allow_objects": True})
    with refused(ConfigError, *words, folder=here) as caught:
        if way == "set_parallel":
            set_parallel(parallel)
            Runner(Provider({}), async_mode=True, run_dir="run")(range(4))
        start(parallel=parallel)
    assert caught[0].field == words[0]


@pytest.mark.parametrize("parallel", ["slurm", 4, Runner, [{}]])
def test_a_parallel_config_that_is_no_mapping_is_refused(here: Path, parallel: Any) -> None:
    with refused(ConfigError, "parallel: ", folder=here):
        start(parallel=parallel)
    with refused(ConfigError, "parallel: ", folder=here):
        set_parallel(parallel)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"memory": "1GB"}, ["parallel.options.cores", "is missing", "`cores: 1`"]),
        ({"cores": 1}, ["parallel.options.memory", "is missing", "`memory: 4GB`"]),
        ({}, ["parallel.options.cores", "is missing"]),
        ({"cores": 1, "memory": None}, ["parallel.options.memory", "is missing"]),
        (
            {"cores": 1, "memory": "1GB", "wall_time": "1:00"},
            ["parallel.options.wall_time", "SLURMJob has no such option", "did you mean walltime?"],
        ),
        (
            {"cores": 1, "memory": "1GB", "qqqq": 1},
            ["parallel.options.qqqq", "no such option", "valid are"],
        ),
        ({"cores": 0, "memory": "1GB"}, ["parallel.options.cores", "an integer from 1, got 0"]),
        ({"cores": "one", "memory": "1GB"}, ["parallel.options.cores", "from 1, got 'one'"]),
        ({"cores": 1.5, "memory": "1GB"}, ["parallel.options.cores", "from 1, got 1.5"]),
        (
            {"cores": 1, "memory": "1GB", "processes": 0},
            ["parallel.options.processes", "an integer from 1, got 0"],
        ),
        ({"cores": 1, "memory": "lots"}, ["parallel.options.memory", "such as 4GB, got 'lots'"]),
        ({"cores": 1, "memory": "-1GB"}, ["parallel.options.memory", "such as 4GB, got '-1GB'"]),
        ({"cores": 1, "memory": 0}, ["parallel.options.memory", "such as 4GB, got 0"]),
        ({"cores": 1, "memory": [4]}, ["parallel.options.memory", "such as 4GB, got [4]"]),
        (
            {"cores": 1, "memory": "1GB", "job_script_prologue": "export FOO=1"},
            ["parallel.options.job_script_prologue", 'write ["export FOO=1"]'],
        ),
        (
            {"cores": 1, "memory": "1GB", "job_extra_directives": ["#SBATCH --partition=x"]},
            ["parallel.options.job_extra_directives", 'write "--partition=x"'],
        ),
        (
            {"cores": 1, "memory": "1GB", "job_extra_directives": ["-J mine"]},
            ["parallel.options.job_extra_directives", '"-J mine"', "job_name"],
        ),
    ],
    ids=str,
)
def test_wrong_slurm_options_are_refused_without_a_slurm(
    here: Path, monkeypatch: pytest.MonkeyPatch, options: Any, words: list[str]
) -> None:
    monkeypatch.setenv("PATH", str(here))
    with refused(ConfigError, *words, folder=here):
        start(parallel={"env": "slurm", "options": options})


def test_a_missing_sbatch_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(here))
    words = ["slurm: sbatch is not on this host's PATH", "submit from a login node"]
    with refused(SchedulerUnavailable, *words, folder=here):
        start(parallel=SLURM)


@pytest.mark.parametrize("n_shards", [0, -1, True, 2.0, "2"])
def test_a_wrong_number_of_shards_is_refused(here: Path, n_shards: Any) -> None:
    words = ["n_shards", "an integer from 1", repr(n_shards)]
    for call in (submit, dry_run):
        with refused(ConfigError, *words, folder=here):
            asyncio.run(call(Runner(Provider({})), range(4), run_dir="run", n_shards=n_shards))


@pytest.mark.parametrize("batch_size", [0, -2, True, "4", 2.0])
def test_a_wrong_batch_size_is_refused(here: Path, batch_size: Any) -> None:
    words = ["batch_size", "must be an integer from 1", repr(batch_size)]
    with refused(ConfigError, *words, folder=here):
        Runner(Provider({}), batch_size=batch_size)
    runner = Runner(Provider({}))
    runner.batch_size = batch_size
    with refused(ConfigError, "batch_size", repr(batch_size), folder=here):
        start(runner)


def test_resume_names_a_wrong_option(
    here: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The options of a resume are checked as those of a submission."""
    shutil.copytree(finished, here / "run")
    unfinish(here / "run")
    for file in (here / "run/run.json", here / "run/submissions/0001.json"):
        raw = json.loads(file.read_text())
        raw["parallel"] |= SLURM
        file.write_text(json.dumps(raw))
    with refused(ConfigError, "parallel.options.memry", "did you mean memory?", folder=here):
        espnet3.Run("run").resume(options={"memry": "2GB"})
    with refused(ConfigError, "options.memory", "not JSON", folder=here):
        espnet3.Run("run").resume(options={"memory": {1}})


# --- items --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([], ["items: there are none", "at least one"]),
        (range(0), ["items: there are none"]),
        (iter(()), ["items: there are none"]),
        ([1, object()], ["items[1]", "of type object", "load the rest in the provider"]),
        ([0.5, float("nan")], ["items[1]: nan is not JSON"]),
        ([0, float("inf")], ["items[1]: inf is not JSON"]),
        ([1, {2}], ["items[1]", "of type set"]),
        ([b"a.wav"], ["items[0]", "of type bytes"]),
        ([Path("a.wav")], ["items[0]", "Path"]),
        ([{"a": 1}, {1: "a"}], ["items[1]: the key 1 is not a string"]),
        ([{"a": [0, {"b": b"x"}]}], ["items[0].a[1].b", "of type bytes"]),
        ([0, [1, [2, {"x": float("nan")}]]], ["items[1][1][1].x: nan is not JSON"]),
        ([2**70, "a"], ["items", "not JSON"]),
        (["\ud800"], ["items", "not JSON"]),
        ("abc", ["items", "expected an iterable such as range(1000)", "str 'abc'"]),
        (b"abc", ["items", "expected an iterable", "bytes"]),
        ({"a": 1}, ["items", "expected an iterable", "dict"]),
        (1000, ["items", "expected an iterable such as range(1000)", "int 1000"]),
        (None, ["items", "expected an iterable", "NoneType"]),
    ],
)
def test_items_that_cannot_be_planned_are_refused(here: Path, items: Any, words: list[str]) -> None:
    with refused(ItemsError, *words, folder=here):
        start(items=items)
