"""What starts fast stays so: the modules that a worker and `import espnet3` load."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from espnet3.specs import layout
from espnet3.storage.base import Store
from espnet3.worker import exit_codes
from tests.support.worker_runs import write_run

HEAVY = {
    "asyncio",
    "click",
    "dask",
    "dask_jobqueue",
    "distributed",
    "fsspec",
    "omegaconf",
    "rich",
    "torch",
}
LIGHT_RUNNER = """
from espnet3.parallel import BaseRunner, InferenceProvider

class Provider(InferenceProvider):
    @staticmethod
    def build_dataset(config):
        return list(range(config["n"]))
    @staticmethod
    def build_model(config):
        return abs

class Runner(BaseRunner):
    @staticmethod
    def forward(idx, *, dataset, model):
        return model(dataset[idx])
"""
WORK = """
import sys
from espnet3.worker.main import main
code = main([sys.argv[1], "0001", "--task", "0"])
print(code, *sorted({name.partition(".")[0] for name in sys.modules}))
"""


PROCESS = """
import runpy, sys
sys.argv[1:] = [sys.argv[1], "0001", "--task", "0"]
try:
    runpy.run_module("espnet3.worker", run_name="__main__", alter_sys=True)
except SystemExit as end:
    print(end.code, *sorted(sys.modules))
"""
# What every worker once loaded, and none needs.
SPARED = {
    "argparse",
    "_hashlib",  # OpenSSL
    "base64",
    "datetime",  # what is in C is enough
    "difflib",
    "email",
    "espnet3.config.model",
    "espnet3.schedulers.batch_system",  # the run is local
    "espnet3.user_code.variables",
    "fnmatch",
    "gettext",
    "importlib.metadata",
    "inspect",
    "ipaddress",
    "locale",
    "pathlib",
    "pickle",  # as datetime
    "pkgutil",
    "platform",
    "pydantic",
    "pydantic_core",  # only its compiled module
    "random",
    "secrets",
    "shutil",
    "typing_extensions",
    "urllib.parse",
}


def loaded(code: str, *arguments: str, **environ: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments], env=os.environ | environ,
        cwd="/", capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout.split()


def write_light_run(store: Store, folder: Path, *, omegaconf: bool = False) -> None:
    """A run of two shards whose runner and provider load nothing but espnet3."""
    (folder / "light_runner.py").write_text(LIGHT_RUNNER)
    write_run(store, {})
    path = Path(store.root, layout.RUN)
    run = orjson.loads(path.read_bytes())
    run["runner"] |= {"module": "light_runner", "qualname": "Runner"}
    run["provider"] = {
        "cls": {"module": "light_runner", "qualname": "Provider", "file": None},
        "args": [{"value": {"n": 6}, "omegaconf": omegaconf}],
        "kwargs": {},
    }
    run["sys_path"] = [str(folder)]
    path.write_bytes(orjson.dumps(run))


@pytest.mark.parametrize("omegaconf", [False, True])
def test_a_worker_that_computes_a_shard_loads_nothing_heavy(
    store: Store, tmp_path: Path, omegaconf: bool
) -> None:
    write_light_run(store, tmp_path, omegaconf=omegaconf)
    code, *names = loaded(WORK, store.root)
    assert code == "0"
    assert store.exists(layout.receipt(0))
    assert HEAVY & set(names) <= ({"omegaconf"} if omegaconf else set())
    assert ("omegaconf" in names) is omegaconf


def test_a_worker_needs_no_pydantic_where_another_one_kept_its_schemas(
    store: Store, tmp_path: Path
) -> None:
    write_light_run(store, tmp_path)
    bytecode = {"PYTHONPYCACHEPREFIX": str(tmp_path / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}
    code, *names = loaded(PROCESS, store.root, **bytecode)
    assert code == "0"
    assert "pydantic" in names
    first = store.read(layout.receipt(0))
    os.unlink(store.locate(layout.receipt(0)))
    code, *names = loaded(PROCESS, store.root, **bytecode)
    assert code == "0"
    assert not (HEAVY | SPARED) & set(names)
    second = store.read(layout.receipt(0))
    changing = {"attempt", "created", "parts", "salvaged", "usage"}
    left = [{k: v for k, v in orjson.loads(receipt).items() if k not in changing}
            for receipt in (first, second)]  # fmt: skip
    assert left[0] == left[1]


COMPILED = (
    WORK
    + """
import typing
classes = [value for name in list(sys.modules) if name.startswith("espnet3")
           for value in vars(sys.modules[name]).values() if isinstance(value, type)]
print(*{f"{made.__module__}.{made.__name__}" for made in classes if issubclass(made, tuple)
        for field in made.__annotations__.values() if isinstance(field, typing.ForwardRef)})
"""
)


def test_no_worker_waits_until_the_fields_of_tuples_are_compiled(
    store: Store, tmp_path: Path
) -> None:
    write_light_run(store, tmp_path)
    code, *rest = loaded(COMPILED, store.root)
    assert code == "0"
    assert not [name for name in rest if name.startswith("espnet3.")]


CHECK = """
import runpy, sys
try:
    runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
except SystemExit as end:
    print(end.code, *sorted(sys.modules))
"""


def test_the_check_before_a_submission_starts_as_a_worker_does(
    store: Store, tmp_path: Path
) -> None:
    write_light_run(store, tmp_path)
    result = tmp_path / "result"
    told = "import sys; sys.argv[1:], sys.stdin = [sys.argv[2]], open(sys.argv[1])" + CHECK
    told = told.replace("MODULE", repr("espnet3.worker.rebuild_check"))
    bytecode = {"PYTHONPYCACHEPREFIX": str(tmp_path / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}
    for light in (False, True):
        code, *names = loaded(told, store.locate(layout.RUN), str(result), **bytecode)
        assert code == "0"
        assert result.read_text() == ""
        result.unlink()
        assert ("pydantic" not in names) is light
    assert not HEAVY & set(names)


def test_a_supervisor_starts_as_a_worker_does(tmp_path: Path) -> None:
    bytecode = {"PYTHONPYCACHEPREFIX": str(tmp_path / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}
    told = CHECK.replace("MODULE", repr("espnet3.worker.supervisor"))
    for light in (False, True):
        code, *names = loaded(told, "no-run", "0001", **bytecode)
        assert int(code) == exit_codes.USAGE
        assert ("pydantic" not in names) is light
    assert not HEAVY & set(names)


@pytest.mark.parametrize(
    "module", ["espnet3", "espnet3.parallel", "espnet3.specs", "espnet3.submit", "espnet3.collect"]
)
def test_importing_a_package_loads_nothing_else(module: str) -> None:
    names = loaded(f"import sys, {module}; print(*{{n.partition('.')[0] for n in sys.modules}})")
    assert not (HEAVY | {"pydantic", "orjson", "psutil"}) & set(names)


EXTENSION_FIRST = """
import sys
from espnet3.startup import extension
extension.load()
from espnet3.startup.kept_schemas import SchemaValidator
alone = "pydantic_core" not in sys.modules
import pydantic
from pydantic_core import SchemaValidator as theirs, _pydantic_core
class Model(pydantic.BaseModel):
    x: int
assert SchemaValidator is theirs is _pydantic_core.SchemaValidator
print(alone, Model(x="3").x)
"""


def test_user_code_may_import_pydantic_after_its_compiled_module_was_loaded_alone() -> None:
    command = [sys.executable, "-c", EXTENSION_FIRST]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "True 3\n"
