"""A real, throw-away OAR for tests: Debian's daemons and a PostgreSQL of their own on loopback.

    with OarCluster(tmp_path / "oar") as oar:
        oar.run("oarsub", "hostname")

By hand: ``python -m tests.support.oar_cluster install | up DIR | down DIR``.

OAR's configuration path is compiled in, so there is one OAR per machine: a lock is held while it
runs, and the package's files that are replaced are put back at the end. No systemd and no sshd is
needed, but root. Jobs may be submitted as root here, which the rule that says no to that exists for
sites to change: tests run as root, from folders that nobody else may enter.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Self

from tests.support import guard
from tests.support.daemons import Process, free_ports, processes_with, wait_for
from tests.support.debian import PackagesUnavailableError, install

# What it needs, and the Debian package that brings it.
PROGRAMS = {
    "/usr/sbin/Almighty": "oar-server",
    "/usr/share/doc/oar-server-pgsql": "oar-server-pgsql",
    "/usr/bin/oarsub": "oar-user",
    "/usr/share/doc/oar-user-pgsql": "oar-user-pgsql",
    "/usr/lib/oar/oarnodecheckrun": "oar-node",
    "/usr/share/doc/postgresql": "postgresql",
}
LOCK = Path("/tmp/oar-cluster.lock")
CONF = Path("/etc/oar/oar.conf")
# Sourced by the shell of every job; the package's reads ~/.bashrc, which is root's own here.
BASHRC = Path("/var/lib/oar/.batch_job_bashrc")
REPLACED = (CONF, BASHRC)
# Set in the environment of the daemons and of what they start, and nowhere else.
MARK = "OAR_CLUSTER_ROOT"
NODE = "node1"

# All nodes are this host. What ssh would start is not a child of the server's there, so not here.
_SSH = """\
#!/bin/bash
while [ $# -gt 0 ]; do
    case $1 in -[pelioFcmbDLRSwWE]) shift 2;; -*) shift;; *) break;; esac
done
node=${{1#*@}}; shift; cd ~oar
exec setsid --wait env -i HOME="$PWD" USER=oar LOGNAME=oar SHELL=/bin/bash LANG=C {mark} \\
    PATH=/usr/lib/oar/oardodo:/usr/bin:/bin:/usr/sbin:/sbin OAR_LOCAL_NODE="$node" bash -c "$*"
"""
_DATABASE = """\
create role oar login password 'oar';
create role oar_ro login password 'oar';
create database oar owner oar;
"""
# Cores are named as sites name them, for the resources that dask-jobqueue asks for by default; so
# are two GPUs and the megabytes of a core.
_CONTENTS = """\
grant select on all tables in schema public to oar_ro;
delete from admission_rules where rule like '%root and oar users are not allowed%';
delete from queues where queue_name = 'admin';
alter table resources add core integer not null default 0;
alter table resources add gpu integer not null default 0;
alter table resources add memcore integer not null default 1000;
insert into resources (network_address, cpuset, core, gpu)
    select '{node}', slot, slot, slot % 2 + 1 from generate_series(1, {slots}) slot;
"""
_SCHEMA = ("pg_structure.sql", "default_data.sql", "pg_default_admission_rules.sql")
_LIVE = "state not in ('Terminated', 'Error')"


class OarError(RuntimeError):
    """A daemon did not start or a command failed."""


class OarCluster:
    """One OAR: its server, a PostgreSQL, and one node that is this host.

    Args:
        root: Its folder, new or from an earlier cluster; but for two files, all it writes is there.
        slots: How many cores the node claims to have.
    """

    def __init__(self, root: str | os.PathLike[str], *, slots: int = 16) -> None:
        self.root = Path(root).resolve()
        self.slots = slots
        self._children: list[subprocess.Popen[bytes]] = []
        self._lock: IO[str] | None = None

    def run(
        self, *command: str, check: bool = True, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command and return what it printed."""
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, check=False, cwd="/"
        )
        if check and done.returncode:
            words = shlex.join(command)
            raise OarError(f"{words}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def sql(self, query: str, *, database: str = "oar", user: str = "oar") -> str:
        """What the database answers, rows as lines of values separated by bars."""
        place = ("-h", "127.0.0.1", "-p", str(self._settings()["database_port"]), "-d", database)
        return self.run("psql", "-qXAt", "-v", "ON_ERROR_STOP=1", "-U", user, *place, "-c", query)\
            .stdout.strip()  # fmt: skip

    def live_jobs(self) -> list[str]:
        """The ids of jobs that are not over."""
        return self.sql(f"select job_id from jobs where {_LIVE}").split()

    def hold(self) -> None:
        """Let no job start."""
        self.sql("update queues set state = 'notActive'")

    def release(self) -> None:
        """Let jobs start again."""
        self.sql("update queues set state = 'Active'")
        self.run("/usr/sbin/oarnotify", "Term")

    def reset(self) -> None:
        """End all jobs and let new ones start."""
        self.sql("update queues set state = 'Active'")
        if not self.live_jobs():
            return
        self.run("oardel", "--sql", _LIVE, check=False)
        if not wait_for(lambda: not self.live_jobs(), 60, pause=0.2):
            raise OarError(f"these jobs outlived 60 s of oardel: {self.live_jobs()}")

    def stop_server(self) -> None:
        """Stop OAR's server alone, as its host would; jobs go on without it."""
        self._stop("almighty")

    def start_server(self) -> None:
        """Start OAR's server, or start it again; the database remembers its jobs."""
        self._spawn("almighty", "/usr/sbin/Almighty")
        port = self._settings()["server_port"]
        self._wait_until("almighty", lambda: _listens(port))

    def stop_database(self) -> None:
        """Stop PostgreSQL, without which no command of OAR's knows anything."""
        self._stop("postgres")

    def start_database(self) -> None:
        """Start PostgreSQL, or start it again."""
        port = self._settings()["database_port"]
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        data = str(self.root / "postgres")
        (self.root / "postgres/postmaster.pid").unlink(missing_ok=True)
        self._spawn(
            "postgres", _postgres("postgres"), "-D", data, "-p", str(port), *words, user="postgres"
        )
        self._wait_until("postgres", lambda: self._answers(port))

    # Start and stop

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Start everything and wait until jobs can be submitted."""
        self._take_lock()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self.root.chmod(0o755)  # the daemons' users must get in
            guard.started("tests.support.oar_cluster", self.root)
            for name, owner in (("log", "oar"), ("postgres", "postgres")):
                (self.root / name).mkdir(exist_ok=True)
                shutil.chown(self.root / name, owner)
            database, server = free_ports(2)
            settings = {"database_port": database, "server_port": server}
            (self.root / "settings.json").write_text(json.dumps(settings))
            new = not (self.root / "postgres/PG_VERSION").exists()
            if new:
                data = str(self.root / "postgres")
                self._as_postgres(
                    _postgres("initdb"), "-D", data, "-A", "trust", "-N", "-E", "UTF8"
                )
            self.start_database()
            if new:
                self._fill_database()
            self._replace_files()
            self.start_server()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the jobs, then the daemons, and put the package's files back."""
        if Process.alive(self._recorded("almighty")):
            with contextlib.suppress(OarError, subprocess.TimeoutExpired):
                self.reset()
        self._stop("almighty")
        self._stop("postgres")
        for process in processes_with(f"{MARK}={self.root}"):
            process.kill(signal.SIGKILL)
        for file in REPLACED:
            if original(file).exists():
                original(file).rename(file)
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        guard.stopped(self.root)

    # Inside

    def _take_lock(self) -> None:
        LOCK.touch()
        lock = LOCK.open("r+")
        held = wait_for(lambda: _locks(lock), 100, pause=0.5)
        if not held:
            where = lock.read().strip() or "DIR"
            lock.close()
            raise OarError(
                "another OAR runs on this machine, and its configuration file is one; if its tests "
                f"were killed: python -m tests.support.oar_cluster down {where}"
            )
        lock.seek(0)
        lock.truncate()
        lock.write(f"{self.root}\n")
        lock.flush()
        # PostgreSQL inherits it: a cluster that was started by hand holds it until it is stopped.
        os.set_inheritable(lock.fileno(), True)
        self._lock = lock

    def _fill_database(self) -> None:
        for statement in filter(None, map(str.strip, _DATABASE.splitlines())):
            self.sql(statement, database="postgres", user="postgres")
        self.sql("grant create on schema public to oar", user="postgres")
        files = [f"/usr/lib/oar/database/{name}" for name in _SCHEMA]
        place = ("-h", "127.0.0.1", "-p", str(self._settings()["database_port"]), "-d", "oar")
        words = [word for file in files for word in ("-f", file)]
        self.run("psql", "-qX", "-v", "ON_ERROR_STOP=1", "-U", "oar", *place, *words)
        self.sql(_CONTENTS.format(node=NODE, slots=self.slots))

    def _replace_files(self) -> None:
        for file in REPLACED:
            if not original(file).exists():  # it exists after a kill in midst of this
                shutil.copy2(file, original(file))
                shutil.chown(original(file), file.owner(), file.group())
        ssh = self.root / "ssh"
        ssh.write_text(_SSH.format(mark=f"{MARK}={self.root}"))
        ssh.chmod(0o755)
        log = self.root / "log/oar.log"
        log.touch()
        shutil.chown(log, "oar")
        text = original(CONF).read_text()
        for name, value in self._configuration().items():
            text = re.sub(rf"(?m)^#?\s*{name}\s*=.*\n", "", text)
            text += f"\n{name}={json.dumps(value)}" if value is not None else ""
        CONF.write_text(text + "\n")  # keeps its owner and mode
        BASHRC.write_text("")

    def _configuration(self) -> Mapping[str, str | None]:
        settings = self._settings()
        return {
            "DB_TYPE": "Pg",
            "DB_HOSTNAME": "127.0.0.1",
            "DB_PORT": str(settings["database_port"]),
            "DB_BASE_NAME": "oar",
            "DB_BASE_LOGIN": "oar",
            "DB_BASE_PASSWD": "oar",
            "DB_BASE_LOGIN_RO": "oar_ro",
            "DB_BASE_PASSWD_RO": "oar",
            "SERVER_HOSTNAME": "localhost",
            "SERVER_PORT": str(settings["server_port"]),
            "LOG_FILE": str(self.root / "log/oar.log"),
            "OPENSSH_CMD": str(self.root / "ssh"),
            "PINGCHECKER_SENTINELLE_SCRIPT_COMMAND": None,
            "PINGCHECKER_GENERIC_COMMAND": "/bin/true",
            "JOB_RESOURCE_MANAGER_PROPERTY_DB_FIELD": None,  # no cpusets
            "FINAUD_FREQUENCY": "0",
            "SCHEDULER_MIN_TIME_BETWEEN_2_CALLS": "0",  # or a job waits 10 s before its start
            "SCHEDULER_JOB_SECURITY_TIME": "1",
            "SCHEDULER_FAIRSHARING_MAX_JOB_PER_USER": "10000",
        }

    def _settings(self) -> dict[str, int]:
        settings: dict[str, int] = json.loads((self.root / "settings.json").read_text())
        return settings

    def _as_postgres(self, *command: str) -> None:
        done = subprocess.run(
            command, user="postgres", group="postgres", extra_groups=[], cwd="/",
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise OarError(f"{shlex.join(command)}: {done.stderr}")

    def _answers(self, port: int) -> bool:
        ready = ("pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port))
        return self.run(*ready, check=False).returncode == 0

    def _record(self, name: str) -> Path:
        return self.root / f"{name}.process.json"

    def _recorded(self, name: str) -> Process:
        """A daemon, as written down when it was started, maybe by someone else."""
        file = self._record(name)
        return Process(**json.loads(file.read_text())) if file.exists() else Process(0, "")

    def _spawn(self, name: str, *command: str, user: str = "root") -> None:
        """Start a daemon in a session of its own, and write down who it is."""
        with (self.root / "log" / f"{name}.out").open("wb") as out:
            child = subprocess.Popen(
                command,
                cwd="/",
                env={**os.environ, MARK: str(self.root)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=user,
                group=user,
                extra_groups=[],
                pass_fds=[self._lock.fileno()] if self._lock and name == "postgres" else [],
            )
        self._children.append(child)
        if process := Process.of(child.pid):
            self._record(name).write_text(json.dumps(asdict(process)))

    def _stop(self, name: str) -> None:
        """End a daemon and its session, and nobody else."""
        process = self._recorded(name)
        if process.alive():
            # The server ignores SIGTERM while it works; PostgreSQL waits for nobody at SIGINT.
            process.kill(signal.SIGINT)
            if not wait_for(lambda: not process.alive(), 5):
                os.killpg(process.pid, signal.SIGKILL)
            wait_for(lambda: not process.alive(), 10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for child in self._children:
            child.poll()
        self._record(name).unlink(missing_ok=True)

    def _wait_until(self, name: str, ready: Callable[[], bool], seconds: float = 60) -> None:
        daemon = self._recorded(name)
        if wait_for(lambda: ready() or not daemon.alive(), seconds) and daemon.alive():
            return
        said = (self.root / "log" / f"{name}.out").read_text(errors="replace").strip()[-1000:]
        raise OarError(f"{name} is not ready: {said}")


def _postgres(program: str) -> str:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))
    if not found:
        raise OarError(f"PostgreSQL has no {program}")
    return str(found[-1])


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _locks(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def original(file: Path) -> Path:
    """Where a file of the package's is kept while ours is in its place."""
    return file.with_name(f"{file.name}.of-the-package")


# --- by hand --------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Install the packages, or start or stop an OAR that outlives this command."""
    parser = argparse.ArgumentParser(prog="oar_cluster", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("install", help="install the Debian packages that it needs")
    for name, what in (("up", "start it in DIR"), ("down", "stop what runs in DIR")):
        commands.add_parser(name, help=what).add_argument("dir", metavar="DIR", type=Path)
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command != "down":
            install(PROGRAMS)
        if chosen.command == "up":
            OarCluster(chosen.dir).start()
        elif chosen.command == "down":
            OarCluster(chosen.dir).stop()
    except (PackagesUnavailableError, OarError) as error:
        print(f"oar_cluster: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
