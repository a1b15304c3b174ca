"""Malformed files of every kind, at every entry: one line, an exit code, no traceback, no hang."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from espnet3.parallel import BaseRunner, EnvironmentProvider
from espnet3.run import submit_run
from espnet3.specs import layout
from espnet3.specs.models import AttemptRecord, decode
from espnet3.storage.local import LocalStore
from espnet3.storage.opening import open_store
from espnet3.worker.main import main as worker
from tests.support.commands import said

Damage = Callable[[Path], None]
MEMORY = 1 << 30  # bytes that this process may grow by in one case


class Provider(EnvironmentProvider):
    def build_env_local(self) -> dict[str, Any]:
        return {}


class Runner(BaseRunner):
    @staticmethod
    def forward(idx: Any, **env: Any) -> Any:
        return idx


# --- what becomes of any file ---------------------------------------------------------------------


def raw(data: bytes) -> Damage:
    return lambda file: _write(file, data)


def _write(file: Path, data: bytes) -> None:
    file.write_bytes(data)


def edited(edit: Callable[[bytes], bytes]) -> Damage:
    return lambda file: _write(file, edit(file.read_bytes()))


def replaced(make: Callable[[Path], object]) -> Damage:
    def damage(file: Path) -> None:
        file.unlink()
        make(file)

    return damage


def version(data: bytes) -> Damage:
    name = b'"schema_version":'
    return edited(lambda whole: re.sub(name + b"[0-9]+", name + data, whole, count=1))


def _sparse(file: Path) -> None:
    with open(file, "wb") as opened:
        opened.truncate(1 << 40)


ANY: dict[str, Damage] = {
    "half": edited(lambda data: data[: len(data) // 2]),
    "NULs": edited(lambda data: b"\0" * len(data)),
    "NUL inside": edited(lambda data: data[:30] + b"\0" + data[30:]),
    "BOM": edited(lambda data: b"\xef\xbb\xbf" + data),
    "UTF-16": edited(lambda data: data.decode().encode("utf-16")),
    "no UTF-8": edited(lambda data: data.replace(b'"', b'"\xff', 1)),
    "twice": edited(lambda data: data + data),
    "doubled key": edited(lambda data: b'{"schema_version":1,' + data[1:]),
    "doubled key, escaped": edited(lambda data: b'{"schem\\u0061_version":1,' + data[1:]),
    "null": raw(b"null"),
    "a list": raw(b"[]"),
    "a number": raw(b"7"),
    "a huge number": raw(b'{"schema_version":' + b"9" * 20_000_000 + b"}"),
    "a huge list": raw(b"[" + b"0," * 1_000_000 + b"0]"),
    "deep": raw(b"[" * 100_000),
    "deep, closed": raw(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "NaN as a version": version(b"NaN"),
    "text as a version": version(b'"1"'),
    "a version of a million digits": version(b"1" + b"0" * 1_000_000),
    "much newer": version(b"99"),
    "sparse": replaced(_sparse),
    "folder": replaced(lambda file: file.mkdir()),
    "pipe": replaced(lambda file: os.mkfifo(file)),
    "device": replaced(lambda file: file.symlink_to("/dev/zero")),
    "link to itself": replaced(lambda file: file.symlink_to(file.name)),
    "link to nothing": replaced(lambda file: file.symlink_to("nowhere")),
}  # fmt: skip


def field(path: str, value: Any) -> Damage:
    """Another value for one field, dotted."""

    def damage(file: Path) -> None:
        document = json.loads(file.read_text())
        place = document
        *steps, last = path.split(".")
        for step in steps:
            place = place[int(step) if isinstance(place, list) else step]
        place[int(last) if isinstance(place, list) else last] = value
        file.write_text(json.dumps(document))

    return damage


def is_field(path: str, value: Any) -> Any:
    return pytest.param(field(path, value), id=f"{path}={json.dumps(value)[:30]}")


HUGE = 10**30
RUN = [
    is_field("world_size", 3_000_000),
    is_field("world_size", HUGE),
    is_field("world_size", -1),
    is_field("world_size", 5),  # but there are four items
    is_field("world_size", True),
    is_field("n_inputs", 0),
    is_field("n_inputs", "4"),
    is_field("batch_size", -3),
    is_field("run_id", "../../../../"),
    is_field("fingerprint", "sha256:0"),
    is_field("results", "marshal"),
    is_field("checkpoint_every", -1),
    is_field("runner", None),
    is_field("runner.qualname", 7),
    is_field("provider.args", {"0": 1}),
    is_field("environment_variables", {"A": 1}),
    is_field("sys_path", "/"),
    is_field("created", "yesterday"),
    is_field("created", "2026-01-01T00:00:00"),
    pytest.param(edited(lambda d: d.replace(b'"value":{', b'"value":{"x":NaN,')), id="NaN inside"),
    pytest.param(
        edited(lambda d: d.replace(b'"value":{', b'"value":{"x":-Infinity,')), id="-Infinity inside"
    ),
    pytest.param(edited(lambda d: d.replace(b'"value":{', b'"value":{"x":1,"x":2,')), id="doubled"),
]
SUBMISSION = [
    is_field("number", -1),
    is_field("ranks", {"kind": "range", "start": 0, "stop": 10**12}),
    is_field("ranks", {"kind": "range", "start": -(2**63), "stop": 2**63}),
    is_field("ranks", {"kind": "range", "start": -1, "stop": 1}),
    is_field("ranks", {"kind": "range", "start": 0, "stop": 0}),
    is_field("ranks", {"kind": "range", "start": 0, "stop": 2, "step": 0}),
    is_field("ranks", {"kind": "list", "values": [0, "1"]}),
    is_field("ranks", {"kind": "list", "values": [0, -1]}),
    is_field("ranks", {"kind": "tuple", "values": [0]}),
    is_field("shards_per_job", 0),
    is_field("jobs", []),
    is_field("jobs.0.n_tasks", 10**9),
    is_field("jobs.0.n_tasks", 1),
    is_field("jobs.0.first_task", 1),
    is_field("jobs.0.after", 0),
    is_field("jobs.0.throttle", -1),
    is_field("submitter.pid", -9),
    is_field("submitter.started", "now"),
    is_field("worker_command", "rm -rf /"),
    is_field("scheduler", "../../evil"),
]
JOBS = [
    is_field("number", 0),
    is_field("jobs", {"name": "x"}),
    is_field("jobs.0.job_id", 12),
    is_field("recorded_by.pid", 0),
]
SHARD = [
    is_field("rank", 1),
    is_field("rank", -1),
    is_field("world_size", 7),
    is_field("world_size", 0),
    is_field("items", {"kind": "list", "values": {"0": 1}}),
    is_field("items", {"kind": "range", "start": 0, "stop": 2**80}),
    is_field("items", {"kind": "range", "start": 0, "stop": 1}),
    is_field("items", {"kind": "range", "start": 0, "stop": 10**9}),
    is_field("items", {"kind": "list", "values": []}),
    is_field("items.step", -1),
]
_SHA = "sha256:" + "0" * 64
RECEIPT = [
    is_field("parts.0.file", "../../../../etc/passwd"),
    is_field("parts.0.file", "/etc/passwd"),
    is_field("parts.0.file", "000000.0001-aaaaaaaaaaaa.0.jsonl/../../run.json"),
    is_field("parts.0.file", "000000.0001-aaaaaaaaaaaa.0.jsonl\n"),
    is_field("parts.0.file", "000001.0001-aaaaaaaaaaaa.0.jsonl"),
    is_field("parts.0.file", "000000.0001-aaaaaaaaaaaa.0.jsonl"),
    is_field("parts.0.first", 1),
    is_field("parts.0.first", -1),
    is_field("parts.0.records", 1),
    is_field("parts.0.records", 0),
    is_field("parts.0.bytes", -5),
    is_field("parts.0.bytes", HUGE),
    is_field("parts.0.bytes", 2**62),
    is_field("parts.0.checksum", _SHA),
    is_field("parts.0.checksum", "md5:0"),
    is_field("parts", []),
    is_field("records", 10**9),
    is_field("records", -2),
    is_field("errors", -1),
    is_field("rank", 1),
    is_field("attempt", "../0001"),
    is_field("fingerprint", _SHA),
]


# --- how it is shown ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two shards. Copied before it is damaged."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    config = {"n_workers": 2, "preflight": False}
    run = submit_run(Runner(Provider({"beam": 5})), range(4), run_dir=folder, parallel=config)
    assert run.wait(60, 0.1).done
    return folder


@pytest.fixture
def run_dir(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


@pytest.fixture(autouse=True)
def memory_is_bounded() -> Iterator[None]:
    """What asks for more fails at once, instead of taking the whole machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def one_line(text: str, *words: str) -> None:
    lines = text.splitlines()
    assert len(lines) == 1, text[:2000]
    assert len(text) < 800, text[:2000]
    assert "Traceback" not in text
    for word in words:
        assert word in text, text


def work(run_dir: Path, capfd: pytest.CaptureFixture[str], number: str = "0001") -> tuple[int, str]:
    """The worker of the first task, in this process; what it says on standard error."""
    environ, folder, path = dict(os.environ), os.getcwd(), sys.path[:]
    logger = logging.getLogger("espnet3")
    log = logger.handlers[:], logger.level, logger.propagate
    capfd.readouterr()
    try:
        code = worker([str(run_dir), number, "--task", "0"], {})
    finally:
        os.environ.clear()
        os.environ.update(environ)
        os.chdir(folder)
        sys.path[:] = path
        logger.handlers[:], logger.level, logger.propagate = log
    return code, capfd.readouterr().err


def unfinish(run_dir: Path) -> None:
    (run_dir / "receipts/000000.json").unlink()


def any_damage(*but: str) -> list[Any]:
    return [pytest.param(damage, id=name) for name, damage in ANY.items() if name not in but]


GONE = ("link to nothing",)  # as if the file were not there


@pytest.mark.timeout(30)
@pytest.mark.parametrize("damage", [*any_damage(), *RUN])
def test_run_json(run_dir: Path, capfd: pytest.CaptureFixture[str], damage: Damage) -> None:
    unfinish(run_dir)
    damage(run_dir / "run.json")
    for command in ("status", "collect", "resume", "cancel"):
        code, out, err = said(command, str(run_dir))
        assert code in (1, 2), (command, out)
        assert out == ""
        one_line(err, "espnet3: ", "/dev/zero" if "/dev/zero is" in err else str(run_dir))
    code, err = work(run_dir, capfd)
    assert code == 2
    one_line(err, "espnet3.worker: ", "/dev/zero" if "/dev/zero is" in err else str(run_dir))


@pytest.mark.timeout(30)
@pytest.mark.parametrize("damage", [*any_damage(*GONE, "folder", "pipe", "device",
                                                "link to itself"), *SUBMISSION])  # fmt: skip
def test_submission(run_dir: Path, capfd: pytest.CaptureFixture[str], damage: Damage) -> None:
    unfinish(run_dir)
    damage(run_dir / "submissions/0001.json")
    for command in ("status", "resume", "cancel"):
        code, out, err = said(command, str(run_dir))
        if command == "status" and code == 1 and not err:
            continue  # what is odd does not matter there
        assert code in (1, 2), (command, out)
        one_line(err, "espnet3: ")
    code, err = work(run_dir, capfd)
    if code != 0:
        assert code == 2
        one_line(err, "espnet3.worker: ")


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", ["folder", "pipe", "device", "link to itself"])
@pytest.mark.parametrize("file", ["submissions/0001.json", "submissions/0001.jobs.json",
                                  "receipts/000000.json", "shards/000000.json"])  # fmt: skip
def test_what_is_no_file(
    run_dir: Path, capfd: pytest.CaptureFixture[str], name: str, file: str
) -> None:
    """Nothing waits for a pipe's other end or reads a device; the worker says what it is."""
    unfinish(run_dir)
    path = run_dir / file
    if not path.exists():
        path.touch()
    ANY[name](path)
    for command in ("status", "collect", "resume", "cancel"):
        words = ["--patience", "0"] if command == "collect" else []
        code, _, err = said(command, str(run_dir), *words)
        assert code in (0, 1, 2)
        assert "Traceback" not in err
    if command in ("status", "collect"):
        one_line(err)
    code, err = work(run_dir, capfd)
    assert code in (0, 1, 2)
    assert "Traceback" not in err


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "link to itself", "link to nothing"])
@pytest.mark.parametrize("file", [
    "run.json", "submissions/0001.json", "submissions/0001.jobs.json",
    "submissions/0001.cancelled.json", "submissions/0002.json", "submissions/0002.jobs.json",
    "receipts/000000.json", "receipts/000001.json", "withdrawals/000001.1.json",
    "attempts/000000.0001-aaaaaaaaaaaa.started.json",
])  # fmt: skip
def test_a_records_name_on_what_is_no_file_is_said_at_once(
    run_dir: Path, capfd: pytest.CaptureFixture[str], kind: str, file: str
) -> None:
    """Nobody waits for it to become one, and nobody takes it for one."""
    unfinish(run_dir)
    path = run_dir / file
    path.parent.mkdir(exist_ok=True)
    path.touch()
    ANY[kind](path)
    for command in ("status", "resume", "cancel"):
        code, out, err = said(command, str(run_dir))
        assert (code in (1, 2), out) == (True, ""), command
        words = "run.json" if (file, kind) == ("run.json", "link to nothing") else str(path)
        one_line(err, "espnet3: ", "/dev/zero" if "/dev/zero is" in err else words)
    if file == "receipts/000000.json":
        code, err = work(run_dir, capfd)
        assert code != 0
        assert file in err


@pytest.mark.timeout(30)
@pytest.mark.parametrize("damage", [*any_damage(*GONE, "folder", "pipe", "device",
                                                "link to itself"), *JOBS])  # fmt: skip
def test_jobs(run_dir: Path, damage: Damage) -> None:
    unfinish(run_dir)
    damage(run_dir / "submissions/0001.jobs.json")
    for command in ("status", "collect", "resume", "cancel"):
        code, out, err = said(command, str(run_dir))
        assert code in (1, 2), (command, out)
        assert out == ""
        one_line(err, "espnet3: ", "0001.jobs.json")


@pytest.mark.timeout(30)
@pytest.mark.parametrize("damage", [*any_damage(), *SHARD])
def test_shard(run_dir: Path, capfd: pytest.CaptureFixture[str], damage: Damage) -> None:
    unfinish(run_dir)
    damage(run_dir / "shards/000000.json")
    code, err = work(run_dir, capfd)
    assert code in (1, 2), err
    one_line(err, "/dev/zero" if "/dev/zero is not" in err else "shards/000000.json")
    for file in (run_dir / "attempts").glob("*.failed.json"):
        record = decode(AttemptRecord, file.read_bytes(), str(file))
        one_line(record.cause, "shards/000000.json")
        assert "Traceback" not in record.cause


@pytest.mark.timeout(30)
@pytest.mark.parametrize("damage", [*any_damage(*GONE, "folder", "pipe", "device",
                                                "link to itself"), *RECEIPT])  # fmt: skip
def test_receipt(run_dir: Path, tmp_path: Path, damage: Damage) -> None:
    damage(run_dir / "receipts/000000.json")
    for words in ([], ["-o", str(tmp_path / "out.jsonl")]):
        code, out, err = said("collect", str(run_dir), "--patience", "0", *words)
        assert code in (1, 2), out
        assert out == ""
        one_line(err, "espnet3: ", str(run_dir))
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.timeout(30)
@pytest.mark.parametrize("damage", any_damage())
def test_attempt_record(run_dir: Path, damage: Damage) -> None:
    """A hint only: states do not depend on it."""
    unfinish(run_dir)
    for file in (run_dir / "attempts").glob("000000.*"):
        damage(file)
    code, out, err = said("status", str(run_dir))
    assert code == 1
    if not err:
        assert out.splitlines()[0].startswith("1 of 2 shards done")
    else:  # a folder that cannot be listed
        one_line(err, "attempts")


@pytest.mark.parametrize("fields", [
    {"environment_variables": {"A": "\0"}},
    {"environment_variables": {"A=B": "x"}},
    {"environment_variables": {"": "x"}},
    {"working_directory": "\0"},
    {"working_directory": "/nowhere/at/all"},
    {"working_directory": "run.json"},
    {"sys_path": ["\0", "/dev/zero"], "runner": {"module": "\0", "qualname": "x"}},
    {"runner": {"module": "../../evil", "qualname": "x"}},
    {"runner": {"module": "", "qualname": ""}},
    {"runner": {"module": "os", "qualname": "path.nothing"}},
    {"runner": {"module": "__main__", "qualname": "x", "file": "/dev/zero"}},
    {"runner": {"module": "__main__", "qualname": "x", "file": "\0"}},
], ids=str)  # fmt: skip
def test_what_a_worker_would_do(
    run_dir: Path, capfd: pytest.CaptureFixture[str], fields: dict[str, Any]
) -> None:
    unfinish(run_dir)
    document = json.loads((run_dir / "run.json").read_text())
    (run_dir / "run.json").write_text(json.dumps({**document, **fields}))
    code, err = work(run_dir, capfd)
    assert code in (1, 2)
    assert err.splitlines()
    records = [*(run_dir / "attempts").glob("000000.*.failed.json")]
    if code == 2:
        one_line(err, "espnet3.worker: ")
    else:
        cause = decode(AttemptRecord, records[0].read_bytes(), "").cause
        one_line(cause)


@pytest.mark.parametrize("damage", [
    is_field("parallel.trust", {"owner": 1}),
    is_field("parallel.trust", "everyone"),
    is_field("parallel.env", "../../evil"),
    is_field("parallel.env", "kube"),
    is_field("parallel.n_workers", -1),
    is_field("parallel.colour", "blue"),
    is_field("parallel.options", []),
])  # fmt: skip
def test_what_a_resume_would_do(run_dir: Path, damage: Damage) -> None:
    unfinish(run_dir)
    damage(run_dir / "submissions/0001.json")
    code, out, err = said("resume", str(run_dir))
    assert (code, out) == (2, "")
    one_line(err, "espnet3: parallel.")


WITHDRAWAL = [
    is_field("files", ["../../../../etc/passwd"]),
    is_field("files", ["/etc/passwd"]),
    is_field("files", "*"),
    is_field("files", ["000001.0001-aaaaaaaaaaaa.0.jsonl"]),
    is_field("generation", 0),
    is_field("generation", 7),
    is_field("rank", 1),
    is_field("reason", "boredom"),
    is_field("from_submission", -1),
    is_field("by", None),
]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("damage", [*any_damage(*GONE), *WITHDRAWAL])
def test_withdrawal(run_dir: Path, capfd: pytest.CaptureFixture[str], damage: Damage) -> None:
    """Its name ends the receipt whatever it holds; what it says only spares work."""
    by = json.loads((run_dir / "submissions/0001.json").read_text())["submitter"]
    file = run_dir / layout.withdrawal(0, 1)
    file.parent.mkdir(exist_ok=True)
    withdrawal = {
        "schema_version": 1, "rank": 0, "generation": 1, "created": "2026-11-22T11:22:39Z",
        "by": by, "reason": "damaged", "cause": "x", "files": [], "from_submission": 0,
    }  # fmt: skip
    file.write_text(json.dumps(withdrawal, separators=(",", ":")))
    damage(file)
    for command in ("status", "collect"):
        code, _, err = said(command, str(run_dir))
        assert code in (0, 1, 2)
        if err:
            one_line(err, "espnet3: ")
    (run_dir / "submissions/0002.json").write_text(
        (run_dir / "submissions/0001.json").read_text().replace('"number":1', '"number":2')
    )
    code, err = work(run_dir, capfd, "0002")
    assert code in (0, 1, 2)
    assert "Traceback" not in err


LINES = {
    "null": b"null\n",
    "a number": b"7\n",
    "a list": b'["item", 0]\n',
    "no item": b'{"result": 0}\n',
    "no result": b'{"item": 0}\n',
    "NaN": b'{"item": 0, "result": NaN}\n',
    "Infinity": b'{"item": 0, "result": Infinity}\n',
    "no UTF-8": b'{"item": 0, "result": "\xff"}\n',
    "a lone surrogate": b'{"item": 0, "result": "\\ud800"}\n',
    "BOM": b'\xef\xbb\xbf{"item": 0, "result": 0}\n',
    "NULs": b"\0" * 300 + b"\n",
    "deep": b'{"item": 0, "result": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
    "an error that is none": b'{"item": 0, "error": 7}\n',
    "an error without a message": b'{"item": 0, "error": {"type": "x"}}\n',
    "pickled": b'{"item": 0, "pickle": "gASVAAAA"}\n',
    "pickled, not base64": b'{"item": 0, "pickle": "\xc3\xa9"}\n',
    "empty": b"\n",
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_result_line_that_a_receipt_vouches_for(run_dir: Path, line: bytes) -> None:
    """Its checksum is right, so only what the line holds is wrong."""
    import hashlib

    [file] = (run_dir / "results").glob("000000.*")
    data = line + file.read_bytes().partition(b"\n")[2]
    file.write_bytes(data)
    receipt = run_dir / "receipts/000000.json"
    document = json.loads(receipt.read_text())
    document["parts"][0] |= {
        "bytes": len(data), "checksum": f"sha256:{hashlib.sha256(data).hexdigest()}"
    }  # fmt: skip
    receipt.write_text(json.dumps(document))
    code, _, err = said("collect", str(run_dir), "--patience", "0")
    assert code == 1
    one_line(err, "espnet3: ", "shard 0")


@pytest.mark.parametrize("damage", any_damage("device"))
def test_result_file(run_dir: Path, capfd: pytest.CaptureFixture[str], damage: Damage) -> None:
    [file] = (run_dir / "results").glob("000000.*")
    damage(file)
    code, out, err = said("collect", str(run_dir), "--patience", "0")
    if code == 0:  # what is behind the vouched bytes does not count
        assert [json.loads(line)["result"] for line in out.splitlines()] == [0, 1, 2, 3]
    else:
        one_line(err, "espnet3: ", str(run_dir))
    unfinish(run_dir)
    run = (run_dir / "submissions/0001.json").read_text().replace('"number":1', '"number":2')
    (run_dir / "submissions/0002.json").write_text(run)
    code, err = work(run_dir, capfd, "0002")
    assert code in (0, 1)
    assert "Traceback" not in err


BOMB = b"a0: &a0 [1]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 10)) for i in range(1, 12)
)
CONFIGS: dict[str, bytes] = {
    "empty": b"",
    "a list": b"- a\n",
    "text": b"decode\n",
    "NULs": b"\0\0\0",
    "no UTF-8": b"\xff\xfe",
    "deep brackets": b"[" * 100_000,
    "deep mappings": b"{a: " * 100_000,
    "deep dashes": b"- " * 100_000,
    "a bomb": BOMB,
    "an alias of itself": b"items: &a [*a]\n",
    "doubled key": b"items: 3\nitems: 4\n",
    "a tag that runs code": b"items: !!python/object/apply:os.system ['touch pwned']\n",
    "an unknown tag": b"items: !secret x\n",
    "tabs": b"items:\n\t- 1\n",
    "unclosed": b'items: "abc\n',
    "an undefined alias": b"items: *nobody\n",
    "a huge number": b"items: " + b"9" * 100_000 + b"\n",
    "an interpolation of itself": b"provider: ${provider}\nrunner: {}\nitems: 1\n",
    "a missing interpolation": b"provider: {_target_: '${x}'}\nrunner: {}\nitems: 1\n",
    "a target that is not a path": b"provider: {_target_: '../x'}\nrunner: {}\nitems: 1\n",
    "a target that is a list": b"provider: {_target_: [a]}\nrunner: {}\nitems: 1\n",
    "keys that are no text": b"1: 2\nprovider: 1\nrunner: 1\nitems: 1\n",
    "null keys": b"? \n: 1\n",
    "two documents": b"items: 1\n---\nitems: 2\n",
}  # fmt: skip


@pytest.mark.timeout(30)
@pytest.mark.parametrize("text", CONFIGS.values(), ids=CONFIGS)
def test_config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "decode.yaml").write_bytes(text)
    code, out, err = said("submit", "decode.yaml", "--dry-run")
    assert code == 2
    assert out == ""
    one_line(err, "espnet3: ")
    assert os.listdir(tmp_path) == ["decode.yaml"]


@pytest.mark.parametrize("kind", ["folder", "sparse", "link to itself", "device"])
def test_config_that_is_no_file(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "decode.yaml"
    file.touch()
    ANY[kind](file)
    code, _, err = said("submit", str(file), "--dry-run")
    assert code in (1, 2)
    one_line(err, "espnet3: ", str(file))


def test_a_spec_that_points_elsewhere(run_dir: Path, tmp_path: Path) -> None:
    """A spec outside of its run, whose `run` leads nowhere, or to what is not a run."""
    spec = tmp_path / "000000.json"
    for run in ("/etc/passwd", "../../run.json", str(tmp_path / "nowhere/run.json"), "", "\0"):
        document = json.loads((run_dir / "shards/000000.json").read_text())
        spec.write_text(json.dumps({**document, "run": run}))
        done = subprocess.run(
            [sys.executable, "-P", "-m", "espnet3.worker.run_shard", str(spec)],
            capture_output=True, text=True, cwd="/", timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 2, done
        one_line(done.stderr, "espnet3: ")


def test_an_id_that_is_an_option_of_scancel(tmp_path: Path, monkeypatch: Any) -> None:
    """A jobs.json cannot make espnet3 cancel what is not the run's."""
    from espnet3.schedulers import get_scheduler
    from espnet3.specs.models import AcceptedJob

    program = tmp_path / "scancel"
    program.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" >>{tmp_path}/called\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    ids = ["--user=root", "-u root", "7", "7 8", "", "$(id)", "9;--me"]
    asyncio.run(get_scheduler("slurm").cancel([AcceptedJob(name="x", job_id=i) for i in ids]))
    called = (tmp_path / "called").read_text().splitlines()
    assert [word for word in called if not word.startswith("--cluster")] == ["7", "9"]


def test_the_stores_agree_on_what_is_no_file(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    assert isinstance(store, LocalStore)
    os.mkfifo(tmp_path / layout.RUN)
    for ask in (store.read, store.open, store.make_durable):
        with pytest.raises(Exception, match="Is not a regular file"):
            ask(layout.RUN)
