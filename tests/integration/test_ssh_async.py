"""`env: ssh` in the asynchronous mode, through a real sshd and OpenSSH's own client."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from espnet3.config.model import ParallelConfig
from espnet3.doctor.diagnosis import diagnose
from espnet3.errors import ConfigError, SchedulerUnavailable, SubmissionRefused
from espnet3.run import Run
from espnet3.run_dir.worker_command import arguments_of
from espnet3.schedulers.ssh_commands import command_for, wrapped
from tests.support.helpers import (
    attempts,
    causes,
    ended,
    files_of,
    jobs,
    locally,
    noted,
    once,
    processes_of,
    states,
    submission,
    submit_noting,
    wait_for,
)
from tests.support.runners import GATE
from tests.support.ssh_hosts import CSH, SshHosts, ssh_hosts


@pytest.fixture(scope="module")
def the_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshHosts]:
    with ssh_hosts(tmp_path_factory.mktemp("ssh") / "hosts") as hosts:
        yield hosts


@pytest.fixture
def hosts(
    the_hosts: SshHosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SshHosts]:
    """The hosts; a failing test leaves no worker behind that waits for ever."""
    monkeypatch.setenv("PATH", the_hosts.path)
    yield the_hosts
    (the_hosts.folder / "hold").unlink(missing_ok=True)
    (tmp_path / GATE).touch()


def _parallel(*names: str, **keys: Any) -> dict[str, Any]:
    options = {"hosts": [*names], **keys.pop("options", {})}
    return {"env": "ssh", "async_mode": True, "options": options, **keys}


def _begun(folder: Path, n: int) -> None:
    wait_for(lambda: noted(folder, "begun").total() == n, f"not {n} have begun")


def test_tasks_are_spread_over_the_hosts(hosts: SshHosts, tmp_path: Path) -> None:
    config = _parallel("alpha", "beta", n_workers=3, n_shards=7)
    run = submit_noting(tmp_path, 14, config, gated=range(14))
    _begun(tmp_path, 3)
    assert [job.first_task for job in submission(run).jobs] == [0, 3]
    assert [job.throttle for job in submission(run).jobs] == [1, 2]
    recorded = [job.job_id.split(":") for job in jobs(run).jobs]
    assert [host for host, _ in recorded] == ["alpha", "beta"]
    for _, pid in recorded:  # of a session of its own
        assert os.getsid(int(pid)) == int(pid)
    assert sorted(states(run).values()) == ["queued"] * 4 + ["running"] * 3
    assert {os.path.basename(log) for log in run.logs(3)} == {"0001-1.0.log"}
    (tmp_path / GATE).touch()
    assert ended(run).collect() == locally(tmp_path, 14)
    assert noted(tmp_path, "begun") == once(range(14))


def test_a_dynamic_run_has_a_worker_on_each_host(hosts: SshHosts, tmp_path: Path) -> None:
    config = _parallel("alpha", "beta", schedule="dynamic", n_shards=6)
    run = submit_noting(tmp_path, 6, config, gated=range(6))
    _begun(tmp_path, 2)
    assert submission(run).n_workers == 2
    (tmp_path / GATE).touch()
    assert ended(run).collect() == locally(tmp_path, 6)


def test_workers_outlive_every_connection(hosts: SshHosts, tmp_path: Path) -> None:
    run = submit_noting(tmp_path, 4, _parallel("alpha", "beta", n_shards=4), gated=range(4))
    _begun(tmp_path, 2)
    hosts.kill()
    try:
        seen = run.status()
        assert seen.scheduler_problem is not None
        assert "alpha: " in seen.scheduler_problem
        assert "beta: " in seen.scheduler_problem
        assert "Connection refused" in seen.scheduler_problem
        assert "running" in states(run).values()
        (tmp_path / GATE).touch()
        wait_for(lambda: set(states(run).values()) == {"done"}, "they did not go on")
    finally:
        hosts.start()
    assert run.collect() == locally(tmp_path, 4)


def test_the_driver_is_killed_while_it_submits(hosts: SshHosts, tmp_path: Path) -> None:
    (hosts.folder / "hold").touch()
    config = json.dumps(_parallel("alpha", "beta", n_shards=2))
    words = ["submit", str(tmp_path), "2", config, "[0, 1]"]
    driver = subprocess.Popen([sys.executable, "-m", "tests.support.rude_driver", *words])
    _begun(tmp_path, 1)
    driver.kill()
    driver.wait()
    run = Run(tmp_path / "run")
    assert causes(run)[1].startswith("being submitted by")
    (hosts.folder / "hold").unlink()
    _begun(tmp_path, 2)
    wait_for(lambda: [*states(run).values()] == ["running"] * 2, "they are not found")
    assert run.resume().ranks == []
    assert {job.job_id.split(":")[0] for job in jobs(run).jobs} == {"alpha", "beta"}
    (tmp_path / GATE).touch()
    assert ended(run).collect() == locally(tmp_path, 2)
    assert noted(tmp_path, "begun") == once(range(2))


def test_cancelled_and_resumed(hosts: SshHosts, tmp_path: Path) -> None:
    config = _parallel("alpha", "beta", n_workers=2, n_shards=4)
    run = submit_noting(tmp_path, 4, config, gated=range(4))
    _begun(tmp_path, 2)
    assert run.cancel() == [job.job_id for job in jobs(run).jobs]
    wait_for(lambda: not processes_of(run), "processes live on")
    assert set(states(run).values()) == {"interrupted"}
    (tmp_path / GATE).touch()
    assert run.resume().ranks == [0, 1, 2, 3]
    assert ended(run).collect() == locally(tmp_path, 4)


@pytest.mark.parametrize("whole_job", [False, True])
def test_a_worker_is_killed(hosts: SshHosts, tmp_path: Path, whole_job: bool) -> None:
    run = submit_noting(tmp_path, 4, _parallel("alpha", "beta", n_shards=4), gated=range(4))
    _begun(tmp_path, 2)
    [started] = attempts(run, 2, "started")
    if whole_job:  # as where the host dies
        os.kill(int(jobs(run).jobs[1].job_id.split(":")[1]), signal.SIGKILL)
    os.kill(started.pid, signal.SIGKILL)
    state = "lost" if whole_job else "interrupted"
    wait_for(lambda: states(run)[2] == state, f"it is not told: {causes(run)}")
    if whole_job:
        assert causes(run)[2].startswith(f"attempt {started.attempt} on {started.host} ended")
        assert "its task was never started" in causes(run)[3]
    else:
        assert causes(run)[2].startswith("killed by SIGKILL")
    (tmp_path / GATE).touch()
    ended(run)
    assert run.resume().ranks == ([2, 3] if whole_job else [2])
    assert ended(run).collect() == locally(tmp_path, 4)


def test_csh_at_login(hosts: SshHosts, tmp_path: Path) -> None:
    if not Path(CSH).exists():
        pytest.skip("no csh")
    run = submit_noting(tmp_path, 2, _parallel("csh", n_shards=2), gated=range(2))
    _begun(tmp_path, 1)
    assert states(run) == {0: "running", 1: "queued"}
    (tmp_path / GATE).touch()
    assert ended(run).collect() == locally(tmp_path, 2)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("down", "Connection refused"),
        ("locked", "Permission denied"),
        ("stranger", "Host key verification failed"),
        ("nowhere.invalid", "Could not resolve hostname"),
    ],
)
def test_a_host_that_cannot_be_had(hosts: SshHosts, tmp_path: Path, host: str, words: str) -> None:
    with pytest.raises(SchedulerUnavailable) as refused:
        submit_noting(tmp_path, 4, _parallel("alpha", host))
    assert str(refused.value).startswith(f"ssh: {host}: ")
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert files_of(tmp_path / "run") == set()


def test_one_host_refuses(hosts: SshHosts, tmp_path: Path) -> None:
    """The job of the other one goes on; a resume submits what is missing."""
    config = _parallel("alpha", "beta", n_shards=2)
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\ncase "$*" in *supervisor*-0001-1) echo no luck >&2; exit 3;; esac\n'
        f'exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    config["options"]["remote_python"] = str(python)
    with pytest.raises(SubmissionRefused, match="beta: no luck"):
        submit_noting(tmp_path, 2, config)
    run = ended(Run(tmp_path / "run"))
    assert states(run) == {0: "done", 1: "pending"}
    assert causes(run)[1] == "refused by the scheduler, beta: no luck"
    assert run.resume().ranks == [1]
    assert ended(run).collect() == locally(tmp_path, 2)


def test_what_is_missing_there(
    hosts: SshHosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The preflight would look for the interpreter here."""
    config = _parallel("alpha", options={"remote_python": "/no/such/python"}, preflight=False)
    with pytest.raises(SubmissionRefused, match="alpha: /no/such/python is not there"):
        submit_noting(tmp_path, 2, config)
    monkeypatch.setattr("espnet3.submit.ssh_launcher.PATIENCE", 0)
    monkeypatch.setattr(
        "espnet3.submit.ssh_launcher.arguments_of",
        lambda words: arguments_of(words)._replace(run="/no/such/run"),
    )
    with pytest.raises(SubmissionRefused, match="/no/such/run is not seen there"):
        Run(tmp_path / "run").resume(options={"remote_python": sys.executable})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hosts": None}, "parallel.options.hosts: is missing"),
        ({"hosts": "alpha"}, "parallel.options.hosts: must be a list of hosts"),
        ({"hosts": ["-oProxyCommand=touch x"]}, "parallel.options.hosts.0: must be a host"),
        ({"hosts": ["alpha", "a;touch x"]}, "parallel.options.hosts.1: must be a host"),
        ({"hosts": ["$(touch x)"]}, "parallel.options.hosts.0: must be a host"),
        ({"connect_options": {"port": 1}}, "parallel.options.connect_options: is for asyncssh"),
        ({"remote_pyton": "x"}, "parallel.options.remote_pyton: env: ssh has no such option"),
        ({"remote_python": 3}, "parallel.options.remote_python: must be a command"),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        submit_noting(tmp_path, 1, _parallel("alpha", options=options))
    assert str(refused.value).startswith(message)
    assert files_of(tmp_path / "run") == set()


def test_a_directory_with_odd_characters(hosts: SshHosts, tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s $HOME; "two" --job x `id` é'
    folder.mkdir()
    run = submit_noting(folder, 2, _parallel("alpha", n_shards=2), gated=range(2))
    _begun(folder, 1)
    assert states(run) == {0: "running", 1: "queued"}
    (folder / GATE).touch()
    assert ended(run).collect() == locally(folder, 2)


@pytest.mark.parametrize("shell", ["sh", "bash", "csh", "tcsh", "fish", "zsh"])
def test_any_login_shell_reads_the_command(shell: str) -> None:
    command = command_for("alpha", "espnet3-ab12-0001-0")[-1]
    try:
        done = subprocess.run(
            [shell, "-c", command],
            input=wrapped("echo it runs; cat"),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip(f"no {shell}")
    assert done.stdout == "espnet3 begins\nit runs\n"


async def test_doctor(hosts: SshHosts, tmp_path: Path) -> None:
    config = ParallelConfig(env="ssh", options={"hosts": ["alpha", "locked"]})
    seen = await diagnose(config, tmp_path)
    assert not seen.fine
    told = {finding.name: finding for finding in seen.findings}
    assert told["host alpha"].fine
    assert not told["host locked"].fine
    assert "Permission denied" in told["host locked"].value
    assert all(finding.fine for name, finding in told.items() if name != "host locked")
    assert told["scheduler"].value.startswith("OpenSSH")
