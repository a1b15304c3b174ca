"""Runners that write their results themselves, detached: submitted, collected, finished."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from espnet3._blocking import run_blocking
from espnet3.cli.shard_groups import next_steps
from espnet3.collect import PartialResults
from espnet3.errors import (
    ConfigError,
    DamagedResult,
    FailedItems,
    IncompleteRun,
    OutputError,
    PlanMismatch,
    RunDirectoryError,
    Untrusted,
    UsageError,
    WriterFailed,
)
from espnet3.parallel import BaseRunner, set_parallel
from espnet3.run import Run, submit_run
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.written import output_that_links_to
from espnet3.specs import layout
from espnet3.submit.removal import require_removable
from tests.support.commands import said
from tests.support.detached_writers import Doubting, Leaving, Open, Paths, Telling
from tests.support.helpers import ROOT, ended, parallel, processes_of, python, wait_for
from tests.support.runners import MENDED
from tests.support.writing_runners import Appending, Decode, Statistics, Study, computed

THREE = parallel("local", n_workers=3)
OFTEN = {"checkpoint_every": 0.001}
LINES = {"encoded": 10, "hyp": 10, "score": 10}


def decoder(folder: Path, output: str = "out", subdir: str = "test_a", **keys: Any) -> Decode:
    """The runner of most tests, which notes in the folder."""
    provider = Study({"folder": str(folder), **keys})
    return Decode(provider, output_dir=folder / output, shard_subdir=subdir)


def submitted(runner: BaseRunner, n_items: int = 10, **config: Any) -> Run:
    """A run of three shards, or as the config says, that has ended."""
    return ended(submit_run(runner, range(n_items), parallel={**THREE, **config}))


def merged_files(folder: Path) -> dict[str, bytes]:
    """The merged files in an output folder, with paths as they were in a folder `out`."""
    name = folder.parent.name.encode()
    return {
        path.name: path.read_bytes().replace(b"/" + name + b"/", b"/out/")
        for path in folder.glob("*.scp")
    }


def cli(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return python("-m", "espnet3", *words, cwd=cwd)


# --- the same as elsewhere ------------------------------------------------------------------------


def test_merged_files_are_those_of_the_synchronous_mode(tmp_path: Path) -> None:
    run = submitted(decoder(tmp_path))
    assert run.run_dir == str(tmp_path / "out/test_a/espnet3_run")
    assert not (tmp_path / "out/test_a/hyp.scp").exists()
    assert run.collect() == LINES
    set_parallel(THREE)
    try:
        assert decoder(tmp_path, "elsewhere")(range(10)) == LINES
    finally:
        set_parallel(None)
    found = merged_files(tmp_path / "out/test_a")
    assert found == merged_files(tmp_path / "elsewhere/test_a")
    assert len(found) == 3
    arrays = [line.split()[1] for line in found["encoded.scp"].decode().splitlines()]
    assert [np.load(path).tolist() for path in arrays] == [[i, i + 1, i + 2] for i in range(10)]
    assert f"{tmp_path}/out/test_a/split.2/" in arrays[-1]


def test_relative_output_is_meant_from_where_it_was_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    runner = Decode(Study({"folder": str(tmp_path)}), output_dir="exp/out", shard_subdir="x")
    run = submitted(runner)
    assert run.run_dir == str(here / "exp/out/x/espnet3_run")
    monkeypatch.chdir("/")
    assert run.collect() == LINES
    first = (here / "exp/out/x/encoded.scp").read_text().splitlines()[0]
    assert first == f"utt000 {here}/exp/out/x/split.0/encoded/utt000.npy"
    assert not os.path.isabs(os.readlink(here / "exp/out/x/split.0"))
    with pytest.raises(OutputError, match=r"there is no .*/here here"):
        shutil.move(here, tmp_path / "moved")
        Run(tmp_path / "moved/exp/out/x/espnet3_run").collect()


def test_a_worker_that_left_its_directory_vouches_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    runner = Leaving(Study({"folder": str(tmp_path / "elsewhere")}), output_dir="out")
    run = submitted(runner, 3, n_workers=1)
    with pytest.raises(IncompleteRun, match="is not where the shard was begun"):
        run.collect()


def test_several_test_sets_have_one_output(tmp_path: Path) -> None:
    runs = [submitted(decoder(tmp_path, subdir=name)) for name in ("test_a", "test_b")]
    out = str(tmp_path / "out")
    listed = said("status", out)
    assert listed.code == 0, listed.err
    assert sorted(line.split("\t")[5] for line in listed.out.splitlines()) == [
        run.run_dir for run in runs
    ]
    assert all(line.startswith("done\t10\t10\t") for line in listed.out.splitlines())
    told = json.loads(said("status", out, "--json").out)
    assert {run["state"] for run in told["runs"]} == {"done"}
    collected = said("collect", out)
    assert collected.code == 0, collected.err
    lines = collected.out.splitlines()
    assert lines[0] == f"merged 3 shards into {out}/test_a"
    assert json.loads(lines[1]) == json.loads(lines[3]) == LINES
    documents = json.loads(said("collect", out, "--json").out)["runs"]
    assert [each["output"] for each in documents] == [f"{out}/test_a", f"{out}/test_b"]
    assert [each["value"] for each in documents] == [LINES, LINES]
    assert said("resume", out).out.count("there is nothing to submit") == 2
    assert "name one of" in said("resume", out, "0").err
    assert "its merge makes the output" in said("collect", out, "-o", "x.jsonl").err
    both = (
        f"is not a run directory, but holds runs: name one of {runs[0].run_dir}, {runs[1].run_dir}"
    )
    whole = "3 of 3 shards done"
    watched = said("watch", out).out.splitlines()
    assert [line for line in watched if not line.startswith("merged into ")] == [
        runs[0].run_dir, whole, runs[1].run_dir, whole,
    ]  # fmt: skip
    reports = [f"{run.run_dir}.report.html" for run in runs]
    assert said("report", out).out.splitlines() == [f"report\t{file}" for file in reports]
    assert all(map(os.path.isfile, reports))
    assert "name one of" in said("report", out, "-o", "x.html").err
    cancelled = json.loads(said("cancel", out, "--json").out)["runs"]
    assert cancelled == [{"run_dir": run.run_dir, "cancelled": []} for run in runs]
    assert said("finish", out).out.count("the run is over: done: 10 results in") == 2
    for command in (["work", out], ["logs", out, "0"], ["run-shard", out, "0"], ["remove", out]):
        refused = said(*command, *(["--yes"] if command[0] == "remove" else []))
        assert (refused.code, refused.err) == (2, f"espnet3: {out}: {both}\n"), command


def test_a_folder_with_one_run_stands_for_it(tmp_path: Path) -> None:
    run = submitted(decoder(tmp_path, subdir="test_a"))
    folder = str(tmp_path / "out/test_a")
    commands = [
        ("status",), ("status", "--workers"), ("status", "--json"), ("watch",), ("report",),
        ("cancel",), ("resume",), ("resume", "0"), ("finish",), ("collect",), ("work",),
        ("logs", "0", "--path"), ("logs", "--item", "4"), ("run-shard", "0"),
    ]  # fmt: skip
    for command, *words in commands:
        there, here = said(command, folder, *words), said(command, run.run_dir, *words)
        assert there[:2] == here[:2], command
        assert "holds" not in there.err, command
    one = f"{folder}: is not a run directory, but holds one: {run.run_dir}; name that one"
    assert said("remove", folder, "--yes", "--all").err == f"espnet3: {one}\n"
    with pytest.raises(RunDirectoryError, match=f"^{one}$"):
        Run(folder).status()


def test_what_was_merged_is_not_removed_unless_that_is_said(tmp_path: Path) -> None:
    run = submitted(decoder(tmp_path))
    assert run.collect() == LINES
    wait_for(lambda: not processes_of(run), "a process lives on")
    out = tmp_path / "out/test_a"
    words = (
        f"{run.run_dir}: holds what the shards of {out} have written (its split.N lead here), "
        "which files that were merged may name; copy what you need, or say --merged "
        "(merged=True) to remove it too"
    )
    told = said("remove", run.run_dir, "--yes")
    assert (told.code, told.err) == (2, f"espnet3: {words}\n")
    with pytest.raises(RunDirectoryError) as refused:
        run.remove(cancel=True)
    assert str(refused.value) == words
    assert run.collect() == LINES
    asked = run_blocking(require_removable(run.run_dir, merged=True))
    assert f", with what the shards of {out} have written, 3 of 3 shards done" in asked
    (Path(run.run_dir) / "notes.txt").touch()
    foreign = f"{run.run_dir}: holds what is not the run's: notes.txt; move it away"
    told = said("remove", run.run_dir, "--yes", "--merged")
    ends = "or say --all (everything=True) to remove it too"
    assert told.err == f"espnet3: {foreign}, {ends}\n"
    told = said("remove", run.run_dir, "--yes")
    assert told.err.startswith(f"espnet3: {foreign}, and holds what the shards of {out} have ")
    assert told.err.endswith("or say --all (everything=True) to remove both too\n")
    (Path(run.run_dir) / "notes.txt").unlink()
    assert said("remove", run.run_dir, "--yes", "--merged").code == 0
    assert not Path(run.run_dir).exists()
    assert sorted(path.name for path in out.iterdir()) == [".lock", *sorted(merged_files(out))]


def test_a_status_says_what_was_merged_and_no_more_to_collect_it(tmp_path: Path) -> None:
    run = submitted(Decode(Study({"folder": str(tmp_path)}), output_dir=tmp_path / "out"))
    wait_for(lambda: not processes_of(run), "a process lives on")

    def told() -> tuple[str | None, list[str], list[str]]:
        seen = run.status()
        assert json.loads(said("status", run.run_dir, "--json").out)["merged"] == seen.merged
        lines = said("status", run.run_dir).out.splitlines()
        assert lines.pop(0) == "3 of 3 shards done"
        return seen.merged, lines, next_steps(seen, [])

    to_collect: tuple[None, list[str], list[str]] = (None, [], [f"espnet3 collect {run.run_dir}"])
    assert told() == to_collect
    run.collect()
    assert told() == (f"{tmp_path}/out", [f"merged into {tmp_path}/out"], [])
    [folder] = Path(run.run_dir, layout.WRITTEN).glob("000001.*")
    (folder / "encoded/utt004.npy").write_bytes(b"torn")
    assert run.resume(repair=True, patience=0).ranks == [1]
    ended(run)
    assert told() == to_collect
    run.collect()
    (tmp_path / "out").rename(tmp_path / "moved")
    run = Run(tmp_path / "moved/espnet3_run")
    assert told() == (f"{tmp_path}/moved", [f"merged into {tmp_path}/moved"], [])


@pytest.mark.parametrize(("moved", "others"), [(False, False), (True, False), (False, True)])
def test_a_run_that_goes_leaves_nothing_that_leads_nowhere(
    tmp_path: Path, moved: bool, others: bool
) -> None:
    run = submitted(decoder(tmp_path))
    assert run.collect() == LINES
    wait_for(lambda: not processes_of(run), "a process lives on")
    if moved:
        (tmp_path / "out").rename(tmp_path / "new")
    out = tmp_path / ("new" if moved else "out") / "test_a"
    if others:
        (out / "split.7").symlink_to(tmp_path)
    Run(out / "espnet3_run").remove(everything=True)
    assert not (out / "espnet3_run").exists()
    left = [path.name for path in (*out.glob("manifest.json"), *out.glob("split.*"))]
    assert left == (["manifest.json", "split.7"] if others else [])


def test_a_removal_that_cannot_clear_the_output_folder_goes_on_later(tmp_path: Path) -> None:
    runner = decoder(tmp_path)
    run = ended(submit_run(runner, range(3), parallel=THREE, run_dir=tmp_path / "run"))
    run.collect()
    wait_for(lambda: not processes_of(run), "a process lives on")
    out = tmp_path / "out/test_a"
    plain = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.getuid() == 0 else []
    words = [*plain, sys.executable, "-m", "espnet3", "remove", run.run_dir, "--yes", "--merged"]
    out.chmod(0o555)
    told = subprocess.run(words, check=False, capture_output=True, text=True, cwd=ROOT)
    out.chmod(0o755)
    assert told.returncode == 2
    assert re.fullmatch(rf"espnet3: {out}/split\.\d: cannot be removed \(.*\)\n", told.stderr)
    assert run.status().done
    run.remove(merged=True)
    assert not (tmp_path / "run").exists()
    assert [*out.glob("split.*"), *out.glob("manifest.json")] == []


def test_merged_files_may_name_a_run_that_was_moved_with_them(tmp_path: Path) -> None:
    run = submitted(decoder(tmp_path))
    assert run.collect() == LINES
    wait_for(lambda: not processes_of(run), "a process lives on")
    (tmp_path / "out").rename(tmp_path / "moved")
    folder = tmp_path / "moved/test_a"
    assert output_that_links_to(RunDirectory.open(folder / "espnet3_run")) == str(folder)


def test_what_was_not_merged_is_removed_without_a_word(tmp_path: Path) -> None:
    run = submitted(decoder(tmp_path))
    wait_for(lambda: not processes_of(run), "a process lives on")
    run.remove()
    assert not Path(run.run_dir).exists()
    assert [*Path(run.run_dir).parent.iterdir()] == []


def test_any_value_comes_back(tmp_path: Path) -> None:
    run = submitted(Statistics(Study({"folder": str(tmp_path)}), output_dir=tmp_path / "out"))
    assert run.run_dir == str(tmp_path / "out/espnet3_run")
    assert run.collect() == {"count": 10, "sum": [45.0, 285.0]}
    assert run.collect() == {"count": 10, "sum": [45.0, 285.0]}  # once more


def test_a_shard_that_went_on_has_no_path_of_its_first_attempt(tmp_path: Path) -> None:
    provider = Study({"folder": str(tmp_path), "killing": [5]})
    runner = Paths(provider, output_dir=tmp_path / "out")
    config = {**THREE, "n_workers": 1, **OFTEN}
    run = ended(submit_run(runner, range(8), parallel=config))
    (tmp_path / MENDED).touch()
    run.resume()
    ended(run)
    assert computed(tmp_path).count(0) == 1
    assert run.collect() == [f"{tmp_path}/out/split.0/{i}.npy" for i in range(8)]


def test_nor_has_one_that_went_on_where_the_run_was_moved_to(tmp_path: Path) -> None:
    provider = Study({"folder": str(tmp_path), "killing": [5]})
    runner = Paths(provider, output_dir=tmp_path / "out")
    runner.run_dir = tmp_path / "here"
    run = ended(submit_run(runner, range(8), parallel={**THREE, "n_workers": 1, **OFTEN}))
    (tmp_path / "here").rename(tmp_path / "there")
    (tmp_path / MENDED).touch()
    run = Run(tmp_path / "there")
    run.resume()
    assert ended(run).collect() == [f"{tmp_path}/out/split.0/{i}.npy" for i in range(8)]
    assert computed(tmp_path).count(0) == 1


# --- what merge knows, and what becomes of its process --------------------------------------------


def telling(folder: Path, deed: str = "tell", **more: Any) -> Telling:
    more = {"output_dir": folder / "out", **more}
    return Telling(Study({"folder": str(folder)}), deed=deed, **more)


def test_merge_finds_the_runner_as_it_was(tmp_path: Path) -> None:
    run = submitted(telling(tmp_path, sizes={"a": (3, Path("b"))}, batch_size=2))
    held, folders, provider = run.collect()
    assert held == ({"a": (3, Path("b"))}, tmp_path / "out", "", 2, os.getcwd())
    assert folders == [tmp_path / f"out/split.{i}" for i in range(3)]
    assert provider is Study


@pytest.mark.parametrize(
    ("deed", "words"),
    [
        ("raise", "merge failed: ValueError: the tables do not match"),
        ("exit", "merge failed: SystemExit: 3"),
        ("die", "merge failed: its process ended by SIGKILL"),
        ("lambda", "merge failed: its value cannot be handed to the caller: .*"),
    ],
)
def test_what_merge_raises_is_told(
    tmp_path: Path, deed: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    run = submitted(telling(tmp_path, deed))
    with pytest.raises(WriterFailed, match=f"^{words}$") as failed:
        run.collect()
    assert failed.value.hook == "merge"
    assert run.status().merged is None
    out, err = capfd.readouterr()
    assert out == "merging 3\n"
    assert ("in merge\n" in err) is (deed in ("raise", "exit"))


def test_the_command_tells_what_merge_returned(tmp_path: Path) -> None:
    run = submitted(telling(tmp_path, "raise"))
    done = cli("collect", run.run_dir)
    assert done.returncode == 1
    assert done.stdout == "merging 3\n"
    assert 'raise ValueError("the tables\\ndo not match")' in done.stderr
    assert done.stderr.endswith("espnet3: merge failed: ValueError: the tables do not match\n")
    other = submitted(telling(tmp_path, output_dir=tmp_path / "other"))
    done = cli("collect", other.run_dir, "--json")
    assert done.stderr == "merging 3\n"
    told = json.loads(done.stdout)
    assert told["value"] is None  # no JSON
    assert (told["shards"], told["records"], told["left_out"]) == (3, 10, {})
    for words in (["-o", "x.jsonl"], ["-o", "-"], ["--to", "kaldi", "x", "--key", "item"]):
        refused = said("collect", other.run_dir, *words)
        assert refused.code == 2
        assert "its merge makes the output" in refused.err
    for call in (run.to_pandas, run.to_dataset, lambda: list(run.stream())):
        with pytest.raises(UsageError, match="its merge makes the output"):
            call()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_merge_ends_with_who_waits_for_it(tmp_path: Path, number: signal.Signals) -> None:
    run = submitted(telling(tmp_path, "wait"))
    command = [sys.executable, "-m", "espnet3", "collect", run.run_dir]
    waiting = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for((tmp_path / "merging").exists, "merge is not called")
    [merging] = map(int, (tmp_path / "merging").read_text().split())
    waiting.send_signal(number)
    assert waiting.wait(timeout=60) != 0
    wait_for(lambda: not Path(f"/proc/{merging}").exists(), "it lives on")


def test_two_collections_merge_one_after_the_other(tmp_path: Path) -> None:
    run = submitted(telling(tmp_path, "wait"))
    command = [sys.executable, "-m", "espnet3", "collect", run.run_dir]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for((tmp_path / "merging").exists, "merge is not called")
    second = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert second.stderr is not None
    words = f"/out: is being written by process {first.pid} on "
    assert words in second.stderr.readline()
    assert len((tmp_path / "merging").read_text().split()) == 1
    first.kill()
    wait_for(lambda: len((tmp_path / "merging").read_text().split()) == 2, "it waits on")
    second.terminate()
    for each in (first, second):
        each.wait(timeout=60)
    second.stderr.close()


SCRIPT = """
import os, sys
from pathlib import Path
from espnet3.parallel import BaseRunner, EnvironmentProvider, set_parallel
from espnet3.parallel import concatenate_shard_files

class Provider(EnvironmentProvider):
    def build_env_local(self):
        return {}

class Count:
    def __init__(self, n):
        self.n = n

class Words(BaseRunner):
    @staticmethod
    def forward(idx, **env):
        return {"utt_id": idx, "hyp": "word"}

    @staticmethod
    def open_writers(shard_dir, **env):
        return {"hyp": open(Path(shard_dir) / "hyp.scp", "w")}

    @staticmethod
    def write_record(writers, result, state, **env):
        writers["hyp"].write(f"{result['utt_id']} {result['hyp']}\\n")

    def merge(self, shard_dirs):
        out = self.output_dir / "hyp.scp"
        concatenate_shard_files(shard_dirs, "hyp.scp", out)
        return Count(len(out.read_text().splitlines()))

if __name__ == "__main__":
    set_parallel({"env": "local", "n_workers": 2})
    run = Words(Provider({}), output_dir="out", async_mode=True)(range(7))
    run.wait(timeout=100)
    print(run.run_dir, run.collect().n)
"""


def test_a_script_may_define_all(tmp_path: Path) -> None:
    (tmp_path / "decode.py").write_text(SCRIPT)
    done = python("decode.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run_dir, n = done.stdout.split()
    assert (run_dir, n) == (str(tmp_path / "out/espnet3_run"), "7")
    (tmp_path / "out/hyp.scp").unlink()
    assert cli("collect", run_dir).stdout == f"merged 2 shards into {tmp_path}/out\n"
    assert (tmp_path / "out/hyp.scp").read_text() == "".join(f"{i} word\n" for i in range(7))


# --- what is refused ------------------------------------------------------------------------------


def test_what_cannot_be_submitted(tmp_path: Path) -> None:
    study = Study({"folder": str(tmp_path)})
    with pytest.raises(OutputError, match="output_dir: is missing, and Decode writes"):
        submit_run(Decode(study), range(3), parallel=THREE)
    with pytest.raises(ConfigError, match=r"runner\.sizes: .*is not JSON"):
        submit_run(telling(tmp_path, sizes=object()), range(3), parallel=THREE)
    finish = {**THREE, "finish": {"collect": str(tmp_path / "x.jsonl")}}
    with pytest.raises(ConfigError, match=r"parallel.finish.collect: cannot be set: .* merge"):
        submit_run(decoder(tmp_path), range(3), parallel=finish)
    assert not (tmp_path / "out").exists()


def test_the_same_call_continues_and_another_is_refused(tmp_path: Path) -> None:
    run = submitted(decoder(tmp_path))
    again = submit_run(decoder(tmp_path), range(10), parallel=THREE)
    assert again.run_dir == run.run_dir
    assert again.submitted is not None
    assert again.submitted.number is None
    with pytest.raises(RuntimeError, match="the number of items is 10 in that run and 11 here"):
        submit_run(decoder(tmp_path), range(11), parallel=THREE)
    with pytest.raises(
        PlanMismatch, match=r" config\.beam is not set in that run and is 3 here; "
    ) as caught:
        submit_run(decoder(tmp_path, beam=3), range(10), parallel=THREE)
    advice = f"choose another output_dir, or remove that run by `espnet3 remove {run.run_dir}`"
    assert str(caught.value).endswith(f"{advice}, which says what else would go")
    anew = decoder(tmp_path)
    anew.resume = False
    with pytest.raises(OutputError, match="has resume=False; remove it first, by `espnet3 remove`"):
        submit_run(anew, range(10), parallel=THREE)
    assert run.collect() == LINES
    told = said("remove", run.run_dir, "--yes", "--all")
    assert told.code == 0, told.err
    other = submit_run(anew, range(8), parallel=THREE)
    ended(other)
    assert other.collect() == {"encoded": 8, "hyp": 8, "score": 8}


def test_a_call_tells_the_log_what_it_submitted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """ESPnet3's `infer` does not say what the call returned."""
    caplog.set_level("INFO", "espnet3")
    runner = decoder(tmp_path)
    runner.async_mode = True
    run = ended(runner(range(2)))
    assert str(run) in caplog.messages


def test_another_output_is_another_run(tmp_path: Path) -> None:
    run = submitted(decoder(tmp_path))
    elsewhere = decoder(tmp_path, "other")
    elsewhere.run_dir = run.run_dir
    with pytest.raises(PlanMismatch, match=r"runner.output_dir is '.*/out' in that run and '.*/o"):
        submit_run(elsewhere, range(10), parallel=THREE)
    there = submitted(telling(tmp_path, output_dir=tmp_path / "told"))
    with pytest.raises(PlanMismatch, match=r"runner.sizes.value.0 is 1 in that run and 5 here"):
        submit_run(
            telling(tmp_path, output_dir=tmp_path / "told", sizes=(5, 2)), range(10), parallel=THREE
        )
    assert there.collect()


def test_output_of_another_origin_is_left_alone(tmp_path: Path) -> None:
    decoder(tmp_path)(range(10))
    with pytest.raises(OutputError, match="was written in local or synchronous mode"):
        submit_run(decoder(tmp_path), range(10), parallel=THREE)
    assert not (tmp_path / "out/test_a/espnet3_run").exists()
    (tmp_path / "out/test_a/manifest.json").unlink()
    with pytest.raises(OutputError, match=r"split.0: is a shard's folder that this run has not"):
        submit_run(decoder(tmp_path), range(10), parallel=THREE)
    shutil.rmtree(tmp_path / "out")
    run = submitted(decoder(tmp_path))
    with pytest.raises(OutputError, match="belongs to the run in"):
        decoder(tmp_path)(range(10))
    other = decoder(tmp_path, note="of another plan")
    other.run_dir = tmp_path / "elsewhere"
    with pytest.raises(OutputError, match=f"belongs to the run in {run.run_dir}"):
        submit_run(other, range(10), parallel=THREE)
    (tmp_path / "out/test_a/split.1").mkdir()
    with pytest.raises(OutputError, match=r"split.1: is a folder that this run has not made"):
        run.collect()


def test_a_run_that_was_put_aside_does_not_touch_what_came_after(tmp_path: Path) -> None:
    """Of the same plan, and so of other results only because the model's file is another one."""
    submitted(decoder(tmp_path)).collect()
    (tmp_path / "out").rename(tmp_path / "aside")
    old = Run(tmp_path / "aside/test_a/espnet3_run")
    assert old.collect() == LINES  # where its runner writes, and nobody else does
    shutil.rmtree(tmp_path / "out")
    run = submitted(decoder(tmp_path))
    assert run.collect() == LINES
    links = [os.readlink(each) for each in sorted((tmp_path / "out/test_a").glob("split.*"))]
    with pytest.raises(OutputError, match=f"belongs to the run in {run.run_dir}"):
        old.collect()
    twin = decoder(tmp_path)
    twin.run_dir = tmp_path / "twin"
    with pytest.raises(OutputError, match=f"belongs to the run in {run.run_dir}"):
        submit_run(twin, range(10), parallel=THREE)
    assert links == [
        os.readlink(each) for each in sorted((tmp_path / "out/test_a").glob("split.*"))
    ]
    assert run.collect() == LINES


# --- what is not whole ----------------------------------------------------------------------------


def test_what_is_missing_or_failed_is_not_merged(tmp_path: Path) -> None:
    run = submitted(decoder(tmp_path, failing=[4]))
    with pytest.raises(IncompleteRun) as missing:
        run.collect()
    assert missing.value.ranks == [1]
    assert not (tmp_path / "out/test_a/split.0").exists()
    with pytest.warns(PartialResults, match="3 of 10 items are left out, those at 3-5"):
        assert run.collect(partial=True) == {"encoded": 7, "hyp": 7, "score": 7}
    assert not (tmp_path / "out/test_a/split.1").exists()
    done = said("collect", run.run_dir, "--partial")
    assert done.out.splitlines()[:3] == [
        f"merged 2 shards into {tmp_path}/out/test_a",
        "items left out\t3: 3-5",
        "of shards\t1",
    ]
    assert "are left out" in done.err
    (tmp_path / MENDED).touch()
    ended(run).resume()
    assert ended(run).collect() == LINES


HERE = """
provider: {{_target_: tests.support.writing_runners.Study}}
runner: {{_target_: tests.support.writing_runners.{runner}, output_dir: "{folder}/out"}}
items: 6
config: {{folder: "{folder}", tearing: 2}}
parallel: {{n_workers: 2, on_error: record}}
"""


def test_hooks_are_tried_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`espnet3 run` and `run-shard --item` call them, in a folder apart."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where that of `run` stays
    for runner in ("Kinds", "Appending"):
        (tmp_path / f"{runner}.yaml").write_text(HERE.format(runner=runner, folder=tmp_path))
    done = cli("run", str(tmp_path / "Kinds.yaml"), "--limit", "2", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["item"] for line in done.stdout.splitlines()] == [0, 1]
    folder = Path(done.stderr.strip().rpartition(" ")[2])
    assert [path for path, _ in json.loads((folder / "kinds.json").read_text())] == ["a/0", "a/1"]
    done = cli("run", str(tmp_path / "Appending.yaml"), cwd=ROOT)
    complaints = done.stderr.splitlines()
    assert (done.returncode, len(done.stdout.splitlines())) == (1, 2)  # no error of an item
    assert complaints[-1] == "espnet3: write_record failed at item 2: OSError: the disk is full"
    assert complaints.count("OSError: the disk is full") == 1  # the end of its traceback
    assert not (tmp_path / "out").exists()

    run = submitted(Appending(Study({"folder": str(tmp_path), "tearing": 2}), output_dir=tmp_path))
    before = {*tmp_path.rglob("*")}
    failed = cli("run-shard", run.run_dir, "--item", "2")
    assert failed.returncode == 1
    assert complaints[-1] in failed.stderr.splitlines()
    assert cli("run-shard", run.run_dir, "--item", "1").stdout == '{"item":1,"result":1}\n'
    assert {*tmp_path.rglob("*")} == before


def test_recorded_errors_are_told(tmp_path: Path) -> None:
    run = submitted(decoder(tmp_path, failing=[4]), on_error="record")
    with pytest.raises(FailedItems, match="`--errors keep` to merge the others without it, or"):
        run.collect()
    assert run.collect(errors="keep") == {"encoded": 9, "hyp": 9, "score": 9}
    done = said("collect", run.run_dir, "--errors", "keep")
    assert "failed items\t1\n" in done.out


def test_damage_is_found_and_mended(tmp_path: Path) -> None:
    run = submitted(decoder(tmp_path))
    assert run.collect() == LINES
    [folder] = Path(run.run_dir, layout.WRITTEN).glob("000001.*")
    (folder / "encoded/utt004.npy").write_bytes(b"torn")
    with pytest.raises(DamagedResult, match=r"utt004.npy: has 4 bytes.*resume .* --repair"):
        run.collect(patience=0)
    assert run.resume(repair=True, patience=0).ranks == [1]
    assert ended(run).collect() == LINES
    assert (tmp_path / "out/test_a/split.1").resolve() != folder
    assert computed(tmp_path).count(4) == 2
    assert said("remove", run.run_dir, "--yes", "--all").code == 0


def test_code_that_others_could_have_named_is_not_run(tmp_path: Path) -> None:
    run = submitted(telling(tmp_path))
    Path(run.run_dir, layout.RUN).chmod(0o666)
    with pytest.raises(Untrusted, match="it is world-writable"):
        run.collect()
    assert not (tmp_path / "out/split.0").exists()


def test_merge_finds_nothing_that_others_could_have_put_there(tmp_path: Path) -> None:
    (tmp_path / "corpus").write_text("of all")
    (tmp_path / "corpus").chmod(0o666)
    run = submitted(
        Open(Study({"folder": str(tmp_path)}), deed="tell", output_dir=tmp_path / "out")
    )
    written = Path(run.run_dir, layout.WRITTEN)
    assert not [p for p in written.rglob("*") if not p.is_symlink() and p.stat().st_mode & 0o002]
    assert (tmp_path / "corpus").stat().st_mode & 0o777 == 0o666
    assert run.collect()
    [folder] = written.glob("000001.*/open")
    folder.chmod(0o777)
    with pytest.raises(Untrusted, match=rf"{folder} is not to be trusted: it is world-writable"):
        run.collect()
    folder.chmod(0o755)
    (folder / "planted.npy").touch()
    (folder / "planted.npy").chmod(0o666)
    with pytest.raises(Untrusted, match=r"planted\.npy is not to be trusted"):
        run.collect()


def test_is_shard_done_is_asked(tmp_path: Path) -> None:
    run = submitted(Doubting(Study({"folder": str(tmp_path)}), output_dir=tmp_path / "out"))
    with pytest.raises(OutputError, match=r"split.0: is not whole, says is_shard_done of the"):
        run.collect()
    (tmp_path / MENDED).touch()
    assert run.collect() == {"count": 10, "sum": [45.0, 285.0]}


# --- a run that finishes itself, and where else it may be -----------------------------------------


def test_a_finisher_merges(tmp_path: Path) -> None:
    words = 'echo "$ESPNET3_OUTCOME $ESPNET3_RESULTS" > "$ESPNET3_RUN_DIR/../told"'
    finish = {"notify": words}
    run = submit_run(decoder(tmp_path), range(10), parallel={**THREE, "finish": finish})
    told = tmp_path / "out/test_a/told"
    wait_for(told.exists, "nobody was told")
    wait_for(lambda: told.read_text() != "", "nobody was told")
    assert told.read_text() == f"done {tmp_path}/out/test_a\n"
    record = json.loads(Path(run.run_dir, "finished.json").read_text())
    assert (record["results"], record["records"]) == (str(tmp_path / "out/test_a"), 10)
    before = merged_files(tmp_path / "out/test_a")
    assert len(before) == 3
    merged_at = (tmp_path / "out/test_a/hyp.scp").stat().st_mtime_ns
    over = said("finish", run.run_dir).out
    assert over == f"the run is over: done: 10 results in {tmp_path}/out/test_a\n"
    assert (tmp_path / "out/test_a/hyp.scp").stat().st_mtime_ns == merged_at
    assert ended(run).collect() == LINES
    assert merged_files(tmp_path / "out/test_a") == before


def test_a_finisher_tells_that_merge_failed(tmp_path: Path) -> None:
    run = submit_run(telling(tmp_path, "raise"), range(10), parallel={**THREE, "finish": True})
    wait_for(Path(run.run_dir, "finished.json").exists, "it is not over")
    record = json.loads(Path(run.run_dir, "finished.json").read_text())
    assert record["outcome"] == "incomplete"
    assert "merge failed: ValueError: the tables do not match" in record["cause"]
    ended(run)


@pytest.mark.s3
def test_a_run_in_an_object_store(tmp_path: Path, bucket: str) -> None:
    runner = decoder(tmp_path)
    runner.run_dir = f"{bucket}/{tmp_path.name}/run"
    run = submitted(runner)
    assert run.collect() == LINES
    first = tmp_path / "out/test_a/split.0"
    assert first.is_dir()
    assert not first.is_symlink()
    before = merged_files(tmp_path / "out/test_a")
    lines = [line.split()[1] for line in before["encoded.scp"].decode().splitlines()]
    assert [np.load(path)[0] for path in lines] == [*range(10)]
    inode = first.stat().st_ino
    (tmp_path / "out/test_a/split.2/hyp.scp").write_text("torn")
    assert run.collect() == LINES
    assert merged_files(tmp_path / "out/test_a") == before
    assert first.stat().st_ino == inode  # it was whole


@pytest.mark.s3
def test_a_copy_holds_nothing_of_an_earlier_attempt(tmp_path: Path, bucket: str) -> None:
    runner = telling(tmp_path)
    runner.run_dir = f"{bucket}/{tmp_path.name}/run"
    run = submitted(runner)
    run.collect()
    left = tmp_path / "out/split.0/left.npy"
    left.write_text("by an attempt that wrote all else alike")
    run.collect()
    assert not left.exists()


@pytest.mark.s3
def test_damage_in_an_object_store(tmp_path: Path, bucket: str) -> None:
    import s3fs

    runner = decoder(tmp_path)
    runner.run_dir = f"{bucket}/{tmp_path.name}/run"
    run = submitted(runner)
    fs = s3fs.S3FileSystem()
    [file] = fs.glob(f"{run.run_dir}/written/000001.*/hyp.scp")
    fs.pipe_file(file, b"torn")
    with pytest.raises(DamagedResult, match=r"hyp.scp: has 4 bytes"):
        run.collect(patience=0)
    assert not (tmp_path / "out/test_a/split.1").exists()
    assert run.resume(repair=True, patience=0).ranks == [1]
    assert ended(run).collect() == LINES


def test_slurm(tmp_path: Path, slurm: Any) -> None:
    config = parallel(n_workers=3, finish=True)
    run = submit_run(decoder(tmp_path), range(10), parallel=config)
    wait_for(Path(run.run_dir, "finished.json").exists, "it is not over")
    assert json.loads(Path(run.run_dir, "finished.json").read_text())["outcome"] == "done"
    before = merged_files(tmp_path / "out/test_a")
    assert len(before) == 3
    assert ended(run).collect() == LINES
    assert merged_files(tmp_path / "out/test_a") == before
