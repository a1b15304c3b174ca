"""What a run directory may hold, by name: everything else is somebody's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.own_files import OwnFiles
from espnet3.storage.deletion import Entry, entries

OWN = [
    "run.json", "removal.json", "finished.json", "notified.2.json", "results.jsonl",
    "shards/000000.json", "shards/1234567.json", "submissions/0001.json",
    "submissions/0001.jobs.json", "submissions/0001.cancelled.json",
    "results/000000.0001-0123456789ab.0.jsonl", "receipts/000000.json", "receipts/000000.2.json",
    "attempts/000000.0001-0123456789ab.failed.json", "withdrawals/000000.1.json",
    "claims/000000.1.0.json", "claims/000000.1.0.part.json", "claims/remaining.json",
    "workers/0001-0123456789ab.json",
    "finishers/0001.json", "finishers/0001.job.json", "waves/0001.json", "code/0001.json",
    "written/000000.0001-0123456789ab/hyp.scp", "written/000000.0001-0123456789ab/deep/0.npy",
    "logs/0001-0.3.log", "logs/0001-0.supervisor.log", "logs/finisher-0001.0.log",
    ".run.json.0123456789ab.tmp", "results/.nfs00000001", ".probe-0123456789ab",
    ".shards.0123456789ab.tmp/000000.json", "code/.0001.0123456789ab.tmp/0/a.py",
]  # fmt: skip
FOREIGN = [
    "notes.txt", "results/notes.txt", "results/000000.jsonl", "shards/000000.2.json",
    "shards/deep/000000.json", "run.json/deep", "logs/notes.txt", "logs/wandb/a.log", ".git/config",
    "code/notes.py", "mine/run.json", "submissions/0001.json.orig", "waves/1.json",
    "claims/left.json", "remaining.json",
    "written/notes.txt", "written/mine/hyp.scp", "written/000000.0001-0123456789ab",
]  # fmt: skip


@pytest.mark.parametrize("path", OWN)
def test_own(path: str, tmp_path: Path) -> None:
    own = OwnFiles(RunDirectory.open(tmp_path))
    assert own(Entry(path, "file"))
    if not path.startswith((".", "code/.", "results/.", "written/")):
        assert not own(Entry(path, "link"))
        assert not own(Entry(path, "other"))


@pytest.mark.parametrize("path", FOREIGN)
def test_foreign(path: str, tmp_path: Path) -> None:
    assert not OwnFiles(RunDirectory.open(tmp_path))(Entry(path, "file"))


def test_folders(tmp_path: Path) -> None:
    own = OwnFiles(RunDirectory.open(tmp_path))
    assert own(Entry("results", "folder"))
    assert not own(Entry("results", "link"))
    assert not own(Entry("results/deep", "folder"))
    assert not own(Entry("run.json", "folder"))
    assert own(Entry("written/000000.0001-0123456789ab", "folder"))
    assert own(Entry("written/000000.0001-0123456789ab/deep", "folder"))
    assert own(Entry("written/000000.0001-0123456789ab/newest", "link"))  # which is not followed
    assert not own(Entry("written/000000.0001-0123456789ab", "link"))


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "run" / "a").mkdir(parents=True)
    (tmp_path / "run" / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "run" / "broken").symlink_to("nowhere")
    found = [*entries(RunDirectory.open(tmp_path / "run").store)]
    assert found == [Entry("a/up", "link"), Entry("a", "folder"), Entry("broken", "link")]
