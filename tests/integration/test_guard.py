"""A test process that is interrupted or killed leaves no server behind.

OAR's is in `tests/contract/test_oar.py`, since there is one per machine. Each server is interrupted
in each way with ESPNET3_LONG_TESTS=1; otherwise in the rudest one, and Slurm by Ctrl-C as well.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import sge_cluster, slurm_accounting
from tests.support.daemons import Process, wait_for
from tests.support.debian import require
from tests.support.interrupted import ROOT, WAYS, leaves_nothing

pytestmark = pytest.mark.slow


@pytest.mark.slurm
@pytest.mark.parametrize("way", dict.fromkeys(("ctrl-c", *WAYS)))
def test_slurm_with_accounting_ends(tmp_path: Path, way: str) -> None:
    require("Slurm", slurm_accounting.ACCOUNTING_PROGRAMS)
    setup = "from tests.support.slurm_accounting import AccountingCluster"
    # It has nothing of its submitter's environment, and outlives its session.
    stays = f"touch {tmp_path}/stays; setsid sleep 1000 & sleep 1000"
    job = (
        f"cluster.run('sbatch', '--export=NONE', '--output=/dev/null', '--wrap', {stays!r}); "
        f"cluster.wait_until(Path('{tmp_path}/stays').exists, 'no job')"
    )
    leaves_nothing(tmp_path, way, setup, "AccountingCluster", job)


@pytest.mark.server
@pytest.mark.parametrize("way", WAYS)
def test_sge_ends(tmp_path: Path, way: str) -> None:
    require("SGE", sge_cluster.PROGRAMS, sge_cluster.ANSWERS)
    setup = "from tests.support.sge_cluster import SgeCluster"
    job = "cluster.run('qsub', '-b', 'y', '-o', '/dev/null', '-j', 'y', 'sleep', '1000')"
    leaves_nothing(tmp_path, way, setup, "SgeCluster", job)


def test_any_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    """Servers, drivers and workers alike, in sessions of their own or not."""
    program = (
        "import subprocess, sys, time; from pathlib import Path\n"
        "from tests.support import guard\n"
        "folder = Path(sys.argv[1]); guard.watch(folder / 'guarded')\n"
        "child = subprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
        "print(child.pid, flush=True); time.sleep(1000)\n"
    )
    (tmp_path / "guarded").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = Process.of(int(parent.stdout.readline()))
        assert child is not None
        os.kill(parent.pid, signal.SIGKILL)
    assert wait_for(lambda: not child.alive(), 60)
    assert wait_for(lambda: not (tmp_path / "guarded").exists(), 60)
