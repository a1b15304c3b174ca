"""What starts fast stays so: the modules that a worker and `import espnet3` load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from espnet3.specs import layout
from espnet3.specs.store import Store
from tests.unit.worker.runs import write_run

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


def loaded(code: str, *arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments],
        cwd="/", capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout.split()


@pytest.mark.parametrize("omegaconf", [False, True])
def test_a_worker_that_computes_a_shard_loads_nothing_heavy(
    store: Store, tmp_path: Path, omegaconf: bool
) -> None:
    (tmp_path / "light_runner.py").write_text(LIGHT_RUNNER)
    write_run(store, {})
    path = Path(store.root, layout.RUN)
    import orjson

    run = orjson.loads(path.read_bytes())
    run["runner"] |= {"module": "light_runner", "qualname": "Runner"}
    run["provider"] = {
        "cls": {"module": "light_runner", "qualname": "Provider", "file": None},
        "args": [{"value": {"n": 6}, "omegaconf": omegaconf}],
        "kwargs": {},
    }
    run["sys_path"] = [str(tmp_path)]
    path.write_bytes(orjson.dumps(run))
    code, *names = loaded(WORK, store.root)
    assert code == "0"
    assert store.exists(layout.receipt(0))
    assert HEAVY & set(names) <= ({"omegaconf"} if omegaconf else set())
    assert ("omegaconf" in names) is omegaconf


@pytest.mark.parametrize(
    "module", ["espnet3", "espnet3.parallel", "espnet3.specs", "espnet3.submit", "espnet3.collect"]
)
def test_importing_a_package_loads_nothing_else(module: str) -> None:
    names = loaded(f"import sys, {module}; print(*{{n.partition('.')[0] for n in sys.modules}})")
    assert not (HEAVY | {"pydantic", "orjson", "psutil"}) & set(names)
