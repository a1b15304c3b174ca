"""Run directories of every released format stay readable."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import shutil
from pathlib import Path

import orjson
import pytest
from omegaconf import OmegaConf

import espnet3
from espnet3.errors import DamagedResult, IncompleteRun, PlanMismatch
from espnet3.parallel import InferenceProvider
from espnet3.run_dir.claims import read_partial_receipts
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.finishers import read_ending
from espnet3.specs import finishing, layout, models
from espnet3.specs.removal import Removal
from espnet3.status.run_list import list_runs
from espnet3.submit.plan import describe_provider, fingerprint, require_same_plan

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
RUNS = [
    FIXTURES / "v1" / "resumed",
    FIXTURES / "v1" / "repaired",
    FIXTURES / "v2" / "held",
    FIXTURES / "v3" / "shared",
    FIXTURES / "v4" / "stopped",
    FIXTURES / "v5" / "ended",
    FIXTURES / "v6" / "looked",
    FIXTURES / "v7" / "hidden",
    FIXTURES / "v6" / "skipped",
]
REMOVED = FIXTURES / "v6" / "removed"
COUNTED = FIXTURES / "v7" / "counted"
WRITTEN = FIXTURES / "v6" / "written"
FORMAT_1 = RUNS[0]
RESULTS = [{"text": text} for text in ("SO!", "IT!", "GOES!", "ÜNÏCÖDÉ!", "A B!", "C!")]
SEEN = "[[<Search.BEAM: 2>, PosixPath('words.txt'), 4, {1: (1, 2)}], 20, "
SEEN += "{(1, None): b'x', 'nan': nan}]"
HELD = [{"text": r["text"].rstrip("!") + "!.", "seen": SEEN} for r in RESULTS]  # what it held
SHARED = [{"text": text} for text in [*(f"T{i}" for i in range(40)), "HEAVY", "LAST"]]
MODELS: dict[str, type[models.PersistedModel]] = {
    "run.json": models.RunSpec,
    "shards/": models.ShardSpec,
    "submissions/": models.Submission,
    ".jobs.json": models.AcceptedJobs,
    ".cancelled.json": models.Cancellation,
    "attempts/": models.AttemptRecord,
    "receipts/": models.Receipt,
    "withdrawals/": models.Withdrawal,
    "claims/": models.Claim,
    "remaining.json": models.Remaining,
    ".part.json": models.PartialReceipt,
    "workers/": models.WorkerState,
    "code/": models.CodeRecord,
    "finishers/": finishing.Finisher,
    ".job.json": finishing.QueuedFinisher,
    "waves/": finishing.Wave,
    "finished.json": finishing.Finished,
    "notified.json": finishing.Notified,
    "removal.json": Removal,
}


def model_of(path: str) -> type[models.PersistedModel]:
    """The model of a file of a run directory."""
    fitting = [model for mark, model in MODELS.items() if mark in path]
    return (
        fitting[-1]
        if path.endswith(
            (".jobs.json", ".cancelled.json", ".part.json", ".job.json", "remaining.json")
        )
        else fitting[0]
    )


@pytest.mark.parametrize(
    "path",
    sorted(
        str(p.relative_to(FIXTURES))
        for run in [*RUNS, REMOVED, WRITTEN, COUNTED]
        for p in run.rglob("*.json")
    ),
)
def test_every_file_of_every_format_is_read(path: str) -> None:
    model = models.decode(model_of(path), (FIXTURES / path).read_bytes(), path)
    assert models.decode(type(model), models.encode(model), path) == model


@pytest.mark.parametrize("folder", RUNS[:-1], ids=lambda folder: folder.name)
def test_a_run_of_every_format_is_collected(folder: Path) -> None:
    run = espnet3.Run(folder)
    assert run.status().counts() == {"done": 3}
    results = {"held": HELD, "shared": SHARED, "ended": SHARED}.get(folder.name, RESULTS)
    assert run.collect(patience=0) == results
    assert [record.result for record in run.stream(patience=0)] == results


def test_what_was_skipped_is_told_apart_and_collected_as_an_error() -> None:
    run = espnet3.Run(RUNS[-1])
    seen = run.status()
    assert (seen.counts(), seen.failed, seen.skipped) == ({"done": 3}, {2: 1}, {1: 1})
    found = run.collect(errors="keep", patience=0)
    assert [r["text"] for r in found if isinstance(r, dict)] == ["SO", "IT", "GOES", "A B", "C"]
    assert [r.type for r in found[3:5]] == ["Skipped", "ValueError"]
    assert {number: submission.typed for number, submission in seen.submissions.items()} == {
        1: "espnet3 submit conf.yaml config.hub_token=***",
        2: "espnet3 resume run --skip-failing",
    }


def test_a_removal_that_was_cut_short_goes_on(tmp_path: Path) -> None:
    folder = shutil.copytree(REMOVED, tmp_path / "run")
    [listed] = asyncio.run(list_runs([folder]))
    assert listed.state == "half removed"
    assert espnet3.Run(folder).remove().files == 1
    assert not folder.exists()


def test_what_a_runner_wrote_is_merged(tmp_path: Path) -> None:
    """Its second attempt took over what the first, which was killed, had written by then."""
    shutil.copy(FIXTURES / "v6" / "recipe.py", tmp_path)
    folder = shutil.copytree(WRITTEN, tmp_path / "exp" / "test" / "espnet3_run")
    for file in [folder / "run.json", *folder.glob("shards/*")]:
        file.write_text(file.read_text().replace("/home/me/", f"{tmp_path}/"))
        file.write_text(file.read_text().replace('"/home/me"', f'"{tmp_path}"'))
    assert espnet3.Run(folder).collect(patience=0) == {"hyp": "exp/test/hyp.scp"}
    merged = (tmp_path / "exp" / "test" / "hyp.scp").read_text().splitlines()
    assert merged == [f"utt{idx} hypothesis {idx}" for idx in range(7)]
    (folder / "written/000001.0001-95b3886a834f/hyp.scp").write_text("utt3 another\n")
    with pytest.raises(DamagedResult):
        espnet3.Run(folder).collect(patience=0)


def test_an_unfinished_run_of_format_1_says_what_is_missing(tmp_path: Path) -> None:
    folder = shutil.copytree(FORMAT_1, tmp_path / "run")
    (folder / layout.receipt(1)).unlink()
    for path in [*folder.glob("attempts/000001.0002*"), *folder.glob("submissions/0002*")]:
        path.unlink()
    with pytest.raises(IncompleteRun) as caught:
        espnet3.Run(folder).collect(patience=0)
    assert caught.value.causes == {1: "failed: forward failed at item 3: ValueError: not yet"}


def read_run(folder: Path) -> models.RunSpec:
    return models.decode(models.RunSpec, (folder / layout.RUN).read_bytes(), str(folder))


def as_version_1_had_it(folder: Path) -> models.RunSpec:
    """The run with the fingerprint that version 1 made; the fixtures' paths were changed since."""
    run = read_run(folder)
    stored = orjson.loads((folder / layout.RUN).read_bytes())
    plan = {name: stored[name] for name in run.PLAN_FIELDS if name in stored}
    text = orjson.dumps(plan, option=orjson.OPT_SORT_KEYS)
    made = "sha256:" + hashlib.sha256(text).hexdigest()
    return run.model_copy(update={"fingerprint": made})


@pytest.mark.parametrize("folder", RUNS[:2], ids=lambda folder: folder.name)
def test_a_plan_of_version_1_keeps_its_fingerprint(folder: Path) -> None:
    run = as_version_1_had_it(folder)
    assert fingerprint({name: getattr(run, name) for name in run.PLAN_FIELDS}) == run.fingerprint


@pytest.mark.parametrize("folder", RUNS[2:], ids=lambda folder: folder.name)
def test_a_later_plan_keeps_its_fingerprint(folder: Path) -> None:
    run = read_run(folder)
    assert fingerprint({name: getattr(run, name) for name in run.PLAN_FIELDS}) == run.fingerprint


def test_the_same_call_continues_a_run_of_version_1() -> None:
    run = as_version_1_had_it(FORMAT_1)
    config = OmegaConf.create({"a": 1, "b": "${a}", "mark": "!"})
    OmegaConf.set_struct(config, True)
    provider = InferenceProvider(config, params={"mark": "!"})

    def again() -> models.RunSpec:
        spec = describe_provider(provider).model_copy(update={"cls": run.provider.cls})
        plan = {name: getattr(run, name) for name in run.PLAN_FIELDS} | {"provider": spec}
        new = {"provider": spec, "fingerprint": fingerprint(plan), "schema_version": 2}
        return run.model_copy(update=new)

    assert again().provider.args[0].restored  # what version 1 could not tell
    require_same_plan("/run", run, again())
    provider.config.a = 20
    with pytest.raises(PlanMismatch) as caught:
        require_same_plan("/run", run, again())
    assert caught.value.field == "provider.attributes"


def test_version_2_says_what_the_process_held() -> None:
    run = read_run(RUNS[2])
    assert run.schema_version == 2
    assert {note.kind for argument in run.arguments() for note in argument.restored} == {
        "enum", "path", "interpolation", "tuple", "pairs", "bytes", "number", "omegaconf",
    }  # fmt: skip
    assert run.provider.attributes.keys() == {"config", "table"}
    assert [variable.name for variable in run.assignments] == ["MARK", "beam"]


def test_version_5_says_what_was_imported_before_it_was_hidden() -> None:
    run = read_run(FIXTURES / "v7" / "hidden")
    assert run.schema_version == 5
    assert run.process is not None
    assert run.process.hidden_modules == ["pickle", "token"]
    older = run.model_dump() | {"schema_version": 4}
    with pytest.raises(ValueError, match="fields of version 5"):
        models.RunSpec(**older)


def test_version_3_says_where_its_shards_were_cut_and_shared() -> None:
    folder = RUNS[3]
    run = read_run(folder)
    assert (run.schema_version, run.n_items) == (3, 42)
    assert run.bounds is not None
    assert [run.bounds_of(rank) for rank in range(3)] == [*itertools.pairwise(run.bounds)]
    assert sum(run.weights or ()) == 80
    receipt = RunDirectory.open(folder).receipt(run, 0, 1)
    parts = read_partial_receipts(RunDirectory.open(folder), run, 0, 1)
    assert len({part.attempt for part in parts}) == 2
    assert [part for each in parts for part in each.parts] == receipt.parts


def test_a_stopped_run_says_why_and_what_memory_it_had() -> None:
    directory = RunDirectory.open(RUNS[4])
    _, cancelled = directory.submissions()
    assert list(cancelled) == [1]
    assert cancelled[1].startswith("NameError: name 'txet' is not defined, item 2, at decode.py:12")
    attempts = [directory.read(models.AttemptRecord, str(path.relative_to(RUNS[4])))
                for path in RUNS[4].glob("attempts/*.failed.json")]  # fmt: skip
    assert len(attempts) == 3
    assert all(record.memory_needed for record in attempts)
    assert not any(record.usage for record in attempts)


def test_usage_stands_in_one_record_of_each_attempt() -> None:
    directory = RunDirectory.open(RUNS[5])
    run = read_run(RUNS[5])
    assert directory.receipt(run, 0, 1).usage is None
    parts = [part.usage for part in read_partial_receipts(directory, run, 0, 1)]
    whole = [directory.receipt(run, rank, 1).usage for rank in (1, 2)]
    [path] = RUNS[5].glob("attempts/*.failed.json")
    failed = directory.read(models.AttemptRecord, str(path.relative_to(RUNS[5])))
    found = [usage for usage in (*parts, *whole, failed.usage) if usage is not None]
    assert len(found) == len(parts) + 3
    assert sum(usage.items for usage in found) == run.n_items
    assert all(sum(n for _, n in usage.item_seconds) == usage.items for usage in found)
    assert 14 * 0.6 <= sum(usage.forward for usage in found) < 20
    assert failed.memory_needed == failed.usage.peak_memory if failed.usage else False
    assert directory.submissions()[0][0].submission.usage


@pytest.mark.parametrize(
    ("folder", "version", "words"),
    [
        (RUNS[5], 1, "42 results in /shared/words/run/results.jsonl"),
        (COUNTED, 2, "3 results in /shared/words/run/results.jsonl, 1 item failed, 1 skipped"),
    ],
)
def test_an_end_of_every_version_is_told(folder: Path, version: int, words: str) -> None:
    end = RunDirectory.open(folder).read(finishing.Finished, layout.finished(1))
    assert end.schema_version == version
    seen = espnet3.Run(folder).status().finishing
    assert seen is not None
    assert seen.words == f"done: {words}"


def test_a_run_that_has_finished_itself_says_so() -> None:
    directory = RunDirectory.open(RUNS[5])
    ending = read_ending(directory)
    assert ending is not None
    assert ending.is_over
    seen = espnet3.Run(RUNS[5]).status().finishing
    assert seen is not None
    assert (seen.state, len(seen.waves)) == ("done", 1)
    record = directory.read(models.CodeRecord, layout.code_record(1))
    assert record.snapshot
    for file in record.files:
        copy = RUNS[5] / layout.snapshot(1) / str(file.root) / file.name
        assert "sha256:" + hashlib.sha256(copy.read_bytes()).hexdigest() == file.sha256
