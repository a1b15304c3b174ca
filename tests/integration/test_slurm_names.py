"""Names that shells and schedulers trip over arrive unharmed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from espnet3.run import submit_run
from espnet3.submit import dry_run
from espnet3.submit.process_record import held_here
from tests.support.helpers import (
    collected_elsewhere,
    ended,
    files_of,
    jobs,
    parallel,
    submission,
)
from tests.support.runners import Given, Returning
from tests.support.slurm_cluster import SlurmCluster

NASTY = [
    " two  words ",
    "it's \"quoted\" '",
    "$HOME ${x} $(id) `id`",
    "100% %a %j %A_%a %%x",
    "back\\slash\\n \\$ \\' \\",
    "ünï-日本語-🙂",
    "-o dash; #hash & ! * ? [a] {b,c} ~ | <x >y",
]


@pytest.mark.parametrize("name", NASTY)
def test_a_run_whose_every_name_is_awkward(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    start = tmp_path / name
    start.mkdir()
    monkeypatch.chdir(start)  # workers find their way back to it
    config = {text: f"value {text}" for text in NASTY} | {name: {name: [name]}}
    options = {"job_name": name, "job_script_prologue": ["pwd > where"]}
    run = submit_run(
        Returning(Given(config)), NASTY, run_dir=f"run {name}",
        parallel=parallel(n_shards=2, options=options),
    )  # fmt: skip
    assert run.run_dir == str(start / f"run {name}")
    ended(run)
    assert run.status().done, run.status()
    assert collected_elsewhere(run) == [config[text] for text in NASTY]
    [planned] = submission(run).jobs
    [job] = jobs(run).jobs
    assert planned.name.startswith(f"{name}-")
    show = ("--noheader", "--states=all", f"--jobs={job.job_id}_0", "--format=%j")
    assert slurm.run("squeue", *show).stdout == planned.name + "\n"
    assert files_of(Path(run.run_dir, "logs")) == {"0001-0.0.log", "0001-0.1.log"}
    assert "shard 1: done, 4 items" in Path(*run.logs(1)).read_text()
    # The prologue ran where the submission was made, and nothing was written anywhere else.
    assert (start / "where").read_text() == f"{start}\n"
    assert {*os.listdir(start)} == {"where", f"run {name}"}
    assert [*tmp_path.iterdir()] == [start]


def test_awkward_log_directories(slurm: SlurmCluster, tmp_path: Path) -> None:
    for number, name in enumerate(NASTY):
        logs = tmp_path / name / "logs"
        run = submit_run(
            Returning(Given({"a": 1})), ["a"], run_dir=tmp_path / str(number),
            parallel=parallel(n_shards=1, options={"log_directory": str(logs)}),
        )  # fmt: skip
        ended(run)
        assert run.collect() == [1]
        assert files_of(logs) == {"0001-0.0.log"}


STAND_IN = """#!{python} -IS
import json, os, sys
with open(os.environ["DUMP"], "w") as file:
    json.dump({{"argv": sys.argv[1:], "cwd": os.getcwd()}}, file)
"""

_characters = st.one_of(
    st.sampled_from("\"'\\$`%#;&|<>*?[]{}()!~- \t\n=:,@^"),
    st.characters(exclude_categories=["Cs"], exclude_characters="/\0"),
)
_names = st.text(_characters, min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..") and "\n" not in name
)
_one_line = _names.filter(lambda name: "\r" not in name)  # as an option's value has to be
_printable = _names.filter(lambda name: not any(ord(c) < 32 or ord(c) == 127 for c in name))


@pytest.mark.slurm
@pytest.mark.parametrize("shell", ["bash", "sh"])
@pytest.mark.usefixtures("slurm_packages")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(run_name=_names, job_name=_printable, folder=_one_line)
@example(run_name="a'\t'b", job_name="<espnet3 worker>", folder="<espnet3 worker>")
@example(run_name="<espnet3 worker>", job_name="%(worker_command)s", folder="%s %(shebang)s")
def test_the_shell_hands_on_exact_arguments(
    shell: str, run_name: str, job_name: str, folder: str
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary, folder)
        root.mkdir()
        program = root / "a python"
        program.write_text(STAND_IN.format(python=os.path.realpath(sys.executable)))
        program.chmod(0o700)
        rendered = _render(root / run_name, job_name, f"{shlex.quote(str(program))} -X 'a  b'")
        assert not (root / run_name).exists()
        (root / run_name / "logs").mkdir(parents=True)  # as a submission does
        for number, (script, command, _) in enumerate(rendered):
            dump = Path(temporary, f"dump.{number}")
            env = os.environ | {"DUMP": str(dump)}
            file = Path(temporary, f"script.{number}")
            file.write_text(script)
            subprocess.run([shell, file], env=env, check=True, capture_output=True)
            got = json.loads(dump.read_text())
            first = ["--first-task", str(number)] if number else []
            module = ["-P", "-m", "espnet3.worker"]
            flags = held_here().process.flags
            run_id = got["argv"][got["argv"].index("--run-id") + 1]
            run = [str(root / run_name), "0001", "--run-id", run_id]
            assert got["argv"] == ["-X", "a  b", *flags, *module, *run, *first]
            assert re.fullmatch("[0-9a-f]{12}", run_id)
            assert got["cwd"] == os.getcwd()
            named = [word for word in command if word.startswith("--job-name=")]
            assert len(named) == 1
            assert named[0].startswith(f"--job-name={job_name}-")


def _render(run_dir: Path, job_name: str, python: str) -> list[Any]:
    config = parallel(
        n_shards=2,
        job_array=False,
        max_array_size=10,
        options={"job_name": job_name, "python": python},
    )
    return asyncio.run(dry_run(Returning(Given({})), ["a", "b"], run_dir=run_dir, parallel=config))
