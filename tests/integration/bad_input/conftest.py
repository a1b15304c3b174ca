"""Every test of bad input has a folder of its own, and may have a finished run in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from espnet3.parallel import set_parallel
from espnet3.run import submit_run
from tests.support.helpers import processes_of, wait_for
from tests.support.refusals import IN_WORKER, Provider, Runner


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Every test in a folder of its own, so that whatever a call writes by mistake shows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(IN_WORKER, raising=False)
    yield tmp_path
    set_parallel(None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two shards. Copied before it is damaged."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    run = submit_run(Runner(Provider({})), range(4), run_dir=folder, parallel={"n_workers": 2})
    assert run.wait(60, 0.1).done
    # A worker lives for a moment after its receipt, and would be taken for that of the copies.
    wait_for(lambda: not processes_of(run), "its processes live on")
    return folder


@pytest.fixture
def run_dir(finished: Path, here: Path) -> Path:
    shutil.copytree(finished, here / "run")
    return here / "run"
