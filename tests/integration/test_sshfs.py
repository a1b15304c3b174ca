"""A run over real mounts with stale caches: submitted on one, computed on a second, collected on a
third. sshfs keeps names, absences, sizes and listings for 5 s, as an NFS client does for longer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from espnet3.errors import FileTaken
from espnet3.parallel import BaseRunner
from espnet3.run import Run
from espnet3.specs import layout
from espnet3.storage.local import LocalStore
from tests.support.helpers import noted, once, wait_for
from tests.support.runners import MENDED, note
from tests.support.worker_runs import receipt_of, run_worker, submit_again, write_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get("ESPNET3_LONG_TESTS") != "1",
        reason="waits for caches to age; ESPNET3_LONG_TESTS=1 runs it",
    ),
]

CACHE = 5  # seconds
PATIENT = {"ESPNET3_PATIENCE": "30"}
SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server")
Mount = Callable[[str], Path]


class Noted(BaseRunner):
    """Squares, and notes what is finished; fails at one item until all is mended."""

    @staticmethod
    def forward(idx: int, *, config: dict[str, Any]) -> int:
        folder = Path(config["folder"])
        if idx == config["failing"] and not (folder / MENDED).exists():
            raise ValueError(f"item {idx} is bad")
        note(folder, "finished", idx)
        return idx * idx


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts the folder `disk` under a name, with caches of its own."""
    server = next(filter(os.path.exists, SERVERS), None)
    if shutil.which("sshfs") is None or server is None:
        pytest.skip("needs sshfs and sftp-server (apt-get install sshfs openssh-sftp-server)")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs /dev/fuse")
    disk, ssh = tmp_path / "disk", tmp_path / "ssh"
    disk.mkdir()
    ssh.write_text(f"#!/bin/sh\nexec {server}\n")  # instead of a connection to another host
    ssh.chmod(0o755)
    names = ("entry", "attr", "negative")
    caches = ("", "stat_", "link_", "dir_")
    options = [
        f"ssh_command={ssh}",
        *(f"{name}_timeout={CACHE}" for name in names),
        *(f"dcache_{cache}timeout={CACHE}" for cache in caches),
    ]
    mounted: list[Path] = []

    def mount(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        words = ["sshfs", f"host:{disk}", str(folder), "-o", ",".join(options)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        wait_for(lambda folder=folder: _unmount(folder), "the mount is in use", 10)  # type: ignore[misc]


def _unmount(folder: Path) -> bool:
    words = ["fusermount3", "-u", str(folder)]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def test_a_run_over_three_views_of_a_disk(mount: Mount, tmp_path: Path) -> None:
    login, node, third = (LocalStore(str(mount(name) / "run")) for name in ("a", "b", "c"))
    login.prepare(layout.FOLDERS)
    for view in (node, third):  # which remember that there is nothing
        for folder in layout.FOLDERS:
            assert view.names(folder) == []
        assert not view.exists(layout.RUN)
        assert not any(view.exists(layout.receipt(rank)) for rank in range(2))
    config = {"folder": str(tmp_path), "failing": 4}
    run = write_run(login, config, runner=Noted, n_shards=2, shards_per_job=2)
    assert not node.exists(layout.RUN), "the caches do what they are here for"
    assert Path(login.root, layout.RUN).exists()

    done = run_worker(node.root, PATIENT)
    assert done.returncode == 1, done.stderr  # item 4 fails; but the run was found
    assert noted(tmp_path, "finished") == once(range(4))

    # The first one sees nothing of the receipt yet, and resumes both shards.
    (tmp_path / MENDED).touch()
    submit_again(login, run, 2)
    assert len(third.names(layout.RECEIPTS)) < 2  # and is remembered
    done = run_worker(login.root, PATIENT, number=2)
    assert done.returncode == 0, done.stderr
    assert noted(tmp_path, "finished") == once(range(6))
    assert receipt_of(LocalStore(str(tmp_path / "disk" / "run")), 1).salvaged == 1

    # The third view still remembers that there were no receipts, and files of other sizes.
    assert Run(third.root).collect(patience=30) == [i * i for i in range(6)]
    for view in (login, node, third):
        with pytest.raises(FileTaken):  # is not a matter of caches
            view.create(layout.receipt(0), b"another")
