"""What the submitter's process holds: `forward` sees it alike in local mode and in workers."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from espnet3.run import Run
from espnet3.specs import layout
from tests.support.helpers import parallel, python
from tests.support.scripts import PROVIDER_OF_NOTHING
from tests.support.slurm_cluster import SlurmCluster

SEED = "7"
SCRIPT = (
    PROVIDER_OF_NOTHING
    + """\
import argparse, json, locale, multiprocessing, os, sys, time, warnings

parser = argparse.ArgumentParser()
parser.add_argument("--beam", type=int, default=1)
parser.add_argument("--password")
parser.add_argument("out")
args = parser.parse_args()
os.environ["AT_IMPORT"] = "of the module"


def state():
    os.umask(umask := os.umask(0))
    try:
        warnings.warn("raises", DeprecationWarning)
        warned = "shown"
    except DeprecationWarning:
        warned = "raised"
    return {
        "beam": args.beam, "argv": sys.argv, "cwd": os.getcwd(), "umask": umask,
        "environ": {n: os.environ.get(n) for n in ("ADDED", "CHANGED", "REMOVED", "AT_IMPORT")},
        "recursion": sys.getrecursionlimit(), "digits": sys.get_int_max_str_digits(),
        "method": multiprocessing.get_start_method(), "time": locale.setlocale(locale.LC_TIME),
        "hour": time.strftime("%H", time.localtime(0)), "hash": hash("text"), "warned": warned,
        "flags": [sys.flags.optimize, sys.flags.utf8_mode],
        "warnoptions": sys.warnoptions, "debug": __debug__,
    }


class Runner(BaseRunner):
    @staticmethod
    def forward(idx):
        return state()


def change():
    os.environ["ADDED"], os.environ["CHANGED"] = "1", "now"
    del os.environ["REMOVED"]
    os.environ["AT_IMPORT"] = "of the call"
    os.environ["TZ"] = "Asia/Tokyo"
    time.tzset()
    os.umask(0o027)
    sys.setrecursionlimit(2345)
    sys.set_int_max_str_digits(5000)
    multiprocessing.set_start_method("spawn")
    locale.setlocale(locale.LC_TIME, "C.UTF-8")
    warnings.simplefilter("error", DeprecationWarning)
    sys.argv.append("later")


if __name__ == "__main__":
    change()
    config = json.loads(os.environ.get("CONFIG", '{"env": "local", "n_shards": 2}'))
    local = Runner(Provider({}))(range(2))
    run = submit_run(Runner(Provider({})), range(2), run_dir="run", parallel=config)
    run.wait(interval=0.2)
    with open(args.out, "w") as file:
        json.dump([local, run.collect()], file)
"""
)


def forget(run_dir: Path, rank: int) -> None:
    """Have a shard be as before it was computed."""
    for folder in (layout.RECEIPTS, layout.RESULTS, layout.ATTEMPTS):
        for file in (run_dir / folder).glob(f"{rank:06d}.*"):
            file.unlink()


def test_forward_sees_the_process_of_the_submitter(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    environ = {"PYTHONHASHSEED": SEED, "CHANGED": "before", "REMOVED": "before"}
    done = python(
        "-O", "-X", "utf8", "-W", "ignore::ImportWarning",
        "script.py", "--beam", "20", "out.json", env=environ, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    local, collected = json.loads((tmp_path / "out.json").read_text())
    assert local[0]["beam"] == 20
    assert local[0]["argv"] == ["script.py", "--beam", "20", "out.json", "later"]
    assert local[0]["environ"] == {
        "ADDED": "1", "CHANGED": "now", "REMOVED": None, "AT_IMPORT": "of the call",
    }  # fmt: skip
    assert local[0]["flags"] == [1, 1]
    assert (local[0]["method"], local[0]["warned"], local[0]["hour"]) == ("spawn", "raised", "09")
    assert collected == local
    # In a shell of its own, which has nothing of all this, a shard is computed alike.
    forget(tmp_path / "run", 1)
    bare = {name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ}
    spec = str(tmp_path / "run" / layout.shard(1))
    done = python(
        "-c", "import os, sys; os.execve(sys.executable, [sys.executable, *sys.argv[2:]],"
        " {**eval(sys.argv[1]), 'REMOVED': 'there', 'PYTHONHASHSEED': '9'})",
        repr(bare), "-m", "espnet3", "run-shard", spec, cwd=Path("/"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert Run(tmp_path / "run").collect() == local


def test_a_job_in_another_environment_sees_the_same(slurm: SlurmCluster, tmp_path: Path) -> None:
    """As under schedulers that pass on nothing, or where the site sets variables of its own."""
    (tmp_path / "script.py").write_text(SCRIPT)
    prologue = ["unset ADDED", "export PYTHONHASHSEED=9 CHANGED=other REMOVED=there", "umask 077"]
    config = parallel(n_shards=2, options={"job_script_prologue": prologue})
    environ = {"CONFIG": json.dumps(config), "PYTHONHASHSEED": SEED, "REMOVED": "before"}
    done = python("-O", "script.py", "--beam", "20", "out.json", env=environ, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    local, collected = json.loads((tmp_path / "out.json").read_text())
    assert (local[0]["beam"], local[0]["flags"][0]) == (20, 1)
    assert collected == local


def test_the_same_call_with_other_words_says_which_ones_workers_keep(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    environ = {"REMOVED": "before"}
    words = ("script.py", "--password", "hunter2-Zq9", "out.json")
    first = python(*words, env=environ, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "NotTakenOver" not in first.stderr
    again = python("script.py", "--beam", "9", "out.json", env=environ, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    [line] = [line for line in again.stderr.splitlines() if "NotTakenOver" in line]
    assert "submitted with --password *** out.json later" in line
    assert "not with --beam 9 out.json later" in line
    assert "script.py:" in line  # the user's call, and no line of ours
    assert "espnet3/" not in again.stderr
    assert json.loads((tmp_path / "out.json").read_text())[1][0]["beam"] == 1


def test_other_words_are_no_matter_where_no_worker_reads_them(tmp_path: Path) -> None:
    """As ESPnet's `run.py` is called again with other stages."""
    runner = (
        "class Runner(BaseRunner):\n    @staticmethod\n    def forward(idx):\n        return idx\n"
    )
    (tmp_path / "decode.py").write_text(PROVIDER_OF_NOTHING + runner)
    (tmp_path / "run.py").write_text(
        """\
import argparse

from decode import Provider, Runner, submit_run


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("--stage")
    return parser.parse_args()


def main():
    print(parse().stage)
    run = submit_run(Runner(Provider({})), range(2), run_dir="run", parallel={"env": "local"})
    run.wait(interval=0.2)


if __name__ == "__main__":
    main()
"""
    )
    for stage in ("infer", "measure"):
        done = python("run.py", "--stage", stage, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, f"{stage}\n"), done.stderr
        assert "NotTakenOver" not in done.stderr
    code = (tmp_path / "decode.py").read_text().replace("return idx", "import sys; return sys.argv")
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "decode.py").write_text(code)
    told = [python("run.py", "--stage", stage, cwd=tmp_path).stderr for stage in ("a", "b")]
    assert "NotTakenOver" not in told[0]
    assert "and not with --stage b; decode.py reads it; choose another run_dir" in told[1]


SMALL = (
    PROVIDER_OF_NOTHING
    + """\
import os, sys


class Runner(BaseRunner):
    @staticmethod
    def forward(idx):
        return [sys.argv, os.environ.get("HF_TOKEN")]

if __name__ == "__main__":
    os.environ["HF_TOKEN"] = "hunter2-Zq9"
    config = {"env": "local", "environment_variables": NAMED}
    try:
        run = submit_run(Runner(Provider({})), range(1), run_dir="run", parallel=config)
        run.wait(interval=0.2)
        print(run.collect()[0][1])
    except Exception as error:
        print(type(error).__name__, error)
"""
)


@pytest.mark.parametrize("named", [[], ["HF_TOKEN"]])
def test_what_looks_secret_is_stored_where_it_is_named_only(
    tmp_path: Path, named: list[str]
) -> None:
    (tmp_path / "script.py").write_text(SMALL.replace("NAMED", repr(named)))
    done = python("script.py", cwd=tmp_path)
    assert done.stdout == "hunter2-Zq9\n", done.stderr  # which the scheduler passes on here
    stored = "hunter2-Zq9" in (tmp_path / "run" / "run.json").read_text()
    assert stored == bool(named)
    assert "HF_TOKEN" not in done.stderr


def test_a_word_that_is_not_utf_8_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SMALL.replace("NAMED", "[]"))
    done = python("script.py", "a", os.fsdecode(b"caf\xe9.txt"), cwd=tmp_path)
    assert done.stdout.startswith("ConfigError sys.argv[2]: is not UTF-8"), done.stderr
    assert done.stdout.count("\n") == 1
    assert not (tmp_path / "run").exists()


COMMAND = (
    PROVIDER_OF_NOTHING
    + """\
import sys
SEEN = list(sys.argv)


class Runner(BaseRunner):
    @staticmethod
    def forward(idx):
        return [SEEN, sys.argv]
"""
)


def test_modules_do_not_see_the_words_of_our_own_command(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(COMMAND)
    (tmp_path / "c.json").write_text(json.dumps({
        "provider": {"_target_": "work.Provider"}, "runner": {"_target_": "work.Runner"},
        "items": 1, "run_dir": "run", "parallel": parallel("local", preflight=True),
    }))  # fmt: skip
    command = str(Path(sys.executable).with_name("espnet3"))
    for words in (["submit", "c.json", "n_shards=1"], ["submit", "./c.json", "n_shards=1"]):
        done = python(command, *words, cwd=tmp_path)
        assert (done.returncode, "NotTakenOver" in done.stderr) == (0, False), done.stderr
    run = Run(tmp_path / "run")
    run.wait(interval=0.2, timeout=100)
    assert run.collect() == [[[command], [command]]]


def test_a_run_of_version_1_takes_nothing_over(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SMALL.replace("NAMED", "[]"))
    done = python("script.py", "--beam", "2", cwd=tmp_path)
    assert done.stdout == "hunter2-Zq9\n", done.stderr
    path = tmp_path / "run" / "run.json"
    raw: dict[str, Any] = json.loads(path.read_text())
    assert raw["process"]["argv"] == ["script.py", "--beam", "2"]
    del raw["process"], raw["assignments"], raw["provider"]["attributes"]
    path.unlink()
    path.write_text(json.dumps({**raw, "schema_version": 1}))
    forget(tmp_path / "run", 0)
    done = python("-m", "espnet3", "run-shard", str(tmp_path / "run" / layout.shard(0)))
    assert done.returncode == 0, done.stderr
    [[argv, _]] = Run(tmp_path / "run").collect()
    assert "--beam" not in argv
    shutil.rmtree(tmp_path / "run")


OF_ITS_OWN = (
    "click",
    "datetime",
    "hashlib",
    "inspect",
    "pickle",
    "platform",
    "tabnanny",
    "token",
)
HIDING = (
    PROVIDER_OF_NOTHING
    + f"""
import click, datetime, hashlib, inspect, json, pickle, platform, sys, token

sys.path.insert(0, "library")


class Runner(BaseRunner):
    @staticmethod
    def forward(idx):
        from importlib import import_module

        files = {{name: import_module(name).__file__ for name in {OF_ITS_OWN}}}
        return files | {{"long": "x" * 99_999}}


if __name__ == "__main__":
    local = Runner(Provider({{}}))(range(2))
    run = submit_run(Runner(Provider({{}})), range(2), run_dir="run", parallel={{"env": "local"}})
    run.wait(interval=0.2)
    print(json.dumps([local, run.collect()]))
"""
)


def test_what_was_imported_before_a_folder_that_hides_it_is_so_in_workers(tmp_path: Path) -> None:
    (tmp_path / "library").mkdir()
    for name in OF_ITS_OWN:
        (tmp_path / "library" / f"{name}.py").touch()
    (tmp_path / "script.py").write_text(HIDING)
    done = python("script.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    local, collected = json.loads(done.stdout)
    own = [name for name in OF_ITS_OWN if local[0][name].startswith(str(tmp_path))]
    assert own == ["tabnanny"]  # nobody had imported it before
    assert collected == local
