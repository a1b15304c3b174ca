"""Changes between two calls in the synchronous mode: local mode's answer, and no needless work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.helpers import python

CLASSES = """
import multiprocessing, os, sys, time
from pathlib import Path
from espnet3.parallel import BaseRunner, EnvironmentProvider, InferenceProvider

BUILT = Path(__file__).parent / "built"

class Base(InferenceProvider):
    bonus = {"all": 0}

class Beams(Base):
    top = 1

    @staticmethod
    def build_dataset(config):
        with BUILT.open("a") as file:
            file.write(f"{os.getpid()}\\n")
        return range(9)

    @staticmethod
    def build_model(config):
        return [config["beam"], config["deep"]["list"][-1], Beams.top, Base.bonus["all"]]

class Whole(EnvironmentProvider):
    def build_env_local(self):
        return {"dataset": 0, "lm": 0, "model": [self.config["beam"], getattr(self, "new", None)]}

class Work(BaseRunner):
    factor = 1
    cache = None  # made where the work is done

    @staticmethod
    def forward(idx, *, dataset, model, lm):
        if Work.cache is None:
            Work.cache = []
        Work.cache.append(idx)
        # A class of the script comes anew where it has changed, and with it its cache.
        return [model, lm, Work.factor, __name__ == "__main__" or len(Work.cache) > 1]

class State(BaseRunner):
    @staticmethod
    def forward(idx, **env):
        status = Path("/proc/self/status").read_text()
        return [
            [ascii(word) for word in sys.argv], ascii(os.environ.get("BYTES")), os.getcwd(),
            os.environ.get("BEAM"), os.environ.get("GONE"), time.strftime("%H", time.localtime(0)),
            multiprocessing.get_start_method(),
            sys.getrecursionlimit(), status.partition("Umask:")[2].split()[0],
        ]
"""

CHANGES = """
import json, multiprocessing, os, sys, time
from omegaconf import OmegaConf
from espnet3.parallel import set_parallel
IMPORT

def main():
    seen = []

    def look(name, runner, items=(0,)):
        before = len(BUILT.read_text().split()) if BUILT.exists() else 0
        remote = runner(items)
        after = len(BUILT.read_text().split()) if BUILT.exists() else 0
        Work.cache = [1]  # as the worker's is by then
        local = runner._run_here(list(items), False)
        Work.cache = None
        seen.append([name, remote == local, after - before, remote, local])

    multiprocessing.set_start_method("fork")
    set_parallel({"env": "local", "n_workers": 1})
    config = {"beam": 1, "deep": {"list": [1]}}
    for kind, cfg in (("dict", config), ("OmegaConf", OmegaConf.create(config))):
        p = Beams(cfg, params={"lm": 0.1})
        r = Work(p)
        r((0, 1))
        look(f"{kind} unchanged", r)
        look(f"{kind} another runner", Work(p))
        p.config["beam"] = 20
        look(f"{kind} item", r)
        look(f"{kind} item, unchanged", r)
        p.config["deep"]["list"].append(7)
        look(f"{kind} deep", r)
        p.params["lm"] = 0.9
        look(f"{kind} params", r)
        p.config = {"beam": 3, "deep": {"list": [5]}}
        look(f"{kind} replaced", r)
        Beams.top += 1
        look(f"{kind} class attribute", r)
        Base.bonus["all"] += 2
        look(f"{kind} base's attribute", r)
        Beams.top -= 1
        look(f"{kind} class attribute as it was", r)
        Work.factor += 1
        look(f"{kind} runner's attribute", r)
        look(f"{kind} all unchanged", r)
    w = Whole({"beam": 1})
    r = Work(w)
    r((0,))
    w.new = 5
    look("new attribute", r)
    del w.new
    look("attribute is gone", r)
    w.config["beam"] = 2
    look("config of a bound method", r)

    s = State(w)
    os.environ["GONE"] = "1"
    look("state", s)
    os.environ["BEAM"] = "20"
    look("variable", s)
    os.environ["BEAM"] = "30"
    look("variable again", s)
    del os.environ["BEAM"], os.environ["GONE"]
    look("variables are gone", s)
    sys.argv.append("--beam")
    look("argv", s)
    sys.argv.append(os.fsdecode(b"caf\\xe9"))
    os.environ["BYTES"] = os.fsdecode(b"caf\\xe9")
    os.environ["TZ"] = "Asia/Tokyo"
    time.tzset()
    look("what is not UTF-8", s)
    multiprocessing.set_start_method("forkserver", force=True)
    look("start method", s)
    os.makedirs("folder")
    os.chdir("folder")
    look("folder", s)
    os.chdir("..")
    look("folder as before", s)
    sys.setrecursionlimit(4321)
    look("recursion limit", s)
    os.umask(0o027)
    look("umask", s)
    print(json.dumps(seen))

if __name__ == "__main__":
    main()
"""
BUILDS = ("item", "deep", "params", "replaced", "class attribute", "base's attribute",
          "class attribute as it was")  # fmt: skip


def changes(folder: Path, *, as_module: bool) -> list[Any]:
    imported = "from classes import *\nfrom classes import BUILT"
    (folder / "classes.py").write_text(CLASSES)
    (folder / "changes.py").write_text(
        CHANGES.replace("IMPORT", imported if as_module else CLASSES)
    )
    done = python("changes.py", cwd=folder)
    assert done.returncode == 0, done.stderr
    seen: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return seen


@pytest.mark.parametrize("as_module", [True, False], ids=["module", "script"])
def test_changes_between_calls_are_seen(tmp_path: Path, as_module: bool) -> None:
    for name, equal, built, remote, local in changes(tmp_path, as_module=as_module):
        assert equal, (name, remote, local)
        kind, _, change = name.partition(" ")
        if kind in ("dict", "OmegaConf"):
            assert built == (change in BUILDS), name
