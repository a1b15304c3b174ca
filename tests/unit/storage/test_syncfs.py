"""When a whole file system is synced in place of each file."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from espnet3.storage import syncfs
from espnet3.storage.syncfs import can_sync_whole, sync_whole


@pytest.fixture(autouse=True)
def _quiet_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests may be writing."""
    syncfs._tells_errors.cache_clear()
    monkeypatch.setattr(syncfs, "_LITTLE", 1 << 60)


def test_only_on_file_systems_that_are_known(tmp_path: Path) -> None:
    words = ["stat", "--file-system", "--format=%T", str(tmp_path)]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    assert can_sync_whole(str(tmp_path)) == (said in ("ext2/ext3", "xfs", "tmpfs"))
    assert syncfs._type_of("/proc") == "proc"
    assert not can_sync_whole("/proc")
    assert not can_sync_whole(str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("system", "release", "known"),
    [
        ("Linux", "6.1.0-13-amd64", True),
        ("Linux", "5.17.0", True),
        ("Linux", "5.14.0-427.el9.x86_64", False),
        ("Linux", "4.18.0-553.el8_10.x86_64", False),
        ("Linux", "unknown", False),
        ("Darwin", "23.1.0", False),
    ],
)
def test_only_where_errors_are_told(
    monkeypatch: pytest.MonkeyPatch, system: str, release: str, known: bool
) -> None:
    monkeypatch.setattr(syncfs, "_type_of", lambda folder: "ext4")
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(sysname=system, release=release))
    assert can_sync_whole("/") == known


def test_only_where_it_can_be_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncfs, "_type_of", lambda folder: "ext4")

    def filtered(descriptor: int) -> int:
        return errno.ENOSYS

    for call, known in ((filtered, False), (syncfs._syncfs, True)):
        syncfs._can_be_called.cache_clear()
        monkeypatch.setattr(syncfs, "_syncfs", call)
        assert can_sync_whole("/") == known


def test_not_where_the_interpreter_lacks_ctypes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncfs, "_type_of", lambda folder: "ext4")
    monkeypatch.setitem(sys.modules, "ctypes", None)
    syncfs._can_be_called.cache_clear()
    assert not can_sync_whole("/")


def test_not_where_much_waits_to_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncfs, "_type_of", lambda folder: "ext4")
    monkeypatch.setattr(syncfs, "_LITTLE", 0)
    assert not can_sync_whole("/")


def test_what_it_cannot_sync_is_an_error(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    sync_whole(descriptor)
    os.close(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        sync_whole(descriptor)
    assert caught.value.errno == errno.EBADF
