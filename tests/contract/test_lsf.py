"""The conformance suite on a stand-in for LSF, and that this is strict."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from espnet3.errors import SchedulerUnavailable
from espnet3.run import Run
from tests.contract.scheduler_contract import SchedulerContract
from tests.support.helpers import causes, ended, locally, states, submit_noting, wait_for
from tests.support.runners import GATE
from tests.support.sites.lsf import COMMANDS, LsfSite
from tests.support.sites.site import Site
from tests.support.stand_ins.batch import StandIn

ONE = "#!/bin/sh\ntrue\n"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """The stand-in, running."""
    folder = tmp_path_factory.mktemp("lsf") / "here"
    with StandIn(folder, "tests.support.stand_ins.lsf", COMMANDS).running() as started:
        yield started


class TestLsf(SchedulerContract):
    """At the commands."""

    real = False

    @pytest.fixture
    def site(self, cluster: StandIn) -> Site:
        return LsfSite(cluster)

    def test_why_tasks_of_a_throttled_array_wait(self, config: Any, tmp_path: Path) -> None:
        run = submit_noting(tmp_path, 4, config(n_shards=4, n_workers=2), gated=range(4))
        full = "The job array has reached its job slot limit"
        wait_for(lambda: [full in told for told in causes(run).values()].count(True) == 2,
                 "two do not wait for the others")  # fmt: skip
        wait_for(lambda: [*states(run).values()].count("running") == 2, "two do not run")
        (tmp_path / GATE).touch()
        assert ended(run).collect() == locally(tmp_path, 4)

    def test_a_submit_command_that_cannot_be_run(
        self, cluster: StandIn, config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody has refused anything then."""
        own = tmp_path / "own"
        own.mkdir()
        for command in COMMANDS:
            (own / command).symlink_to(cluster.bin / command)
        (own / "bsub").unlink()
        (own / "bsub").write_text("#!/no/such/interpreter\n")
        (own / "bsub").chmod(0o755)
        with monkeypatch.context() as patch:
            patch.setenv("PATH", f"{own}:/usr/bin:/bin")
            with pytest.raises(SchedulerUnavailable, match="bsub is not on this host's PATH"):
                submit_noting(tmp_path, 2, config(n_shards=2))
            cause = causes(Run(tmp_path / "run"))[0]
        assert cause.startswith("lsf: bsub is not on this host's PATH"), cause

    def test_cores_memory_and_a_gpu(self, seen: Any) -> None:
        more = ['-gpu "num=1"', '-R "rusage[mem=4096]"']
        found = seen(["LSB_DJOB_NUMPROC"], options={"cores": 2, "job_extra_directives": more})
        assert found == {"LSB_DJOB_NUMPROC": "2"}


@pytest.mark.parametrize(
    ("words", "script", "complaint"),
    [
        (["-J", "a[b]"], ONE, "Bad job name. Job not submitted."),
        (["-J", "a]"], ONE, "Bad job name. Job not submitted."),
        (["-J", "a b[1-3]"], ONE, "Bad job name. Job not submitted."),
        (["-J", "a[0-3]"], ONE, "Bad job name. Job not submitted."),
        (["-J", "a[1-3]%0"], ONE, "Bad job name. Job not submitted."),
        (["-J", f"{'a' * 251}[1-3]"], ONE, "Bad job name. Job not submitted."),
        (["-J", "a" * 5000], ONE, "Bad job name. Job not submitted."),
        (["-J", "a[3-]"], ONE, "Job array index error. Job not submitted."),
        (["-J", "a[1-1001]"], ONE, "Job array index too large. Job not submitted."),
        (["-W", "01:00:00"], ONE, "01:00:00: Bad RUNLIMIT specification. Job not submitted."),
        (["-W", "1-12:00"], ONE, "Bad RUNLIMIT specification. Job not submitted."),
        (["-w", "ended(99)"], ONE, "Job <99> is not found. Job not submitted."),
        (["-w", "ended 99"], ONE, "Dependency condition syntax error. Job not submitted."),
        (["-w", "afterany(99)"], ONE, "Dependency condition syntax error. Job not submitted."),
        (["-w", "ended(9) ended(9)"], ONE, "Dependency condition syntax error."),
        (["-w", "(ended(9)"], ONE, "Dependency condition syntax error. Job not submitted."),
        (["--array", "1-3"], ONE, "Illegal option -- --array. Job not submitted."),
        (["-J"], ONE, "Option requires an argument -- -J. Job not submitted."),
        (["-M", "1 GB"], ONE, "Bad MEMLIMIT specification. Job not submitted."),
        (["-n", "0"], ONE, "Bad argument for option -n. Job not submitted."),
        (["-q", "none"], ONE, "none: No such queue. Job not submitted."),
        (["-gpu", "1"], ONE, "Bad GPU requirement specification. Job not submitted."),
        (["-R", "rusage(mem=1)"], ONE, "Bad resource requirement syntax"),
        (["-R", "span[hosts=1] span[ptile=2]"], ONE, 'Error near "span" : duplicate section'),
        ([], f"{ONE}#BSUB --mem=1\n", "Illegal option -- --mem=1. Job not submitted."),
        ([], f"{ONE}#BSUB -n 1 2\n", "Illegal option -- 2. Job not submitted."),
        (["/bin/true"], ONE, "a command in arguments is not modelled"),
        ([], "", "No command is specified. Job not submitted."),
    ],
)  # fmt: skip
def test_what_it_refuses(cluster: StandIn, words: list[str], script: str, complaint: str) -> None:
    done = _run(cluster, ["bsub", *words], script)
    assert (done.returncode, done.stdout) == (255, "")
    assert complaint in done.stderr


@pytest.mark.parametrize(
    ("words", "script"),
    [
        (["-W", "90"], f"{ONE}#BSUB -W 1:00\n"),
        (["-J", "a.b-c_1[1-3]%2", "-W", "24:00/node1", "-M", "4GB"], ONE),
        ([], f'#BSUB -R "span[hosts=1] rusage[mem=4]" # mine\n#BSUB -gpu "num=1"\n{ONE}'),
    ],
)
def test_what_it_takes(cluster: StandIn, words: list[str], script: str) -> None:
    done = _run(cluster, ["bsub", *words], script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Job <")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["bjobs", "-o", "jobid state"], "Unknown field name: state"),
        (["bjobs", "-o", "jobid delimiter='^^'"], "The delimiter must be a single character"),
        (["bjobs", "-noheader"], "one of -o and -UF is expected"),
        (["bjobs", "-o", "jobid", "12.1"], "12.1: Illegal job ID"),
        (["bjobs", "-o", "jobid", "999999"], "Job <999999> is not found"),
        (["bkill", "999999"], "Job <999999>: No matching job found"),
    ],
)
def test_what_other_commands_refuse(cluster: StandIn, words: list[str], complaint: str) -> None:
    done = _run(cluster, words, "")
    assert (done.returncode, done.stdout) == (255, "")
    assert complaint in done.stderr


def _run(cluster: StandIn, words: list[str], script: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, **cluster.environ()}
    program = str(Path(cluster.bin, words[0]))
    return subprocess.run(
        [program, *words[1:]], env=environ, input=script, capture_output=True, text=True
    )
