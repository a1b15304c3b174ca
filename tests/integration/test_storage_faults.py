"""Storage that is full, broken or read-only, below real submitters, supervisors and workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from espnet3.errors import EspnetError, RunDirectoryError, StoreError
from espnet3.run import Run, submit_run
from espnet3.specs import layout
from espnet3.storage.local import LocalStore
from tests.support.faulty_store import Faults, Rule, faults_environment, injected
from tests.support.helpers import (
    ended,
    locally,
    noted,
    once,
    parallel,
    processes_of,
    states,
    wait_for,
)
from tests.support.runners import GATE, Noting, Workshop
from tests.support.worker_runs import (
    Setup,
    Work,
    receipt_of,
    records_of,
    result_lines,
    run_worker,
    submit_again,
    write_run,
)

TEMPORARY = ".tmp"
Mount = Callable[..., Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mount a small disk of this test's own, or the same one with other options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def call(options: str) -> bool:
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0

    def mount(options: str) -> Path:
        if not os.path.ismount(folder):
            if os.geteuid() != 0 or not call(options):
                pytest.skip("mounting a small disk needs root and the right to mount")
        else:  # a worker that is about to end may still hold its log open
            wait_for(lambda: call(f"remount,{options}"), "the disk cannot be mounted anew", 10)
        return folder

    yield mount
    if os.path.ismount(folder):
        wait_for(lambda: _unmount(folder), "the disk is in use", 10)


def _unmount(folder: Path) -> bool:
    return subprocess.run(["umount", folder], capture_output=True, check=False).returncode == 0


def fill(disk: Path, leave: int) -> Path:
    """Fill a disk up to some bytes that stay free; removing the file that is returned frees it."""
    filler = disk / "filler"
    free = os.statvfs(disk)
    filler.write_bytes(b"x" * max(0, free.f_bavail * free.f_frsize - leave))
    return filler


def debris(folder: Path) -> list[str]:
    """Temporary files that somebody left."""
    return [str(path) for path in folder.rglob("*") if path.name.endswith(TEMPORARY)]


def one_line(words: str) -> str:
    """The only line of a message."""
    [line] = words.strip().splitlines()
    return line


# --- a disk that is really full -------------------------------------------------------------------


def test_a_worker_whose_disk_is_full_loses_nothing(mount: Mount) -> None:
    disk = mount("size=2m")
    store = LocalStore(str(disk / "run"))
    items = [f"{i:02d}" + "x" * 12_000 for i in range(30)]  # a line is three times as long
    run = write_run(store, {}, items)
    filler = fill(disk, leave=300_000)
    done = run_worker(store.root)
    assert done.returncode == 1, done.stderr
    assert "No space left on device" in done.stderr
    assert f"{store.root}/results/000000" in done.stderr
    assert "Traceback" not in done.stderr
    assert not store.exists(layout.receipt(0))
    kept = [line for line in result_lines(store) if line.endswith(b"\n")]
    assert 2 < len(kept) < 30
    filler.unlink()
    submit_again(store, run, 2)
    done = run_worker(store.root, number=2)
    assert done.returncode == 0, done.stderr
    assert receipt_of(store).salvaged == len(kept)  # what was kept is not computed again
    assert Run(store.root).collect(patience=0) == Work(Setup({}))(items)
    assert debris(disk) == []


def test_a_submitter_whose_disk_is_full_submits_nothing(mount: Mount, tmp_path: Path) -> None:
    disk = mount("size=1m")
    filler = fill(disk, leave=24_000)
    runner = Noting(Workshop({"folder": str(tmp_path)}))
    config = parallel("local", n_workers=2, n_shards=12, preflight=False)

    def submit() -> Run:
        return submit_run(runner, range(60), run_dir=disk / "run", parallel=config)

    with pytest.raises(EspnetError, match="No space left on device") as caught:
        submit()
    one_line(str(caught.value))
    assert not (disk / "run" / layout.RUN).exists()
    assert debris(disk) == []
    filler.unlink()
    run = ended(submit())
    assert run.collect(patience=0) == locally(tmp_path, 60)
    assert noted(tmp_path, "begun") == once(range(60))


def test_collect_writes_a_whole_file_or_none(mount: Mount, tmp_path: Path) -> None:
    disk = mount("size=200k")
    store = LocalStore(str(tmp_path / "run"))
    write_run(store, {}, ["x" * 20_000 for _ in range(10)])
    assert run_worker(store.root).returncode == 0
    run, output = Run(store.root), disk / "merged.jsonl"
    with pytest.raises(StoreError, match="No space left on device") as caught:
        run.collect(output, patience=0)
    assert caught.value.file == str(output)
    assert list(disk.iterdir()) == []
    mount("size=2m")
    assert run.collect(output, patience=0).records == 10
    mount("ro")
    with pytest.raises(StoreError, match="Read-only file system"):
        run.collect(disk / "again.jsonl", patience=0)
    assert [path.name for path in disk.iterdir()] == ["merged.jsonl"]


def test_a_run_that_became_read_only_is_read_and_not_resumed(mount: Mount, tmp_path: Path) -> None:
    disk = mount("size=2m")
    store = LocalStore(str(disk / "run"))
    runner = Noting(Workshop({"folder": str(tmp_path), "failing": [5]}))
    config = parallel("local", n_workers=2, n_shards=2, preflight=False)
    run = ended(submit_run(runner, range(6), run_dir=store.root, parallel=config))
    assert states(run) == {0: "done", 1: "failed"}
    mount("ro")
    assert states(run) == {0: "done", 1: "failed"}
    with pytest.warns(UserWarning, match="left out"):
        assert run.collect(partial=True, patience=0) == locally(tmp_path, 6)[:5]
    for call in (run.resume, lambda: submit_run(runner, range(6), run_dir=disk / "b")):
        with pytest.raises(EspnetError, match="Read-only file system") as caught:
            call()
        one_line(str(caught.value))
    done = run_worker(store.root, number=1, task=1)  # as one that the scheduler starts again
    assert done.returncode == 1
    assert "Read-only file system" in done.stderr
    assert "Traceback" not in done.stderr
    mount("rw")
    (tmp_path / "mended").touch()
    assert run.resume().ranks == [1]
    assert ended(run).collect(patience=0) == [
        {"item": i, "square": i * i, "text": f"„{i}“\n"} for i in range(6)
    ]


def test_a_run_whose_disk_is_full_can_be_cancelled(mount: Mount, tmp_path: Path) -> None:
    """The note that says so cannot be written, and the jobs end all the same."""
    disk = mount("size=2m")
    config = parallel("local", n_workers=2, n_shards=2, preflight=False)
    provider = Workshop({"folder": str(tmp_path), "gated": [0, 2]})
    run = submit_run(Noting(provider), range(4), run_dir=disk / "run", parallel=config)
    wait_for(lambda: noted(tmp_path, "begun") == once([0, 2]), "it does not run")
    filler = fill(disk, leave=0)
    try:
        with pytest.raises(StoreError, match=r"0001\.cancelled\.json: No space left on device"):
            run.cancel()
        wait_for(lambda: not processes_of(run), "it lives on", 20)
    finally:
        (tmp_path / GATE).touch()
        filler.unlink()
    assert run.resume().ranks == [0, 1]
    assert ended(run).collect(patience=0) == locally(tmp_path, 4)


# --- each call of a worker ------------------------------------------------------------------------

LASTING_CASES = [
    Rule("create", "attempts/", "ENOSPC", times=-1),
    Rule("create", "results/", "EDQUOT"),
    Rule("write", "results/", "ENOSPC", "half", times=-1),
    Rule("fsync", "results/", "EIO"),
    Rule("fsync", "results/", "EIO", "after"),
    Rule("fsync folder", "results", "EIO"),
    Rule("write", "receipts/", "EDQUOT", "half"),
    Rule("fsync", "receipts/", "EIO"),
    Rule("link", "receipts/", "ENOSPC"),
    Rule("link", "receipts/", "EIO", "after"),
    Rule("fsync folder", "receipts", "EIO"),
    Rule("*", "run/", "EROFS", first=12, times=-1),
]


@pytest.mark.parametrize("rule", LASTING_CASES, ids=lambda r: f"{r.operation}-{r.path}-{r.error}")
def test_a_worker_that_cannot_write_says_so_and_loses_nothing(tmp_path: Path, rule: Rule) -> None:
    store = LocalStore(str(tmp_path / "run"))
    run = write_run(store, {}, range(6), n_shards=1)
    log = tmp_path / "faults"
    done = run_worker(store.root, faults_environment(Faults([rule], log=str(log))))
    faults = list(injected(log))
    assert faults
    published = store.exists(layout.receipt(0))
    if (rule.operation, rule.when) == ("link", "after"):
        assert (published, done.returncode) == (True, 0)  # the file itself says that it is there
        return
    # The folder is synced after the receipt has its name: it is there, only its safety in doubt.
    assert published == ((rule.operation, rule.path) == ("fsync folder", "receipts"))
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert os.strerror(_number(rule.error)) in done.stderr
    assert rule.error == "EROFS" or debris(tmp_path) == []
    kept = [line for line in result_lines(store) if line.endswith(b"\n")]
    submit_again(store, run, 2)
    again = run_worker(store.root, number=2)
    assert again.returncode == 0, again.stderr
    assert Run(store.root).collect(patience=0) == Work(Setup({}))(range(6))
    if not published:
        assert receipt_of(store).salvaged == len(kept)


def _number(name: str) -> int:
    import errno

    number: int = getattr(errno, name)
    return number


def test_a_shard_whose_end_cannot_be_recorded_does_not_end_its_task(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path / "run"))
    write_run(store, {}, range(6), n_shards=3, shards_per_job=3)
    rule = Rule("create", "attempts/.000001", "ENOSPC", times=-1)
    done = run_worker(store.root, faults_environment(Faults([rule])))
    assert done.returncode == 1, done.stderr
    assert "shard 1: that it failed cannot be recorded: " in done.stderr
    assert [store.exists(layout.receipt(rank)) for rank in range(3)] == [True, False, True]


def test_what_cannot_be_synced_later_either_gets_no_receipt(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path / "run"))
    run = write_run(store, {}, range(6))
    faulty = faults_environment(Faults([Rule("fsync", "results/", "EIO", times=-1)]))
    for number in (1, 2):
        done = run_worker(store.root, faulty, number=number)
        assert done.returncode == 1, done.stderr
        assert not store.exists(layout.receipt(0))
        submit_again(store, run, number + 1)
    assert run_worker(store.root, number=3).returncode == 0
    assert receipt_of(store).salvaged == 6


def test_no_receipt_follows_a_failed_sync_although_the_next_one_succeeds(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path / "run"))
    # The checkpoint's sync fails while the items are computed; that at the end would succeed.
    write_run(store, {"folder": str(tmp_path), "at": 3, "do": "gate"}, checkpoint_every=0.1)
    log = tmp_path / "faults"
    rule = Rule("fsync", "results/", "EIO")
    environ = faults_environment(Faults([rule], log=str(log)))
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "espnet3.worker", store.root, "0001", "--task", "0"],
        env={**os.environ, **environ},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: list(injected(log)), "no fault was injected")
        (tmp_path / "gate").touch()
        _, words = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1, words
    assert "Input/output error" in words
    assert not store.exists(layout.receipt(0))
    assert [record.items_done for record in records_of(store, "failed")]


def test_a_worker_goes_on_through_what_passes_by_itself(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path / "run"))
    write_run(store, {}, range(6), n_shards=2, shards_per_job=2)
    log = tmp_path / "faults"
    calls = ("create", "open", "link", "unlink", "stat", "scandir")
    rules = [
        Rule(call, "run/", error, when)
        for call in calls
        for error, when in (("ESTALE", "before"), ("ETIMEDOUT", "after"))
    ]
    faults = Faults([*rules, Rule("fsync", "receipts/", "ESTALE")], log=str(log))
    done = run_worker(store.root, faults_environment(faults))
    assert done.returncode == 0, done.stderr
    assert Counter(call for call, *_ in injected(log)).keys() >= {*calls, "fsync"} - {"scandir"}
    assert "try 1 of 9" in done.stderr
    assert records_of(store, "failed") == []
    assert Run(store.root).collect(patience=0) == Work(Setup({}))(range(6))
    assert debris(tmp_path) == []


# --- submitter and supervisor ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule",
    [
        Rule("link", "submissions/0001.jobs", "ENOSPC"),  # the supervisor's own record
        Rule("link", "submissions/0001.json", "EDQUOT"),
        Rule("fsync", "run.json", "EIO"),
    ],
    ids=lambda r: r.path,
)
def test_a_submission_that_cannot_be_written_is_made_again(
    tmp_path: Path, rule: Rule, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "import json, sys; from tests.support.runners import *\n"
        "from espnet3.run import submit_run\n"
        "from espnet3.errors import EspnetError\n"
        "runner = Noting(Workshop({'folder': sys.argv[1]}))\n"
        "config = {'env': 'local', 'n_workers': 2, 'n_shards': 3, 'preflight': False}\n"
        "try: submit_run(runner, range(6), run_dir=sys.argv[1] + '/run', parallel=config)\n"
        "except EspnetError as error: sys.exit(f'{type(error).__name__}: {error}')\n"
    )

    def submit(environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)],
            env={**os.environ, "PYTHONPATH": os.getcwd(), **environ},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    failed = submit(faults_environment(Faults([rule])))
    assert failed.returncode == 1, failed.stderr
    assert os.strerror(_number(rule.error)) in one_line(failed.stderr)
    assert debris(tmp_path / "run") == []
    done = submit({})
    assert done.returncode == 0, done.stderr
    run = ended(Run(tmp_path / "run"))
    assert run.collect(patience=0) == locally(tmp_path, 6)
    assert noted(tmp_path, "finished") == once(range(6))


def test_a_task_whose_log_cannot_be_made_runs_without_one(tmp_path: Path) -> None:
    (tmp_path / "run" / "logs" / "0001-0.1.log").mkdir(parents=True)
    runner = Noting(Workshop({"folder": str(tmp_path)}))
    config = parallel("local", n_workers=1, n_shards=3, preflight=False)
    run = submit_run(runner, range(6), run_dir=tmp_path / "run", parallel=config)
    assert ended(run).collect(patience=0) == locally(tmp_path, 6)
    assert noted(tmp_path, "finished") == once(range(6))


def test_the_log_folder_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "logs").write_text("a file")
    runner = Noting(Workshop({"folder": str(tmp_path)}))
    with pytest.raises(RunDirectoryError):
        submit_run(runner, range(6), run_dir=tmp_path / "run", parallel=parallel("local"))


def test_an_output_that_fails_leaves_nothing(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path / "run"))
    write_run(store, {}, range(6))
    assert run_worker(store.root).returncode == 0
    program = "import sys; from espnet3.cli import main; sys.argv[1:] = sys.argv[1:]; main()"
    for rule in (
        Rule("create", "out/", "EDQUOT"),
        Rule("write", "out/", "ENOSPC", "half"),
        Rule("fsync", "out/", "EIO"),
        Rule("replace", "out/", "EIO"),
    ):
        (tmp_path / "out").mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-c", program, "collect", store.root, "-o", tmp_path / "out/merged"],
            env={**os.environ, **faults_environment(Faults([rule]))},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1
        assert os.strerror(_number(rule.error)) in one_line(done.stderr)
        assert list((tmp_path / "out").iterdir()) == []
    written = Run(store.root).collect(tmp_path / "out" / "merged", patience=0)
    lines = Path(written.output).read_text().splitlines()
    assert [json.loads(line)["result"] for line in lines] == Work(Setup({}))(range(6))
