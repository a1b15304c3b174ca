"""Debian packages of real servers for tests, installed where they are missing."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.guard import WITHOUT_SERVERS

POLICY = Path("/usr/sbin/policy-rc.d")
INSTALL_LOCK = Path("/tmp/slurm-cluster-install.lock")


class PackagesUnavailableError(RuntimeError):
    """A server cannot be had here; the message says what is missing."""


def missing_packages(programs: Mapping[str, str]) -> list[str]:
    """The Debian packages whose programs are not there.

    Args:
        programs: path of a program -> the package that brings it.
    """
    missing = (package for program, package in programs.items() if not os.access(program, os.X_OK))
    return [*dict.fromkeys(missing)]


def install(programs: Mapping[str, str], answers: Sequence[str] = ()) -> None:
    """Install what is missing and start no daemon.

    Args:
        programs: as for `missing_packages`.
        answers: lines for debconf-set-selections, where a package asks.

    Raises:
        PackagesUnavailableError: that cannot be.
    """
    if not missing_packages(programs):
        return
    wanted = "needs the Debian packages " + " ".join(missing_packages(programs))
    if not Path("/etc/debian_version").exists() or shutil.which("apt-get") is None:
        raise PackagesUnavailableError(f"{wanted}, and this is not Debian with apt-get")
    if os.environ.get(WITHOUT_SERVERS) == "1":
        raise PackagesUnavailableError(f"{wanted}; {WITHOUT_SERVERS}=1, so nothing is installed")
    if os.geteuid() != 0:
        raise PackagesUnavailableError(f"{wanted}; to install them needs root")
    with INSTALL_LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several pytest workers may come here at once
        if packages := missing_packages(programs):
            if answers:
                told = "\n".join(answers)
                subprocess.run(["debconf-set-selections"], input=told, text=True, check=True)
            with _no_daemons_started():
                _apt_install(packages)
    if missing := missing_packages(programs):
        raise PackagesUnavailableError(
            f"apt-get succeeded, but {' '.join(missing)} did not come with it"
        )


def require(server: str, programs: Mapping[str, str], answers: Sequence[str] = ()) -> None:
    """Install what a test needs; without it the test is skipped, or fails where CI asks for it."""
    try:
        install(programs, answers)
    except PackagesUnavailableError as missing:
        skip_or_fail(server, missing)


def unpack(packages: Sequence[str], folder: Path) -> None:
    """Unpack packages into a folder, for those that conflict with installed ones.

    Raises:
        PackagesUnavailableError: that cannot be.
    """
    if shutil.which("apt-get") is None:
        raise PackagesUnavailableError(f"needs {' '.join(packages)}, and this is not Debian")
    get = ["apt-get", "-qq", "download", *packages]
    # As in _apt_install.
    for command in (get, ["apt-get", "-qq", "update"], get):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if command is get and done.returncode == 0:
            break
    else:
        words = f"{shlex.join(get)} failed:\n{done.stderr.strip()[-2000:]}"
        raise PackagesUnavailableError(words)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True)


def skip_or_fail(server: str, missing: PackagesUnavailableError) -> NoReturn:
    """Skip a test that cannot have its server, or fail where CI asks for it."""
    if os.environ.get("ESPNET3_REQUIRE_SLURM") == "1":
        pytest.fail(f"ESPNET3_REQUIRE_SLURM=1, but {server} {missing}", pytrace=False)
    pytest.skip(f"{server} {missing}")


def _apt_install(packages: Sequence[str]) -> None:
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0"]
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    get = [*apt, "install", "-y", "--no-install-recommends", *packages]
    # The package lists may be missing or old: fetch them only when the first try says so.
    for command in (get, [*apt, "update"], get):
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if command is get and done.returncode == 0:
            return
    raise PackagesUnavailableError(f"{shlex.join(get)} failed:\n{done.stderr.strip()[-2000:]}")


@contextlib.contextmanager
def _no_daemons_started() -> Iterator[None]:
    """Debian's packages start their daemons unless policy-rc.d forbids it (exit code 101)."""
    saved = POLICY.with_name("policy-rc.d.saved-by-slurm-cluster")
    if POLICY.exists() and not saved.exists():  # it exists already after a kill in midst of this
        POLICY.rename(saved)
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()
        if saved.exists():
            saved.rename(POLICY)
