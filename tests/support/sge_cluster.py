"""A real, throw-away SGE for tests: Debian's daemons on one host, in a folder of their own.

    with SgeCluster("/tmp/my-sge") as sge:
        sge.run("qsub", "-b", "y", "hostname")

By hand: ``python -m tests.support.sge_cluster install | up DIR | down DIR``.

Each cluster has its own cell, ports, spool and logs; nothing outside its folder is changed.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Self

from tests.support import guard
from tests.support.daemons import Process, free_ports, processes_with, wait_for
from tests.support.debian import PackagesUnavailableError, install, missing_packages

LIBRARY = Path("/usr/lib/gridengine")
SHARE = Path("/usr/share/gridengine")
PROGRAMS = {
    str(LIBRARY / "sge_qmaster"): "gridengine-master",
    str(LIBRARY / "sge_execd"): "gridengine-exec",
    str(LIBRARY / "qsub"): "gridengine-client",
}
# Debian's packages would make a cell of their own.
ANSWERS = [
    f"gridengine-{package} shared/gridengineconfig boolean false"
    for package in ("common", "client", "exec", "master")
]
SLOTS = 16
GPUS = 2
NOTIFY = 10  # seconds between SIGUSR2 and SIGKILL; 60 by default
_NONE = "NONE"


class SgeError(RuntimeError):
    """A daemon did not start or a command failed."""


class SgeCluster:
    """One SGE: a qmaster and an execd of this host.

    Args:
        root: its folder, new or from an earlier cluster; all it writes is there.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).resolve()
        self.host = socket.gethostname()

    # What tests use

    @property
    def env(self) -> dict[str, str]:
        """Environment variables that point SGE's commands to this cluster."""
        qmaster, execd = json.loads((self.root / "ports").read_text())
        return {
            "SGE_ROOT": str(self.root),
            "SGE_CELL": "default",
            "SGE_QMASTER_PORT": str(qmaster),
            "SGE_EXECD_PORT": str(execd),
            "PATH": f"{LIBRARY}:{os.environ['PATH']}",
        }

    def run(
        self, *command: str | os.PathLike[str], check: bool = True, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command such as qsub against this cluster and return what it printed."""
        done = subprocess.run(
            command,
            env=_clean_environment() | self.env,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            words = shlex.join(map(str, command))
            raise SgeError(f"{words}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def reset(self) -> None:
        """Kill all jobs, whatever signals they ignore, and open the queue again."""
        self.run("qmod", "-e", "all.q", check=False)
        self.run("qmod", "-usq", "all.q", check=False)
        deadline = 60.0
        self.run("qdel", "-u", "*", check=False)  # what waits first, so that nothing new starts
        for process in self._job_processes():
            process.kill(signal.SIGKILL)
        if not wait_for(lambda: not self._queue(), deadline):
            raise SgeError(f"after {deadline} s there are jobs:\n{self._queue()}")

    def stop_qmaster(self) -> None:
        """End qmaster alone, as its host would; jobs go on without it."""
        self._daemon("qmaster").kill(signal.SIGKILL)
        wait_for(lambda: not self._daemon("qmaster").alive(), 10)

    def start_qmaster(self) -> None:
        """Start qmaster again; it remembers its jobs."""
        self._start("qmaster", self._answers)
        # execd would look for it every 30 s only; a new one finds the jobs of the old.
        self._daemon("execd").stop()
        self._start("execd", self._takes_jobs)

    # Start and stop

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Make the cell, start the daemons, and wait until the queue takes jobs."""
        if missing := missing_packages(PROGRAMS):
            raise PackagesUnavailableError(f"needs the Debian packages {' '.join(missing)}")
        if (self.root / "ports").exists():
            raise SgeError(f"a cluster was started in {self.root} already")
        guard.started("tests.support.sge_cluster", self.root)
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "ports").write_text(json.dumps(free_ports(2)))
        try:
            self._make_cell()
            self._start("qmaster", self._answers)
            self._configure()
            self._start("execd", self._takes_jobs)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the jobs and the daemons: recorded processes and this cluster's jobs, no others."""
        # execd first, or it would take the jobs' ends for failures; qmaster needs 7 s to stop.
        for name in ("execd", "qmaster"):
            if self._record(name).exists():
                self._daemon(name).kill(signal.SIGKILL)
                self._record(name).unlink()
        for process in self._job_processes():
            process.kill(signal.SIGKILL)
        wait_for(lambda: not self._job_processes(), 10)
        (self.root / "ports").unlink(missing_ok=True)
        guard.stopped(self.root)

    # Inside

    @property
    def _common(self) -> Path:
        return self.root / "default/common"

    def _queue(self) -> str:
        return self.run("qstat", "-u", "*").stdout

    def _job_processes(self) -> list[Process]:
        """The daemons' children: shepherds, and what jobs have started."""
        daemons = [self._daemon(n) for n in ("qmaster", "execd") if self._record(n).exists()]
        return [p for p in processes_with(f"SGE_ROOT={self.root}") if p not in daemons]

    def _make_cell(self) -> None:
        """The cell's files, spooled as plain text."""
        spool = self.root / "spool/qmaster"
        for folder in (self._common, spool / "job_scripts", self.root / "bin", self.root / "log"):
            folder.mkdir(parents=True)
        architecture = subprocess.run(
            [SHARE / "util/arch"], capture_output=True, text=True, check=True
        ).stdout.strip()
        (self.root / "util").symlink_to(SHARE / "util")
        for programs in ("bin", "utilbin"):
            (self.root / programs).mkdir(exist_ok=True)
            (self.root / programs / architecture).symlink_to(LIBRARY)
        # This host's name resolves to 127.0.0.1, whose name is another: qmaster refuses clients
        # unless all names are one.
        hosts = [line.split("#")[0].split() for line in Path("/etc/hosts").read_text().splitlines()]
        names = [name for line in hosts if line and line[0].startswith("127.") for name in line[1:]]
        others = dict.fromkeys([self.host, "localhost", *names])
        (self._common / "host_aliases").write_text(" ".join(others) + "\n")
        (self._common / "act_qmaster").write_text(f"{self.host}\n")
        (self._common / "bootstrap").write_text(
            _lines(
                admin_user="root", default_domain="none", ignore_fqdn="true",
                spooling_method="classic", spooling_lib="libspoolc",
                spooling_params=f"{self._common};{spool}", binary_path=self.root / "bin",
                qmaster_spool_dir=spool, security_mode="none", listener_threads=2,
                worker_threads=2, scheduler_threads=1,
            )
        )  # fmt: skip
        gid = 100 * json.loads((self.root / "ports").read_text())[0]
        configuration = self.root / "configuration"
        configuration.write_text(
            _changed(
                (SHARE / "default-configuration").read_text(),
                execd_spool_dir=self.root / "spool/execd", shell_start_mode="unix_behavior",
                min_uid=0, min_gid=0, mailer="/bin/true", administrator_mail="none",
                # qacct knows a job at once.
                reporting_params="accounting=true reporting=false flush_time=00:00:01 "
                "accounting_flush_time=00:00:00 joblog=false sharelog=00:00:00",
                load_report_time="00:00:02",
                # execd knows a job's processes by such a group: not those of another cluster's.
                gid_range=f"{gid}-{gid + 99}",
            )
        )  # fmt: skip
        (self.root / "spool/execd").mkdir()
        resources = SHARE / "util/resources"
        parameters = f"{self._common};{spool}"
        self.run(LIBRARY / "spoolinit", "classic", "libspoolc", parameters, "init")
        for kind, what in (
            ("configuration", configuration),
            ("complexes", resources / "centry"),
            ("usersets", resources / "usersets"),
            ("managers", "root"),
        ):
            self.run(LIBRARY / "spooldefaults", kind, str(what))

    def _configure(self) -> None:
        """Hosts, a fast scheduler, the resource `gpu`, and the queue."""
        self.run("qconf", "-ah", self.host, check=False)
        self.run("qconf", "-as", self.host, check=False)
        fast = {"schedule_interval": "0:0:1", "flush_submit_sec": 1, "flush_finish_sec": 1,
                "schedd_job_info": "true", "job_load_adjustments": _NONE}  # fmt: skip
        self._set("-Msconf", _changed(self.run("qconf", "-ssconf").stdout, **fast))
        self._set("-Mc", f"{self.run('qconf', '-sc').stdout}gpu gpu INT <= YES JOB 0 0\n")
        host = _lines(
            hostname=self.host, load_scaling=_NONE, complex_values=f"slots={SLOTS},gpu={GPUS}",
            user_lists=_NONE, xuser_lists=_NONE, projects=_NONE, xprojects=_NONE,
            usage_scaling=_NONE, report_variables=_NONE,
        )  # fmt: skip
        if self._set("-Ae", host, check=False) != 0:  # qmaster may have made it by itself
            self._set("-Me", host)
        self._set("-Ahgrp", _lines(group_name="@allhosts", hostlist=self.host))
        self._set("-Ap", _lines(
            pe_name="smp", slots=999, user_lists=_NONE, xuser_lists=_NONE, start_proc_args=_NONE,
            stop_proc_args=_NONE, allocation_rule="$pe_slots", control_slaves="FALSE",
            job_is_first_task="TRUE", urgency_slots="min", accounting_summary="FALSE",
            qsort_args=_NONE,
        ))  # fmt: skip
        limits = ("rt", "cpu", "fsize", "data", "stack", "core", "rss", "vmem")
        none = dict.fromkeys(
            ("load_thresholds", "suspend_thresholds", "ckpt_list", "prolog", "epilog",
             "starter_method", "suspend_method", "resume_method", "terminate_method", "owner_list",
             "user_lists", "xuser_lists", "subordinate_list", "complex_values", "projects",
             "xprojects", "calendar"), _NONE,
        )  # fmt: skip
        self._set("-Aq", _lines(
            qname="all.q", hostlist="@allhosts", seq_no=0, nsuspend=1,
            suspend_interval="00:05:00", priority=0, min_cpu_interval="00:05:00",
            processors="UNDEFINED", qtype="BATCH INTERACTIVE", pe_list="smp", rerun="FALSE",
            slots=SLOTS, tmpdir="/tmp", shell="/bin/sh", shell_start_mode="unix_behavior",
            notify=f"00:00:{NOTIFY}", initial_state="default", **none,
            **{f"{kind}_{name}": "INFINITY" for kind in "sh" for name in limits},
        ))  # fmt: skip

    def _set(self, option: str, text: str, *, check: bool = True) -> int:
        """Hand a file with an object to qconf."""
        file = self.root / "object"
        file.write_text(text)
        return self.run("qconf", option, file, check=check).returncode

    def _answers(self) -> bool:
        return self.run("qconf", "-sh", check=False).returncode == 0

    def _takes_jobs(self) -> bool:
        lines = [line.split() for line in self.run("qstat", "-f", check=False).stdout.splitlines()]
        # A sixth column would be a state such as `au`, for an execd that has not reported.
        return any(line[:1] == [f"all.q@{self.host}"] and len(line) == 5 for line in lines)

    def _record(self, name: str) -> Path:
        return self.root / f"{name}.process.json"

    def _daemon(self, name: str) -> Process:
        return Process(**json.loads(self._record(name).read_text()))

    def _start(self, name: str, ready: Callable[[], bool]) -> None:
        """Start a daemon, which leaves this session by itself, and write down who it is."""
        pid = self.root / f"{name}.pid"
        pid.unlink(missing_ok=True)
        done = subprocess.run(
            [LIBRARY / f"sge_{name}"],
            cwd=self.root,
            env=_clean_environment() | self.env | {f"SGE_{name.upper()}_PIDFILE": str(pid)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if not wait_for(lambda: pid.exists() and pid.read_text().strip().isdecimal(), 10):
            raise SgeError(f"sge_{name} did not start: {done.stdout}{done.stderr}")
        process = Process.of(int(pid.read_text()))
        if process is None:
            raise SgeError(f"sge_{name} ended: {done.stdout}{done.stderr}")
        self._record(name).write_text(json.dumps(asdict(process)))
        if not wait_for(ready, 30):
            raise SgeError(f"sge_{name} is not ready: {self.run('qstat', '-f', check=False)}")


def _lines(**fields: object) -> str:
    return "".join(f"{name} {value}\n" for name, value in fields.items())


def _changed(text: str, **fields: object) -> str:
    """A configuration as SGE prints it, with other values of some fields."""
    kept = [
        line
        for line in text.replace("\\\n", " ").splitlines()
        if line and not line.startswith("#") and line.split()[0] not in fields
    ]
    return "\n".join(kept) + "\n" + _lines(**fields)


def _clean_environment() -> dict[str, str]:
    """The environment without what an SGE job or another cluster's settings have put there."""
    left = ("SGE_", "JOB_", "QUEUE", "NSLOTS", "RESTARTED")
    return {key: value for key, value in os.environ.items() if not key.startswith(left)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Install the packages, or start or stop a cluster that outlives this command."""
    parser = argparse.ArgumentParser(prog="sge_cluster", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("install", help="install the Debian packages that a cluster needs")
    for name, what in (("up", "start a cluster in DIR"), ("down", "stop the cluster in DIR")):
        commands.add_parser(name, help=what).add_argument("dir", metavar="DIR", type=Path)
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command != "down":
            install(PROGRAMS, ANSWERS)
        if chosen.command == "up":
            cluster = SgeCluster(chosen.dir).start()
            print("\n".join(f"export {n}={shlex.quote(v)}" for n, v in cluster.env.items()))
        elif chosen.command == "down":
            SgeCluster(chosen.dir).stop()
    except (PackagesUnavailableError, SgeError) as error:
        print(f"sge_cluster: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
