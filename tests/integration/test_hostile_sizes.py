"""Directories that would keep a reader busy for ever, or fill its memory: errors of one line."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from espnet3.errors import FileTooLarge, InvalidFile, UnserializableResult, UsageError
from espnet3.parallel import BaseRunner, EnvironmentProvider
from espnet3.run import Run, submit_run
from espnet3.run_dir import result_lines
from espnet3.run_dir.reading import SMALL, read_persisted
from espnet3.specs import layout
from espnet3.specs.codec import decode, encode
from espnet3.specs.models import AttemptRecord, RunSpec, ShardSpec
from espnet3.specs.schema import ALL
from espnet3.storage.local import LocalStore
from espnet3.text import cut
from tests.support.commands import said
from tests.support.helpers import attempts, ended, states

HUGE = 1 << 30
CONFIG = {"preflight": False, "n_workers": 2, "n_shards": 2}


class Provider(EnvironmentProvider):
    def build_env_local(self) -> dict[str, Any]:
        return {}


class Talkative(BaseRunner):
    """Fails with a long message, in a class with a long name, at a large item."""

    @staticmethod
    def forward(idx: Any, **env: Any) -> Any:
        if idx == "fine":
            return idx
        raise type("E" * 100_000, (ValueError,), {})("\x01" * (3 << 20) + "the end")


@pytest.fixture(scope="module")
def ended_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards: one is done, one failed."""
    folder = tmp_path_factory.mktemp("ended") / "run"
    items = ["fine", "x" * (2 << 20)]
    submitted = submit_run(Talkative(Provider({})), items, run_dir=folder, parallel=CONFIG)
    assert states(ended(submitted)) == {0: "done", 1: "failed"}
    return folder.rename(folder.with_name("kept"))


@pytest.fixture
def run(ended_run: Path) -> Run:
    """It, as it was when it had ended, and where it was."""
    folder = ended_run.with_name("run")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ended_run, folder)
    return Run(folder)


def test_what_we_write_ourselves_fits(run: Run) -> None:
    [failed] = attempts(run, 1, "failed")
    [file] = Path(run.run_dir, layout.ATTEMPTS).glob("*.failed.json")
    assert file.stat().st_size <= AttemptRecord.MOST_BYTES
    assert failed.error is not None
    assert failed.item is None  # it would fill the record
    assert len(failed.error.type) <= 200
    for text in (failed.error.message, failed.error.traceback):
        assert len(text.encode()) < (1 << 16) + 100
        assert "bytes are left out here]" in text
        assert text.rstrip().endswith("the end")


def test_recorded_errors_are_cut_too(tmp_path: Path) -> None:
    config = CONFIG | {"on_error": "record"}
    run = ended(submit_run(Talkative(Provider({})), ["fine", "bad"], run_dir=tmp_path / "run",
                           parallel=config))  # fmt: skip
    _, error = run.collect(errors="keep")
    assert len(error.message.encode()) < (1 << 16) + 100
    assert error.message.endswith("the end")


def test_a_text_is_cut_in_its_middle() -> None:
    assert cut("„short“", 100) == "„short“"
    shown = cut("a" * 50 + "ü" * 100, 60)
    assert shown.startswith("a" * 30 + "\n[")
    assert shown.endswith("]\n" + "ü" * 15)


def sparse(path: Path, size: int) -> None:
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


def test_sparse_records_are_not_read(run: Run) -> None:
    """A hundred attempt records of 1 GiB each; then a receipt, a submission, and run.json."""
    folder = Path(run.run_dir)
    (folder / layout.receipt(0)).unlink()
    for rank in range(2):
        for i in range(50):
            sparse(folder / layout.attempt_record(rank, f"0001-{i:012x}", "started"), HUGE)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert states(run)[1] == "failed"
    sparse(folder / layout.receipt(0), HUGE)
    for words in (["collect", "--partial", "--patience", "0"], ["resume", "--repair"]):
        said(words[0], str(folder), *words[1:])
    code, _, err = said("collect", str(folder), "--partial", "--patience", "0")
    for path in (layout.submission(1), layout.RUN):
        sparse(folder / path, 2 * HUGE)
        code, _, err = said("status", str(folder))
        assert code == 1
        [line] = err.splitlines()
        assert f"{folder / path}: has {2 * HUGE} bytes; the limit is" in line
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 300_000  # KiB


def test_each_kind_of_record_has_its_limit(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    for model in ALL:
        sparse(tmp_path / "record", model.MOST_BYTES + 1)
        with pytest.raises(
            FileTooLarge, match=f"the limit is {model.MOST_BYTES}, so it was not read"
        ):
            read_persisted(store, model, "record")


def test_large_records_are_read_one_at_a_time_and_whole(tmp_path: Path) -> None:
    from espnet3.specs.items import ItemList
    from espnet3.storage.concurrency import in_order

    store = LocalStore(str(tmp_path))
    spec = ShardSpec(rank=0, world_size=1, run="/r/run.json", fingerprint="sha256:" + "0" * 64,
                     items=ItemList(values=["x" * 99] * 50_000))  # fmt: skip
    data = encode(spec)
    assert len(data) > SMALL
    store.prepare([layout.SHARDS])
    for rank in range(8):
        store.create(layout.shard(rank), data)

    def read(rank: int) -> ShardSpec:
        return read_persisted(store, ShardSpec, layout.shard(rank))

    assert [*in_order(read, range(8), 8)] == [spec] * 8


def test_a_record_that_nobody_would_read_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ShardSpec(rank=0, world_size=1, run="/r/run.json", fingerprint="sha256:" + "0" * 64,
                     items={"kind": "range", "start": 0, "stop": 3, "step": 1})  # type: ignore[arg-type]  # fmt: skip
    monkeypatch.setattr(ShardSpec, "MOST_BYTES", 100)
    with pytest.raises(UsageError, match=r"kind 'shard' would have .* bytes; the limit is 100"):
        encode(spec)


@pytest.mark.parametrize("n", [20_000, 200_000])
def test_a_doubled_key_among_many_is_found_in_one_walk(run: Run, n: int) -> None:
    """It took two minutes where there were 40,000 keys; 200,000 would take an hour."""
    keys = b",".join(b'"k%d":1' % min(i, n - 2) for i in range(n))
    data = Path(run.run_dir, layout.RUN).read_bytes()
    data = data.replace(b'"parallel":{', b'"parallel":{%b,' % keys)
    with pytest.raises(InvalidFile, match=f"duplicate key 'k{n - 2}'"):
        decode(RunSpec, data, "run.json")


@pytest.mark.parametrize(
    "value",
    [b"[" * 500_000, b"[" * 500_000 + b"]" * 500_000, b"9" * 1_000_000, b'{"a":' * 200_000],
    ids=["torn", "nested", "digits", "objects"],
)
def test_nesting_and_digits(run: Run, value: bytes) -> None:
    file = Path(run.run_dir, layout.RUN)
    data = file.read_bytes().replace(b'"parallel":{', b'"parallel":{"x":%b,' % value)
    file.write_bytes(data)
    for words in (["status"], ["collect", "--patience", "0"], ["resume"], ["cancel"]):
        code, _, err = said(words[0], run.run_dir, *words[1:])
        assert code in (1, 2)
        assert len(err.splitlines()) == 1, words


def test_logs_are_regular_files(run: Run, tmp_path: Path) -> None:
    log = Path(run.logs(1)[-1])
    log.unlink()
    os.mkfifo(log)
    code, _, err = said("logs", run.run_dir, "1")
    assert code == 1
    assert "there is no log of shard 1 yet" in err
    intent = Path(run.run_dir, layout.submission(1))
    raw = json.loads(intent.read_text())
    raw["log_directory"] = "/dev"
    raw["jobs"][0]["log"] = "zero"
    intent.write_text(json.dumps(raw))
    assert said("logs", run.run_dir, "1").code == 1


def test_a_result_without_an_end_is_no_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from espnet3.collect import merge
    from espnet3.run_dir import salvage, verification

    for module in (result_lines, merge, verification, salvage):
        monkeypatch.setattr(module, "MAX_LINE", 4 << 20)
    monkeypatch.setattr(verification, "IN_MEMORY", 1 << 20)
    store = LocalStore(run.run_dir)
    file = layout.ResultFile(0, "0001-0123456789ab", 0)
    Path(run.run_dir, layout.result(*file)).write_bytes(
        orjson.dumps({"item": "fine", "result": "x" * (6 << 20)}) + b"\n"
    )
    assert salvage.salvage(store, [file], ["fine"]).records == 0
    with (
        Path(run.run_dir, layout.result(*file)).open("rb") as stream,
        pytest.raises(InvalidFile, match="x: holds a line of more than 4194304 bytes"),
    ):
        [*verification.line_blocks(stream, 6 << 20, "x")]
    for encoded in (result_lines.encode_json, result_lines.encode_pickle):
        with pytest.raises(UnserializableResult, match=r"its line would have .*; the limit is"):
            encoded(1, "x" * (5 << 20))


def test_foreign_names_by_the_hundred_thousand(run: Run) -> None:
    for folder in layout.FOLDERS:
        first = Path(run.run_dir, folder, f"{'9' * 200}.foreign")
        first.touch()
        for i in range(20_000):
            os.link(first, first.with_name(f"{i}.foreign.{'9' * 200}"))
    for words in (["status"], ["collect", "--partial", "--patience", "0"]):
        code, _, err = said(words[0], run.run_dir, *words[1:])
        assert "Traceback" not in err
        assert code in (0, 1)
    assert states(run) == {0: "done", 1: "failed"}


def test_memory_that_is_left_is_said(run: Run) -> None:
    """A shard's spec of many items, read where there is no room for it."""
    code = """
import resource, sys
from espnet3.run_dir.reading import SMALL, read_persisted
from espnet3.errors import InvalidFile
from espnet3.storage.local import LocalStore
from espnet3.specs.models import ShardSpec
with open("/proc/self/statm") as file:
    size = int(file.read().split()[0]) * resource.getpagesize() + (32 << 20)
resource.setrlimit(resource.RLIMIT_AS, (size, size))
try:
    read_persisted(LocalStore(sys.argv[1]), ShardSpec, "large")
except InvalidFile as error:
    print(error)
"""
    sparse(Path(run.run_dir, "large"), HUGE)
    done = subprocess.run(
        [sys.executable, "-c", code, run.run_dir], capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert "is larger than the memory that is left here" in done.stdout, done.stderr
