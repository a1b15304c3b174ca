"""Runs that finish themselves on this host: nobody resumes, and nobody collects."""

from __future__ import annotations

import json
import os
import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from espnet3.errors import ConfigError, UsageError
from espnet3.run import Run, submit_run
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.finishers import read_ending
from espnet3.specs import layout
from espnet3.specs.finishing import Finished
from tests.support import ends
from tests.support.commands import said
from tests.support.ends import results_of
from tests.support.helpers import kill_all, noted, processes_of, python, submission, wait_for
from tests.support.troubles import Troubled, Troubles


def submit(folder: Path, n_items: int, trouble: dict[str, Any], **keys: Any) -> Run:
    """Submit `Troubled`, with a finisher that notes what it tells unless that is told otherwise."""
    notify = {"notify": f'echo "$ESPNET3_OUTCOME" >> {folder}/told'}
    finish = keys.pop("finish", notify)
    config = {"env": "local", "n_workers": 4, "finish": finish, "preflight": False, **keys}
    provider = Troubles({"folder": str(folder), **trouble})
    return submit_run(Troubled(provider), range(n_items), run_dir=folder / "run", parallel=config)


def end_of(run: Run, number: int = 1) -> Any:
    """What `finished.json` says, once it is there and told, and nothing is alive."""
    end = ends.end_of(run, number)
    wait_for(lambda: not processes_of(run), "something is alive")
    assert Path(run.run_dir, layout.notified(number)).exists()
    return end


@pytest.mark.parametrize("schedule", ["static", "dynamic"])
def test_what_was_killed_is_tried_again(tmp_path: Path, schedule: str) -> None:
    run = submit(tmp_path, 24, {"kills": [3, 11]}, n_shards=8, schedule=schedule)
    seen = run.wait(timeout=120, interval=0.2)
    end = end_of(run)
    assert end["outcome"] == "done", end
    assert results_of(end) == [{"item": item} for item in range(24)]
    assert seen.finishing is not None
    assert (seen.finishing.state, seen.finishing.results) == ("done", end["results"])
    assert [*seen.finishing.waves] == [wave["words"] for wave in end["waves"]]
    assert (tmp_path / "told").read_text() == "done\n"


def test_a_shard_that_is_killed_at_one_item_after_the_other_gets_further(tmp_path: Path) -> None:
    """Nobody has said how far a killed worker came, but its results are there."""
    keys = {"n_shards": 1, "schedule": "static", "finish": {"max_attempts": 4, "notify": "true"}}
    run = submit(tmp_path, 12, {"kills": [3, 7, 9]}, **keys)
    end = end_of(run)
    assert (end["outcome"], end["cause"], len(end["waves"])) == ("done", "", 3)
    assert results_of(end) == [{"item": item} for item in range(12)]


@pytest.mark.parametrize(
    ("keys", "schedule"),
    [
        ({"n_shards": 4}, "static"),
        ({"n_shards": 5}, "dynamic"),
        ({"n_shards": 5, "schedule": "static"}, "static"),
        ({"n_shards": 8, "shards_per_job": 2}, "static"),
        ({"n_shards": 4, "schedule": "dynamic"}, "dynamic"),
    ],
)
def test_more_shards_than_workers_are_shared(
    tmp_path: Path, keys: dict[str, Any], schedule: str
) -> None:
    """Of four workers, where a finisher comes behind and nobody says otherwise."""
    run = submit(tmp_path, 8, {}, **keys)
    assert submission(run).schedule == schedule
    assert end_of(run)["outcome"] == "done"


def test_a_wave_is_judged_by_its_own_shards(tmp_path: Path) -> None:
    run = submit(tmp_path, 8, {"raising": [5]}, n_shards=8, finish={"retry_errors": 1})
    assert ends.end_of(run)["outcome"] == "incomplete"
    assert [submission(run, number).schedule for number in (1, 2)] == ["dynamic", "static"]


def test_an_item_that_raises_is_named(tmp_path: Path) -> None:
    run = submit(tmp_path, 12, {"raising": [7]}, n_shards=4)
    end = end_of(run)
    assert (end["outcome"], end["n_done"], end["results"]) == ("incomplete", 3, None)
    [shard] = end["unfinished"]
    assert (shard["rank"], shard["state"]) == (2, "failed")
    assert "item 7 is bad" in shard["cause"]
    assert "the finisher does not retry what is missing" in end["cause"]
    assert (tmp_path / "told").read_text() == "incomplete\n"
    seen = run.status()
    assert not seen.live
    assert seen.finishing is not None
    assert "3 of 4 shards done" in seen.finishing.words


def test_who_is_told_reads_why_and_the_status_that_telling_failed(tmp_path: Path) -> None:
    """Who gets a mail sees no table of shards, and who gets none has to learn that somewhere."""
    notify = f'echo "$ESPNET3_WORDS" > {tmp_path}/told; echo mail: not found >&2; exit 3'
    run = submit(tmp_path, 12, {"raising": [4, 7]}, n_shards=4, finish={"notify": notify})
    end_of(run)
    words = (tmp_path / "told").read_text()
    assert "2 of 4 shards done; the finisher does not retry what is missing; shard 1: " in words
    assert "item 4 is bad" in words
    assert words.endswith("; and 1 shard more\n")
    problem = "notify ended with exit code 3: mail: not found (notified.json has all of it)"
    assert said("status", run.run_dir).out.endswith(f"\n{problem}\n")
    assert "; shard 1: " in said("finish", run.run_dir, "--now").out


def test_a_resume_after_the_end_has_an_end_of_its_own(tmp_path: Path) -> None:
    trouble = {"raising": [7], "mended": str(tmp_path / "mended")}
    run = submit(tmp_path, 12, trouble, n_shards=4)
    assert end_of(run)["outcome"] == "incomplete"
    (tmp_path / "mended").touch()
    run.resume()
    end = end_of(run, 2)
    assert (end["outcome"], end["number"], end["waves"]) == ("done", 2, [])
    assert results_of(end) == [{"item": item} for item in range(12)]


@pytest.mark.parametrize("schedule", ["static", "dynamic"])
def test_a_wave_keeps_what_was_skipped(tmp_path: Path, schedule: str) -> None:
    trouble = {"raising": [7], "kills": [8]}
    keys = {"n_shards": 2, "n_workers": 2, "schedule": schedule}
    run = submit(tmp_path, 12, trouble, **keys)
    assert end_of(run)["outcome"] == "incomplete"
    # The error line of what is skipped is the last one when the worker is killed: not vouched for.
    run.resume(skip=[7])
    end = end_of(run, 2)
    assert (end["outcome"], end["records"], end["errors"]) == ("done", 12, 1), end
    assert len(end["waves"]) == 1 or schedule == "dynamic"  # where the other one takes over
    numbers = range(2, 3 + len(end["waves"]))
    assert [[(s.rank, s.position) for s in submission(run, n).skip] for n in numbers] == (
        [[(1, 1)]] * len(numbers)
    )
    lines = [json.loads(line) for line in Path(end["results"]).read_text().splitlines()]
    assert [line["error"]["type"] for line in lines if "error" in line] == ["Skipped"]
    assert noted(tmp_path, "begun")[7] == 1
    seen = run.status()
    assert (seen.failed_items, seen.skipped) == (0, {1: 1})


def test_retry_errors_tries_what_raised_again(tmp_path: Path) -> None:
    finish = {"retry_errors": 1, "notify": "true"}
    run = submit(tmp_path, 8, {"raising": [5]}, n_shards=4, finish=finish)
    end = end_of(run)
    assert end["outcome"] == "incomplete"
    assert [wave["number"] for wave in end["waves"]] == [1]
    assert "as retry_errors allows" in end["waves"][0]["words"]


def test_all_processes_die_and_a_finisher_is_put_behind(tmp_path: Path) -> None:
    run = submit(tmp_path, 4, {"seconds": 4}, n_shards=4)
    wait_for(lambda: (tmp_path / "begun").exists(), "nothing is begun")
    kill_all(run)
    seen = run.status()
    assert seen.finishing is not None
    assert seen.finishing.state == "gone"
    assert "`espnet3 finish` queues another one" in seen.finishing.words
    assert not seen.live
    done = python("-m", "espnet3", "finish", run.run_dir)
    assert done.returncode == 0, done.stderr
    assert "finisher 2" in done.stdout
    assert end_of(run)["outcome"] == "done"


def test_a_finisher_that_is_killed_is_started_again(tmp_path: Path) -> None:
    run = submit(tmp_path, 8, {"seconds": 5}, n_shards=4)
    finishers = [pid for pid in processes_of(run) if b"espnet3.finish" in _words(pid)]
    child = max(finishers)  # the other one is its parent
    os.kill(child, signal.SIGKILL)
    assert end_of(run)["outcome"] == "done"


def _words(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_cancel_ends_the_finisher_too(tmp_path: Path) -> None:
    run = submit(tmp_path, 16, {"seconds": 60}, n_shards=4)
    wait_for(lambda: (tmp_path / "begun").exists(), "nothing is begun")
    stopped = run.cancel()
    assert len(stopped) == 2
    wait_for(lambda: not processes_of(run), "something is alive")
    assert not Path(run.run_dir, layout.finished(1)).exists()
    seen = run.status().finishing
    assert seen is not None
    assert seen.words == (
        "finisher 1 was cancelled with the run; `espnet3 resume` queues another one"
    )


def test_finish_now_is_done_in_this_terminal(tmp_path: Path) -> None:
    run = submit(tmp_path, 12, {"kills": [3, 11]}, n_shards=4, finish=False)
    run.wait(timeout=60, interval=0.2)
    assert not run.status().done
    done = python("-m", "espnet3", "finish", run.run_dir, "--now")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"done: 12 results in {run.run_dir}/results.jsonl\n"
    ending = read_ending(RunDirectory.open(run.run_dir))
    assert ending is not None
    assert ending.is_over


def test_a_run_that_is_over_gets_no_finisher(tmp_path: Path) -> None:
    output = tmp_path / "results.csv"
    run = submit(tmp_path, 4, {}, finish={"collect": str(output), "notify": "true"})
    end = end_of(run)
    words = f"the run is over: done: 4 results in {output}\n"

    def finished() -> str:
        done = said("finish", run.run_dir)
        assert done.code == 0, done.err
        wait_for(lambda: not processes_of(run), "something is alive")
        return done.out

    assert finished() == words
    assert finished() == words
    assert not Path(run.run_dir, layout.finisher(2)).exists()
    assert not Path(run.run_dir, layout.finished(2)).exists()
    written = output.read_bytes()
    output.unlink()
    assert finished() == words  # collected at once
    assert output.read_bytes() == written
    found = run.finish()
    assert (found.number, isinstance(found, Finished)) == (2, True)
    assert found.created > datetime.fromisoformat(end["created"])


def test_a_run_that_is_done_without_a_finisher_is_collected_at_once(tmp_path: Path) -> None:
    run = submit(tmp_path, 4, {}, finish=False)
    assert run.wait(timeout=60, interval=0.2).done
    found = run.finish()
    assert isinstance(found, Finished)
    assert found.results == f"{run.run_dir}/results.jsonl"
    assert Path(found.results).exists()


def test_what_comes_next_is_what_a_finisher_leaves_to_do(tmp_path: Path) -> None:
    run = submit(tmp_path, 4, {"seconds": 3}, finish=True)
    again = said("resume", run.run_dir)
    told = dict(line.split("\t", 1) for line in again.out.splitlines())
    assert told["results"] == f"{run.run_dir}/results.jsonl, once the run has finished itself"
    assert told["next"] == f"espnet3 watch {run.run_dir}"
    assert "collect" not in again.out
    assert run.submitted is not None
    assert run.submitted.results == f"{run.run_dir}/results.jsonl"
    ends.end_of(run)


def test_results_go_where_the_config_says_and_notify_may_fail(tmp_path: Path) -> None:
    output = tmp_path / "elsewhere.jsonl"
    run = submit(tmp_path, 4, {}, finish={"collect": str(output), "notify": "echo no; exit 3"})
    assert end_of(run)["results"] == str(output)
    assert output.exists()
    notified = json.loads(Path(run.run_dir, layout.notified(1)).read_bytes())
    assert (notified["exit_code"], notified["output"]) == (3, "no\n")


def test_results_take_the_form_that_their_name_says(tmp_path: Path) -> None:
    output = tmp_path / "new" / "hyp.parquet"
    run = submit(tmp_path, 4, {}, finish={"collect": str(output), "notify": "true"})
    assert end_of(run)["results"] == str(output)
    assert pyarrow.parquet.read_table(output)["result.item"].to_pylist() == [0, 1, 2, 3]


def test_a_form_that_cannot_be_made_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="the results are pickled, which no table holds"):
        submit(tmp_path, 4, {}, finish={"collect": str(tmp_path / "x.csv")}, results="pickle")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"needs pyarrow, .* pip install 'espnet3\[parquet\]'$"):
        submit(tmp_path, 4, {}, finish={"collect": str(tmp_path / "x.parquet")})
    assert not (tmp_path / "run").exists()


def test_results_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    output = tmp_path / "no" / "results.jsonl"
    output.parent.touch()  # a file
    notify = f'echo "$ESPNET3_WORDS" > {tmp_path}/told'
    run = submit(tmp_path, 4, {}, finish={"collect": str(output), "notify": notify})
    end = end_of(run)
    assert (end["outcome"], end["n_done"], end["results"]) == ("incomplete", end["n_shards"], None)
    assert (
        (tmp_path / "told")
        .read_text()
        .startswith(f"incomplete: 4 of 4 shards done; the results cannot be collected: {output}: ")
    )
    assert run.status().sound  # all is computed
    assert said("watch", run.run_dir).code == said("status", run.run_dir).code == 1
    output.parent.unlink()
    run.finish()
    assert end_of(run, 2)["outcome"] == "done"
    assert said("status", run.run_dir).code == 0


@pytest.mark.parametrize(
    ("finish", "error", "words"),
    [
        ({"collect": "x.txt"}, UsageError, "x.txt: .txt is no form that results are written in"),
        ({"collect": "run/run.json"}, UsageError, "run.json: lies among the run's own files"),
        ({"max_memory": "much"}, ConfigError, "parallel.finish.max_memory: must be a size"),
        ({"max_walltime": "long"}, ConfigError, "parallel.finish.max_walltime: must be a time"),
        ({"options": {"queue": "short"}}, ConfigError, "env: local has none for a finisher"),
        ({"wave": 3}, ConfigError, "parallel.finish.wave"),
        ("yes", ConfigError, "parallel.finish"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finish: Any, error: type[Exception], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error) as raised:
        submit(tmp_path, 4, {}, finish=finish)
    assert words in str(raised.value)
    assert not (tmp_path / "run").exists()
