"""Sources that are edited while a run goes on: who says so, and which code computes what."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from espnet3.run import Run
from espnet3.specs import layout
from espnet3.specs.models import CodeRecord, decode
from tests.support.commands import said
from tests.support.helpers import jobs, submission, wait_for

COMMAND = [sys.executable, "-P", "-m", "espnet3"]
DECODE = """
    import time
    from pathlib import Path

    from espnet3.parallel import BaseRunner, EnvironmentProvider
    from lib.net import apply


    class Provider(EnvironmentProvider):
        def build_env_local(self):
            return {"folder": Path(self.config["folder"])}


    class Runner(BaseRunner):
        @staticmethod
        def forward(idx, folder):
            with (folder / "begun").open("a") as file:
                file.write(f"{idx} ")
            while idx in (1, 2) and not (folder / "gate").exists():
                time.sleep(0.02)
            return apply(idx)
"""
PROJECT = {
    "decode.py": DECODE,
    "lib/__init__.py": "",
    "lib/factor.txt": "2",
    "lib/net.py": """
        from pathlib import Path

        from . import words
        from .inner.table import OFFSET
        FACTOR = int((Path(__file__).parent / "factor.txt").read_text())
        TITLE = (Path(__file__).parent.parent / "conf" / "title").read_text()


        def apply(idx):
            from .later import SUFFIX
            from spaces.part import MARK
            return f"{TITLE}{words.OLD}{idx * FACTOR + OFFSET}{SUFFIX}{MARK}"
    """,
    "lib/words.py": "OLD = 'old '\n",
    "lib/later.py": "SUFFIX = '.'\n",
    "lib/inner/__init__.py": "",
    "lib/inner/table.py": "from ..words import OLD\nOFFSET = 1\n",
    "spaces/part.py": "MARK = '!'\n",  # of a namespace package, imported by forward
    "conf/title": "# ",
}
OLD = ["# old 1.!", "# old 3.!", "# old 5.!", "# old 7.!"]
NEW = [text.replace("old", "new") for text in OLD]


class Project:
    """A user's folder whose run `run` waits at items 1 and 2, in two shards of two items."""

    def __init__(self, folder: Path, **parallel: Any) -> None:
        self.folder, self.run_dir = folder, str(folder / "run")
        self.parallel = {"env": "local", "n_workers": 2, **parallel}
        for name, text in PROJECT.items():
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip())

    def edit(self) -> None:
        """What a user mends after a look at the first results."""
        self.write("lib/words.py", "OLD = 'new '  # that is better\n")

    def config(self) -> str:
        config = {
            "provider": {"_target_": "decode.Provider"},
            "runner": {"_target_": "decode.Runner"},
            "items": 4,
            "n_shards": 2,
            "run_dir": self.run_dir,
            "config": {"folder": str(self.folder)},
            "parallel": self.parallel,
        }
        self.write("go.yaml", json.dumps(config))
        return "go.yaml"

    def __call__(self, *words: str, code: int = 0) -> str:
        """What a command complains; one that looks at no sources runs in this process."""
        if words[0] == "submit" or (words[0], code) == ("resume", 0):
            done = subprocess.run(
                [*COMMAND, *words], cwd=self.folder, capture_output=True, text=True, timeout=200
            )
            ended, complaints = done.returncode, done.stderr
        else:
            with contextlib.chdir(self.folder):
                ended, _, complaints = said(*words)
        assert ended == code, complaints
        assert "Traceback" not in complaints
        return complaints

    @property
    def run(self) -> Run:
        return Run(self.run_dir)

    def begun(self) -> set[str]:
        file = self.folder / "begun"
        return {*file.read_text().split()} if file.exists() else set()

    def submit_and_cancel(self) -> None:
        """Item 0 is done, 1 and 2 have begun, when the run is cancelled."""
        self("submit", self.config())
        wait_for(lambda: {"0", "1", "2"} <= self.begun(), "the shards do not run")
        self("cancel", self.run_dir)
        self.run.wait(timeout=100, interval=0.2)

    def results(self) -> list[Any]:
        (self.folder / "gate").touch()
        self.run.wait(timeout=100, interval=0.2)
        found: list[Any] = self.run.collect()
        return found

    def record(self, number: int) -> CodeRecord:
        path = Path(self.run_dir, layout.code_record(number))
        return decode(CodeRecord, path.read_bytes(), str(path))

    def logs(self) -> str:
        return "".join(p.read_text() for p in sorted(Path(self.run_dir, "logs").iterdir()))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A failing test leaves no worker behind that waits for ever."""
    place = tmp_path / "my project"
    place.mkdir()
    yield place
    (place / "gate").touch()


def test_a_resume_with_edited_code_says_so_first(folder: Path) -> None:
    project = Project(folder)
    project.submit_and_cancel()
    assert submission(project.run).code == 1
    assert {file.name for file in project.record(1).files} == {
        "decode.py", "lib/__init__.py", "lib/net.py", "lib/words.py", "lib/inner/__init__.py",
        "lib/inner/table.py",
    }  # fmt: skip
    assert project.run.status().changed_sources == []
    project.edit()
    [changed] = project.run.status().changed_sources
    assert changed == str(folder / "lib/words.py")
    told = project("status", project.run_dir, code=1)
    assert told == f"espnet3: source files differ from those that were submitted: {changed}\n"
    for words in (["resume", project.run_dir], ["submit", "go.yaml"]):
        told = project(*words, code=2)
        assert told.count("\n") == 1
        assert "differ from those that were submitted: lib/words.py; go on" in told
        assert "(repeat the command with `--code current`, in Python" in told
        assert "espnet3 resume" not in told  # it may have been another one, with options
    told = project("resume", project.run_dir, "--code", "submitted", code=2)
    assert "nobody kept the source files as they were submitted (lib/words.py)" in told
    assert not Path(project.run_dir, layout.submission(2)).exists()
    project("resume", project.run_dir, "--code", "current")
    assert (submission(project.run, 2).code, project.record(2).snapshot) == (2, False)
    # What was done stays.
    assert project.results() == [OLD[0], *NEW[1:]]
    assert "source files differ" not in project.logs()


def test_code_that_is_put_back_is_the_same(folder: Path) -> None:
    project = Project(folder)
    project.submit_and_cancel()
    project.edit()
    project.write("lib/words.py", PROJECT["lib/words.py"])
    os.utime(folder / "lib/net.py")  # as a checkout does
    project("resume", project.run_dir)
    assert submission(project.run, 2).code == 1
    assert not Path(project.run_dir, layout.code_record(2)).exists()
    assert project.results() == OLD


def test_the_same_call_goes_on_where_it_is_told_with_what(folder: Path) -> None:
    project = Project(folder)
    project.submit_and_cancel()
    (folder / "lib/inner/table.py").unlink()
    assert "lib/inner/table.py (gone)" in project("resume", project.run_dir, code=2)
    project.write("lib/inner/table.py", "OFFSET = 2\n")
    project("submit", "go.yaml", "--code", "current")
    assert submission(project.run, 2).code == 2
    assert project.results() == [OLD[0], "# old 4.!", "# old 6.!", "# old 8.!"]


def test_a_snapshot_computes_all_by_the_old_code(folder: Path) -> None:
    project = Project(folder, snapshot=True)
    project.submit_and_cancel()
    assert {"lib/factor.txt", "lib/later.py"} < {file.name for file in project.record(1).files}
    project.edit()
    project.write("lib/factor.txt", "20")
    project.write("lib/later.py", "SUFFIX = ','\n")
    project.write("decode.py", "raise SystemExit('half an edit')\n")
    told = project("resume", project.run_dir, code=2)
    assert "decode.py, lib/factor.txt, lib/later.py and 1 more" in told
    assert "or with what was submitted (`--code submitted`)" in told
    project("resume", project.run_dir, "--code", "submitted")
    assert submission(project.run, 2).code == 1
    assert project.results() == OLD
    assert "code: as it was submitted, from code/0001" in project.logs()
    assert "not from the snapshot" not in project.logs()


def test_a_resume_with_current_code_takes_a_new_snapshot(folder: Path) -> None:
    project = Project(folder, snapshot=True)
    project.submit_and_cancel()
    project.edit()
    project("resume", project.run_dir, "--code", "current")
    assert (submission(project.run, 2).code, project.record(2).snapshot) == (2, True)
    project.write("lib/words.py", PROJECT["lib/words.py"])
    assert project.results() == [OLD[0], *NEW[1:]]


def _stop(project: Project) -> int:
    """Submit with the supervisor stopped before it starts a second worker."""
    project.parallel["n_workers"] = 1
    project("submit", project.config())
    wait_for(lambda: {"0", "1"} <= project.begun(), "the first shard does not run")
    [job] = jobs(project.run).jobs
    return int(job.job_id)


def test_a_worker_names_what_was_edited_before_it_began(folder: Path) -> None:
    project = Project(folder)
    _stop(project)
    project.edit()
    assert project.results() == [*OLD[:2], *NEW[2:]]
    words = "code: source files differ from those that were submitted: lib/words.py\n"
    assert project.logs().count(words) == 1


def test_a_worker_that_begins_late_has_the_snapshot(folder: Path) -> None:
    project = Project(folder, snapshot=True)
    _stop(project)
    project.edit()
    assert project.results() == OLD
    assert "differ" not in project.logs()


SCRIPT = """
    import multiprocessing
    import sys
    from pathlib import Path

    from espnet3.parallel import BaseRunner, EnvironmentProvider, set_parallel
    sys.path.insert(0, str(Path(__file__).parent / "tools"))
    from tool import name


    class Provider(EnvironmentProvider):
        def build_env_local(self):
            return {"pool": multiprocessing.get_context("spawn").Pool(1)}


    def here(idx):
        return [idx, name(), Path(__file__).parent.parent.name]


    class Runner(BaseRunner):
        @staticmethod
        def forward(idx, pool):
            return [here(idx), pool.apply(here, (idx,))]


    if __name__ == "__main__":
        set_parallel({"env": "local", "async_mode": True, "snapshot": True})
        run = Runner(Provider({}), run_dir="run")(range(2))
        Path("main.py").write_text("raise SystemExit('edited')")
        Path("tools/tool.py").write_text("raise SystemExit('edited')")
        run.wait(timeout=100, interval=0.2)
        print(run.collect())
"""


def test_a_script_and_its_children_run_from_the_snapshot(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "tool.py").write_text("def name():\n    return 'tool'\n")
    (tmp_path / "main.py").write_text(textwrap.dedent(SCRIPT))
    done = subprocess.run(
        [sys.executable, "main.py"], cwd=tmp_path, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    each = ["tool", "0001"]
    assert done.stdout == f"{[[[i, *each], [i, *each]] for i in range(2)]}\n"


KILLED = """
    import os, signal, sys
    sys.path.insert(0, "")
    from espnet3.cli import main
    from espnet3.storage import tree

    def die(*args, **keys):
        for n, each in enumerate(args[1]):
            if n == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            write(args[0], [each], [], durable=False)

    write = tree.write_tree
    tree.write_tree = die
    sys.argv[1:] = ["submit", "go.yaml"]
    main()
"""


def test_a_submitter_that_is_killed_while_it_copies(folder: Path) -> None:
    project = Project(folder, snapshot=True)
    project.config()
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED)], cwd=folder)
    assert killed.returncode == -signal.SIGKILL
    left = {path.name for path in Path(project.run_dir, layout.CODE).iterdir()}
    assert len(left) == 1
    assert next(iter(left)).startswith(".")
    project.edit()
    project("submit", "go.yaml")
    assert submission(project.run).code == 1
    assert project.results() == NEW
