"""Small things that were tracebacks, misread or unsaid: streams, umask, names, interrupts."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from espnet3.errors import FailedItems, PlanMismatch
from espnet3.run import Run
from tests.support.cli_project import Project
from tests.support.helpers import wait_for


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose run is done."""
    return Project.finished(tmp_path_factory.mktemp("small"))


def refused(project: Project, *words: str) -> str:
    """What a command says that refuses its words, and prints nothing."""
    if words[0] == "run-shard":  # which starts a process
        real = project(*words, code=2)
        out, err = real.stdout, real.stderr
    else:
        _, out, err = project.here(*words, code=2)
    assert out == ""
    return err


RUN = "'a run/first'"


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (f"status {RUN} >&-", 0, ""),
        (f"status {RUN} --json >&-", 0, ""),
        (f"status {RUN} <&- >&- 2>&-", 0, ""),
        (f"watch {RUN} >&-", 0, ""),
        ("status nothing 2>&-", 2, ""),
        ("frobnicate 2>&-", 2, ""),
        (f"collect {RUN} -o closed.jsonl >&- 2>&-", 0, ""),
        (f"collect {RUN} >&-", 2, "standard output is closed; name a file with -o FILE"),
        (f"logs {RUN} 0 >&-", 2, "standard output is closed; --path names the file"),
        (f"status {RUN} >/dev/full", 1, "standard output: No space left on device"),
        (f"collect {RUN} >/dev/full", 1, "standard output: No space left on device"),
    ],
)
def test_streams_that_are_closed_or_full(done: Project, line: str, code: int, words: str) -> None:
    found = done.shell(f"espnet3 {line}")
    assert found.returncode == code
    assert found.stderr == (f"espnet3: {words}\n" if words else "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("logs", "a run/first/shards/000000.json", "0"), "or the path of a spec alone"),
        (("run-shard", "day.yaml"), "day.yaml: is not a shard's spec; give RUN_DIR RANK, or a"),
        (("status", "nothing"), "nothing: does not exist; name the run directory that submit"),
        (("watch", "nothing"), "nothing: does not exist; name the run directory that submit"),
        (("run-shard", "nothing", "0"), "nothing: does not exist; name the run directory that"),
    ],
)
def test_words_that_name_nothing(done: Project, words: tuple[str, ...], said: str) -> None:
    (done.folder / "day.yaml").write_text("items: 3\n")
    assert said in refused(done, *words)


def test_local_mode_without_standard_error(tmp_path: Path) -> None:
    code = """
from espnet3.parallel import BaseRunner, EnvironmentProvider
class P(EnvironmentProvider):
    def build_env_local(self):
        return {}
class R(BaseRunner):
    @staticmethod
    def forward(idx):
        return idx
print(R(P({}))(range(3)))
"""
    (tmp_path / "local.py").write_text(code)
    line = f"{shlex.quote(sys.executable)} {tmp_path}/local.py 2>&-"
    assert subprocess.check_output(["bash", "-c", line], text=True) == "[0, 1, 2]\n"


@pytest.mark.parametrize("mask", ["777", "0277"])
def test_a_umask_that_takes_files_from_their_owner_is_refused(done: Project, mask: str) -> None:
    # As root, one may do all with any file.
    plain = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.getuid() == 0 else []
    before = done.files()
    config = shlex.quote(done.config)
    for line in (f"submit {config} run_dir=new", f"resume {RUN}", f"doctor {config}"):
        found = done.shell(f"umask {mask}; espnet3 {line}", *plain)
        assert found.returncode == 2, found
        said = [said for said in found.stderr.splitlines() if said != "imported"]
        assert said == [
            f"espnet3: with the umask {int(mask, 8):03o} you could not use the files that you "
            "make; run `umask 077` first"
        ]
    assert done.files() == before


# --- one shard ------------------------------------------------------------------------------------


def test_a_shard_is_named_in_two_ways(done: Project, tmp_path: Path) -> None:
    spec = f"{done.run_dir}/shards/000001.json"
    for command in ("logs", "run-shard"):
        found = [done(command, done.run_dir, "1"), done(command, spec)]
        assert found[0].stdout == found[1].stdout
        assert "shards 0 to 3" in refused(done, command, done.run_dir, "4")
        for words in ([done.run_dir], [done.run_dir, "x"], [done.run_dir, "1", "2"], [spec, "-1"]):
            assert refused(done, command, *words)
        assert "no such file" in refused(done, command, "nothing.json")
    assert "which shard? add its rank" in refused(done, "logs", done.run_dir)
    assert done.json("logs", spec)["rank"] == 1


# --- words ----------------------------------------------------------------------------------------


def test_another_plan_is_told_in_a_users_words(done: Project) -> None:
    for change, words in (
        ("items.n=13", "the number of items is 12 in that run and 13 here"),
        ("n_shards=3", "the number of shards (n_shards) is 4 in that run and 3 here"),
        ("config.scale=4", "config.scale is 3 in that run and 4 here"),
        ("config.new=4", "config.new is not set in that run and is 4 here"),
    ):
        assert f"holds another run: {words}; " in done("submit", done.config, change, code=2).stderr
    assert PlanMismatch("r", "world_size", "1", "2").field == "world_size"  # for programs
    assert "--errors keep" in str(FailedItems("r", 1, [0]))


SCRIPT = """
import argparse
import sys

from espnet3.parallel import BaseRunner, EnvironmentProvider

if "ESPNET3_IN_WORKER" in __import__("os").environ:
    sys.argv[:] = ["decode.py", "--bean", "20"]
parser = argparse.ArgumentParser(prog="decode.py")
parser.add_argument("--beam", type=int, default=1)
args = parser.parse_args()


class P(EnvironmentProvider):
    def build_env_local(self):
        return {}


class R(BaseRunner):
    @staticmethod
    def forward(idx):
        return idx


if __name__ == "__main__":
    R(P({}), async_mode=True, run_dir="run")(range(4))
"""


def test_a_script_that_ends_itself_in_the_preflight_says_why(tmp_path: Path) -> None:
    (tmp_path / "decode.py").write_text(SCRIPT)
    found = subprocess.run(
        [sys.executable, "decode.py", "--beam", "20"],
        cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    last = found.stderr.splitlines()[-1]
    assert last.partition("PreflightError: ")[2] == (
        f"{tmp_path}/decode.py:R: cannot be imported: it ended itself and said: decode.py: error: "
        "unrecognized arguments: --bean 20; nothing was submitted (preflight: false skips this "
        "check)"
    )
    assert not (tmp_path / "run").exists()


# --- doctor ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_json", [False, True])
def test_an_interrupted_doctor_says_what_it_leaves(tmp_path: Path, as_json: bool) -> None:
    project = Project(tmp_path, "local")
    # A worker that never answers: the folder's call is not made where the worker waits for a pipe.
    module = project.folder / "conf dir/sitecustomize.py"
    module.write_text(
        "import os, sys, time\n"
        "if any('espnet3.worker' == word for word in sys.orig_argv):\n"
        "    time.sleep(600)\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(module.parent)}
    words = ["--json"] if as_json else []
    doctor = project.start("doctor", project.config, *words, env=environ)
    pattern = "a run/espnet3-doctor-*/run/submissions/0001.jobs.json"
    wait_for(lambda: [*project.folder.glob(pattern)], "the doctor's job")
    os.killpg(doctor.pid, signal.SIGINT)
    out, err = doctor.communicate(timeout=60)
    assert doctor.returncode == 130
    [folder] = project.folder.glob("a run/espnet3-doctor-*")
    assert f"{folder} was left there" in (err if as_json else out)
    assert "Traceback" not in err
    run = Run(folder / "run")
    wait_for(lambda: not run.status().live, "the end of the doctor's job")  # which was cancelled
    shutil.rmtree(folder)


def test_a_doctor_who_finds_all_well_leaves_nothing(done: Project) -> None:
    before = done.files()
    assert json.loads(done("doctor", done.config, "--json").stdout)["left"] is None
    assert done.files() == before
