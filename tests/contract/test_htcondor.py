"""The conformance suite on a stand-in for HTCondor, what is true of it alone, and its refusals."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from espnet3.errors import ConfigError
from espnet3.run import submit_run
from tests.contract.scheduler_contract import SchedulerContract
from tests.support.ends import end_of, results_of
from tests.support.helpers import (
    causes,
    ended,
    jobs,
    locally,
    python,
    states,
    submit_noting,
    wait_for,
)
from tests.support.runners import GATE
from tests.support.sites.htcondor import HtcondorSite, submitted
from tests.support.sites.site import Site
from tests.support.stand_ins.batch import StandIn
from tests.support.stand_ins.htcondor import COMMANDS
from tests.support.troubles import Troubled, Troubles

ONE = "executable = /bin/true\n"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """The stand-in, running."""
    folder = tmp_path_factory.mktemp("htcondor") / "here"
    with StandIn(folder, "tests.support.stand_ins.htcondor", COMMANDS).running() as started:
        yield started


class TestHtcondor(SchedulerContract):
    """At the commands."""

    real = False

    @pytest.fixture
    def site(self, cluster: StandIn) -> Site:
        return HtcondorSite(cluster)

    def test_arrays_that_wait_for_each_other(self, config: Any, tmp_path: Path) -> None:
        """No cluster can wait for another without DAGMan, so none is submitted."""
        wanted = config(n_shards=4, n_workers=1, max_array_size=2)
        with pytest.raises(ConfigError, match=r"parallel\.n_workers.*raise max_array_size"):
            submit_noting(tmp_path, 4, wanted)
        assert not (tmp_path / "run").exists()
        run = ended(submit_noting(tmp_path, 4, config(n_shards=4, n_workers=2, max_array_size=2)))
        assert [len(jobs(run).jobs), run.collect()] == [2, locally(tmp_path, 4)]

    def test_no_job_waits_so_finish_is_refused_and_its_work_done_now(
        self, config: Any, tmp_path: Path
    ) -> None:
        """The error says what to do instead, before anything is written."""
        provider = Troubles({"folder": str(tmp_path), "kills": [4]})
        keys: dict[str, Any] = {"run_dir": tmp_path / "run"}
        for finish in (True, {"notify": "true"}):
            wanted = config(n_shards=4, finish=finish)
            with pytest.raises(ConfigError, match=r"parallel\.finish: .*espnet3 finish .* --now"):
                submit_run(Troubled(provider), range(12), parallel=wanted, **keys)
            assert not (tmp_path / "run").exists()
        run = submit_run(Troubled(provider), range(12), parallel=config(n_shards=4), **keys)
        assert [*states(ended(run)).values()].count("done") == 3, causes(run)
        behind = python("-m", "espnet3", "finish", run.run_dir)
        assert behind.returncode != 0
        assert "--now" in behind.stderr
        assert not Path(run.run_dir, "finishers").exists()
        done = python("-m", "espnet3", "finish", run.run_dir, "--now")
        assert done.returncode == 0, done.stderr
        end = end_of(run)
        assert (end["outcome"], len(end["waves"])) == ("done", 1)
        assert results_of(end) == [{"item": item} for item in range(12)]

    def test_jobs_that_are_no_arrays(self, config: Any, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"leave job_array on, or raise n_workers to 3"):
            submit_noting(tmp_path, 3, config(n_shards=3, n_workers=2, job_array=False))
        run = submit_noting(tmp_path, 3, config(n_shards=3, n_workers=3, job_array=False))
        assert ended(run).collect() == locally(tmp_path, 3)
        assert len(jobs(run).jobs) == 3
        assert all(len(run.logs(rank)) == 1 for rank in range(3))

    def test_tasks_that_are_no_jobs_yet(self, config: Any, tmp_path: Path) -> None:
        """A throttled cluster's jobs are made one by one; those to come are queued all the same."""
        run = submit_noting(tmp_path, 5, config(n_shards=5, n_workers=2), gated=[0, 1])
        wait_for(lambda: [*states(run).values()].count("running") == 2, "two do not run")
        assert states(run) == {0: "running", 1: "running", 2: "queued", 3: "queued", 4: "queued"}
        assert all("waits for another task" in causes(run)[rank] for rank in (2, 3, 4))
        (tmp_path / GATE).touch()
        assert ended(run).collect() == locally(tmp_path, 5)

    def test_a_job_over_its_allowed_duration(self, config: Any, tmp_path: Path) -> None:
        """HTCondor holds it, and it stays in the queue; for espnet3 it has ended."""
        wanted = config({"job_extra_directives": {"allowed_job_duration": 3}}, n_shards=1)
        run = ended(submit_noting(tmp_path, 2, wanted, gated=[1]))
        assert states(run) == {0: "interrupted"}
        assert causes(run)[0].startswith("time limit, "), causes(run)
        (tmp_path / GATE).touch()
        run.resume(options={"job_extra_directives": {}})
        assert ended(run).collect() == locally(tmp_path, 2)

    def test_getenv_hands_on_nothing_of_an_enclosing_job(
        self, site: Site, seen: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in {**site.leaked, "OF_THE_USER": "a b"}.items():
            monkeypatch.setenv(name, value)
        found = seen(
            [*site.leaked, "OF_THE_USER"], options={"job_extra_directives": {"getenv": True}}
        )
        assert not {n for n, value in site.leaked.items() if found[n] == value}
        assert found["OF_THE_USER"] == "a b"

    def test_a_prologue_of_several_lines(self, seen: Any) -> None:
        """It is the shell's, but for HTCondor's own macros; dask-jobqueue joins it with `;`."""
        prologue = [
            "export ONE=$(echo from the shell)  # and not a macro of condor_submit",
            'if true\nthen\n\texport TWO=\'\\n "x"  $$(\'"it\'s"\nfi',
            "export THREE=$(ClusterId).$(ProcId) FOUR=$(mine)",
        ]
        options = {"job_script_prologue": prologue, "job_extra_directives": {"mine": "own"}}
        found = seen(["ONE", "TWO", "THREE", "FOUR", "ESPNET3_HTCONDOR_JOB"], options=options)
        assert found["ONE"] == "from the shell"
        assert found["TWO"] == '\\n "x"  $$(it\'s'
        assert found["THREE"] == found["ESPNET3_HTCONDOR_JOB"]
        assert found["FOUR"] == "own"


@pytest.mark.parametrize(
    ("words", "text", "complaint"),
    [
        ([], "arguments = x\nqueue\n", "No 'executable' parameter was provided"),
        ([], "executable = /no/such/file\nqueue\n", "does not exist or is not executable"),
        ([], ONE, "no queue statement"),
        ([], f"{ONE}queue many\n", "Invalid Queue count expression"),
        ([], f"{ONE}just words\nqueue\n", "is not a command"),
        ([], f"{ONE}universe = nonesuch\nqueue\n", "I don't know about the 'nonesuch' universe"),
        ([], f"{ONE}requirements = (((\nqueue\n", "Parse error in expression"),
        ([], f"{ONE}+Name = hello world\nqueue\n", "Parse error in expression"),
        ([], f"{ONE}request_memory = lots of\nqueue\n", "Parse error in expression"),
        ([], f"{ONE}periodic_remove = time() >\nqueue\n", "Parse error in expression"),
        ([], f'{ONE}arguments = "-c \'a b"\nqueue\n', "The full arguments you specified were"),
        ([], f'{ONE}arguments = -c "a b"\nqueue\n', "illegal unescaped double-quote"),
        ([], f'{ONE}environment = "A=1 B"\nqueue\n', "The environment you specified was"),
        ([], f"{ONE}max_materialize = many\nqueue 3\n", "max_materialize = many is invalid"),
        ([], f"{ONE}queue 20001\n", "would exceed MAX_JOBS_PER_SUBMISSION"),
        (["-J", "0-3"], f"{ONE}queue\n", "unknown option -J"),
        (["-append", "no command"], f"{ONE}queue\n", "is not a command"),
        (["-name", "elsewhere"], f"{ONE}queue\n", "Can't find address of schedd elsewhere"),
    ],
)
def test_what_it_refuses(
    cluster: StandIn, tmp_path: Path, words: list[str], text: str, complaint: str
) -> None:
    done = submitted(cluster, tmp_path, words, text)
    assert done.returncode != 0
    assert done.stdout == ""
    assert complaint in done.stderr


def test_what_it_only_warns_of(cluster: StandIn, tmp_path: Path) -> None:
    done = submitted(cluster, tmp_path, [], f"{ONE}request_memroy = 3\nqueue 2\n")
    assert done.returncode == 0
    assert "the line 'request_memroy = 3' was unused by condor_submit" in done.stderr
    assert "2 job(s) submitted to cluster" in done.stdout
    cluster.reset()


def test_questions_that_it_refuses(cluster: StandIn) -> None:
    environ = {**os.environ, **cluster.environ()}
    for words in (["condor_q", "-x"], ["condor_q", "-constraint", "a b", "-json"], ["condor_rm"]):
        done = subprocess.run(words, env=environ, capture_output=True, text=True)
        assert done.returncode == 1, words
        assert "ERROR" in done.stderr
