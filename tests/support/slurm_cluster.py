"""A real, throw-away Slurm for tests: Debian's daemons on loopback, in a folder of their own.

    with SlurmCluster(tmp_path / "slurm", nodes=2, config={"MaxArraySize": 11}) as slurm:
        slurm.run("sbatch", "--wrap", "hostname")

By hand: ``python -m tests.support.slurm_cluster install | up DIR | down DIR``.

Each cluster has its own key, munged, ports, state and logs, so several live side by side and beside
a system's own Slurm. No systemd and no root is needed once the packages are there.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import json
import os
import pwd
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple, Self

from tests.support import guard
from tests.support.daemons import Process, free_ports, processes_with, wait_for
from tests.support.debian import PackagesUnavailableError, install, missing_packages

# What a cluster needs, and the Debian package that brings it.
PROGRAMS = {
    "/usr/sbin/munged": "munge",
    "/usr/sbin/slurmctld": "slurmctld",
    "/usr/sbin/slurmd": "slurmd",
    "/usr/bin/sbatch": "slurm-client",
}
PARTITIONS = {
    "main": "Default=YES DefaultTime=60 MaxTime=INFINITE",
    "short": "MaxTime=5",
    "gpu": "MaxTime=INFINITE",
}
# Set in the environment of the daemons and of what they start, and nowhere else.
MARK = "SLURM_CLUSTER_ROOT"


class SlurmError(RuntimeError):
    """A daemon did not start or a command failed."""


class PortTakenError(SlurmError):
    """Someone took a chosen port first; others will do."""


class Job(NamedTuple):
    """One line of squeue, array tasks expanded."""

    id: str
    name: str
    state: str
    reason: str


class SlurmCluster:
    """One Slurm: slurmctld, a slurmd per node, and a munged of its own.

    Args:
        root: Its folder, new or from an earlier cluster; all it writes is there.
        nodes: How many nodes.
        node: What they are called, followed by 1, 2, ... A cluster that makes control groups needs
            a name of its own: those of two clusters stand beside each other, by node and job.
        cpus: Virtual CPUs of each node; the real ones don't matter.
        memory_mb: Memory that each node claims to have.
        gpus: How many GPUs each node claims to have; copies of /dev/null stand for the devices.
        config: Keys of slurm.conf to set over ours; None removes one.
        partitions: More partitions, name -> their keys.
    """

    # What it needs, and how many ports besides those of slurmctld and the slurmds.
    programs: Mapping[str, str] = PROGRAMS
    more_ports = 0

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        nodes: int = 1,
        cpus: int = 16,
        memory_mb: int = 16000,
        gpus: int = 0,
        hostnames: bool = False,
        node: str = "node",
        config: Mapping[str, str | int | None] | None = None,
        partitions: Mapping[str, str] | None = None,
    ) -> None:
        self.root = Path(root).resolve()
        if any(c.isspace() for c in str(self.root)) or len(str(self.root)) > 80:
            # slurm.conf cannot quote, and a socket's path has 107 bytes.
            raise ValueError(f"Slurm needs a short path without white space, not {self.root}")
        self.nodes = nodes
        self.names = [f"{node}{number}" for number in range(1, nodes + 1)]
        self.cpus = cpus
        self.memory_mb = memory_mb
        self.gpus = gpus
        self.hostnames = hostnames  # whether each node has its own, as only root can have it
        self._overrides = dict(config or {})
        self._partitions = {**PARTITIONS, **(partitions or {})}
        self._children: list[subprocess.Popen[bytes]] = []

    # What tests use

    @property
    def conf(self) -> Path:
        """The slurm.conf, by which every command finds this cluster."""
        return self.root / "slurm.conf"

    @property
    def env(self) -> dict[str, str]:
        """Environment variables that point Slurm's commands to this cluster."""
        return {"SLURM_CONF": str(self.conf)}

    def run(
        self, *command: str | os.PathLike[str], check: bool = True, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a command such as sbatch against this cluster and return what it printed."""
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
            raise SlurmError(f"{words}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def jobs(self, *options: str) -> list[Job]:
        """What squeue shows; with options such as ``--states=all`` or ``--name=decode``."""
        out = self.run("squeue", "--noheader", "--array", "--format=%i|%j|%T|%r", *options).stdout
        return [Job(*line.split("|", 3)) for line in out.splitlines()]

    def wait_until(self, condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
        """Wait for a condition; its absence is an error that shows the queue and says what."""
        if not wait_for(condition, seconds):
            raise SlurmError(f"after {seconds} s {what}; the queue: {self.jobs()}")

    def wait_until_idle(self, seconds: float = 120) -> None:
        """Wait until no job is queued, running or completing."""
        self.wait_until(lambda: not self.jobs(), "there are jobs", seconds)

    def reset(self) -> None:
        """Kill all jobs, whatever signals they ignore, and bring nodes and partitions back up."""
        self._kill_jobs()
        for partition in PARTITIONS:
            self.run("scontrol", "update", f"PartitionName={partition}", "State=UP")
        for name, state in self._node_states().items():
            if state != "idle":  # one that is completing only, or joins again, refuses that
                self.run("scontrol", "update", f"NodeName={name}", "State=RESUME", check=False)
        self.wait_until(
            lambda: all(map(self._takes_jobs, self._node_states())), "not all nodes are idle"
        )

    def stop_controller(self) -> None:
        """Stop slurmctld alone, as its host would; jobs go on without it."""
        self._recorded()["slurmctld"].stop()

    def start_controller(self) -> None:
        """Start slurmctld, or start it again; it remembers its jobs."""
        self._spawn("slurmctld", "/usr/sbin/slurmctld", "-D", "-f", str(self.conf))
        self._wait_for(
            "slurmctld", lambda: self.run("scontrol", "ping", check=False).returncode == 0
        )

    # Start and stop

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Start all daemons and wait until every node takes jobs."""
        if missing := missing_packages(self.programs):
            raise PackagesUnavailableError(f"needs the Debian packages {' '.join(missing)}")
        if any(process.alive() for process in self._recorded().values()):
            raise SlurmError(f"a cluster runs in {self.root} already")
        for folder in ("log", "run", "state", "munge"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        (self.root / "munge").chmod(0o700)  # munged is strict about its key's folder
        for last in (False, False, True):
            guard.started("tests.support.slurm_cluster", self.root)
            try:
                self._start_daemons(free_ports(1 + self.nodes + self.more_ports))
            except PortTakenError:
                self.stop()
                if last:
                    raise
            except BaseException:
                self.stop()
                raise
            else:
                break
        return self

    def stop(self) -> None:
        """End the jobs, then the daemons: recorded processes and this cluster's jobs, no others."""
        recorded = self._recorded()
        if "slurmctld" in recorded and recorded["slurmctld"].alive():
            with contextlib.suppress(SlurmError, subprocess.TimeoutExpired):
                self._kill_jobs(patience=10)
        # munged last, for the others' farewells; what is left then has escaped its job's end.
        for name in sorted(recorded, key=_stop_order):
            recorded[name].stop()
        for process in self.processes():
            process.kill(signal.SIGKILL)
        for child in self._children:
            child.wait()
        self._children.clear()
        wait_for(lambda: not self.processes(), 10)
        for name in recorded:
            self._record(name).unlink()
        guard.stopped(self.root)

    def processes(self) -> list[Process]:
        """All live processes of this cluster: its daemons, and whatever its jobs have started."""
        recorded = [process for process in self._recorded().values() if process.alive()]
        forked = processes_with(f"{MARK}={self.root}")
        return sorted({*recorded, *forked, *self._job_processes()}, key=lambda p: p.pid)

    # Inside

    @property
    def name(self) -> str:
        """The ClusterName, different for every folder; each job has it in its environment."""
        return "t" + hashlib.sha256(str(self.root).encode()).hexdigest()[:12]

    def _kill_jobs(self, patience: float = 60) -> None:
        deadline = time.monotonic() + patience
        while self.jobs():
            for state in ("PENDING", "RUNNING", "SUSPENDED"):  # first, so that nothing new starts
                self.run("scancel", "--quiet", f"--state={state}", check=False)
            # scancel is SIGTERM; a job that ignores it would keep its node busy for KillWait.
            for process in self._job_processes():
                process.kill(signal.SIGKILL)
            if time.monotonic() > deadline:
                raise SlurmError(f"jobs outlived {patience} s of scancel: {self.jobs()}")
            time.sleep(0.05)

    def _job_processes(self) -> list[Process]:
        """What jobs have started and not ended, even if it has left its session."""
        return processes_with(f"SLURM_CLUSTER_NAME={self.name}")

    def _start_daemons(self, ports: Sequence[int]) -> None:
        self._write_conf(ports)
        key = self.root / "munge/munge.key"
        if not key.exists():
            key.touch(0o600)
            key.write_bytes(os.urandom(1024))
        self._spawn(
            "munged",
            "/usr/sbin/munged",
            "--foreground",
            "--force",  # the folder may be under a world-writable /tmp
            f"--key-file={key}",
            f"--socket={self._munge_socket}",
            f"--pid-file={self.root}/run/munged.pid",
            f"--log-file={self.root}/log/munged.log",
            f"--seed-file={self.root}/munge/munged.seed",
        )
        self._wait_for("munged", self._munge_socket.is_socket)
        self._start_accounting(ports[1 + self.nodes :])
        self.start_controller()
        for name in self.names:
            (self.root / f"spool.{name}").mkdir(exist_ok=True)
            daemon: tuple[str, ...] = ("/usr/sbin/slurmd", "-D", "-N", name, "-f", str(self.conf))
            if self.hostnames:  # in a namespace of its own: what runs there sees another name
                as_that = f'hostname {name} && exec "$@"'
                daemon = ("unshare", "--uts", "sh", "-c", as_that, "sh", *daemon)
            self._spawn(f"slurmd.{name}", *daemon)
        for name in self.names:
            self._wait_for(f"slurmd.{name}", functools.partial(self._takes_jobs, name))

    def _start_accounting(self, ports: Sequence[int]) -> None:
        """Start what slurmctld needs besides munged; nothing here."""

    def _write_conf(self, ports: Sequence[int]) -> None:
        host, user = socket.gethostname().split(".")[0], pwd.getpwuid(os.geteuid()).pw_name
        root = self.root
        keys: dict[str, str | int | None] = {
            "SlurmctldHost": f"{host}(127.0.0.1)",
            "SlurmctldPort": ports[0],
            "SlurmUser": user,
            "SlurmdUser": user,
            "AuthType": "auth/munge",
            # A requeued job waits until its old credential has expired; 120 s by default.
            "AuthInfo": f"socket={self._munge_socket},cred_expire=5",
            "StateSaveLocation": f"{root}/state",
            "SlurmdSpoolDir": f"{root}/spool.%n",
            "SlurmctldPidFile": f"{root}/run/slurmctld.pid",
            "SlurmdPidFile": f"{root}/run/slurmd.%n.pid",
            "SlurmctldLogFile": f"{root}/log/slurmctld.log",
            "SlurmdLogFile": f"{root}/log/slurmd.%n.log",
            "SlurmdParameters": "config_overrides",  # believe CPUs and memory as written below
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_CPU_Memory",
            "DefMemPerCPU": 100,
            "JobAcctGatherType": "jobacct_gather/none",
            "AccountingStorageType": "accounting_storage/none",
            "MailProg": "/bin/true",
            "MpiDefault": "none",
            "SwitchType": "switch/none",
            "ReturnToService": 2,
            "KillWait": 5,
            "MaxArraySize": 1001,
            "MinJobAge": 86400,  # so that what is remembered does not change while a test looks
            # Schedule every second, and look at many jobs each time.
            "SchedulerParameters": "batch_sched_delay=0,sched_interval=1,bf_interval=1,"
            "default_queue_depth=10000,bf_max_job_test=10000",
        }
        gres = ""
        if self.gpus:
            keys["GresTypes"] = "gpu"
            gres = f"Gres=gpu:{self.gpus} "
            devices = [root / f"gpu{number}" for number in range(self.gpus)]
            for device in devices:
                _make_device(device)
            (root / "gres.conf").write_text("".join(f"Name=gpu File={dev}\n" for dev in devices))
        keys |= self._overrides
        keys["ClusterName"] = self.name  # never overridden: by it the jobs are found
        lines = [f"{key}={value}" for key, value in keys.items() if value is not None]
        lines += [
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
            f"CPUs={self.cpus} RealMemory={self.memory_mb} {gres}State=UNKNOWN"
            for name, port in zip(self.names, ports[1 : 1 + self.nodes], strict=True)
        ]
        lines += [
            f"PartitionName={partition} Nodes=ALL State=UP {limits}"
            for partition, limits in self._partitions.items()
        ]
        self.conf.write_text("\n".join(lines) + "\n")

    @property
    def _munge_socket(self) -> Path:
        return self.root / "run/munge.socket"

    def _node_states(self) -> dict[str, str]:
        out = self.run("sinfo", "--noheader", "--Node", "--format=%N %t").stdout
        return dict(line.split()[:2] for line in out.splitlines())

    def _takes_jobs(self, node: str) -> bool:
        return self._node_states()[node] == "idle"

    def _record(self, name: str) -> Path:
        return self.root / "run" / f"{name}.process.json"

    def _recorded(self) -> dict[str, Process]:
        """The daemons by name, as written down when they were started, maybe by someone else."""
        ending = ".process.json"
        return {
            path.name.removesuffix(ending): Process(**json.loads(path.read_text()))
            for path in sorted((self.root / "run").glob(f"*{ending}"))
        }

    def _spawn(self, name: str, *command: str) -> None:
        """Start a daemon in the foreground of a session of its own, and write down who it is."""
        with (self.root / "log" / f"{name}.out").open("wb") as out:
            child = subprocess.Popen(
                command,
                cwd=self.root,
                env=_clean_environment() | self.env | {MARK: str(self.root)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._children.append(child)
        if process := Process.of(child.pid):
            self._record(name).write_text(json.dumps(asdict(process)))

    def _wait_for(self, name: str, ready: Callable[[], bool], seconds: float = 60) -> None:
        daemon = self._recorded().get(name)
        alive = daemon is not None and wait_for(lambda: ready() or not daemon.alive(), seconds)
        if alive and daemon is not None and daemon.alive():
            return
        said = (self.root / "log" / f"{name}.out").read_text(errors="replace").strip()[-1000:]
        if "Address already in use" in said:
            raise PortTakenError(f"{name}: {said}")
        raise SlurmError(f"{name} {'ended' if alive else 'is not ready'}: {said}")


def _make_device(path: Path) -> None:
    """A character device, or Slurm sets no CUDA_VISIBLE_DEVICES; without root a plain file."""
    if path.exists():
        return
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        path.touch()


def _stop_order(name: str) -> int:
    order = ["slurmd", "slurmctld", "slurmdbd", "mariadbd", "munged"]
    return order.index(name.partition(".")[0])


def _clean_environment() -> dict[str, str]:
    """The environment without what a Slurm job or a user's Slurm settings have put there."""
    theirs = ("SLURM", "SBATCH_", "SALLOC_", "SRUN_", "SQUEUE_", "SINFO_", "SCANCEL_", "SACCT_")
    return {key: value for key, value in os.environ.items() if not key.startswith(theirs)}


# --- by hand --------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Install the packages, or start or stop a cluster that outlives this command."""
    parser = argparse.ArgumentParser(prog="slurm_cluster", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("install", help="install the Debian packages that a cluster needs")
    up = commands.add_parser("up", help="start a cluster in DIR")
    up.add_argument("--nodes", type=int, default=1)
    up.add_argument("--cpus", type=int, default=16, help="of each node (default: 16)")
    up.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], dest="settings")
    down = commands.add_parser("down", help="stop the cluster in DIR")
    for command in (up, down):
        command.add_argument("dir", metavar="DIR", type=Path)
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "install":
            install(PROGRAMS)
        elif chosen.command == "up":
            install(PROGRAMS)
            config = dict(setting.split("=", 1) for setting in chosen.settings)
            cluster = SlurmCluster(chosen.dir, nodes=chosen.nodes, cpus=chosen.cpus, config=config)
            cluster.start()
            print(f"export SLURM_CONF={shlex.quote(str(cluster.conf))}")
        else:
            SlurmCluster(chosen.dir).stop()
    except (PackagesUnavailableError, SlurmError) as error:
        print(f"slurm_cluster: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
