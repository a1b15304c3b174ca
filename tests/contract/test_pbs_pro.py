"""The conformance suite on stand-ins for PBS Pro, with job history and without, and that these are
strict; and what a real OpenPBS 23.06.06 did that they once did not.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.scheduler_contract import SchedulerContract
from tests.support.helpers import (
    LONG,
    attempts,
    causes,
    ended,
    jobs,
    locally,
    noted,
    parallel,
    states,
    submit_noting,
    wait_for,
)
from tests.support.runners import GATE
from tests.support.sites.pbs import COMMANDS, PbsProSite, refusal
from tests.support.sites.site import Site
from tests.support.stand_ins.batch import StandIn

ONE = "#!/bin/sh\n"
# What the suite asks of jobs that are over, or partly, while a shard of theirs may not be done.
OF_THE_END = {
    test.__name__
    for test in (
        SchedulerContract.test_an_array_that_is_throttled,
        SchedulerContract.test_arrays_that_wait_for_each_other,
        SchedulerContract.test_queued_then_running_then_done,
        SchedulerContract.test_failed,
        SchedulerContract.test_it_reads_alike,
        SchedulerContract.test_lost,
        SchedulerContract.test_the_time_limit,
        SchedulerContract.test_killed,
        SchedulerContract.test_one_task_is_cancelled,
        SchedulerContract.test_all_are_cancelled,
        SchedulerContract.test_a_scheduler_that_does_not_answer,
        SchedulerContract.test_a_job_whose_id_was_not_recorded,
        SchedulerContract.test_the_doctor,
    )
}


def config(*, options: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    """A parallel config for a small job."""
    given: dict[str, Any] = parallel(
        "pbs", options={**PbsProSite.options, **(options or {})}, **keys
    )
    return given


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """The stand-in, running."""
    folder = tmp_path_factory.mktemp("pbs_pro") / "here"
    with StandIn(folder, "tests.support.stand_ins.pbs_pro", COMMANDS).running() as started:
        yield started


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """The same without job history."""
    folder = tmp_path_factory.mktemp("forgetful") / "here"
    with StandIn(
        folder, "tests.support.stand_ins.pbs_pro_forgetful", COMMANDS
    ).running() as started:
        yield started


class TestPbsPro(SchedulerContract):
    """With the history that a site may switch on."""

    real = False

    @pytest.fixture(autouse=True)
    def _sampled(self, request: pytest.FixtureRequest) -> None:
        """Without ESPNET3_LONG_TESTS=1 only what reads the end of a job where it can be read."""
        if not LONG and request.function.__name__ not in OF_THE_END:
            pytest.skip("it is alike with history and without; ESPNET3_LONG_TESTS=1 runs it")

    @pytest.fixture
    def site(self, cluster: StandIn) -> Site:
        return PbsProSite(cluster)


class TestPbsProWithoutHistory(SchedulerContract):
    """As its server comes, which knows nothing of a job that is over."""

    real = False

    @pytest.fixture
    def site(self, forgetful: StandIn) -> Site:
        return PbsProSite(forgetful)


class TestWhatARealOneDoes:
    """With job history and without."""

    @pytest.fixture(params=["history", "no history"])
    def queue(
        self,
        request: pytest.FixtureRequest,
        cluster: StandIn,
        forgetful: StandIn,
        monkeypatch: pytest.MonkeyPatch,
    ) -> Iterator[StandIn]:
        """A stand-in whose commands are found."""
        found = cluster if request.param == "history" else forgetful
        with monkeypatch.context() as patch:
            for name, value in found.environ().items():
                patch.setenv(name, value)
            yield found
            found.reset()

    def test_a_killed_task_does_not_end_as_its_array(self, queue: StandIn, tmp_path: Path) -> None:
        """Another one failed, so that the array's exit status is 1; SIGKILL ended this one."""
        run = submit_noting(tmp_path, 3, config(n_shards=3), failing=[0], gated=[1, 2])
        wait_for(lambda: states(run) == {0: "failed", 1: "running", 2: "running"}, "not as wanted")
        [started] = attempts(run, 1, "started")
        os.kill(started.pid, signal.SIGKILL)
        wait_for(lambda: states(run)[1] != "running", "its death is not noticed")
        assert states(run)[2] == "running"
        assert "ended without a word" in causes(run)[1]
        assert "exit code" not in causes(run)[1]
        (tmp_path / GATE).touch()

    def test_variables_with_line_breaks(
        self, queue: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lines = ["x", "    job_state = F", "    comment = Not Running: forged", "",
                 "Job Id: 1.pbs", "    Exit_status = 265"]  # fmt: skip
        monkeypatch.setenv("FORGED", "\n".join(lines))
        options = {"job_extra_directives": ["-v FORGED"], "job_script_prologue": ["exit 3"]}
        queue.queue.hold(True)
        run = submit_noting(tmp_path, 2, config(n_shards=2, options=options))
        [job] = jobs(run).jobs
        shown = subprocess.run(["qstat", "-f", job.job_id], capture_output=True, text=True).stdout
        assert "\n    comment = Not Running: forged\n" in shown
        assert set(states(run).values()) == {"queued"}
        assert all(cause.endswith("Queue not started.") for cause in causes(run).values())
        queue.queue.hold(False)
        assert set(states(ended(run)).values()) == {"lost"}
        assert not any("killed" in cause or "forged" in cause for cause in causes(run).values())

    @pytest.mark.parametrize("n_tasks", [1, 2])
    def test_a_held_job(self, queue: StandIn, tmp_path: Path, n_tasks: int) -> None:
        queue.queue.hold(True)
        run = submit_noting(tmp_path, n_tasks, config(n_shards=n_tasks))
        [job] = jobs(run).jobs
        queue.run("qhold", job.job_id)
        queue.queue.hold(False)
        found = causes(run)
        assert all(f"held, `qrls {job.job_id}` lets it start" in found[n] for n in range(n_tasks))
        words = found[0].partition("`")[2].partition("`")[0]
        queue.run(*words.split())  # what is said to help does
        assert ended(run).collect() == locally(tmp_path, n_tasks)

    def test_whom_a_job_waits_for(self, queue: StandIn, tmp_path: Path) -> None:
        """And not who waits for it: of three arrays in a chain the second is in between."""
        wanted = config(n_shards=6, n_workers=1, max_array_size=2)
        run = submit_noting(tmp_path, 6, wanted, gated=range(6))
        wait_for(lambda: noted(tmp_path, "begun").total() == 1, "none begins")
        ids = [job.job_id.partition(".")[0] for job in jobs(run).jobs]
        found = causes(run)
        assert [found[rank].partition(", ")[2] for rank in range(2, 6)] == [
            *[f"waits for job {ids[0]}"] * 2,
            *[f"waits for job {ids[1]}"] * 2,
        ]
        (tmp_path / GATE).touch()
        assert ended(run).collect() == locally(tmp_path, 6)

    @pytest.mark.parametrize("array", [True, False])
    def test_what_waits_for_a_deleted_job(
        self, queue: StandIn, tmp_path: Path, array: bool
    ) -> None:
        """For an array that was deleted nothing waits on; for a job of its own it does."""
        wanted = config(n_shards=4, n_workers=2, max_array_size=2, job_array=array)
        queue.queue.hold(True)
        run = submit_noting(tmp_path, 4, wanted)
        first = jobs(run).jobs[0].job_id
        queue.run("qdel", first)
        wait_for(lambda: states(run)[0] not in ("queued", "running"), "it is not deleted")
        queue.queue.hold(False)
        if array:
            wait_for(lambda: states(run)[2] == "done", "the other array does not run")
        else:
            number = first.partition(".")[0]
            never = f"never starts, since job {number} was deleted before it began"
            wait_for(lambda: states(run)[3] == "done", "the other chain does not run")
            assert (states(run)[2], never in causes(run)[2]) == ("queued", True), causes(run)
            run.cancel()
            wait_for(lambda: not run.status().live, "it is not cancelled")
        run.resume()
        assert ended(run).collect() == locally(tmp_path, 4)

    def test_a_cancelled_array_that_waited(self, queue: StandIn, tmp_path: Path) -> None:
        queue.queue.hold(True)
        run = submit_noting(tmp_path, 2, config(n_shards=2))
        run.cancel()
        wait_for(lambda: not run.status().live, "it is not cancelled")
        assert set(states(run).values()) == {"interrupted"}
        assert all(cause.startswith("cancelled") for cause in causes(run).values())

    def test_a_task_that_is_over_is_cancelled(self, queue: StandIn, tmp_path: Path) -> None:
        """qdel has words of its own for it."""
        run = submit_noting(tmp_path, 2, config(n_shards=2), gated=[1])
        wait_for(lambda: states(run) == {0: "done", 1: "running"}, "not one done, one running")
        task = jobs(run).jobs[0].job_id.replace("[]", "[0]")
        done = subprocess.run(["qdel", task], capture_output=True, text=True)
        assert "Request invalid for finished array subjob" in done.stderr
        held = subprocess.run(["qhold", task], capture_output=True, text=True)
        assert "Invalid request" in held.stderr
        assert run.cancel()
        wait_for(lambda: not run.status().live, "it is not cancelled")


@pytest.mark.parametrize(
    ("words", "script", "complaint"),
    [
        (["-J", "0-0"], ONE, "illegal -J value"),
        (["-J", "0,2,4"], ONE, "illegal -J value"),
        (["-J", "0-20000"], ONE, "exceeds server or queue size limit"),
        (["-t", "0-3"], ONE, "invalid option"),
        (["-N", "1st"], ONE, "illegal -N value"),
        (["-l", "nodes=1:ppn=1"], ONE, "Illegal attribute or resource value"),
        (["-l", "walltime=1-00:00:00"], ONE, "Illegal attribute or resource value"),
        (["-W", "depend=afterany:99.pbs"], ONE, "Unknown Job Id 99.pbs"),
        (["-W", "depend=afteranyarray:99[].pbs"], ONE, "illegal -W value"),
        ([], f"{ONE}#PBS --mem=1\n", "directive error: --mem=1"),
    ],
)
def test_what_it_refuses(
    cluster: StandIn, tmp_path: Path, words: list[str], script: str, complaint: str
) -> None:
    assert complaint in refusal(cluster, tmp_path, words, script)
