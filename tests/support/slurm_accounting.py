"""A Slurm with accounting: slurmdbd and a MariaDB of its own, so that sacct answers."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Sequence

from tests.support.slurm_cluster import PROGRAMS, SlurmCluster

ACCOUNTING_PROGRAMS = {
    **PROGRAMS,
    "/usr/sbin/slurmdbd": "slurmdbd",
    "/usr/sbin/mariadbd": "mariadb-server-core",
    "/usr/bin/my_print_defaults": "mariadb-client-core",  # for mariadb-install-db
}
_DATABASE = """
CREATE DATABASE IF NOT EXISTS slurm_acct;
CREATE USER IF NOT EXISTS slurm@'127.0.0.1' IDENTIFIED BY 'slurm';
GRANT ALL ON slurm_acct.* TO slurm@'127.0.0.1';
"""


class AccountingCluster(SlurmCluster):
    """A cluster whose ended jobs sacct remembers."""

    programs = ACCOUNTING_PROGRAMS
    more_ports = 2

    def _start_accounting(self, ports: Sequence[int]) -> None:
        database, dbd = ports
        user = pwd.getpwuid(os.geteuid()).pw_name
        self._start_mariadb(database, user)
        conf = self.root / "slurmdbd.conf"
        conf.touch(0o600)  # slurmdbd refuses one that others may read
        settings = {
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={self._munge_socket}",
            "DbdHost": socket.gethostname().split(".")[0],
            "DbdAddr": "127.0.0.1",
            "DbdPort": dbd,
            "SlurmUser": user,
            "LogFile": self.root / "log/slurmdbd.log",
            "PidFile": self.root / "run/slurmdbd.pid",
            "StorageType": "accounting_storage/mysql",
            "StorageHost": "127.0.0.1",
            "StoragePort": database,
            "StorageUser": "slurm",
            "StoragePass": "slurm",
            "StorageLoc": "slurm_acct",
            "CommitDelay": 1,
        }
        conf.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        lines = {
            "AccountingStorageType": "accounting_storage/slurmdbd",
            "AccountingStorageHost": "127.0.0.1",
            "AccountingStoragePort": dbd,
            "AccountingStoragePass": self._munge_socket,
        }
        kept = [
            line
            for line in self.conf.read_text().splitlines()
            if not line.startswith("AccountingStorage")
        ]
        kept[:0] = [f"{key}={value}" for key, value in lines.items()]
        self.conf.write_text("\n".join(kept) + "\n")
        self._spawn("slurmdbd", "/usr/sbin/slurmdbd", "-D")
        asked = ("sacctmgr", "--noheader", "show", "cluster")
        self._wait_for("slurmdbd", lambda: self.run(*asked, check=False).returncode == 0)
        self.run("sacctmgr", "--immediate", "add", "cluster", self.name)
        self.run("sacctmgr", "--immediate", "add", "account", "default", f"Cluster={self.name}")
        self.run("sacctmgr", "--immediate", "add", "user", user, "Account=default")

    def _start_mariadb(self, port: int, user: str) -> None:
        data, socket_file = self.root / "mysql", self.root / "run/mariadb.sock"
        if not data.exists():
            self.run(
                "mariadb-install-db", "--no-defaults", f"--user={user}", f"--datadir={data}",
                "--auth-root-authentication-method=normal", "--skip-test-db",
            )  # fmt: skip
        first = self.root / "database.sql"
        first.write_text(_DATABASE)
        self._spawn(
            "mariadbd", "/usr/sbin/mariadbd", "--no-defaults", f"--user={user}",
            f"--datadir={data}", f"--socket={socket_file}", "--bind-address=127.0.0.1",
            f"--port={port}", f"--init-file={first}", f"--pid-file={self.root}/run/mariadbd.pid",
            "--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=0",
            "--innodb-lock-wait-timeout=900", "--skip-name-resolve", "--skip-log-bin",
        )  # fmt: skip

        def answers() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        self._wait_for("mariadbd", answers)
