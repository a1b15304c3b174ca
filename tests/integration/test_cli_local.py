"""The command on one machine, as a user types it: real processes, real terminals, real signals."""

from __future__ import annotations

import json
import os
import shlex
import signal
from pathlib import Path

import pytest

from tests.support.cli_project import Project
from tests.support.terminals import read_all


@pytest.fixture
def espnet3(tmp_path: Path) -> Project:
    return Project(tmp_path, "local", preflight=True)


def test_a_run_from_submit_to_collect(espnet3: Project) -> None:
    before = espnet3.files()
    dry = espnet3.lines("submit", espnet3.config, "--dry-run")
    words = shlex.split(dry[1])
    assert words[1:4] == ["-P", "-m", "espnet3.worker.supervisor"]
    assert words[4] == str(espnet3.folder / "a run/first")
    [job] = espnet3.json("submit", espnet3.config, "--dry-run")["jobs"]
    assert job["command"][:5] == words[:5]
    assert espnet3.files() == before

    submitted = espnet3("submit", espnet3.config)
    assert submitted.stderr == "imported\n"
    lines = submitted.stdout.splitlines()
    run_dir = str(espnet3.folder / "a run/first")
    assert lines[:3] == [f"run directory\t{run_dir}", "submission\t0001", "shards\t4"]
    assert lines[4] == f"next\tespnet3 watch '{run_dir}'"
    assert espnet3.watch()[-1] == "4 of 4 shards done"

    status = json.loads(espnet3.alone("status", espnet3.run_dir, "--json").stdout)
    assert (status["run_dir"], status["world_size"]) == (run_dir, 4)
    assert (status["counts"], status["done"], status["live"]) == ({"done": 4}, True, False)
    assert [shard["rank"] for shard in status["shards"]] == [0, 1, 2, 3]
    assert espnet3.lines("status", espnet3.run_dir) == ["4 of 4 shards done"]

    [seen] = espnet3.lines("watch", espnet3.run_dir, "--json")
    assert json.loads(seen) == status

    found = espnet3.json("collect", espnet3.run_dir, "-o", "out file.jsonl")
    assert found == {
        "output": "out file.jsonl",
        "records": 12,
        "left_out": {},
        "errors": 0,
        "missing": [],
        "skipped": 0,
    }
    written = (espnet3.folder / "out file.jsonl").read_text()
    assert [json.loads(line) for line in written.splitlines()] == espnet3.expected()
    assert espnet3("collect", espnet3.run_dir).stdout == written

    [log] = espnet3.lines("logs", espnet3.run_dir, "1", "--path")
    assert espnet3.json("logs", espnet3.run_dir, "1") == {
        "run_dir": run_dir, "rank": 1, "logs": [log],
    }  # fmt: skip
    assert espnet3("logs", espnet3.run_dir, "1").stdout == Path(log).read_text()
    assert "item 3\nitem 4\nitem 5\n" in Path(log).read_text()
    assert "shards 0 to 3" in espnet3("logs", espnet3.run_dir, "4", code=2).stderr

    again = espnet3.json("submit", espnet3.config)
    assert (again["submission"], again["job_ids"]) == (None, [])
    assert again["left_alone"] == dict.fromkeys("0123", "done")
    assert espnet3.json("cancel", espnet3.run_dir) == {"run_dir": run_dir, "cancelled": []}
    other = espnet3("submit", espnet3.config, "config.scale=4", code=2).stderr
    assert "config.scale is 3 in that run and 4 here" in other


def test_readers_that_go_away_are_no_error(espnet3: Project) -> None:
    many = ["items.n=20000", "n_shards=1"]  # more than a pipe holds
    espnet3("submit", espnet3.config, *many)
    espnet3.watch()
    done = espnet3.shell("espnet3 collect 'a run/first' | head -1")
    assert (done.stdout, done.stderr) == ('{"item":0,"result":{"scaled":0}}\n', "")
    done = espnet3.shell("espnet3 logs 'a run/first' 0 | head -1; espnet3 --help | true")
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


def test_a_failing_shard_then_resume(espnet3: Project) -> None:
    espnet3("submit", espnet3.config, "provider.params.failing=[4,10]")
    lines = espnet3.watch(code=1)
    assert lines[-3] == "2 of 4 shards done, 2 failed, 8 of 12 items done"
    assert lines[-2].split("\t")[:4] == ["1", "failed", "1", "1"]
    cause, log = lines[-2].split("\t")[4:]
    assert cause.endswith("forward failed at item 4: ValueError: item 4 is bad")
    assert "item 4 is bad" in Path(log).read_text()
    assert espnet3.lines("status", espnet3.run_dir, code=1) == lines[-3:]

    incomplete = espnet3("collect", espnet3.run_dir, "-o", "out.jsonl", code=1)
    assert incomplete.stdout == ""
    assert incomplete.stderr.startswith("espnet3: ")
    assert incomplete.stderr.count("\n") == 1
    assert not (espnet3.folder / "out.jsonl").exists()
    partial = espnet3("collect", espnet3.run_dir, "--partial")
    assert len(partial.stdout.splitlines()) == 8
    assert partial.stderr.startswith("espnet3: ")
    left_out = "4 of 12 items are left out, those at 4-5, 10-11, of shards 1, 3\n"
    assert partial.stderr.endswith(left_out)
    partial = espnet3("collect", espnet3.run_dir, "--partial", "-o", "out.jsonl")
    assert partial.stdout.splitlines()[1:] == [
        "records\t8", "items left out\t4: 4-5, 10-11", "of shards\t1, 3",
    ]  # fmt: skip
    (espnet3.folder / "out.jsonl").unlink()

    spec = f"{espnet3.run_dir}/shards/000001.json"
    failed = espnet3("run-shard", spec, code=1)
    assert failed.stdout == "imported\nitem 4\n"  # item 3 was done already
    assert "ValueError: item 4 is bad\n" in failed.stderr
    assert "Traceback" in failed.stderr
    (espnet3.folder / "mended").touch()
    assert espnet3("run-shard", spec).stdout == "imported\nitem 4\nitem 5\n"
    assert "receipts" in espnet3("run-shard", spec).stderr
    copy = espnet3.folder / "copy.json"
    copy.write_bytes((espnet3.folder / spec).read_bytes())
    assert "receipts" in espnet3("run-shard", "copy.json").stderr
    wrong = espnet3("run-shard", espnet3.config, code=2).stderr
    assert wrong.startswith("espnet3: conf dir/decode.yaml: ")

    third = f"{espnet3.run_dir}/shards/000003.json"
    options = ("--set", "memory=64GB", "walltime=12:00:00")
    told = espnet3.alone("resume", espnet3.run_dir, "0-1", third, *options, "--json")
    resumed = json.loads(told.stdout)
    assert (resumed["submission"], resumed["ranks"]) == (2, [3])
    assert resumed["left_alone"] == {"0": "done", "1": "done"}
    intent = json.loads((espnet3.folder / espnet3.run_dir / "submissions/0002.json").read_text())
    assert intent["options"] == {"memory": "64GB", "walltime": "12:00:00"}
    espnet3.watch()
    found = espnet3.lines("collect", espnet3.run_dir)
    assert [json.loads(line) for line in found] == espnet3.expected()
    assert len(espnet3.lines("logs", espnet3.run_dir, "3", "--path")) == 2
    assert "rank 4: " in espnet3("resume", espnet3.run_dir, "2-9", code=2).stderr


def test_cancel_and_interrupts(espnet3: Project) -> None:
    espnet3("submit", espnet3.config, "provider.params.gated=[0,3,6,9]", "parallel.n_workers=2")
    watching = espnet3.start("watch", espnet3.run_dir, "--interval", "0.2")
    assert watching.stdout is not None
    assert watching.stdout.readline().startswith("0 of 4 shards done, ")
    os.killpg(watching.pid, signal.SIGINT)
    _, errors = watching.communicate(timeout=60)
    assert (watching.returncode, errors.strip()) == (130, "")

    document = json.loads(espnet3.alone("cancel", espnet3.run_dir, "--json").stdout)
    assert len(document["cancelled"]) == 1
    assert espnet3.watch(code=1)[-4].startswith("0\tinterrupted\t1\t0\t")
    assert espnet3.json("status", espnet3.run_dir, code=1)["live"] is False

    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)):
        shard = espnet3.start("run-shard", f"{espnet3.run_dir}/shards/000000.json")
        assert shard.stdout is not None
        assert [shard.stdout.readline(), shard.stdout.readline()] == ["imported\n", "item 0\n"]
        if number != signal.SIGTERM:  # as the terminal does it: to all that run in it
            os.killpg(shard.pid, number)
        else:
            shard.send_signal(number)
        _, errors = shard.communicate(timeout=60)
        assert shard.returncode == code
        assert "Traceback" not in errors

    (espnet3.folder / "open").touch()
    assert espnet3.json("resume", espnet3.run_dir)["ranks"] == [0, 1, 2, 3]
    espnet3.watch()
    assert len(espnet3.lines("collect", espnet3.run_dir)) == 12


def test_on_a_terminal(espnet3: Project) -> None:
    espnet3("submit", espnet3.config, "provider.params.failing=[4]")
    shown = {}
    for command, code in (("watch", 1), ("status", 1), ("collect", 1)):
        reading, writing = os.openpty()
        environ = {**os.environ, "TERM": "xterm-256color"}
        for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            environ.pop(name, None)
        process = espnet3.start(
            command, espnet3.run_dir, stdout=writing, stderr=writing, stdin=writing, env=environ
        )
        os.close(writing)
        shown[command] = read_all(reading)
        assert process.wait(timeout=60) == code
    for command in ("watch", "status"):
        assert "\x1b[31m1 failed" in shown[command]
        assert "3 of 4 shards done" in shown[command]
        assert "━" in shown[command]
        assert "item 4 is bad" in " ".join(shown[command].split())
    assert "espnet3 run-shard" in shown["watch"]  # to resume would not help
    assert "espnet3 resume" not in shown["watch"]
    assert shown["collect"].startswith("espnet3: ")
