"""The script that submits is `__main__` for pickles and for children, in workers as in itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipapp
from pathlib import Path

import pytest

from tests.support.helpers import python
from tests.support.scripts import PROVIDER_OF_NOTHING

# Says at its import where that happens; what is below the guard would submit again.
WORK = """
import concurrent.futures, json, multiprocessing, os, pickle, sys
from espnet3.parallel import BaseRunner, EnvironmentProvider

HERE = os.environ["HERE"]


class Model:
    def __init__(self, k):
        self.k = k

    def __call__(self, x):
        return Result(x * self.k)


class Result:
    def __init__(self, value):
        self.value = value


def double(x):
    return 2 * x


def twice(method, x):
    # A child of a child.
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(double, x).result()


def in_children(x):
    found = []
    for method in ("spawn", "forkserver", "fork"):
        context = multiprocessing.get_context(method)
        with context.Pool(1) as pool:
            found.append(pool.map(double, [x])[0])
    with concurrent.futures.ProcessPoolExecutor(
        1, mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        found.append(pool.submit(twice, "spawn", x).result())
        result = pool.submit(Model(5), x).result()
    assert isinstance(result, Result)
    return [*found, result.value]


class Provider(EnvironmentProvider):
    def build_env_local(self):
        with open(os.path.join(HERE, "model.pkl"), "rb") as file:
            return {"model": pickle.load(file), "children": self.config["children"]}


class Runner(BaseRunner):
    @staticmethod
    def forward(idx, *, model, children):
        assert type(model) is Model
        result = model(idx)
        result.children = in_children(idx) if children else None
        return result


if __name__ == "__main__":
    from espnet3.run import submit_run  # not in children, of which there are many

    with open(os.path.join(HERE, "model.pkl"), "wb") as file:
        file.write(MODEL)
    provider = Provider({"children": CHILDREN})
    local = Runner(provider)([3]) if CHILDREN else [Model(3)(3)]
    config = {"env": "local", "results": "pickle"}
    run = submit_run(Runner(provider), [3], run_dir=os.path.join(HERE, "run"), parallel=config)
    run.wait(interval=0.2)
    [found] = run.collect()
    with open(os.path.join(HERE, "out.json"), "w") as file:
        same = type(found) is Result
        json.dump([same, local[0].value, vars(local[0]).get("children"), vars(found)], file)
"""


def script(*, children: bool, pickled: bool = True) -> str:
    model = "pickle.dumps(Model(3))" if pickled else "b''"
    return WORK.replace("MODEL)", f"{model})").replace("CHILDREN", str(children))


def outcome(done: subprocess.CompletedProcess[str], folder: Path) -> list[object]:
    out = folder / "out.json"
    assert out.exists(), done.stdout + done.stderr
    found: list[object] = json.loads(out.read_text())
    return found


@pytest.mark.parametrize("way", ["file", "no suffix", "module", "folder", "package"])
def test_children_and_pickles_know_the_script(tmp_path: Path, way: str) -> None:
    """Every way in which the driver's own children can import its main module."""
    names = {
        "file": "script.py", "no suffix": "script", "module": "pack/work.py",
        "folder": "work/__main__.py", "package": "pack/__main__.py",
    }  # fmt: skip
    file = tmp_path / "code" / names[way]
    file.parent.mkdir(parents=True)
    # The children of a folder's or a package's main module do not import it.
    children = way not in ("folder", "package")
    file.write_text(script(children=children))
    words = {"module": ["-m", "pack.work"], "package": ["-m", "pack"], "folder": ["work"]}
    done = python(*words.get(way, [names[way]]), env={"HERE": str(tmp_path)}, cwd=tmp_path / "code")
    expected = [6, 6, 6, 6, 15] if children else None
    assert outcome(done, tmp_path) == [True, 9, expected, {"value": 9, "children": expected}]


@pytest.mark.parametrize("way", ["cProfile", "pdb", "zipapp", "runpy"])
def test_scripts_that_another_program_runs(tmp_path: Path, way: str) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    source = script(children=False, pickled=way != "cProfile")
    if way == "cProfile":  # there even this process's own pickles do not find the script
        source = source.replace("pickle.load(file)", "Model(3)")
        source = source.replace("type(found) is Result", "type(found).__name__ == 'Result'")
    (folder / ("__main__.py" if way == "zipapp" else "script.py")).write_text(source)
    if way == "zipapp":
        zipapp.create_archive(folder, tmp_path / "app.pyz")
    words = {
        "cProfile": ["-m", "cProfile", "-o", os.devnull, "script.py"],
        "pdb": ["-m", "pdb", "-c", "continue", "script.py"],
        "zipapp": [str(tmp_path / "app.pyz")],
        "runpy": ["-c", "import runpy; runpy.run_path('script.py', run_name='__main__')"],
    }[way]
    done = subprocess.run(
        [sys.executable, *words], env={**os.environ, "HERE": str(tmp_path)}, cwd=folder,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert outcome(done, tmp_path) == [True, 9, None, {"value": 9, "children": None}]


READER = """
import espnet3, sys
class Result:
    "Not that of the run."
[found] = espnet3.Run(sys.argv[1]).collect()
print(found.value, type(found).__module__, type(found) is Result, sys.argv[1:] == [sys.argv[1]])
"""


def test_another_script_reads_what_the_script_pickled(tmp_path: Path) -> None:
    """Also one that has a class of the same name, and one run beside another."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "script.py").write_text(script(children=False))
        done = python("script.py", env={"HERE": str(tmp_path / name)}, cwd=tmp_path / name)
        outcome(done, tmp_path / name)
    (tmp_path / "reader.py").write_text(READER)
    done = python(str(tmp_path / "reader.py"), str(tmp_path / "one" / "run"), env={"HERE": "/"})
    assert done.stdout == "9 __espnet3_main__ False True\n", done.stderr
    both = (
        "import espnet3, sys\n"
        "found = [espnet3.Run(path).collect()[0] for path in sys.argv[1:]]\n"
        "print(*(type(one).__init__.__code__.co_filename for one in found))"
    )
    runs = [str(tmp_path / name / "run") for name in ("one", "two")]
    done = python("-c", both, *runs, env={"HERE": "/"})
    assert done.stdout.split() == [str(tmp_path / n / "script.py") for n in ("one", "two")]


MAIN = """
import os, pickle
from espnet3.run import submit_run
import work

class Model:
    def __call__(self, x):
        return 3 * x

with open("imported", "a") as file:
    file.write(f"{__name__}\\n")
work.submitted(pickle.dumps(Model()))
"""
MODULE = """
import pickle
from espnet3.parallel import BaseRunner, EnvironmentProvider
from espnet3.run import submit_run

class Provider(EnvironmentProvider):
    def build_env_local(self):
        if not self.config["load"]:
            return {"model": abs}
        with open("model.pkl", "rb") as file:
            return {"model": pickle.load(file)}

class Runner(BaseRunner):
    @staticmethod
    def forward(idx, *, model):
        return model(idx)

def submitted(data, load=LOAD):
    with open("model.pkl", "wb") as file:
        file.write(data)
    provider = Provider({"load": load})
    run = submit_run(Runner(provider), [3], run_dir="run", parallel={"env": "local"})
    run.wait(interval=0.2)
    print(run.status().counts(), [shard.cause for shard in run.status().shards if shard.cause])
"""


@pytest.mark.parametrize("case", ["asked for", "not asked for", "unguarded"])
def test_a_script_that_no_class_is_from_is_imported_when_a_pickle_asks(
    tmp_path: Path, case: str
) -> None:
    source = MAIN if case != "asked for" else MAIN.replace(
        "work.submitted(", 'if __name__ == "__main__":\n    work.submitted('
    )  # fmt: skip
    (tmp_path / "main.py").write_text(source)
    load = case != "not asked for"
    (tmp_path / "work.py").write_text(MODULE.replace("LOAD", str(load)))
    done = python("main.py", cwd=tmp_path)
    imported = (tmp_path / "imported").read_text().split()
    if case == "unguarded":
        assert "failed" in done.stdout, done.stderr
        assert "put the submission below" in done.stdout
    else:
        assert done.stdout == "{'done': 1} []\n", done.stderr
        assert imported == (["__main__", "__mp_main__"] if load else ["__main__"])


JOBLIB = (
    PROVIDER_OF_NOTHING
    + """\
import os
from joblib import Parallel, delayed

def double(x):
    return 2 * x


class Runner(BaseRunner):
    @staticmethod
    def forward(idx):
        return Parallel(n_jobs=2)(delayed(double)(x) for x in range(idx))

if __name__ == "__main__":
    run = submit_run(Runner(Provider({})), [3], run_dir="run", parallel={"env": "local"})
    run.wait(interval=0.2)
    print(run.collect(), Runner(Provider({}))([3]))
"""
)


def test_joblib_in_forward(tmp_path: Path) -> None:
    pytest.importorskip("joblib")
    (tmp_path / "script.py").write_text(JOBLIB)
    done = python("script.py", cwd=tmp_path)
    assert done.stdout == "[[0, 2, 4]] [[0, 2, 4]]\n", done.stderr
