"""Damaged results, items that failed, limits: what is computed again, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from espnet3.errors import DamagedResult, FailedItems, IncompleteRun
from espnet3.run import Run
from espnet3.specs import layout
from tests.support.cli_project import Project
from tests.support.helpers import (
    attempts,
    causes,
    ended,
    kill_all,
    lines_kept,
    locally,
    noted,
    once,
    parallel,
    processes_of,
    states,
    submit_noting,
    wait_for,
)
from tests.support.rude import meet
from tests.support.runners import GATE, MENDED


def config(n_shards: int, **keys: Any) -> Any:
    quick: dict[str, Any] = {"n_workers": 2, "preflight": False, "checkpoint_every": 0.1}
    return parallel("local", n_shards=n_shards, **quick, **keys)


@pytest.fixture(autouse=True)
def _nothing_stays(tmp_path: Path) -> Iterator[None]:
    """A failing test leaves no worker behind that waits for ever."""
    yield
    (tmp_path / GATE).touch()
    kill_all(Run(tmp_path / "run"))


def published(run: Run) -> dict[str, bytes]:
    """All files of a run directory but logs, with their contents."""
    root = Path(run.run_dir)
    files = (path for path in root.rglob("*") if path.is_file() and path.parent.name != "logs")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def require_unchanged(before: dict[str, bytes], run: Run) -> None:
    after = published(run)
    assert {name: after.get(name) for name in before} == before


def result_file(run: Run | Path, rank: int, first: int = 0) -> Path:
    root = run if isinstance(run, Path) else Path(run.run_dir)
    [file] = root.glob(f"results/{rank:06d}.*.{first}.jsonl")
    return file


def flip(file: Path) -> None:
    """Change one letter of a result; the line is a valid one all the same."""
    data = file.read_bytes()
    assert b"square" in data
    file.write_bytes(data.replace(b"square", b"sqvare", 1))


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


# --- damage ---------------------------------------------------------------------------------------

DAMAGES: list[tuple[int, Callable[[Path], Path], Callable[[Path], None], str]] = [
    (0, lambda root: result_file(root, 0), truncate, "bytes, but the receipt vouches for"),
    (1, lambda root: result_file(root, 1), flip, "has changed since its receipt was written"),
    (2, lambda root: result_file(root, 2), Path.unlink, "is missing"),
    (3, lambda root: root / layout.receipt(3), truncate, "truncated or damaged"),
    (4, lambda root: result_file(root, 4), flip, "has changed since its receipt was written"),
]


def test_what_is_damaged_is_computed_again_and_nothing_else(tmp_path: Path) -> None:
    # Shard 4 has two parts: its first attempt fails at its second item.
    run = ended(submit_noting(tmp_path, 18, config(6), failing=[13]))
    (tmp_path / MENDED).touch()
    run.resume()
    assert ended(run).collect(patience=0) == locally(tmp_path, 18)
    begun = noted(tmp_path, "begun")

    for rank, find, damage, words in DAMAGES:
        copy = Path(shutil.copytree(run.run_dir, tmp_path / f"copy-{rank}"))
        file = find(copy)
        damage(file)
        with pytest.raises(DamagedResult) as caught:
            Run(copy).collect(patience=0)
        assert (caught.value.file, caught.value.rank) == (str(file), rank)
        assert words in str(caught.value)
        assert f"espnet3 resume {copy} --repair" in str(caught.value)
    root = Path(run.run_dir)
    for _, find, damage, _ in DAMAGES:
        damage(find(root))
    before = published(run)

    submitted = run.resume(repair=True, patience=0)
    assert submitted.ranks == [0, 1, 2, 3, 4]
    assert [*submitted.withdrawn] == submitted.ranks
    for rank, _, _, words in DAMAGES:
        assert words in submitted.withdrawn[rank]
    assert ended(run).collect(patience=0) == locally_again(tmp_path)
    # Of shard 3 only the receipt was damaged; of shard 4 the second part was good.
    assert noted(tmp_path, "begun") - begun == once([*range(9), 12])
    require_unchanged(before, run)
    assert run.resume(repair=True, patience=0).withdrawn == {}

    # What was made good can be damaged again.
    truncate(max(root.glob("results/000001.0003*.jsonl")))
    assert run.resume([1], repair=True, patience=0).ranks == [1]
    assert ended(run).collect(patience=0) == locally_again(tmp_path)
    names = {str(path.relative_to(root)) for path in root.glob("*/000001.*[12].json")}
    assert {"receipts/000001.2.json", "withdrawals/000001.2.json"} <= names


def locally_again(folder: Path) -> object:
    shutil.rmtree(folder / "local-mode", ignore_errors=True)
    return locally(folder, 18)


def test_a_shard_whose_receipt_was_withdrawn_says_so_until_it_is_resumed(tmp_path: Path) -> None:
    run = ended(submit_noting(tmp_path, 4, config(2)))
    flip(result_file(run, 1))
    # Where nothing can be submitted, nothing is withdrawn.
    with pytest.raises(Exception, match="max_errors: needs on_error: record"):
        run.resume(repair=True, patience=0, options={"max_errors": 1})
    assert not Path(run.run_dir, layout.WITHDRAWALS).exists()
    os.mkdir(Path(run.run_dir, layout.WITHDRAWALS))
    shutil.copy(FIXTURE, Path(run.run_dir, layout.withdrawal(1, 1)))
    assert (states(run)[1], causes(run)[1]) == ("pending", "its receipt was withdrawn")
    with pytest.raises(IncompleteRun, match="its receipt was withdrawn"):
        run.collect(patience=0)
    assert run.resume().ranks == [1]
    assert ended(run).collect(patience=0) == locally(tmp_path, 4)


FIXTURE = Path(__file__).parents[1] / "fixtures/v1/repaired/withdrawals/000001.1.json"


# --- items that failed ----------------------------------------------------------------------------


def test_only_failed_items_are_computed_again_also_after_a_kill(tmp_path: Path) -> None:
    (tmp_path / GATE).touch()
    record = config(3, on_error="record")
    run = ended(submit_noting(tmp_path, 18, record, failing=[1, 4, 8], gated=[4]))
    with pytest.raises(FailedItems, match="--items failed"):
        run.collect(patience=0)
    before = published(run)
    (tmp_path / GATE).unlink()
    (tmp_path / MENDED).touch()
    submitted = run.resume(items="failed")
    assert submitted.ranks == [0, 1]
    assert submitted.withdrawn == {0: "2 items failed", 1: "1 item failed"}
    assert submitted.left_alone == {2: "done"}
    # The file of the first attempt has six lines; the new one begins behind item 0.
    wait_for(lambda: noted(tmp_path, "begun")[4] == 2, "item 4 is not tried again")
    wait_for(lambda: lines_kept(run, 0) == 6 + 3, "what was copied is not on disk")
    os.kill(attempts(run, 0, "started")[-1].pid, signal.SIGKILL)
    ended(run)
    assert states(run) == {0: "interrupted", 1: "done", 2: "done"}
    (tmp_path / GATE).touch()
    assert run.resume().ranks == [0]
    assert ended(run).collect(patience=0) == locally(tmp_path, 18)
    assert noted(tmp_path, "begun") == once(range(18)) + Counter({1: 1, 4: 2, 8: 1})
    require_unchanged(before, run)
    assert run.resume(items="failed").number is None


def test_failed_items_of_a_part_of_a_shard(tmp_path: Path) -> None:
    """Somebody vouched for the second half, with a failed item, and the first was never done."""
    shared = {"schedule": "dynamic", "lease": 6.0, "heartbeat": 0.5}
    run = submit_noting(
        tmp_path, 20, config(1, on_error="record", **shared), failing=[19], gated=[2]
    )
    signs, parts = Path(run.run_dir, layout.WORKERS), Path(run.run_dir, layout.CLAIMS)

    def seems_slow() -> bool:
        states = [json.loads(path.read_bytes()) for path in signs.glob("*.json")]
        return any(state["position"] == 2 and state["seconds"] > 3 for state in states)

    wait_for(seems_slow, "nobody waits at the gate")
    work = [sys.executable, "-m", "espnet3", "work", run.run_dir]
    subprocess.run(work, check=True, timeout=100)
    assert [*parts.glob("*.part.json")] != []
    kill_all(run)
    ended(run)
    before = published(run)
    (tmp_path / MENDED).touch()
    (tmp_path / GATE).touch()
    submitted = run.resume(items="failed")
    assert (submitted.ranks, submitted.withdrawn) == ([0], {0: "1 item failed"})
    assert ended(run).collect(patience=0) == locally(tmp_path, 20)
    assert noted(tmp_path, "begun") == once(range(20)) + Counter({2: 1, 19: 1})
    require_unchanged({n: data for n, data in before.items() if "workers" not in n}, run)


def test_failed_items_of_a_shard_without_a_receipt(tmp_path: Path) -> None:
    record = config(1, on_error="record")
    run = submit_noting(tmp_path, 6, record, failing=[1], gated=[3])
    wait_for(lambda: lines_kept(run, 0) == 3, "three items are not done")
    os.kill(attempts(run, 0, "started")[-1].pid, signal.SIGKILL)
    ended(run)
    (tmp_path / MENDED).touch()
    assert run.resume(items="failed").ranks == [0]
    wait_for(lambda: noted(tmp_path, "begun")[3] == 2, "item 3 is not tried again")
    os.kill(attempts(run, 0, "started")[-1].pid, signal.SIGKILL)
    ended(run)
    (tmp_path / GATE).touch()
    run.resume()
    assert ended(run).collect(patience=0) == locally(tmp_path, 6)
    assert noted(tmp_path, "begun")[0] == noted(tmp_path, "begun")[2] == 1


def test_a_shard_with_too_many_errors_fails_and_keeps_what_is_done(tmp_path: Path) -> None:
    limited = config(1, on_error="record", max_errors=1)
    run = ended(submit_noting(tmp_path, 6, limited, failing=[1, 3, 4]))
    assert states(run) == {0: "failed"}
    assert causes(run)[0].startswith("2 items of shard 0 failed, and max_errors is 1 (the last is ")
    [failed] = attempts(run, 0, "failed")
    assert (failed.item, failed.items_done) == (3, 3)
    run.resume(options={"max_errors": 3})
    assert states(ended(run)) == {0: "done"}
    assert noted(tmp_path, "begun") == once(range(6)) + once([3])
    (tmp_path / MENDED).touch()
    run.resume(items="failed")
    assert ended(run).collect(patience=0) == locally(tmp_path, 6)
    assert noted(tmp_path, "begun") == once(range(6)) + once([1, 3, 3, 4])


# --- two at once ----------------------------------------------------------------------------------


def test_two_repairs_at_once(tmp_path: Path) -> None:
    run = ended(submit_noting(tmp_path, 4, config(2)))
    flip(result_file(run, 0))
    repair = ("espnet3", "resume", run.run_dir, "--repair", "--patience", "0")
    words = meet(tmp_path, "000000.1.json", *repair)
    assert sum("submission\tnone" in word for word in words) == 1, words
    assert all("computed again\tshard 0: " in word for word in words), words
    assert ended(run).collect(patience=0) == locally(tmp_path, 4)
    assert noted(tmp_path, "begun") == once([0, 1, *range(4)])
    assert not Path(run.run_dir, layout.submission(3)).exists()


def test_a_repair_while_an_old_copy_lives(tmp_path: Path) -> None:
    run = submit_noting(tmp_path, 2, config(1), gated=[0])
    wait_for(lambda: noted(tmp_path, "begun")[0] == 1, "the first copy does not run")
    [old] = attempts(run, 0, "started")
    os.kill(old.pid, signal.SIGSTOP)
    run.resume(force=True)
    (tmp_path / GATE).touch()
    wait_for(lambda: run.status().done, "the second copy does not finish")
    flip(max(Path(run.run_dir).glob("results/000000.0002*.jsonl")))
    assert run.resume(repair=True, patience=0).ranks == [0]
    wait_for(lambda: run.status().done, "the repair does not finish")
    before = published(run)
    os.kill(old.pid, signal.SIGCONT)
    wait_for(lambda: not processes_of(run), "the old copy lives on")
    require_unchanged(before, run)
    assert "another attempt was first" in Path(run.logs(0)[0]).read_text()
    assert run.collect(patience=0) == locally(tmp_path, 2)


# --- the command ----------------------------------------------------------------------------------


def test_the_command(tmp_path: Path) -> None:
    espnet3 = Project(tmp_path, "local")
    run = Run(espnet3.folder / espnet3.run_dir)
    small = ["items.n=4", "n_shards=2", "parallel.preflight=false"]
    espnet3(
        "submit", espnet3.config, *small,
        "parallel.on_error=record", "parallel.max_errors=0", "provider.params.failing=[2,3]",
    )  # fmt: skip
    assert "max_errors is 0" in causes(ended(run))[1]
    assert (
        "parallel.max_errors"
        in espnet3("resume", espnet3.run_dir, "--set", "max_errors=-1", code=2).stderr
    )
    espnet3("resume", espnet3.run_dir, "--set", "max_errors=2")
    assert ended(run).status().done
    failed = espnet3("collect", espnet3.run_dir, code=1).stderr
    assert failed.count("\n") == 1
    assert "2 items failed" in failed
    assert "--items failed" in failed
    (espnet3.folder / "mended").touch()
    again = espnet3.json("resume", espnet3.run_dir, "--items", "failed")
    assert (again["ranks"], again["withdrawn"]) == ([1], {"1": "2 items failed"})
    assert ended(run).status().done

    [file] = Path(run.run_dir).glob("results/000000.*")
    file.write_bytes(file.read_bytes()[1:])
    damaged = espnet3("collect", espnet3.run_dir, "--patience", "0", code=1).stderr
    assert damaged.startswith(f"espnet3: {file}: has ")
    assert damaged.endswith(f"`espnet3 resume '{espnet3.folder}/a run/first' --repair`\n")
    lines = espnet3.lines("resume", espnet3.run_dir, "--repair", "--patience", "0")
    assert lines[4].startswith(f"computed again\tshard 0: {file.name} has ")
    ended(run)
    assert len(espnet3.lines("collect", espnet3.run_dir)) == 4
    assert "--items" in espnet3("resume", espnet3.run_dir, "--items", "some", code=2).stderr
