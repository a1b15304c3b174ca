"""`env: ssh` through a real sshd on the loopback device, with keys and a port of its own."""

from __future__ import annotations

import getpass
import importlib.util
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from espnet3.parallel import set_parallel
from tests.support.daemons import free_ports
from tests.support.debian import require
from tests.support.helpers import ROOT, wait_for
from tests.support.sync_runners import Env, Scale

SSHD = "/usr/sbin/sshd"
PROGRAMS = {SSHD: "openssh-server", "/usr/bin/ssh-keygen": "openssh-client"}

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("asyncssh") is None, reason="no asyncssh: pip install '.[ssh]'"
)


@pytest.fixture(scope="module")
def sshd_is_installed() -> None:
    """From Debian's packages; no daemon of the system's is started."""
    require("sshd", PROGRAMS)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture
def connect_options(sshd_is_installed: None, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """What connects to a running sshd."""
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True
        )
    [port] = free_ports(1)
    (tmp_path / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nPidFile none\n"
        f"AuthorizedKeysFile {tmp_path}/user.pub\nStrictModes no\nUsePAM no\n"
        f'PasswordAuthentication no\nPermitRootLogin yes\nSetEnv PYTHONPATH="{ROOT}"\n'
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd insists on it
    log = tmp_path / "log"
    sshd = subprocess.Popen([SSHD, "-D", "-f", str(tmp_path / "config"), "-E", str(log)], cwd="/")
    try:
        wait_for(lambda: sshd.poll() is not None or _answers(port), "sshd does not answer", 20)
        assert sshd.poll() is None, log.read_text()
        yield {
            "port": port,
            "username": getpass.getuser(),
            "client_keys": [str(tmp_path / "user")],
            "known_hosts": None,
        }
    finally:
        sshd.terminate()
        sshd.wait(10)


def test_workers_on_two_hosts(connect_options: dict[str, Any]) -> None:
    options = {
        "hosts": ["127.0.0.1", "127.0.0.1", "127.0.0.1"],
        "connect_options": connect_options,
        "worker_options": {"nthreads": 1},
        "scheduler_options": {"port": 0, "dashboard_address": ":0"},
    }
    set_parallel({"env": "ssh", "options": options, "start_timeout": 60})
    try:
        assert Scale(Env({"scale": 2}))(range(1000)) == [*range(0, 2000, 2)]
    finally:
        set_parallel(None)
