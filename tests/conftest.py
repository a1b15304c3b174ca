"""What every test relies on: nothing of the user's or the site's configuration leaks in."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support import guard

pytest_plugins = [
    "tests.support.gate_fixtures",
    "tests.support.s3_fixtures",
    "tests.support.sge_fixtures",
    "tests.support.slurm_fixtures",
]
# How long files of other hosts may be late, before anything reads it: there are none here.
os.environ.setdefault("ESPNET3_PATIENCE", "1")
# A search through all that is installed, in each process that tests start: a third of its start.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
# How long an example takes says nothing on a machine that does something else besides.
EXAMPLES = 100 if os.environ.get("ESPNET3_LONG_TESTS") == "1" else 40
settings.register_profile("untimed", settings.default, deadline=None, max_examples=EXAMPLES)
settings.load_profile("untimed")
TESTS = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    """Before anything imports Dask, which reads its configuration once, at import.

    DASK_CONFIG alone is not enough: ~/.config/dask is read besides, and templates are written to
    it. A shell within a Slurm job, or with Slurm's defaults exported, would change what tests see.
    """
    # A shell's background job ignores SIGINT, and what it starts would, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # so would what nohup starts
        signal.signal(signal.SIGHUP, lambda number, frame: None)
    home = Path(tempfile.mkdtemp(prefix="espnet3-home-"))
    (home / "dask").mkdir()
    for name in list(os.environ):
        if name.startswith(("DASK_", "SLURM_", "SBATCH_", "XDG_CONFIG_")):
            del os.environ[name]
    os.environ["HOME"] = str(home)
    os.environ["DASK_CONFIG"] = os.environ["DASK_ROOT_CONFIG"] = str(home / "dask")
    guard.watch(home)  # it removes the folder, too


@pytest.hookimpl(trylast=True)  # when all marks are set
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that none is begun by one process when the others are at their end.

    The longest are of the machine's only OAR, then those of the other schedulers. Tests with Slurm
    wait much; those of one module, and its doctests, are soon done.
    """
    slurm = {item.path for item in items if item.get_closest_marker("slurm")}
    oar, schedulers = TESTS / "contract/test_oar.py", TESTS / "contract"
    long = {TESTS / name for name in ("chaos", "contract", "integration")}

    def rank(item: pytest.Item) -> tuple[bool, ...]:
        path = item.path
        later = path not in slurm, long.isdisjoint(path.parents)
        return path != oar, schedulers not in path.parents, *later

    items.sort(key=rank)
