"""What every scheduler's dialect promises, through the public interface and real processes.

A scheduler subclasses `SchedulerContract` and says how to get a `Site`: a real server, or a
stand-in at the commands where none can be had.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from espnet3.cli.app import run as espnet3
from espnet3.config.model import parse_parallel
from espnet3.doctor.diagnosis import diagnose
from espnet3.errors import SchedulerUnavailable, SubmissionRefused
from espnet3.run import Run, submit_run
from espnet3.schedulers import get_dialect, get_scheduler
from espnet3.specs import layout
from espnet3.specs.models import PlannedJob, Submission
from espnet3.submit import dry_run
from espnet3.submit.jobqueue import JobQueueLauncher
from tests.contract.finisher_contract import FinisherContract
from tests.support import runners
from tests.support.helpers import (
    LONG,
    attempts,
    causes,
    ended,
    jobs,
    locally,
    noted,
    once,
    parallel,
    states,
    submission,
    submit_noting,
    wait_for,
    wrap,
)
from tests.support.runners import GATE, MENDED, Clock, Echo, Shell, Square
from tests.support.sites.site import Site

Submit = Callable[..., Run]


# What asks less of a dialect than others do, or the same again.
WITHIN_OTHERS = frozenset({
    "test_packed_shards",
    "test_one_task",
    "test_queued_then_running_then_done",  # every run goes through these states
    "test_awkward_names_of_run_directories",  # a script names them alike for all
    "test_arrays_of_the_sites_size",  # those that wait for each other are several, too
    "test_memory_and_time_alone_at_a_resume",  # more of both is asked for elsewhere
    "test_each_cause_is_met_by_what_helps",  # waves take the same ways as a resume
    "test_failed",  # it reads alike
    "test_logs_of_a_rank",  # those of ranks with holes are counted
})  # fmt: skip


class SchedulerContract(FinisherContract):
    """The suite. A subclass defines the fixture `site`.

    Attributes:
        real: whether it is asked whole; a stand-in is with ESPNET3_LONG_TESTS=1.
    """

    real = True

    @pytest.fixture(autouse=True)
    def _asked(self, request: pytest.FixtureRequest) -> None:
        if not (self.real or LONG) and request.function.__name__ in WITHIN_OTHERS:
            pytest.skip("other tests ask a stand-in as much; ESPNET3_LONG_TESTS=1 runs it")

    @pytest.fixture(autouse=True)
    def _reachable(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        for name, value in site.environ().items():
            monkeypatch.setenv(name, value)
        yield
        monkeypatch.undo()  # or the commands that clean up would still be broken ones
        with pytest.MonkeyPatch.context() as patch:
            for name, value in site.environ().items():
                patch.setenv(name, value)
            site.reset()

    @pytest.fixture
    def config(self, site: Site) -> Callable[..., dict[str, Any]]:
        """A parallel config for the site."""

        def make(options: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
            given: dict[str, Any] = parallel(
                site.env, options={**site.options, **(options or {})}, **keys
            )
            return given

        return make

    @pytest.fixture
    def seen(
        self, site: Site, config: Callable[..., dict[str, Any]], tmp_path: Path
    ) -> Callable[..., dict[str, Any]]:
        """What the worker of a finished run of one job saw of some environment variables."""

        def look(names: list[str], runner: type[Any] = Echo, **keys: Any) -> dict[str, Any]:
            folder = tmp_path / f"seen{len([*tmp_path.iterdir()])}"
            run = submit_run(
                runner(Shell({})), names, run_dir=folder, parallel=config(n_shards=1, **keys)
            )
            return dict(zip(names, ended(run).collect(), strict=True))

        return look

    # Submitting

    def test_one_task(self, site: Site, config: Any, tmp_path: Path) -> None:
        run = ended(submit_noting(tmp_path, 3, config(n_shards=1)))
        assert run.collect() == locally(tmp_path, 3)
        assert noted(tmp_path, "begun") == once(range(3))
        [started] = attempts(run, 0, "started")
        [job] = jobs(run).jobs
        assert started.task == 0
        assert started.job_id in (job.job_id, _task_name(site, job.job_id, 0))

    def test_an_array(self, config: Any, tmp_path: Path) -> None:
        run = ended(submit_noting(tmp_path, 10, config(n_shards=5)))
        assert run.collect() == locally(tmp_path, 10)
        assert len(jobs(run).jobs) == 1
        assert [attempts(run, rank, "started")[0].task for rank in range(5)] == [*range(5)]

    def test_an_array_that_is_throttled(self, config: Any, tmp_path: Path) -> None:
        run = submit_noting(tmp_path, 5, config(n_shards=5, n_workers=2), gated=range(5))
        wait_for(lambda: noted(tmp_path, "begun").total() >= 2, "two do not begin")
        _overtaken(tmp_path, config(n_shards=1))
        assert sorted(states(run).values()) == ["queued"] * 3 + ["running"] * 2, causes(run)
        assert noted(tmp_path, "begun").total() == 2
        (tmp_path / GATE).touch()
        assert ended(run).collect() == locally(tmp_path, 5)

    def test_arrays_of_the_sites_size(self, config: Any, tmp_path: Path) -> None:
        run = ended(submit_noting(tmp_path, 7, config(n_shards=7, max_array_size=3)))
        assert run.collect() == locally(tmp_path, 7)
        assert len(jobs(run).jobs) == 3
        assert len({job.job_id for job in jobs(run).jobs}) == 3

    def test_arrays_that_wait_for_each_other(self, config: Any, tmp_path: Path) -> None:
        wanted = config(n_shards=4, n_workers=1, max_array_size=2)
        run = submit_noting(tmp_path, 4, wanted, gated=range(4))
        wait_for(lambda: noted(tmp_path, "begun").total() >= 1, "none begins")
        _overtaken(tmp_path, config(n_shards=1))
        assert sorted(states(run).values()) == ["queued"] * 3 + ["running"], causes(run)
        assert noted(tmp_path, "begun").total() == 1
        (tmp_path / GATE).touch()
        assert ended(run).collect() == locally(tmp_path, 4)

    def test_a_job_that_waits_for_an_array_and_for_one_that_fails(
        self, site: Site, config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It starts when both have ended, in whatever way."""
        if not get_dialect(site.env).can_wait:
            pytest.skip(f"no job waits for another in {site.env}")
        folders = [tmp_path / name for name in ("array", "failing", "behind")]
        for folder in folders:
            folder.mkdir()
        site.hold()  # or a scheduler might have forgotten one before it is named
        array = submit_noting(folders[0], 2, config(n_shards=2), gated=[1])
        failing = submit_noting(folders[1], 1, config(n_shards=1), failing=[0])
        awaited = [jobs(run).jobs[0].job_id for run in (array, failing)]
        with monkeypatch.context() as patch:
            patch.setattr(JobQueueLauncher, "_job", _behind(awaited))
            behind = submit_noting(folders[2], 1, config(n_shards=1))
        site.release()
        wait_for(
            lambda: (states(failing), states(array)[0]) == ({0: "failed"}, "done"),
            "one does not fail, or no task of the array ends",
        )
        _overtaken(tmp_path, config(n_shards=1))
        assert states(behind) == {0: "queued"}, causes(behind)
        assert not noted(folders[2], "begun")
        (folders[0] / GATE).touch()
        assert ended(behind).collect() == locally(folders[2], 1)
        assert array.status().done

    def test_a_node_that_is_to_be_avoided(self, site: Site, config: Any, tmp_path: Path) -> None:
        """What is asked for is understood, also of a node that there is not."""
        without = {"exclude_nodes": ["no-such-node", "other.site.org"]}
        run = ended(submit_noting(tmp_path, 4, config(n_shards=2) | without))
        assert run.collect() == locally(tmp_path, 4)

    def test_jobs_that_are_no_arrays(self, config: Any, tmp_path: Path) -> None:
        run = submit_noting(tmp_path, 3, config(n_shards=3, n_workers=2, job_array=False))
        assert ended(run).collect() == locally(tmp_path, 3)
        assert len(jobs(run).jobs) == 3
        assert all(len(run.logs(rank)) == 1 for rank in range(3))

    def test_packed_shards(self, config: Any, tmp_path: Path) -> None:
        run = ended(submit_noting(tmp_path, 10, config(n_shards=5, shards_per_job=2)))
        assert run.collect() == locally(tmp_path, 10)
        assert [attempts(run, rank, "started")[0].task for rank in range(5)] == [0, 0, 1, 1, 2]

    def test_ranks_with_holes(self, config: Any, tmp_path: Path) -> None:
        run = ended(submit_noting(tmp_path, 8, config(n_shards=8), failing=[1, 4, 6]))
        assert {r for r, state in states(run).items() if state == "failed"} == {1, 4, 6}
        (tmp_path / MENDED).touch()
        assert run.resume().ranks == [1, 4, 6]
        assert ended(run).collect() == locally(tmp_path, 8)
        assert [len(run.logs(rank)) for rank in range(8)] == [1, 2, 1, 1, 2, 1, 2, 1]

    def test_more_memory_and_time_at_a_resume(
        self, site: Site, config: Any, tmp_path: Path
    ) -> None:
        """The scheduler itself is asked whether it heard of them."""
        run = ended(submit_noting(tmp_path, 2, config(n_shards=2), failing=[1]))
        (tmp_path / MENDED).touch()
        options, words = site.more_memory
        site.hold()
        run.resume(options={**options, "walltime": "04:00:00"})
        [job] = jobs(run, 2).jobs
        told = site.shown(job.job_id)
        assert re.search(words, told), told
        assert re.search(site.four_hours, told), told
        site.release()
        assert ended(run).collect() == locally(tmp_path, 2)
        for name, value in options.items():
            assert submission(run, 2).options[name] == value

    def test_memory_and_time_alone_at_a_resume(self, config: Any, tmp_path: Path) -> None:
        """Every scheduler takes the names that all have, if only to record them."""
        run = ended(submit_noting(tmp_path, 2, config(n_shards=2), failing=[1]))
        (tmp_path / MENDED).touch()
        run.resume(options={"memory": "200MB", "walltime": "04:00:00"})
        assert ended(run).collect() == locally(tmp_path, 2)
        assert submission(run, 2).options["memory"] == "200MB"

    def test_some_shards_with_options_of_their_own(
        self, site: Site, config: Any, tmp_path: Path
    ) -> None:
        more = [{"ranks": "1-2", "options": {"walltime": "04:00:00"}}]
        site.hold()
        run = submit_noting(tmp_path, 4, config(n_shards=4, overrides=more))
        told = [site.shown(jobs(run, number).jobs[0].job_id) for number in (1, 2)]
        assert [bool(re.search(site.four_hours, words)) for words in told] == [False, True], told
        site.release()
        assert ended(run).collect() == locally(tmp_path, 4)
        assert [[*submission(run, n).ranks.plain()] for n in (1, 2)] == [[0, 3], [1, 2]]

    def test_a_gpu(self, site: Site, config: Any, tmp_path: Path) -> None:
        if site.gpu is None:
            pytest.skip(f"the {site.env} of these tests has no GPUs")
        options, words = site.gpu
        site.hold()
        run = submit_noting(tmp_path, 2, config(options, n_shards=2))
        [job] = jobs(run).jobs
        told = site.shown(job.job_id)
        assert re.search(words, told), told
        site.release()
        assert ended(run).collect() == locally(tmp_path, 2)

    def test_a_dry_run_shows_script_and_command(
        self, site: Site, config: Any, tmp_path: Path
    ) -> None:
        runner = Square(Clock({"folder": str(tmp_path)}))
        shown = asyncio.run(
            dry_run(runner, range(5), run_dir=tmp_path / "run", parallel=config(n_shards=5))
        )
        assert len(shown) == 1
        assert "-m espnet3.worker" in shown[0].script
        assert shown[0].command[0] == site.submit
        assert not (tmp_path / "run").exists()

    def test_the_doctor(self, site: Site, config: Any, tmp_path: Path) -> None:
        """It tells the same of every scheduler, and leaves nothing behind."""
        runs = tmp_path / "runs"
        seen = asyncio.run(diagnose(parse_parallel(config()), runs))
        assert seen.fine, seen
        assert [finding.name for finding in seen.findings] == [
            "scheduler",
            "array limit",
            "job",
            "began after",
            "node",
            "python there",
            "packages there",
            "bytecode",
            "run directory",
            "new files",
            "exclusive create",
            "submitting from a job",
            "signs of life",
        ]
        told = {finding.name: finding.value for finding in seen.findings}
        assert re.search(site.version, told["scheduler"]), told
        assert re.fullmatch(r"[1-9]\d* tasks?", told["array limit"]), told
        assert re.fullmatch(r"visible there after \S+ s", told["run directory"]), told
        assert re.match(r"(not )?possible", told["submitting from a job"]), told
        assert [*runs.iterdir()] == []

    # Status

    def test_queued_then_running_then_done(self, site: Site, config: Any, tmp_path: Path) -> None:
        site.hold()
        run = submit_noting(tmp_path, 4, config(n_shards=2), gated=[0])
        assert states(run) == {0: "queued", 1: "queued"}
        [job] = jobs(run).jobs
        for rank, cause in causes(run).items():
            assert f"job {_task_name(site, job.job_id, rank)}" in cause, cause
        site.release()
        wait_for(lambda: states(run) == {0: "running", 1: "done"}, "not one running, one done")
        (tmp_path / GATE).touch()
        assert ended(run).status().done

    def test_failed(self, config: Any, tmp_path: Path) -> None:
        run = ended(submit_noting(tmp_path, 4, config(n_shards=2), failing=[2]))
        assert states(run) == {0: "done", 1: "failed"}
        assert "item 2 is bad" in causes(run)[1]

    def test_it_reads_alike(
        self, config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """What `espnet3 status` prints does not depend on the scheduler."""
        run = submit_noting(tmp_path, 4, config(n_shards=4), failing=[1], gated=[2])
        wait_for(
            lambda: states(run) == {0: "done", 1: "failed", 2: "running", 3: "done"},
            "not two done, one failed, one running",
        )
        counts, failed, running = _status(run, capsys)
        assert counts == "2 of 4 shards done, 1 running, 1 failed, 2 of 4 items done"
        assert failed.startswith("1\tfailed\t1\t1\tforward failed at item 1: ValueError: item 1 is")
        assert re.fullmatch(r"2\trunning\t1\t2\tsince \d{4}-\d\d-\d\d \d\d:\d\d on \S+", running)
        run.cancel()
        wait_for(lambda: not run.status().live, "it is not cancelled")
        counts, _, interrupted = _status(run, capsys)
        assert counts == "2 of 4 shards done, 1 interrupted, 1 failed, 2 of 4 items done"
        assert interrupted.startswith("2\tinterrupted\t1\t2\tcancelled, "), interrupted

    def test_lost(
        self, site: Site, config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A task that ends before its worker begins; its log tells why."""
        options = {"job_script_prologue": ["echo 'no such module' >&2", "exit 3"]}
        run = ended(submit_noting(tmp_path, 2, config(options, n_shards=2)))
        [job] = jobs(run).jobs
        counts, *lines = _status(run, capsys)
        assert counts == "0 of 2 shards done, 2 lost"
        for rank, line in enumerate(lines):
            start = rf"{rank}\tlost\t1\t{rank}\tits task ended before the shard began, "
            name = re.escape(_task_name(site, job.job_id, rank))
            [log] = run.logs(rank)
            end = rf"; its log ends: .*no such module.*\t{re.escape(log)}"
            assert re.fullmatch(rf"{start}job {name}(, .*)?{end}", line), line
            assert "no such module" in Path(log).read_text()
        run.resume(options={"job_script_prologue": []})
        assert ended(run).collect() == locally(tmp_path, 2)

    def test_the_time_limit(self, site: Site, config: Any, tmp_path: Path) -> None:
        if site.limit is None:
            pytest.skip(f"the shortest time limit of {site.env} takes minutes")
        options = {"walltime": site.limit}
        run = submit_noting(tmp_path, 2, config(options, n_shards=1), gated=[1])
        assert states(ended(run)) == {0: "interrupted"}, causes(run)
        assert causes(run)[0].startswith("time limit, "), causes(run)
        (tmp_path / GATE).touch()
        run.resume(options={"walltime": "01:00:00"})
        assert ended(run).collect() == locally(tmp_path, 2)
        assert noted(tmp_path, "finished")[1] == 1

    def test_killed(self, config: Any, tmp_path: Path) -> None:
        """A worker that dies without a word; its job may say how it ended."""
        run = submit_noting(tmp_path, 4, config(n_shards=2), gated=[1, 3])
        wait_for(lambda: len(noted(tmp_path, "begun")) == 4, "not all items have begun")
        [started] = attempts(run, 1, "started")
        os.kill(started.pid, signal.SIGKILL)
        wait_for(lambda: states(run)[1] in ("lost", "interrupted"), "its death is not noticed")
        assert states(run)[0] == "running"
        assert "ended without a word" in causes(run)[1]
        (tmp_path / GATE).touch()
        wait_for(lambda: not run.status().live, "the other one does not end")
        assert run.resume().ranks == [1]
        assert ended(run).collect() == locally(tmp_path, 4)
        assert noted(tmp_path, "finished") == once(range(4))

    def test_one_task_is_cancelled(self, site: Site, config: Any, tmp_path: Path) -> None:
        run = submit_noting(tmp_path, 3, config(n_shards=3), gated=range(3))
        wait_for(lambda: set(states(run).values()) == {"running"}, "not all run")
        [job] = jobs(run).jobs
        site.cancel_task(job.job_id, 1)
        wait_for(lambda: states(run)[1] not in ("queued", "running"), "it is not cancelled")
        assert states(run) == {0: "running", 1: states(run)[1], 2: "running"}
        assert states(run)[1] in ("interrupted", "lost"), causes(run)
        (tmp_path / GATE).touch()
        wait_for(lambda: not run.status().live, "the others do not end")
        assert run.resume().ranks == [1]
        assert ended(run).collect() == locally(tmp_path, 3)

    def test_all_are_cancelled(self, site: Site, config: Any, tmp_path: Path) -> None:
        run = submit_noting(tmp_path, 8, config(n_shards=4, n_workers=2), gated=range(8))
        wait_for(lambda: [*states(run).values()].count("running") == 2, "two do not run")
        assert run.cancel() == [job.job_id for job in jobs(run).jobs]
        wait_for(lambda: not run.status().live, "they are not cancelled")
        assert set(states(run).values()) == {"interrupted"}, causes(run)
        assert all("cancelled" in cause or "signal" in cause for cause in causes(run).values())
        (tmp_path / GATE).touch()
        assert run.resume().ranks == [0, 1, 2, 3]
        assert ended(run).collect() == locally(tmp_path, 8)

    def test_a_scheduler_that_does_not_answer(
        self, site: Site, config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing is known then; that is never taken for "gone"."""
        run = submit_noting(tmp_path, 4, config(n_shards=2), gated=[0])
        wait_for(lambda: states(run) == {0: "running", 1: "done"}, "not one running, one done")
        with monkeypatch.context() as patch:
            for command in site.queries:
                script = "echo 'cannot connect to server (errno=111)' >&2; exit 1"
                patch.setenv("PATH", wrap(tmp_path, command, script))
            seen = run.status()
            assert seen.scheduler_problem is not None
            assert "cannot connect to server (errno=111)" in seen.scheduler_problem
            assert {s.rank: s.state for s in seen.shards} == {0: "running", 1: "done"}
            with pytest.raises(SchedulerUnavailable, match="cannot connect"):
                run.cancel()
        (tmp_path / GATE).touch()
        assert ended(run).collect() == locally(tmp_path, 4)
        assert noted(tmp_path, "begun") == once(range(4))

    def test_a_job_whose_id_was_not_recorded(self, site: Site, config: Any, tmp_path: Path) -> None:
        """It is found by its unique name, by status and by resume, and nothing runs twice."""
        site.hold()
        run = submit_noting(tmp_path, 4, config(n_shards=2))
        [job] = jobs(run).jobs
        Path(run.run_dir, layout.accepted_jobs(1)).unlink()
        file = Path(run.run_dir, layout.submission(1))
        intent = json.loads(file.read_bytes())
        intent["submitter"]["pid"] = 2**22 + 1  # no process of this host: the submitter is dead
        file.write_text(json.dumps(intent))
        assert states(run) == {0: "queued", 1: "queued"}
        assert run.resume().ranks == []
        assert jobs(run).jobs == [job]
        site.release()
        assert ended(run).collect() == locally(tmp_path, 4)
        assert noted(tmp_path, "begun") == once(range(4))

    def test_a_refused_submission(self, site: Site, config: Any, tmp_path: Path) -> None:
        options, words = site.refused
        with pytest.raises(SubmissionRefused) as told:
            submit_noting(tmp_path, 4, config(dict(options), n_shards=2))
        assert re.search(words, str(told.value)), told.value
        run = Run(tmp_path / "run")
        assert set(states(run).values()) == {"pending"}
        assert re.search(words, causes(run)[0])

    def test_a_submission_without_an_answer(
        self, site: Site, config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing was refused, so nobody says that."""
        with monkeypatch.context() as patch:
            patch.setenv("PATH", wrap(tmp_path, site.submit, "exec sleep 60"))
            with pytest.raises(SchedulerUnavailable, match=r"gave no answer within 0\.5 s"):
                submit_noting(tmp_path, 2, config(n_shards=2, submit_timeout=0.5))
        run = Run(tmp_path / "run")
        assert set(states(run).values()) == {"pending"}
        start = f"{site.env}: {site.submit} gave no answer within 0.5 s, "
        assert all(cause.startswith(start) for cause in causes(run).values()), causes(run)
        run.resume(options={"submit_timeout": 60})
        assert ended(run).collect() == locally(tmp_path, 2)

    # What reaches the job

    def test_logs_of_a_rank(self, config: Any, tmp_path: Path) -> None:
        run = ended(submit_noting(tmp_path, 6, config(n_shards=3), failing=[3]))
        for rank in range(3):
            [log] = run.logs(rank)
            text = Path(log).read_text()
            assert f"shard {rank}: " in text
            assert ("item 3 is bad" in text) == (rank == 1)

    def test_the_variables_of_an_enclosing_job_do_not_leak(
        self, site: Site, seen: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in site.leaked.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("OF_THE_USER", "a b")
        found = seen([*site.leaked, "PATH"])
        assert found["PATH"]
        assert not {n for n, value in site.leaked.items() if found[n] == value}

    def test_awkward_names_of_jobs(self, config: Any, tmp_path: Path) -> None:
        names = ["1st try: a/b@c", "[x] 100% {é}", "日本語", "a" * 200, "-N", "$(touch x);`y`'\""]
        runs: dict[str, Run] = {}
        for number, name in enumerate(names):
            folder = tmp_path / str(number)
            folder.mkdir()
            runs[name] = submit_noting(folder, 2, config({"job_name": name}, n_shards=2))
        for name, run in runs.items():
            assert ended(run).collect() == locally(Path(run.run_dir).parent, 2), name
            assert all(len(run.logs(rank)) == 1 for rank in range(2)), name

    def test_awkward_names_of_run_directories(self, config: Any, tmp_path: Path) -> None:
        names = ["with space", 'it\'s "quoted"', "100%J$HOME", "é,a:b=c", "[x]*?#;&|"]
        runs: dict[str, Run] = {}
        for name in names:
            folder = tmp_path / name
            folder.mkdir()
            runs[name] = submit_noting(folder, 2, config(n_shards=2))
        for name, run in runs.items():
            assert ended(run).collect() == locally(tmp_path / name, 2), name
            assert all(len(run.logs(rank)) == 1 for rank in range(2)), name

    def test_options_are_passed_through(self, site: Site, config: Any, tmp_path: Path) -> None:
        directive, words = site.directive
        more = directive if isinstance(directive, dict) else [directive]
        site.hold()
        run = submit_noting(tmp_path, 2, config({"job_extra_directives": more}, n_shards=1))
        [job] = jobs(run).jobs
        assert words in site.shown(job.job_id)
        site.release()
        assert ended(run).status().done

    def test_the_prologue_of_the_options_and_of_the_hook(self, seen: Any) -> None:
        options = {"job_script_prologue": ["export FROM_OPTIONS=own", "export FROM_HOOK=no"]}
        found = seen(["FROM_OPTIONS", "FROM_HOOK"], runners.Exporting, options=options)
        assert found == {"FROM_OPTIONS": "own", "FROM_HOOK": "a  $b"}


def _task_name(site: Site, job_id: str, index: int | None) -> str:
    """A task as the scheduler's commands name it."""
    return get_scheduler(site.env).task_name(job_id, index)


def _status(run: Run, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines of `espnet3 status`."""
    capsys.readouterr()
    espnet3(["status", run.run_dir])
    return capsys.readouterr().out.splitlines()


def _behind(job_ids: Sequence[str]) -> Callable[..., Any]:
    """In place of how a job is made: one that waits for others as well."""
    own = JobQueueLauncher._job

    async def job(
        self: JobQueueLauncher, submission: Submission, planned: PlannedJob, *_: object
    ) -> Any:
        return await own(self, submission, planned, await self._scheduler.awaited(job_ids))

    return job


def _overtaken(folder: Path, config: dict[str, Any]) -> None:
    """Let two later runs come and go: what was submitted before, and may start, has begun then."""
    for number in range(2):
        own = folder / f"later{number}"
        own.mkdir()
        assert ended(submit_noting(own, 1, config)).status().done
