"""What people and programs see of a run."""

from __future__ import annotations

import io
import json
import re
import sys
from dataclasses import replace

import pytest
from rich.console import Console

from espnet3.cli import show, status_lines, status_table, status_views
from espnet3.errors import EspnetError
from espnet3.status.finishing import Finishing
from espnet3.status.run_status import Progress, RunStatus, Shards, ShardStatus, Silence, State
from espnet3.submit.launcher import Rendered
from espnet3.submit.submission import Submitted

SHARDS = [
    ShardStatus(0, "done", "", 1, 0),
    ShardStatus(1, "failed", "ValueError:\t[red]seven[/red]\nis bad", 2, 0, "error"),
    ShardStatus(2, "running", "since 2026-01-02 on node1", 1, 2),
    ShardStatus(3, "pending"),
]
LOST = [ShardStatus(rank, "lost", f"cause {rank}", 1, rank) for rank in range(50)]
SEEN = RunStatus("/shared/a run", Shards.of(SHARDS))
HALF = Progress(17, {1: 3, 2: 4}, 1.5, 15.3, {2: Silence(1500.0, 4, "a\nb")})
MANY = RunStatus("/r", Shards.of(LOST))
DONE = RunStatus("/r", Shards.of([ShardStatus(0, "done", "", 1, 0)]))


def drawn(
    seen: RunStatus,
    *,
    width: int = 100,
    height: int = 24,
    colour: bool = False,
    encoding: str = "utf-8",
) -> str:
    buffer = io.BytesIO()
    file = io.TextIOWrapper(buffer, encoding=encoding)
    status_table.status(
        seen,
        Console(
            file=file, width=width, height=height, force_terminal=colour, highlight=False,
            no_color=False,
        ),
    )  # fmt: skip
    file.flush()
    return buffer.getvalue().decode(encoding)


def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    status_views.status(replace(SEEN, scheduler_problem="slurm: no\nanswer"))
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "1 of 4 shards done, 1 running, 1 pending, 1 failed",
        "1\tfailed\t2\t0\tValueError: [red]seven[/red] is bad",
        "2\trunning\t1\t2\tsince 2026-01-02 on node1",
        "3\tpending\t-\t-\t",
    ]
    assert err == "espnet3: slurm: no answer\n"


def test_every_unfinished_shard_has_a_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    status_views.status(MANY)
    assert len(capsys.readouterr().out.splitlines()) == 1 + 50


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    show.json_document(status_lines.status_document(SEEN))
    found = json.loads(capsys.readouterr().out)
    assert [*found] == [
        "run_dir", "world_size", "counts", "done", "live", "sound", "needs_nobody", "items",
        "items_done", "failed_items", "skipped_items", "items_per_second", "seconds_left",
        "unreadable_receipts", "scheduler_problem", "finishing", "merged", "changed_sources",
        "shards",
    ]  # fmt: skip
    assert found["world_size"] == 4
    assert found["counts"] == {"done": 1, "running": 1, "pending": 1, "failed": 1}
    assert (found["done"], found["live"], found["scheduler_problem"]) == (False, True, None)
    assert found["shards"][2] == {
        "rank": 2,
        "state": "running",
        "cause": "since 2026-01-02 on node1",
        "submission": 1,
        "task": 2,
        "items_done": 0,
        "failed_items": 0,
    }
    assert [shard["rank"] for shard in found["shards"] if "kind" in shard] == [1]


def test_the_kind_of_a_cause_in_json() -> None:
    shard = ShardStatus(0, "interrupted", "out of memory", 1, 0, "memory", 4, "node7", 8.5)
    document = status_lines.status_document(RunStatus("/r", Shards.of([shard])))
    assert document["shards"] == [
        {
            "rank": 0,
            "state": "interrupted",
            "cause": "out of memory",
            "submission": 1,
            "task": 0,
            "kind": "memory",
            "items_done": 0,
            "failed_items": 0,
        }
    ]


def test_a_table_on_a_terminal() -> None:
    assert drawn(replace(SEEN, n_items=40, progress=HALF)).splitlines() == [
        "/shared/a run",
        "━━━━━━━━━━━━━━━━━━━───────────────────── 42 %",
        "1 of 4 shards done, 1 running, 1 pending, 1 failed",
        "17 of 40 items done, 1.5 items/s, 15 s left",
        "shards  state    cause",
        "1       failed   ValueError: [red]seven[/red] is bad",  # no markup of rich
        "3       pending",
        "2       running  since 2026-01-02 on node1, no result for 25 min, at item a b",
        "next  espnet3 logs '/shared/a run' 1",
        "next  espnet3 run-shard '/shared/a run' 1",
    ]
    assert "\x1b[31mfailed" in drawn(SEEN, colour=True)


def test_shards_of_one_cause_are_one_row() -> None:
    lines = drawn(MANY).splitlines()
    assert lines[2:5] == [
        "0 of 50 shards done, 50 lost",
        "shards  state  cause",
        "0-49    lost   cause …",
    ]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50), (40, 10)])
def test_all_of_it_fits_on_the_terminal(width: int, height: int) -> None:
    """And what does not is counted; nothing takes a second row."""
    states: tuple[State, ...] = ("failed", "lost", "done")
    shards = [
        ShardStatus(rank, states[rank % 3], "why " * 99 + "x" * (rank % 40), 1, rank, "error")
        for rank in range(1000)
    ]
    finishing = Finishing(
        "gone", "finisher 4 " + "is gone " * 40, waves=("wave 1: " + "again " * 40,) * 9
    )
    seen = RunStatus(
        "/shared/" + "folder/" * 40, Shards.of(shards), "slurm: no answer " * 30, 10**6, {0: 3},
        finishing, [f"{'module/' * 9}{i}.py" for i in range(9)], HALF,
    )  # fmt: skip
    lines = drawn(replace(seen, run_dir="/r"), width=width, height=height).splitlines()
    if height > 20:
        assert len(lines) < height
        assert re.fullmatch(
            r"and [0-9]+ more", next(line for line in lines if line.startswith("and "))
        )
    assert max(map(len, lines)) <= width
    assert lines[2].startswith("333 of 1000 shards done, ")
    named = [line for line in drawn(seen, width=width).splitlines() if not line.startswith("next")]
    assert re.match("…[a-z]*/folder/", named[0])
    assert len(named[0]) == width


def test_a_long_table_is_cut() -> None:
    shards = [ShardStatus(rank, "lost", f"cause {'x' * rank}", 1, rank) for rank in range(50)]
    lines = drawn(RunStatus("/r", Shards.of(shards))).splitlines()
    assert lines[0] == "/r"
    assert lines[-3] == "and 35 more"
    assert lines[-2:] == ["next  espnet3 logs /r 0", "next  espnet3 resume /r"]
    assert len(lines) == 22


def test_nothing_but_ascii_where_the_terminal_knows_no_more() -> None:
    text = drawn(replace(SEEN, run_dir="/shared/" + "x" * 200), encoding="ascii")
    assert text.startswith("...xxx")
    assert "====" in text


def test_in_the_bar_every_state_has_its_share() -> None:
    shards = [ShardStatus(rank, "done") for rank in range(999)] + [ShardStatus(999, "failed")]
    drawn_bar = status_table.bar(RunStatus("/r", Shards.of(shards)))
    assert len(drawn_bar) == 40
    told = status_table.bar(RunStatus("/r", Shards.of(shards), n_items=10, progress=Progress(5)))
    assert [span.end - span.start for span in told.spans] == [20, 20]  # of items, where told
    assert [(span.end - span.start, span.style) for span in drawn_bar.spans] == [
        (39, "green"),
        (1, "red"),
    ]
    assert len(status_table.bar(DONE, width=10)) == 10


def test_following_in_a_pipe_prints_changes_only(capsys: pytest.CaptureFixture[str]) -> None:
    with status_views.follower() as view:
        for seen in (SEEN, SEEN, replace(SEEN, shards=Shards.of(SHARDS[:2])), DONE):
            view.update(seen)
        view.end(DONE)
    assert capsys.readouterr().out.splitlines() == [
        "1 of 4 shards done, 1 running, 1 pending, 1 failed",
        "1 of 2 shards done, 1 failed",
        "1 of 1 shard done",
    ]


def test_following_in_a_pipe_prints_a_line_for_each_percent(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with status_views.follower() as view:
        for done in (0, 1, 2, 9, 10, 19, 20, 999):
            view.update(replace(SEEN, n_items=1000, progress=Progress(done)))
    said = [line.partition("failed")[2] for line in capsys.readouterr().out.splitlines()]
    assert said == ["", *(f", {n} of 1000 items done" for n in (10, 20, 999))]


def test_following_for_a_program_prints_a_document_for_each_change(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with status_views.follower(as_json=True) as view:
        for seen in (SEEN, SEEN, DONE):
            view.update(seen)
        view.end(DONE)
    first, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["counts"], first["done"]) == (SEEN.counts(), False)
    assert (last["counts"], last["done"], last["shards"][0]["state"]) == (
        DONE.counts(), True, "done",
    )  # fmt: skip


def test_following_on_a_terminal() -> None:
    file = io.StringIO()
    with status_table.LiveFollower(Console(file=file, width=100, force_terminal=True)) as view:
        view.update(SEEN)
        view.end(MANY)
    text = file.getvalue()
    assert "1 running" in text
    assert "espnet3 resume /r" in text
    assert text.endswith("\n\x1b[?25h")  # and the cursor is back


def test_following_ends_well_when_a_look_fails() -> None:
    file = io.StringIO()
    console = Console(file=file, width=100, force_terminal=True)
    with pytest.raises(EspnetError), status_table.LiveFollower(console):
        raise EspnetError("gone")
    assert "\x1b[?25h" in file.getvalue()  # the cursor is back


def test_a_submission(capsys: pytest.CaptureFixture[str]) -> None:
    show.submitted(Submitted("/a run", 2, [1, 3], ["17", "18"], {0: "done", 2: "running: here"}))
    assert capsys.readouterr().out.splitlines() == [
        "run directory\t/a run",
        "submission\t0002",
        "shards\t2",
        "jobs\t17 18",
        "left alone\t1 done, 1 running",
        "next\tespnet3 watch '/a run'",
        "next\tespnet3 collect '/a run' -o results.jsonl",
    ]


def test_submissions_of_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    made = Submitted("/r", 2, [1, 3], ["17", "18"], {}, further=[3, 4])
    show.submitted(made)
    assert "submission\t0002 0003 0004" in capsys.readouterr().out.splitlines()
    show.json_document(show.submitted_document(made))
    found = json.loads(capsys.readouterr().out)
    assert (found["submission"], found["further_submissions"]) == (2, [3, 4])


def test_nothing_to_submit(capsys: pytest.CaptureFixture[str]) -> None:
    nothing = Submitted("/r", None, [], [], {0: "done"})
    show.submitted(nothing)
    assert capsys.readouterr().out.splitlines() == [
        "run directory\t/r",
        "submission\tnone, there is nothing to submit",
        "left alone\t1 done",
        "next\tespnet3 collect /r -o results.jsonl",
    ]
    show.json_document(show.submitted_document(nothing))
    assert json.loads(capsys.readouterr().out)["left_alone"] == {"0": "done"}


@pytest.mark.parametrize(("jobs", "shown"), [(1, 1), (3, 3), (4, 1)])
def test_a_dry_run(jobs: int, shown: int, capsys: pytest.CaptureFixture[str]) -> None:
    show.rendered([Rendered("#!/bin/sh\ntrue\n", ["sbatch", "--name=a b"])] * jobs)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "sbatch '--name=a b' SCRIPT"
    assert lines.count("#!/bin/sh") == shown
    assert lines[-1].startswith(f"# and {jobs - shown} more") is (jobs > shown)


def test_a_dry_run_shows_the_finisher_whatever_else_is_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    jobs = [Rendered("#!/bin/sh\ntrue\n", ["sbatch"])] * 9
    behind = Rendered("#!/bin/sh\nfinish\n", ["sbatch", "-d", "1"], "starts when all have ended")
    show.rendered([*jobs, behind])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-6:] == [
        "# and 8 more jobs like it (--json shows all)",
        "# the finisher, which starts when all have ended: the command",
        "sbatch -d 1 SCRIPT",
        "# the finisher: its SCRIPT",
        "#!/bin/sh",
        "finish",
    ]
    [*others, last] = show.rendered_document([*jobs, behind])["jobs"]
    assert last["when"] == "starts when all have ended"
    assert not any("when" in other for other in others)


def test_a_dry_run_of_what_needs_no_job(capsys: pytest.CaptureFixture[str]) -> None:
    show.rendered([])
    assert capsys.readouterr().out.startswith("# nothing to submit: ")


def test_no_sign_of_life_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert not sys.stderr.isatty()
    with show.waiting("working"):
        pass
    assert capsys.readouterr() == ("", "")
