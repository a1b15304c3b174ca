"""A real sshd on the loopback device, with keys, ports and a client's configuration of its own."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.support.daemons import free_ports
from tests.support.debian import require
from tests.support.helpers import wait_for, wrap

SSHD = "/usr/sbin/sshd"
CSH = "/usr/bin/csh"
_PROGRAMS = {SSHD: "openssh-server", "/usr/bin/ssh-keygen": "openssh-client"}
_COMMON = "HostName 127.0.0.1\n IdentitiesOnly yes\n IdentityAgent none\n"


class SshHosts:
    """Names of this host for the `ssh` command.

    `alpha` and `beta` answer, `csh` does with csh as its login shell; nobody listens at `down`,
    `locked` takes no key of ours, and the key of `stranger` is not known.

    Attributes:
        path: a PATH on which `ssh` knows these names.
        folder: of everything; while there is a file `hold` in it, what starts the second job of a
            submission waits before it connects.
    """

    def __init__(self, folder: Path) -> None:
        require("sshd", _PROGRAMS)
        folder.mkdir()
        self.folder = folder
        for name in ("host", "user", "other"):
            key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(key, check=True)
        self._ports = free_ports(3)
        plain, csh, nobody = self._ports
        (folder / "sshd_config").write_text(
            f"Port {plain}\nPort {csh}\nListenAddress 127.0.0.1\nHostKey {folder}/host\n"
            f"PidFile none\nAuthorizedKeysFile {folder}/user.pub\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n"
            f"Match LocalPort {csh}\n"
            f' ForceCommand exec {CSH} -f -c "$SSH_ORIGINAL_COMMAND"\n'
        )
        public = (folder / "host.pub").read_text()
        (folder / "known").write_text("".join(f"known{i} {public}" for i in range(3)))
        (folder / "unknown").touch()
        hosts = [
            ("alpha", plain, "user", "known"),
            ("beta", plain, "user", "known"),
            ("csh", csh, "user", "known"),
            ("down", nobody, "user", "known"),
            ("locked", plain, "other", "known"),
            ("stranger", plain, "user", "unknown"),
        ]
        (folder / "config").write_text(
            "".join(
                f"Host {name}\n {_COMMON} Port {port}\n IdentityFile {folder}/{key}\n"
                f" UserKnownHostsFile {folder}/{known}\n GlobalKnownHostsFile /dev/null\n"
                f" HostKeyAlias known0\n"
                for name, port, key, known in hosts
            )
        )
        second = 'case "$*" in *-0001-1) sleep 0.05;; *) break;; esac'
        held = f"while [ -e {folder}/hold ]; do {second}; done"
        self.path = wrap(folder, "ssh", f'{held}\nexec "$real" -F {folder}/config "$@"')
        self._sshd: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start sshd, and wait until it answers."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd insists on it
        words = [SSHD, "-D", "-f", str(self.folder / "sshd_config"), "-E", str(self.folder / "log")]
        sshd = self._sshd = subprocess.Popen(words, cwd="/")

        def answers() -> bool:
            if sshd.poll() is not None:
                return True
            try:
                socket.create_connection(("127.0.0.1", self._ports[0]), timeout=1).close()
            except OSError:
                return False
            return True

        wait_for(answers, "sshd does not answer", 20)
        assert sshd.poll() is None, (self.folder / "log").read_text()

    def kill(self) -> None:
        """End sshd, and all its sessions, as the host's network would."""
        if self._sshd is not None and self._sshd.poll() is None:
            sessions = psutil.Process(self._sshd.pid).children(recursive=True)
            self._sshd.kill()
            for process in sessions:
                process.kill()
            self._sshd.wait()


@contextmanager
def ssh_hosts(folder: Path) -> Iterator[SshHosts]:
    """A running sshd and its names."""
    hosts = SshHosts(folder)
    hosts.start()
    try:
        yield hosts
    finally:
        hosts.kill()
