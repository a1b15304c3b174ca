"""Storage and limits with which no run can be: one line, before anything is left or queued."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from espnet3.errors import RunDirectoryError
from espnet3.run import submit_run
from espnet3.storage.permissions import make_folders, removed_on_error
from tests.support.cli_project import Project
from tests.support.debian import PackagesUnavailableError, install
from tests.support.helpers import ended, parallel
from tests.support.runners import Noting, Workshop

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
Mount = Callable[..., Path]


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """An empty folder to mount something on; it is unmounted in the end."""
    point = tmp_path / "mounted"
    point.mkdir()
    yield point
    if os.path.ismount(point):
        subprocess.run(["umount", str(point)], check=True, timeout=60)


def tool(program: str, package: str, *arguments: str) -> str:
    """What a program prints; the test is skipped where it cannot be had, or not do its work."""
    try:
        install({program: package})
    except PackagesUnavailableError as problem:
        pytest.skip(str(problem))
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        pytest.skip(f"{program}: {(done.stderr or done.stdout).strip()[-200:]}")
    return done.stdout.strip()


def refused(run_dir: Path, **config: Any) -> str:
    """The one line with which a submission is refused, by whom nothing is left."""
    folder = run_dir.parent
    while not folder.exists():
        folder = folder.parent
    before = {*folder.rglob("*")}
    with pytest.raises(RunDirectoryError) as error:
        submit_run(Noting(Workshop({"folder": "/tmp"})), range(4), run_dir=run_dir,
                   parallel=parallel("local", preflight=False, **config))  # fmt: skip
    assert {*folder.rglob("*")} == before
    [line] = str(error.value).splitlines()
    assert line.startswith(f"{run_dir}: ")
    return line


@as_root
def test_exfat_has_no_hard_links(tmp_path: Path, mounted: Path) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(16 << 20)
    tool("/usr/sbin/mkfs.exfat", "exfatprogs", str(disk))
    device = tool("/sbin/losetup", "mount", "--find", "--show", str(disk))
    try:
        tool("/usr/sbin/mount.exfat-fuse", "exfat-fuse", "-o", "umask=022", device, str(mounted))
        for place in ("run", "far/below/run"):
            line = refused(mounted / place)
            assert "no hard link can be made here (" in line
            assert line.endswith("; choose another run_dir")
        assert not [*mounted.iterdir()]
    finally:
        if os.path.ismount(mounted):
            subprocess.run(["umount", str(mounted)], check=True, timeout=60)
        subprocess.run(["/sbin/losetup", "--detach", device], check=True, timeout=60)


@as_root
def test_a_mount_that_shows_all_as_somebody_elses(tmp_path: Path, mounted: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    tool("/usr/bin/bindfs", "bindfs", "--force-user=lp", "--chown-ignore", str(disk), str(mounted))
    mounted.chmod(0o1777)
    line = refused(mounted / "far/run")
    assert (
        "reports other owners or permissions than files were made with, so no job would trust "
        "them (" in line
    )
    assert "belongs to lp" in line
    assert line.endswith("; choose another run_dir")
    assert not [*disk.iterdir()]


@as_root
def test_a_mount_that_shows_all_as_for_everyone_to_write(tmp_path: Path, mounted: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    # The folders are as usual, the files are not.
    tool("/usr/bin/bindfs", "bindfs", "--perms=of+w", str(disk), str(mounted))
    (mounted / "look").touch()
    if not (mounted / "look").stat().st_mode & 2 or mounted.stat().st_mode & 2:
        pytest.skip("this bindfs changes other modes")
    line = refused(mounted / "run")
    assert "reports every new file as world-writable" in line
    assert [path.name for path in disk.iterdir()] == ["look"]


@pytest.mark.parametrize("umask", [0o777, 0o277, 0o400])
def test_a_umask_that_takes_ones_own_rights_leaves_what_was_made_usable(
    tmp_path: Path, umask: int
) -> None:
    run = ended(submit_run(Noting(Workshop({"folder": "/tmp"})), range(4),
                           run_dir=tmp_path / "run",
                           parallel=parallel("local", n_shards=2)))  # fmt: skip
    before = os.umask(umask)
    try:
        run.collect(tmp_path / "all")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "all").stat().st_mode) & 0o700 == 0o600


def test_only_what_is_new_and_empty_is_removed_after_an_error(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    folders = [str(tmp_path / "there"), str(tmp_path / "a/b/c"), str(tmp_path / "a/d")]
    with pytest.raises(KeyError), removed_on_error(folders):
        for folder in folders:
            make_folders(folder)
        (tmp_path / "a/d/file").touch()
        raise KeyError
    assert {path.name for path in tmp_path.rglob("*")} == {"there", "a", "d", "file"}
    with removed_on_error([str(tmp_path / "new")]):
        make_folders(str(tmp_path / "new"))
    assert (tmp_path / "new").is_dir()


# The import of what Python needs is not what is looked at here.
LIMITED = """
import resource, sys
from espnet3.cli.app import run
import espnet3.submit.new_run, espnet3.cli.config_file, espnet3.submit.jobqueue
kind, size = getattr(resource, sys.argv[1]), int(sys.argv[2])
if kind == resource.RLIMIT_AS:
    with open("/proc/self/statm") as file:
        size += int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(kind, (size, size))
sys.exit(run(sys.argv[3:]))
"""


@pytest.mark.parametrize(
    ("limit", "size", "advice"),
    [("RLIMIT_FSIZE", 100, "ulimit -f"), ("RLIMIT_AS", 16 << 20, "ulimit -v")],
)
def test_limits_of_the_shell(tmp_path: Path, limit: str, size: int, advice: str) -> None:
    project = Project(tmp_path, "local")
    there = {*tmp_path.rglob("*")}
    done = subprocess.run(
        [sys.executable, "-P", "-B", "-c", LIMITED, limit, str(size), "submit",
         "conf dir/decode.yaml", "parallel.preflight=false"],
        cwd=project.folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stderr.splitlines() if line != "imported"]
    assert len(lines) == 1, done.stderr
    assert advice in lines[0]
    assert {*tmp_path.rglob("*")} == there
