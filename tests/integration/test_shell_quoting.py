"""Every string that reaches a shell arrives as it was, whatever is in it. Needs no Slurm.

Scripts are rendered for Slurm and run by real shells; `sbatch`, which a dry run looks for, and the
worker's Python are stand-ins that write down how they were called.
"""

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

from espnet3.cli import show
from espnet3.errors import ConfigError, Untrusted
from espnet3.parallel import BaseRunner, EnvironmentProvider
from espnet3.run import submit_run
from espnet3.run_dir.trust import require_own
from espnet3.submit import dry_run
from espnet3.submit.process_record import held_here

STAND_IN = """#!{python} -IS
import json, os, sys
with open(os.environ["DUMP"], "w") as file:
    json.dump({{"argv": sys.argv[1:], "cwd": os.getcwd(), "value": os.environ.get("VALUE")}}, file)
print("it ran")
"""
SHELLS = pytest.mark.parametrize("shell", ["bash", "sh"])
FUZZ = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
_characters = st.one_of(
    st.sampled_from("\"'\\$`%#;&|<>*?[]{}()!~- \t=:,@^"),
    st.characters(exclude_categories=["Cs"], exclude_characters="/\0\n\r"),
)
NAMES = st.text(_characters, min_size=1, max_size=20).filter(lambda name: name not in (".", ".."))
VALUES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
PRINTABLE = NAMES.filter(lambda name: not any(ord(c) < 32 or ord(c) == 127 for c in name))


class Provider(EnvironmentProvider):
    def build_env_local(self) -> dict[str, Any]:
        return {}


class Runner(BaseRunner):
    @staticmethod
    def forward(idx: Any, **env: Any) -> Any:
        return idx


def stand_in(file: Path) -> Path:
    file.write_text(STAND_IN.format(python=os.path.realpath(sys.executable)))
    file.chmod(0o700)
    return file


@SHELLS
@FUZZ
@given(NAMES, NAMES, NAMES, NAMES, PRINTABLE, VALUES)
@example("a\\b", "$(id)", "it's", "a\\`id`\\n", "x; touch pwned", "$HOME\n`id`")
@example("-n", "-c", "--", "%a\\%A", "#SBATCH", "'\"'\"'")
def test_a_script_hands_on_exactly_what_it_was_given(
    shell: str, run: str, python: str, work: str, logs: str, job: str, value: str
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for name in ("bin", "python", "work", "logs"):
            (root / name).mkdir()
        folder, log_directory = root / "work" / work, root / "logs" / logs
        folder.mkdir()
        log_directory.mkdir()
        stand_in(root / "bin" / "sbatch")
        program = stand_in(root / "python" / python)
        path = f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}"
        before = os.environ["PATH"]
        os.environ["PATH"] = path
        try:
            [rendered] = _render(folder / run, job, shlex.quote(str(program)), log_directory)
        finally:
            os.environ["PATH"] = before
        env = os.environ | {"DUMP": str(root / "dump"), "PATH": path, "VALUE": value}
        (root / "script").write_text(rendered.script)
        done = subprocess.run(
            [shell, root / "script"], cwd=folder, env=env, capture_output=True, check=True
        )
        got = json.loads((root / "dump").read_text())
        flags = held_here().process.flags
        *words, run_id, trust, policy = got["argv"]
        command = [*flags, "-P", "-m", "espnet3.worker", str(folder / run), "0001", "--run-id"]
        assert words == command
        assert [trust, policy] == ["--trust", "group"]
        assert re.fullmatch("[0-9a-f]{12}", run_id)
        assert got["cwd"] == str(folder)
        assert got["value"] == value
        # Slurm is told the log's name, unless it would misread it: then the script redirects.
        written = [file.name for file in log_directory.iterdir()]
        assert written == (["0001-0.0.log"] if "\\" in str(log_directory) else [])
        assert done.stdout == (b"" if written else b"it ran\n")
        # The command as a dry run shows it, pasted into a shell.
        line = f"{shlex.join(rendered.command)} SCRIPT"
        subprocess.run([shell, "-c", line], cwd=folder, env=env, capture_output=True, check=True)
        argv = json.loads((root / "dump").read_text())["argv"]
        assert argv == [*rendered.command[1:], "SCRIPT"]
        assert sum(word.startswith(f"--job-name={job}-") for word in argv) == 1
        assert not [*folder.iterdir()]  # and nothing else was done


def _render(run_dir: Path, job_name: str, python: str, logs: Path) -> list[Any]:
    options = {"cores": 1, "memory": "1GB", "job_name": job_name, "python": python}
    config = {
        "env": "slurm", "max_array_size": 10, "trust": "group",
        "options": {**options, "log_directory": str(logs)},
    }  # fmt: skip
    return asyncio.run(dry_run(Runner(Provider({})), [0], run_dir=run_dir, parallel=config))


@SHELLS
@settings(FUZZ, max_examples=10)
@given(NAMES)
def test_advice_to_paste_does_what_it_says(shell: str, name: str) -> None:
    """`chmod …` of an error, and the commands that are shown as the next ones."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, name)
        folder.mkdir()
        folder.chmod(0o777)
        with pytest.raises(Untrusted) as caught:
            require_own(str(folder), None)
        advice = caught.value.problem.partition("run `")[2].removesuffix("`")
        subprocess.run([shell, "-c", advice], check=True, cwd=temporary)
        require_own(str(folder), None)
        stand_in(Path(temporary, "espnet3"))
        env = os.environ | {
            "DUMP": f"{temporary}/dump",
            "PATH": f"{temporary}:{os.environ['PATH']}",
        }
        line = show.command("collect", str(folder), "-o", "results.jsonl")
        subprocess.run([shell, "-c", line], check=True, env=env, capture_output=True)
        argv = json.loads(Path(temporary, "dump").read_text())["argv"]
        assert argv == ["collect", str(folder), "-o", "results.jsonl"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("queue", "gpu\ntouch pwned"),
        ("account", "me\ntouch pwned"),
        ("walltime", "1:00\ntouch pwned"),
        ("job_extra_directives", ["--gres=gpu:1\ntouch pwned"]),
        ("python", "python\ntouch pwned"),
        ("python", "it's python"),
        ("queue", "gpu\rtouch"),
        ("queue", "gpu\0"),
    ],
)
def test_an_option_of_several_lines_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, value: Any
) -> None:
    stand_in(tmp_path / "sbatch")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    options = {"cores": 1, "memory": "1GB", option: value}
    with pytest.raises(ConfigError) as caught:
        submit_run(Runner(Provider({})), [0], run_dir=tmp_path / "run",
                   parallel={"env": "slurm", "options": options})  # fmt: skip
    assert str(caught.value).startswith(f"parallel.options.{option}")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@settings(FUZZ, max_examples=2)
@given(NAMES, VALUES)
def test_a_local_run_needs_no_shell(name: str, value: str) -> None:
    """Names and values reach a real worker through run.json and argument lists."""
    with tempfile.TemporaryDirectory() as temporary:
        before = os.getcwd()
        folder = Path(temporary, name)
        folder.mkdir()
        os.chdir(folder)
        os.environ["VALUE"] = value
        try:
            config = {"environment_variables": ["VALUE"], "preflight": False}
            run = submit_run(Telling(Provider({})), [0], run_dir=name, parallel=config)
            assert run.wait(60, 0.05).done
            assert run.collect() == [[str(folder), value]]
            assert {*os.listdir()} == {name}
        finally:
            del os.environ["VALUE"]
            os.chdir(before)


class Telling(BaseRunner):
    @staticmethod
    def forward(idx: Any, **env: Any) -> Any:
        return [os.getcwd(), os.environ["VALUE"]]
