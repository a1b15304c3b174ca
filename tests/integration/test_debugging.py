"""Finding out what is wrong with one item: run, run-shard --item, logs, preflight: build, skip."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from espnet3.run import Run
from tests.support.cli_project import MODULE, Project
from tests.support.helpers import processes_of, wait_for


@pytest.fixture
def espnet3(tmp_path: Path) -> Project:
    project = Project(tmp_path, "local")
    module = MODULE.replace("failing=(), gated=()", "failing=(), gated=(), deadly=()").replace(
        '        print(f"item {idx}", flush=True)\n',
        '        print(f"item {idx}", flush=True)\n'
        "        if idx in deadly:\n"
        "            import os\n\n"
        "            os.kill(os.getpid(), 11)\n",
    )
    (project.folder / "conf dir/cli_decode.py").write_text(module)
    return project


def records(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def test_run_computes_here_and_writes_no_run(espnet3: Project) -> None:
    before = espnet3.files()
    done = espnet3("run", espnet3.config, "--limit", "3")
    assert records(done.stdout) == espnet3.expected(3)
    assert done.stderr == "imported\nitem 0\nitem 1\nitem 2\n"
    assert records(espnet3("run", espnet3.config, "--item", "7").stdout) == [
        {"item": 7, "result": {"scaled": 21}}
    ]
    assert espnet3("run", espnet3.config, "--item", "@11", "-o", "o.jsonl").stdout == ""
    assert records((espnet3.folder / "o.jsonl").read_text())[0] == espnet3.expected()[11]
    assert "@0 to @11" in espnet3("run", espnet3.config, "--item", "70", code=2).stderr
    assert espnet3.files() == before | {"o.jsonl"}


def test_run_writes_no_other_form_than_json_lines(espnet3: Project) -> None:
    before = espnet3.files()
    for name in ("o.csv", "o.jsonl.gz", "o.txt"):
        assert ".jsonl" in espnet3("run", espnet3.config, "-o", name, code=2).stderr
    assert records(espnet3("run", espnet3.config, "--limit", "1", "-o", "-").stdout) == (
        espnet3.expected(1)
    )
    assert espnet3.files() == before


def test_run_shard_says_which_signal_ended_it(espnet3: Project) -> None:
    espnet3("submit", espnet3.config, "provider.params.deadly=[4]")
    espnet3.watch(code=1)
    done = espnet3("run-shard", espnet3.run_dir, "1", "--item", "4", code=1)
    assert done.stderr.endswith("espnet3: the worker's process was ended by SIGSEGV\n")


def test_run_shows_the_users_traceback(espnet3: Project) -> None:
    bad = "provider.params.failing=[1]"
    done = espnet3.start("run", espnet3.config, bad, "-o", "o.jsonl")
    out, err = done.communicate(timeout=100)
    assert (done.returncode, out) == (1, "")
    assert 'cli_decode.py"' in err
    assert "run_here.py" not in err
    assert err.endswith("espnet3: forward failed at item 1: ValueError: item 1 is bad\n")
    assert not (espnet3.folder / "o.jsonl").exists()
    done = espnet3.start("run", espnet3.config, bad, "parallel.on_error=record", "--limit", "3")
    out, err = done.communicate(timeout=100)
    assert [*map(list, records(out))] == [["item", "result"], ["item", "error"], ["item", "result"]]
    assert done.returncode == 1
    assert "1 of 3 items failed" in err


def test_one_item_of_a_shard_that_is_done(espnet3: Project) -> None:
    espnet3("submit", espnet3.config, "provider.params.failing=[4]", "parallel.on_error=record")
    espnet3.watch(code=1)
    # The run has ended before its workers have, who still write to their logs.
    wait_for(lambda: not processes_of(Run(espnet3.folder / espnet3.run_dir)), "they live on")
    before = {path: path.stat().st_mtime_ns for path in espnet3.folder.rglob("a run/**/*")}
    failed = espnet3("run-shard", espnet3.run_dir, "1", "--item", "4", code=1)
    assert "ValueError: item 4 is bad" in failed.stderr
    fine = espnet3("run-shard", espnet3.run_dir, "1", "--item", "@0")
    assert fine.stdout.splitlines()[-1] == '{"item":3,"result":{"scaled":9}}'
    espnet3("run-shard", espnet3.run_dir, "1", "--item", "9", code=2)
    found = espnet3("run-shard", espnet3.run_dir, "--item", "9")
    assert found.stdout.splitlines()[-1] == '{"item":9,"result":{"scaled":27}}'
    found = espnet3("run-shard", espnet3.run_dir, "--item", "@11")  # in the run, not in the shard
    assert found.stdout.splitlines()[-1] == '{"item":11,"result":{"scaled":33}}'
    assert "no item" in espnet3("run-shard", espnet3.run_dir, "--item", "77", code=2).stderr
    assert "which shard" in espnet3("run-shard", espnet3.run_dir, code=2).stderr
    assert {p: p.stat().st_mtime_ns for p in espnet3.folder.rglob("a run/**/*")} == before

    shown = espnet3("logs", espnet3.run_dir, "--item", "4")
    assert "ValueError: item 4 is bad" in shown.stdout
    assert "item 4 of shard 1 (position 1 there) failed, by attempt 0001-" in shown.stderr
    found = espnet3.json("logs", espnet3.run_dir, "--item", "@5")
    assert (found["item"], found["rank"], found["state"], found["error"]) == (5, 1, "done", None)
    espnet3("logs", espnet3.run_dir, "--item", "50", code=2)
    espnet3("logs", espnet3.run_dir, "1", "--item", "4", code=2)


def test_a_log_is_followed_to_the_end_of_its_shard(espnet3: Project) -> None:
    espnet3("submit", espnet3.config, "provider.params.gated=[4]")
    following = espnet3.start("logs", espnet3.run_dir, "1", "--follow")
    assert following.stdout is not None
    seen = [following.stdout.readline() for _ in range(3)]
    assert seen[-1] == "item 4\n"
    assert following.poll() is None
    (espnet3.folder / "open").touch()
    rest, _ = following.communicate(timeout=100)
    assert following.returncode == 0
    assert "item 5\n" in rest
    assert rest.endswith("shard 1: done, 3 items\n")


def test_a_preflight_that_builds_finds_a_wrong_path(espnet3: Project) -> None:
    module = espnet3.folder / "conf dir/cli_decode.py"
    module.write_text(
        module.read_text().replace(
            "    def build_env_local(self):\n",
            "    def build_env_local(self):\n        open(self.config.model)\n",
        )
    )
    words = [espnet3.config, "config.model=/no/model.pt", "parallel.preflight=build"]
    before = espnet3.files()
    refused = espnet3("submit", *words, code=2).stderr
    assert "failed to build the environment: FileNotFoundError" in refused
    assert "/no/model.pt" in refused
    assert "nothing was submitted" in refused
    assert espnet3.files() == before
    model = str(module)
    espnet3("submit", espnet3.config, f"config.model={model}", "parallel.preflight=build")
    espnet3.watch()


@pytest.mark.parametrize("schedule", ["static", "dynamic"])
def test_a_deadly_item_is_found_and_skipped(espnet3: Project, schedule: str) -> None:
    def calls() -> int:
        logs = [p.read_text() for p in (espnet3.folder / espnet3.run_dir / "logs").glob("*")]
        return sum(text.count("item 4\n") for text in logs)

    how = f"parallel.schedule={schedule}"
    espnet3("submit", espnet3.config, "provider.params.deadly=[4]", how)
    espnet3.watch(code=1)
    called = calls()
    assert called == 1 or schedule == "dynamic"  # where others take over from who died
    resumed = espnet3("resume", espnet3.run_dir, "--skip-failing").stdout
    assert "skipped\titem 4 of shard 1: its worker died" in resumed
    espnet3.watch(code=1)
    seen = espnet3.json("status", espnet3.run_dir, code=1)
    assert (seen["done"], seen["failed_items"], seen["skipped_items"]) == (True, 0, 1)
    assert "4 of 4 shards done, 1 of 12 items skipped" in espnet3.watch(code=1)
    assert "1 item was skipped" in espnet3("collect", espnet3.run_dir, code=1).stderr
    kept = records(espnet3("collect", espnet3.run_dir, "--errors", "keep").stdout)
    expected = espnet3.expected()
    assert kept[:4] == expected[:4]
    assert kept[5:] == expected[5:]
    assert kept[4]["error"]["type"] == "Skipped"
    assert kept[4]["error"]["message"].startswith("skipped: its worker died")
    assert calls() == called


def test_failing_and_named_items_are_skipped_until_they_are_wanted(espnet3: Project) -> None:
    espnet3("submit", espnet3.config, "provider.params.failing=[4,5,10]")
    espnet3.watch(code=1)
    assert "no item" in espnet3("resume", espnet3.run_dir, "--skip", "77", code=2).stderr
    assert "done" in espnet3("resume", espnet3.run_dir, "--skip", "0", code=2).stderr
    told = espnet3.json("resume", espnet3.run_dir, "--skip", "@5", "--skip-failing")
    assert told["skipped"] == [
        "item 5 of shard 1: named by --skip",
        "item 4 of shard 1: ValueError: item 4 is bad",
        "item 10 of shard 3: ValueError: item 10 is bad",
    ]
    espnet3.watch(code=1)
    kept = records(espnet3("collect", espnet3.run_dir, "--errors", "keep").stdout)
    assert [r["item"] for r in kept if "error" in r] == [4, 5, 10]
    (espnet3.folder / "mended").touch()
    told = espnet3("resume", espnet3.run_dir, "--items", "failed").stdout
    assert "nothing to submit" in told
    again = "espnet3 resume '.*a run/first' --items skipped"
    assert re.search(f"stay skipped\t3 items, until `{again}`", told)
    told = espnet3.json("resume", espnet3.run_dir, "--items", "skipped")
    assert (told["ranks"], told["stay_skipped"]) == ([1, 3], 0)
    assert told["withdrawn"] == {"1": "2 items skipped", "3": "1 item skipped"}
    espnet3.watch()
    assert records(espnet3("collect", espnet3.run_dir).stdout) == espnet3.expected()


@pytest.mark.parametrize("schedule", ["static", "dynamic"])
def test_what_was_skipped_stays_so_where_failed_items_are_computed_again(
    espnet3: Project, schedule: str
) -> None:
    bad = ("provider.params.failing=[3,5,9]", "provider.params.deadly=[4]")
    how = (f"parallel.schedule={schedule}", "parallel.on_error=record")
    espnet3("submit", espnet3.config, *bad, *how)
    espnet3.watch(code=1)
    espnet3("resume", espnet3.run_dir, "--skip", "4")
    assert espnet3.watch(code=1)[-1] == "4 of 4 shards done, 3 of 12 items failed, 1 skipped"
    said = espnet3("collect", espnet3.run_dir, code=1).stderr
    assert "3 items failed and were recorded, 1 item was skipped, in shards 1, 3" in said
    collected = ("collect", espnet3.run_dir, "-o", "kept.jsonl", "--errors", "keep")
    assert "failed items\t3\nskipped items\t1\n" in espnet3(*collected).stdout
    document = espnet3.json(*collected)
    assert (document["errors"], document["skipped"]) == (4, 1)
    (espnet3.folder / "mended").touch()
    told = espnet3.json("resume", espnet3.run_dir, "--items", "failed")
    assert (told["withdrawn"], told["stay_skipped"]) == (
        {"1": "2 items failed", "3": "1 item failed"},
        1,
    )
    assert espnet3.watch(code=1)[-1] == "4 of 4 shards done, 1 of 12 items skipped"
    expected = espnet3.expected()
    kept = records(espnet3("collect", espnet3.run_dir, "--errors", "keep").stdout)
    assert [*kept[:4], *kept[5:]] == [*expected[:4], *expected[5:]]
    assert kept[4]["error"]["type"] == "Skipped"


def test_what_run_shard_passes_over_is_told_apart_too(espnet3: Project) -> None:
    espnet3("submit", espnet3.config, "provider.params.failing=[4,5]")
    espnet3.watch(code=1)
    espnet3("resume", espnet3.run_dir, "--skip", "4")
    espnet3.watch(code=1)  # it ended at 5
    (espnet3.folder / "mended").touch()
    espnet3("run-shard", espnet3.run_dir, "1")
    assert espnet3.watch(code=1)[-1] == "4 of 4 shards done, 1 of 12 items skipped"
    over = espnet3("finish", espnet3.run_dir, code=1).stdout
    assert over.endswith("results.jsonl, 1 item skipped\n")


@pytest.mark.parametrize("schedule", ["static", "dynamic"])
def test_an_item_that_failed_before_is_not_taken_for_a_deadly_one(
    espnet3: Project, schedule: str
) -> None:
    bad = ("provider.params.failing=[4]", "provider.params.deadly=[5]")
    espnet3("submit", espnet3.config, *bad, f"parallel.schedule={schedule}")
    espnet3.watch(code=1)
    (espnet3.folder / "mended").touch()
    espnet3("resume", espnet3.run_dir)
    espnet3.watch(code=1)
    told = espnet3.json("resume", espnet3.run_dir, "--skip-failing")
    [skipped] = told["skipped"]
    assert skipped.startswith("item 5 of shard 1: its worker died")
    espnet3.watch(code=1)
    kept = records(espnet3("collect", espnet3.run_dir, "--errors", "keep").stdout)
    assert [r["item"] for r in kept if "error" in r] == [5]
