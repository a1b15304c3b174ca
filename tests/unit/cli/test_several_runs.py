"""Commands on folders of runs, of which one is bad, unfinished, or no run at all."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from espnet3.cli import run_rows
from espnet3.cli.several_runs import each_run
from espnet3.errors import EspnetError, UsageError
from espnet3.run_dir.result_lines import encode_error, encode_json
from espnet3.specs import layout
from espnet3.specs.models import AttemptRecord, ErrorRecord, encode, now
from espnet3.status.run_list import ListedRun, SeenRun
from espnet3.status.run_status import RunStatus, Shards, ShardStatus
from espnet3.storage.opening import open_store
from tests.support.commands import said
from tests.support.finished_runs import finish_shard
from tests.support.worker_runs import write_run
from tests.support.writing_runners import Decode


def run_at(place: Path, *, done: int = 2, failed: int = 0, **kind: Any) -> str:
    """A run of two shards with two items each; of shard 0 the first items may have failed."""
    run = write_run(open_store(place), {}, range(4), n_shards=2, **kind)
    for rank in range(done):
        errors = failed if rank == 0 else 0
        bad = encode_error(0, ErrorRecord(type="ValueError", message="bad")) * errors
        finish_shard(place, run, rank, [bad + encode_json(0, 0) * (2 - errors)], errors=errors)
    return str(place)


def bad_run_at(place: Path) -> None:
    place.mkdir(parents=True)
    (place / layout.RUN).write_text("{")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A bad run between two good ones."""
    for name in ("a", "c"):
        run_at(tmp_path / "out" / name)
    bad_run_at(tmp_path / "out" / "b")
    return tmp_path / "out"


@pytest.mark.parametrize("command", ["cancel", "resume", "finish", "report", "watch"])
def test_a_bad_run_keeps_no_other_from_its_turn(out: Path, command: str) -> None:
    done = said(command, str(out))
    assert done.code == 1
    [line] = done.err.splitlines()
    assert line.startswith(f"espnet3: {out}/b/run.json: ")
    assert [name for name in "ac" if f"{out}/{name}" in done.out] == ["a", "c"]


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder with two runs, and links to them and to those of somebody else."""
    for name in ("out/a", "out/c/espnet3_run", "other/b", "other/d/espnet3_run"):
        run_at(tmp_path / name)
    folder = tmp_path / "link"
    folder.symlink_to(tmp_path / "out")
    for name, place in {"aa": "a", "b": "../other/b", "d": "../other/d"}.items():
        (folder / name).symlink_to(place)
    return folder


@pytest.mark.parametrize("command", ["cancel", "resume", "finish", "report"])
def test_what_links_lead_to_elsewhere_is_not_changed(shared: Path, command: str) -> None:
    other = shared.parent / "other"
    before = {path: path.stat().st_mtime_ns for path in other.rglob("*")}
    done = said(command, str(shared))
    assert done.err.splitlines() == [
        f"espnet3: {shared}/{name}: leads to {other}/{name}, which is left alone; name it if it is "
        "meant"
        for name in ("b", "d/espnet3_run")
    ]
    assert [name for name in "abcd" if f"{shared}/{name}" in done.out] == ["a", "c"]
    assert {path: path.stat().st_mtime_ns for path in other.rglob("*")} == before
    looked = said("status", str(shared))
    assert [name for name in "abcd" if f"{shared}/{name}" in looked.out] == ["a", "b", "c", "d"]


def test_a_run_elsewhere_stands_for_no_folder(tmp_path: Path) -> None:
    run_at(tmp_path / "other/b")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/b").symlink_to(tmp_path / "other/b")
    one = f"{tmp_path}/out: is not a run directory, but holds one: {tmp_path}/out/b; name that one"
    for words in (["cancel"], ["resume"], ["finish"], ["work"], ["report"], ["run-shard", "0"]):
        done = said(words[0], f"{tmp_path}/out", *words[1:])
        assert (done.code, done.err) == (2, f"espnet3: {one}\n"), words
    assert said("status", f"{tmp_path}/out").code == 0
    assert said("report", f"{tmp_path}/out", "-o", f"{tmp_path}/r.html").code == 0
    for words in (["cancel"], ["resume"], ["report"]):
        assert said(words[0], f"{tmp_path}/out/b").code == 0


@pytest.mark.parametrize("command", ["cancel", "resume"])
def test_a_program_is_told_of_those_that_had_their_turn(out: Path, command: str) -> None:
    done = said(command, str(out), "--json")
    assert (done.code, done.err.count("\n")) == (1, 1)
    told = json.loads(done.out)["runs"]
    assert [each["run_dir"] for each in told] == [f"{out}/a", f"{out}/c"]


def test_the_worst_exit_code_counts(capsys: pytest.CaptureFixture[str]) -> None:
    problems: dict[str, EspnetError] = {
        "/b": EspnetError("no answer"), "/c": UsageError("/c: is wrong"),
    }  # fmt: skip

    def deed(run_dir: str) -> tuple[int, Any]:
        if run_dir in problems:
            raise problems[run_dir]
        return 0, run_dir

    assert each_run(["/a", "/b", "/c", "/d"], deed, as_json=True) == 2
    out, err = capsys.readouterr()
    assert json.loads(out) == {"runs": ["/a", "/d"]}
    assert err == "espnet3: /b: no answer\nespnet3: /c: is wrong\n"  # each names its run
    assert each_run(["/b"], deed, as_json=True) == 1
    assert capsys.readouterr() == ("", "espnet3: no answer\n")
    assert each_run(["/a"], deed, as_json=True) == 0
    assert capsys.readouterr().out == '"/a"\n'

    def interrupted(run_dir: str) -> tuple[int, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        each_run(["/a", "/b"], interrupted)


def test_where_merge_makes_the_output_no_place_is_named(tmp_path: Path) -> None:
    place = str(tmp_path / "results")
    for name in ("a", "b"):
        run_at(tmp_path / "out" / name, runner=Decode, output_dir=place)
    bad_run_at(tmp_path / "out" / "c")
    for given in (["-o", "x.jsonl"], ["-o", "-"], ["--to", "kaldi", "x", "--key", "item"]):
        for run_dir in (str(tmp_path / "out"), str(tmp_path / "out/a")):
            refused = said("collect", run_dir, *given)
            assert (refused.code, refused.out) == (2, "")
            words = "its runner writes the results itself, and its merge makes the output"
            assert refused.err == f"espnet3: {run_dir}: {words}, so -o and --to do not apply\n"


def test_the_status_of_runs_is_that_of_each(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("a", "b"):
        run_at(out / name)
    assert said("status", str(out)).code == 0
    run_at(out / "c", failed=1, on_error="record")
    done = said("status", str(out))
    assert (done.code, said("status", f"{out}/c").code) == (1, 1)
    [row] = [line.split("\t") for line in done.out.splitlines() if f"{out}/c" in line]
    assert (row[0], row[-1]) == ("done", "1 of 4 items failed")
    told = {
        each["run_dir"][-1]: each
        for each in json.loads(said("status", str(out), "--json").out)["runs"]
    }
    assert [told[name]["sound"] for name in "abc"] == [True, True, False]
    assert (told["c"]["failed_items"], told["c"]["skipped_items"]) == (1, 0)
    bad_run_at(out / "d")
    assert said("status", str(out)).code == 1


def test_a_dead_run_is_called_after_its_worst_shard(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_at(out / "a")
    run_at(out / "b", done=1)
    record = AttemptRecord(
        event="failed", rank=1, attempt=layout.new_attempt(1), task=1, job_id="1", host="here",
        pid=1, time=now(), cause="ValueError: bad",
    )  # fmt: skip
    (out / "b" / layout.path_of(record)).write_bytes(encode(record))
    for words in (["status"], ["list", "--ask"]):
        rows = [line.split("\t") for line in said(*words, str(out)).out.splitlines()]
        assert {row[5][-1]: row[0] for row in rows} == {"a": "done", "b": "failed"}
    assert {line.split("\t")[0] for line in said("list", str(out)).out.splitlines()} == {
        "done", "unfinished",
    }  # fmt: skip


def test_what_to_type_about_runs_that_need_somebody() -> None:
    def seen(name: str, state: Any, **more: Any) -> SeenRun:
        status = RunStatus(f"/out/{name}", Shards.of([ShardStatus(0, state)]), **more)
        return SeenRun(ListedRun(status.run_dir, "done"), status)

    runs = [
        seen("a", "done"), seen("b", "failed"), seen("c", "running"),
        seen("d e", "done", skipped={0: 1}), SeenRun(ListedRun("/out/f", "unreadable")),
        seen("g", "done", merges=True), seen("h", "done", merges=True, merged="/out"),
    ]  # fmt: skip
    assert run_rows.next_steps(runs) == [
        "espnet3 status /out/b", "espnet3 status '/out/d e'", "espnet3 collect /out/g",
    ]  # fmt: skip
    sound = [True, False, False, False, False, True, True]
    assert [run_rows.needs_nobody(run) for run in runs] == sound
    assert [one.get("merged") for one in run_rows.seen_documents(runs)][-2:] == [None, "/out"]


def test_after_a_resume_of_nothing_it_is_not_said_to_collect_what_is_refused(
    tmp_path: Path,
) -> None:
    run_dir = run_at(tmp_path / "run", failed=1, on_error="record")
    assert said("collect", run_dir, "-o", str(tmp_path / "x.jsonl")).code == 1
    lines = said("resume", run_dir).out.splitlines()
    assert [line.partition("\t")[2] for line in lines if line.startswith("next")] == [
        f"espnet3 collect {run_dir} -o results.jsonl --errors keep",
        f"espnet3 resume {run_dir} --items failed",
    ]


def test_runs_further_down(tmp_path: Path) -> None:
    run_dir = run_at(tmp_path / "exp/asr/decode")
    exp = str(tmp_path / "exp")
    words = f"no run is directly in it; `espnet3 list {exp}` looks further down"
    for command in ("status", "cancel", "watch"):
        assert said(command, exp) == (
            2,
            "",
            f"espnet3: {exp}: is not a run directory, and {words}\n",
        )
    assert said("list", exp).out.rstrip("\n").endswith(run_dir)
    down = f"no run in {exp}, looking 1 folder down\n"
    assert said("list", exp, "--depth", "1") == (0, "", down)
    assert said("list", exp, "--depth", "1", "--json") == (0, '{"runs":[]}\n', "")
    (tmp_path / "exp/logs").mkdir()  # may be what a submission that was cut short has left
    assert "submit again with the same call" in said("status", exp).err
    (tmp_path / "empty").mkdir()
    assert "submit again with the same call" in said("status", str(tmp_path / "empty")).err


def test_a_removal_looks_before_it_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    run_dir = run_at(tmp_path / "out/run")
    one = f"is not a run directory, but holds one: {run_dir}; name that one"
    for words in ([], ["--yes"]):
        assert said("remove", f"{tmp_path}/out", *words) == (
            2,
            "",
            f"espnet3: {tmp_path}/out: {one}\n",
        )
    n_files = sum(path.is_file() for path in Path(run_dir).rglob("*"))
    asked = said("remove", run_dir)
    assert (asked.code, asked.out) == (2, "")
    assert asked.err == (
        f"espnet3: {run_dir}: {n_files} files, 2 of 2 shards done; this is not a terminal: say "
        "--yes to remove it\n"
    )
    assert said("remove", run_dir, "--yes").out.splitlines()[-1] == f"files\t{n_files}"


def test_work_says_that_nothing_is_left(tmp_path: Path) -> None:
    run_dir = run_at(tmp_path / "run")
    assert said("work", run_dir) == (0, "nothing is left to compute\n", "")
    assert json.loads(said("work", run_dir, "--json").out)["workers"] == []
