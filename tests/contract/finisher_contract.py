"""What every scheduler promises of runs that finish themselves; part of the conformance suite."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from espnet3.run import Run, submit_run
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.finishers import KnownFinisher, read_ending
from espnet3.schedulers import get_dialect, get_scheduler
from espnet3.specs import layout
from espnet3.specs.finishing import Finisher
from espnet3.submit.jobqueue import JobQueueLauncher
from tests.support.ends import end_of, results_of
from tests.support.helpers import noted, once, states, wait_for
from tests.support.sites.site import Site
from tests.support.troubles import Troubled, Troubles


class FinisherContract:
    """The suite's part. A subclass defines the fixtures `site` and `config`."""

    @pytest.fixture
    def finishing(
        self, site: Site, config: Callable[..., dict[str, Any]], tmp_path: Path
    ) -> Callable[..., Run]:
        """Submits `Troubled` with a finisher of the size of the site's jobs."""

        def submit(n_items: int, trouble: dict[str, Any], **keys: Any) -> Run:
            provider = Troubles({"folder": str(tmp_path), **trouble})
            wanted = config(finish={"options": dict(site.options)}, **keys)
            return submit_run(
                Troubled(provider), range(n_items), run_dir=tmp_path / "run", parallel=wanted
            )

        return submit

    def test_a_run_finishes_itself(self, site: Site, finishing: Any, tmp_path: Path) -> None:
        """A worker is killed, the other shards are done, and nobody touches anything."""
        require_waiting(site)
        run = finishing(12, {"kills": [4]}, n_shards=4)
        end = end_of(run)
        assert (end["outcome"], end["n_done"]) == ("done", 4), end
        assert results_of(end) == Troubled(Troubles({"folder": str(tmp_path)}))(range(12))
        [wave] = end["waves"]
        assert wave["words"].startswith("wave 1: 1 shard again ("), wave
        first, second = finishers_of(run)
        assert (first.finisher.number, second.finisher.number) == (1, 2)
        wait_for(lambda: not run.status().live, "the last finisher does not end")
        seen = run.status().finishing
        assert seen is not None
        assert (seen.state, seen.results) == ("done", end["results"])
        for known in (first, second):
            assert log_of(known).exists(), f"finisher {known.finisher.number} has no log"

    def test_each_cause_is_met_by_what_helps(self, site: Site, finishing: Any) -> None:
        """A worker is killed, two shards need more memory, and an item raises, which is named."""
        require_waiting(site)
        trouble = {"kills": [4], "large": [1, 7], "raising": [10], "limited": True}
        memory = {"options": {**site.options, "memory": "400MB"}}
        run = finishing(12, trouble, n_shards=4, shards_per_job=1, schedule="static", **memory)
        end = end_of(run)
        assert (end["outcome"], end["n_done"]) == ("incomplete", 3), end
        [shard] = end["unfinished"]
        assert shard["rank"] == 3
        assert "item 10 is bad" in shard["cause"]
        words = "; ".join(wave["words"] for wave in end["waves"])
        assert "1 shard again (" in words, words
        assert "2 shards again (out of memory at 400MB, now 600MB)" in words, words
        wait_for(lambda: not run.status().live, "the last finisher does not end")

    def test_a_finisher_behind_jobs_that_are_over(
        self, site: Site, finishing: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where they end before it is submitted, the scheduler may know them no more."""
        require_waiting(site)
        launch = JobQueueLauncher.launch_finisher

        async def late(self: JobQueueLauncher, finisher: Finisher) -> str:
            while await self._scheduler.not_ended(finisher.waits_for):  # noqa: ASYNC110 (a queue)
                await asyncio.sleep(0.1)
            return await launch(self, finisher)

        monkeypatch.setattr(JobQueueLauncher, "launch_finisher", late)
        run = finishing(4, {}, n_shards=2)
        end = end_of(run)
        assert (end["outcome"], end["waves"]) == ("done", [])
        assert results_of(end) == [{"item": item} for item in range(4)]

    def test_a_finisher_that_waits_is_cancelled_too(
        self, site: Site, finishing: Any, tmp_path: Path
    ) -> None:
        require_waiting(site)
        site.hold()
        run = finishing(4, {"seconds": 60}, n_shards=2)
        [known] = finishers_of(run)
        job_id = known.job_id
        assert job_id is not None
        assert known.finisher.job.name in site.shown(job_id)
        seen = run.status().finishing
        assert seen is not None
        assert (seen.state, seen.words) == ("waiting", f"finisher 1 is queued as job {job_id}")
        site.release()
        wait_for(lambda: set(states(run).values()) == {"running"}, "not all run")
        assert job_id in run.cancel()
        wait_for(lambda: not run.status().live, "something is left")
        seen = run.status().finishing
        assert seen is not None
        assert seen.state == "gone"
        assert set(states(run).values()) == {"interrupted"}
        assert not Path(run.run_dir, layout.finished(1)).exists()
        assert noted(tmp_path, "begun") == once([0, 2])


def require_waiting(site: Site) -> None:
    """Skip where no job can wait for another; that `finish` is refused there has its own test."""
    if not get_dialect(site.env).can_wait:
        pytest.skip(f"no job waits for another in {site.env}")


def finishers_of(run: Run) -> list[KnownFinisher]:
    """The run's finishers, in order."""
    ending = read_ending(RunDirectory.open(run.run_dir))
    assert ending is not None
    return ending.finishers


def log_of(known: KnownFinisher) -> Path:
    """Where the job of a finisher prints to."""
    finisher = known.finisher
    name = get_scheduler(finisher.scheduler).log_file(finisher.job, 0)
    return Path(finisher.log_directory, name)
