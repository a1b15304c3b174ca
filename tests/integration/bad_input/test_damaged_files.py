"""Bad input, damaged files: refused in one clear line, with nothing half-written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import espnet3
from espnet3.errors import (
    DamagedResult,
    EspnetError,
    FormatError,
    IncompleteRun,
    InvalidFile,
    NewerFormat,
    UsageError,
)
from espnet3.run import submit_run
from espnet3.specs.models import AttemptRecord, decode
from tests.support.refusals import (
    Provider,
    Runner,
    everything_asked_of,
    one_clear_line,
    refused,
    snapshot,
    start,
    unfinish,
    worker,
)


def truncated(text: str) -> str:
    return text[:-20]


def emptied(text: str) -> str:
    return ""


def newer(text: str) -> str:
    return json.dumps({**json.loads(text), "schema_version": 9, "colour": "blue"})


def with_unknown_field(text: str) -> str:
    return json.dumps({**json.loads(text), "colour": "blue"})


def without_version_one(text: str) -> str:
    return json.dumps({**json.loads(text), "schema_version": 0})


DAMAGES: dict[Callable[[str], str], tuple[type[FormatError], list[str]]] = {
    truncated: (InvalidFile, ["the file is truncated or damaged"]),
    emptied: (InvalidFile, ["the file is truncated or damaged"]),
    newer: (NewerFormat, ["field schema_version: is 9", "upgrade espnet3"]),
    with_unknown_field: (InvalidFile, ["field colour: unknown field", "edited by hand"]),
    without_version_one: (InvalidFile, ["field schema_version"]),
}
damages = pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)


def hurt(file: Path, damage: Callable[[str], str]) -> tuple[type[FormatError], list[str]]:
    file.write_text(damage(file.read_text()))
    error, words = DAMAGES[damage]
    return error, [str(file), *words]


@damages
def test_a_damaged_run_json_is_refused_by_all(
    here: Path, run_dir: Path, damage: Callable[[str], str]
) -> None:
    unfinish(run_dir)
    error, words = hurt(run_dir / "run.json", damage)
    for ask in everything_asked_of(run_dir).values():
        with refused(error, *words, folder=here):
            ask()
    with refused(error, *words, folder=here):
        start()
    before = snapshot(here)
    code, message = worker(run_dir)
    assert code == 2
    one_clear_line(message, "espnet3.worker: ", *words)
    assert snapshot(here) == before


@damages
@pytest.mark.parametrize("name", ["0001.json", "0001.jobs.json"])
def test_a_damaged_submission_is_refused_by_all_who_need_it(
    here: Path, run_dir: Path, damage: Callable[[str], str], name: str
) -> None:
    unfinish(run_dir)
    error, words = hurt(run_dir / "submissions" / name, damage)
    asks = everything_asked_of(run_dir)
    for ask in asks.values():
        with refused(error, *words, folder=here):
            ask()
    with refused(error, *words, folder=here):
        start(parallel={"n_workers": 2})
    if name == "0001.json":
        before = snapshot(here)
        code, message = worker(run_dir)
        assert code == 2
        one_clear_line(message, "espnet3.worker: ", *words)
        assert snapshot(here) == before
    else:  # a worker does not read who else was submitted
        assert worker(run_dir)[0] == 0


@damages
def test_a_complete_run_is_collected_whatever_became_of_its_submissions(
    run_dir: Path, damage: Callable[[str], str]
) -> None:
    hurt(run_dir / "submissions/0001.json", damage)
    assert espnet3.Run(run_dir).collect() == [0, 1, 2, 3]


@damages
def test_a_damaged_shard_fails_with_a_record(run_dir: Path, damage: Callable[[str], str]) -> None:
    unfinish(run_dir)
    _, words = hurt(run_dir / "shards/000000.json", damage)
    before = snapshot(run_dir)
    code, log = worker(run_dir)
    assert code == 1
    one_clear_line(log, "shard 0: failed after 0 items", *words)
    new = set(snapshot(run_dir)) - set(before)
    [failed] = [name for name in new if name.endswith(".failed.json")]
    record = decode(AttemptRecord, (run_dir / failed).read_bytes(), failed)
    one_clear_line(record.cause, *words)
    assert {name.partition("/")[0] for name in new} == {"attempts"}
    with pytest.raises(IncompleteRun) as caught:
        espnet3.Run(run_dir).collect()
    one_clear_line(str(caught.value), "1 of 2 shards", words[0], "resume the run")


@damages
def test_a_damaged_receipt_is_refused_by_collect(
    here: Path, run_dir: Path, damage: Callable[[str], str]
) -> None:
    refusal, words = hurt(run_dir / "receipts/000000.json", damage)
    error: type[EspnetError] = refusal
    if refusal is InvalidFile:  # what a newer espnet3 wrote is not damaged
        error, words = DamagedResult, [*words, "--repair"]
    for name in ("collect", "stream"):
        with refused(error, *words, folder=here):
            everything_asked_of(run_dir)[name]()
    output = here / "all.jsonl"
    with refused(error, *words, folder=here):
        espnet3.Run(run_dir).collect(output, patience=0)
    assert worker(run_dir)[0] == 0  # receipts are created once, so there is nothing to do


def test_collect_spares_devices_symlinks_and_the_run_itself(here: Path, run_dir: Path) -> None:
    run, pipe, link = espnet3.Run(run_dir), here / "pipe", here / "link.jsonl"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        run.collect(pipe)
        written, _ = reader.communicate(timeout=60)
    assert pipe.is_fifo()
    link.symlink_to("behind.jsonl")
    run.collect(link)
    assert link.is_symlink()
    assert (here / "behind.jsonl").read_bytes() == written
    pipe.unlink()
    before = {path: path.read_bytes() for path in run_dir.rglob("*.json*")}
    (here / "alias").symlink_to(run_dir)
    for name in ("run/receipts/000000.json", "alias/run.json", "run/results/all.jsonl"):
        with refused(UsageError, name, "among the run's own files", folder=here):
            run.collect(here / name)
    for prefix in ("file://", "local://", "simplecache::file://"):
        with refused(UsageError, "among the run's own files", folder=here):
            run.collect(f"{prefix}{here}/alias/run.json")
    assert before == {path: path.read_bytes() for path in run_dir.rglob("*.json*")}
    run.collect(f"file://{link}")  # a path like any other
    assert link.is_symlink()
    assert (here / "behind.jsonl").read_bytes() == written


def test_a_shard_or_receipt_of_another_plan_is_refused(here: Path, run_dir: Path) -> None:
    other = here / "other"
    submit_run(Runner(Provider({"beam": 5})), range(4), run_dir=other,
               parallel={"n_workers": 2}).wait(60, 0.1)  # fmt: skip
    shutil.copy(other / "receipts/000000.json", run_dir / "receipts/000000.json")
    words = ["receipts/000000.json: field fingerprint: belongs to another shard or plan"]
    with refused(DamagedResult, *words, folder=here):
        espnet3.Run(run_dir).collect(patience=0)
    unfinish(run_dir)
    shutil.copy(other / "shards/000000.json", run_dir / "shards/000000.json")
    code, log = worker(run_dir)
    assert code == 1
    one_clear_line(log, "shards/000000.json: field fingerprint: belongs to another plan")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[:-3], ["bytes, but the receipt vouches for"]),
        (lambda data: data.replace(b"1", b"7"), ["has changed since its receipt was written"]),
        (None, ["is missing"]),
    ],
    ids=["truncated", "changed", "missing"],
)
def test_a_damaged_result_is_refused_by_collect(
    here: Path, run_dir: Path, damage: Any, words: list[str]
) -> None:
    [file] = (run_dir / "results").glob("000000.*")
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage(file.read_bytes()))
    for collect in (
        lambda: espnet3.Run(run_dir).collect(patience=0),
        lambda: espnet3.Run(run_dir).collect(here / "all.jsonl", patience=0),
        lambda: list(espnet3.Run(run_dir).stream(patience=0)),
    ):
        with refused(DamagedResult, str(file), *words, "shard 0", folder=here):
            collect()


def test_a_result_with_a_line_too_many_is_refused_though_its_checksum_is_right(
    here: Path, run_dir: Path
) -> None:
    [file] = (run_dir / "results").glob("000000.*")
    file.write_bytes(file.read_bytes() + b"\n")
    receipt = json.loads((run_dir / "receipts/000000.json").read_text())
    [part] = receipt["parts"]
    part["bytes"] += 1
    part["checksum"] = f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    (run_dir / "receipts/000000.json").write_text(json.dumps(receipt))
    words = [str(file), "records, but the receipt vouches for", "shard 0"]
    with refused(DamagedResult, *words, folder=here):
        espnet3.Run(run_dir).collect(patience=0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--task", "9"], ["task 9", "has 2 tasks"]),
        (["--task", "-1"], ["task -1", "has 2 tasks"]),
    ],
)
def test_a_task_that_is_not_there_is_refused(
    run_dir: Path, arguments: list[str], words: list[str]
) -> None:
    before = snapshot(run_dir)
    code, message = worker(run_dir, *arguments)
    assert code == 2
    one_clear_line(message, "espnet3.worker: ", *words)
    assert snapshot(run_dir) == before
