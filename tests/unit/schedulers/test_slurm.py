"""Slurm's dialect: what its commands print, as they print it, and what a job may inherit.

What the commands say is what Slurm 22.05 says; a real Slurm is asked by the tests in
tests/integration.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet3.errors import ConfigError, SchedulerUnavailable
from espnet3.run_dir.submissions import KnownSubmission
from espnet3.schedulers import get_scheduler
from espnet3.schedulers.base import TaskState
from espnet3.schedulers.commands import Answer
from espnet3.schedulers.slurm_states import STOPPED
from espnet3.specs.models import (
    AcceptedJob,
    AcceptedJobs,
    PlannedJob,
)
from tests.support.asking import ME, NOW, Commands, entry, parts, system, waiting

SLURM = system("slurm")


def ended(word: str, reason: str = "", signal: int = 0) -> TaskState:
    """A task that is over."""
    return TaskState("ended", word, reason, signal, STOPPED.get(word, ""))


# --- ids ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "job_id"),
    [
        ("4567\n", "4567"),
        ("4567", "4567"),
        ("123;cluster\n", "123;cluster"),
        ("Welcome to node17\n4567\n", "4567"),
        ("Welcome to node17\n\n   4567;big \nYour project has 300 hours left\n", "4567;big"),
        ("17 users are here\n4567\n", "4567"),
        ("Quota:\n99\n4567\n", None),
        ("4567\nRemaining node hours of your project:\n    1200\n", None),
        ("4567;big\n1200\n", None),
        ("4567\n4567\n", "4567"),
        ("Submitted batch job 4567 on cluster big\n1200\n", "4567;big"),
        ("", None),
        ("Welcome to node17\n", None),
        ("sbatch: error: Batch job submission failed: 12 reasons\n", None),
        ("Welcome to node17\nSubmitted batch job 4567 \n1200\n", "4567"),
    ],
)
def test_the_job_id_is_found_between_banners(output: str, job_id: str | None) -> None:
    assert SLURM.parse_job_id(output) == job_id


@pytest.mark.parametrize(
    ("environ", "index", "job_id", "requeued"),
    [
        ({}, None, None, False),
        ({"SLURM_JOB_ID": "12"}, None, "12", False),
        (
            {"SLURM_JOB_ID": "14", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "7"},
            7, "12_7", False,
        ),
        ({"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "0"}, 0, "12_0", False),
        ({"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "0"}, None, "12", False),
        ({"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "2"}, None, "12", True),
    ],
)  # fmt: skip
def test_a_worker_finds_its_task(
    environ: dict[str, str], index: int | None, job_id: str | None, requeued: bool
) -> None:
    assert SLURM.array_index(environ) == index
    assert SLURM.job_id(environ) == job_id
    assert SLURM.was_requeued(environ) is requeued


def test_arrays_and_dependencies_as_sbatch_takes_them() -> None:
    job = PlannedJob(name="n", first_task=100, n_tasks=50, throttle=4, log="l")
    free = job.model_copy(update={"throttle": None})
    assert "--array=0-49%4" in parts(SLURM, job, "/logs", array=True).arguments
    assert "--array=0-49" in parts(SLURM, free, "/logs", array=True).arguments
    assert "--array" not in " ".join(parts(SLURM, job, "/logs", array=False).arguments)
    assert waiting(SLURM, "12") == ["--dependency=afterany:12"]
    assert waiting(SLURM, "12", "7;big", "3") == ["--dependency=afterany:12:7:3"]


@pytest.mark.parametrize(
    ("walltime", "seconds"),
    [
        ("30", 1800), (30, 1800), ("90:30", 5430), ("02:00:00", 7200), ("1-12", 129600),
        ("1-12:30", 131400), ("1-00:00:01", 86401), ("0:00:10", 10), (0, 0),
        (None, None), ("", None), ("UNLIMITED", None), ("2h", None), ("-", None), ("1-", None),
        (True, None), (["1"], None), ("1:2:3:4", None), ("a:b", None), ("1-2-3", None),
        ("nan", None), ("infinity", None), ("1:-5", None),
    ],
)  # fmt: skip
def test_walltimes_as_sbatch_reads_them(walltime: Any, seconds: float | None) -> None:
    assert SLURM.walltime_seconds(walltime) == seconds


@given(st.integers(0, 9), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_a_walltime_means_its_parts(days: int, hours: int, minutes: int, seconds: int) -> None:
    whole = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    assert SLURM.walltime_seconds(f"{days}-{hours:02d}:{minutes:02d}:{seconds:02d}") == whole
    assert SLURM.walltime_seconds(f"{24 * days + hours}:{minutes}:{seconds}") == whole


@given(st.text(max_size=12) | st.integers() | st.none() | st.floats())
def test_no_walltime_is_an_error(walltime: Any) -> None:
    found = SLURM.walltime_seconds(walltime)
    assert found is None or found >= 0


# --- the environment ----------------------------------------------------------------------------


def test_what_an_enclosing_job_left_is_scrubbed_and_the_rest_kept() -> None:
    environ = {
        "PATH": "/bin", "SLURM_CONF": "/etc/slurm.conf", "SLURM_TIME_FORMAT": "standard",
        "SLURM_JOB_ID": "1", "SLURM_MEM_PER_NODE": "100", "SBATCH_MEM_BIND_TYPE": "none",
        "SBATCH_PARTITION": "x", "SBATCH_ACCOUNT": "y", "SLURM_CLUSTERS": "z",
        "SBATCH_WAIT": "1", "SBATCH_ARRAY_INX": "0-9",
        "SRUN_CPUS_PER_TASK": "2", "PMI_RANK": "0", "PMIX_RANK": "0", "MY_SLURM_X": "1",
        "SLURMX": "1", "CUDA_VISIBLE_DEVICES": "0",
    }  # fmt: skip
    left = {
        name: environ[name]
        for name in ("PATH", "SLURM_CONF", "SLURM_TIME_FORMAT", "MY_SLURM_X", "SLURMX",
                     "CUDA_VISIBLE_DEVICES", "SBATCH_ACCOUNT", "SLURM_CLUSTERS")
    }  # fmt: skip
    assert SLURM.submit_environ(environ) == left
    # Outside a job they are the user's own.
    own = {**left, "SBATCH_PARTITION": "x", "SLURM_HINT": "compute_bound", "SRUN_DEBUG": "1"}
    assert SLURM.submit_environ({**own, "SBATCH_WAIT": "1", "SBATCH_ARRAY_INX": "0"}) == own
    # What the options say counts more, as it does for a line of sbatch's own arguments.
    stated = SLURM.submit_environ(own, {"queue"})
    assert stated == {name: own[name] for name in own if name != "SBATCH_PARTITION"}
    assert get_scheduler("local").scrubbed(environ) == environ


def test_queries_are_asked_without_an_enclosing_job(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "99")
    monkeypatch.setenv("SLURM_CONF", "/x")
    seen: list[Mapping[str, str]] = []

    def told(words: list[str], environ: Mapping[str, str]) -> Answer:
        seen.append(environ)
        return Answer(0, "MaxArraySize = 10\n", "")

    commands.answer("scontrol", told)
    assert asyncio.run(SLURM.max_array_size()) == 10
    assert seen[0]["SLURM_CONF"] == "/x"
    assert "SLURM_JOB_ID" not in seen[0]


def test_the_clusters_that_a_user_has_chosen(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrays are cut for the cluster that sbatch submits to; ids tell that of their jobs."""
    monkeypatch.setenv("SLURM_CLUSTERS", "FAILED")
    commands.say("scontrol", "MaxArraySize = 10\n")
    assert asyncio.run(SLURM.max_array_size()) == 10
    assert "--clusters=FAILED" in commands.asked("scontrol")
    row = "12|0|{}|None|me|N|a\n"
    commands.answer(
        "squeue",
        lambda words, environ: Answer(0, row.format(environ.get("SLURM_CLUSTERS", "RUNNING")), ""),
    )
    assert query(entry(("a", 1, "12"))) == {(1, 0): TaskState("running", "RUNNING")}


# --- queries ------------------------------------------------------------------------------------


def query(*entries: KnownSubmission) -> dict[Any, TaskState]:
    return dict(asyncio.run(SLURM.query(entries)))


def test_rows_of_squeue_find_their_tasks_whatever_the_name_holds(commands: Commands) -> None:
    commands.say(
        "squeue",
        "12|0|RUNNING|None|me|N|a|b|c\n"
        "12|1|PENDING|JobArrayTaskLimit|me|N|a|b|c\n"
        "13|N/A|PENDING|(null)|me|N|x y\n"
        "99|0|RUNNING|None|me|N|a|b|c-of-somebody-else\n"
        "12|2|COMPLETED|None|me|N|a|b|c\n"
        "12|3|CANCELLED|None|me|N|a|b|c\n",
    )
    assert query(entry(("a|b|c", 4, "12"), ("x y", 1, "13"))) == {
        (1, 0): TaskState("running", "RUNNING", ""),
        (1, 1): TaskState(
            "queued",
            "PENDING",
            "as many tasks of its array run as may at a time (JobArrayTaskLimit)",
        ),
        (1, 4): TaskState("queued", "PENDING", ""),
        (1, 2): ended("COMPLETED", ""),
        (1, 3): ended("CANCELLED", ""),
    }
    assert "--jobs=12,13" in commands.asked("squeue")
    assert commands.asked("sacct") == []  # squeue knew them all


@pytest.mark.parametrize(
    ("user", "days", "ours"), [("me", 0, True), ("me", 2, False), ("you", 0, False)]
)
def test_a_recorded_job_of_another_name(
    commands: Commands, user: str, days: int, ours: bool
) -> None:
    """Renamed by its user it is ours; its id may also have been used again."""
    when = (NOW + timedelta(days=days)).astimezone().replace(tzinfo=None).isoformat()
    commands.say("squeue", f"12|0|RUNNING|None|{user}|{when}|another\n")
    assert (query(entry(("a", 1, "12"))) != {}) is ours


def test_what_waits_of_an_array_is_one_row_of_squeue(commands: Commands) -> None:
    commands.say(
        "squeue",
        "12|1,3-4,6-19:2%7|PENDING|Priority|me|N|a\n12|0|RUNNING|None|me|N|a\n"
        "12|x|RUNNING||me|N|a\n",
    )
    states = query(entry(("b", 2, "11"), ("a", 9, "12")))
    assert states.pop((1, 2)) == TaskState("running", "RUNNING")
    assert states == dict.fromkeys(
        [(1, 2 + index) for index in (1, 3, 4, 6, 8)], TaskState("queued", "PENDING", "Priority")
    )
    assert "--array" not in commands.asked("squeue")


@pytest.mark.parametrize("n_arrays", [1, 50])
def test_as_many_commands_for_many_arrays_as_for_one(commands: Commands, n_arrays: int) -> None:
    jobs = [(f"job-{i}", 100, str(i)) for i in range(n_arrays)]
    rows = "{0}|0-97|PENDING|Priority|me|N|job-{0}\n{0}|98|FAILED|NonZeroExitCode|me|N|job-{0}\n"
    commands.say("squeue", "".join(rows.format(i) for i in range(n_arrays)))
    commands.say("sacct", "".join(f"{i}_99|TIMEOUT|0:0\n" for i in range(n_arrays)))
    assert len(query(entry(*jobs))) == 100 * n_arrays
    # The states, and how the failed ones ended; accounting knows those that squeue has forgotten.
    assert commands.asked("squeue").count("--noheader") == 2
    assert commands.asked("sacct").count("--noheader") == 1


def test_tasks_that_a_cut_row_of_squeue_may_mean_are_not_gone(commands: Commands) -> None:
    running = "12|7|RUNNING|None|me|N|a\n13|0|RUNNING|None|me|N|b\n"
    commands.say("squeue", f"{running}12|[1,3,5...%2]|PENDING|Priority|me|N|a\n")
    states = query(entry(("a", 9, "12"), ("b", 2, "13")))
    assert [states[1, task].state for task in range(7)] == ["queued"] * 7
    assert states[1, 7].state == states[1, 9].state == "running"
    assert (1, 10) not in states


def test_only_jobs_with_a_wanted_task_are_asked_for(commands: Commands) -> None:
    jobs = entry(("a", 4, "12"), ("b", 4, "13;big"), ("c", 4, "14"), ("d", 4, None))
    commands.say("squeue", "12|1|RUNNING|None|me|N|a\n14|0|RUNNING|None|me|N|c\n")
    assert asyncio.run(SLURM.query([jobs], {1: [1, 8]})) == {
        (1, 1): TaskState("running", "RUNNING"),
        (1, 8): TaskState("running", "RUNNING"),
    }
    # Nor is accounting, where only tasks have been forgotten that nobody wants.
    assert commands.asked("squeue").count("--jobs=12,14") == 1
    assert commands.asked("squeue").count("--noheader") == 1
    assert commands.asked("sacct") == []
    commands.say("sacct", "14_3|TIMEOUT|0:0\n14_2|TIMEOUT|0:0\n")
    states = asyncio.run(SLURM.query([jobs], {1: [1, 8, 11]}))
    assert states[1, 11] == TaskState("ended", "TIMEOUT", stopped="time limit")
    assert "--jobs=14" in commands.asked("sacct")


def test_unrecorded_jobs_are_found_by_their_names(commands: Commands) -> None:
    commands.say("squeue", "77|1|RUNNING|None|me|N|my|job\n78|0|RUNNING|None|me|N|other\n")
    assert query(entry(("my|job", 2, None))) == {(1, 1): TaskState("running", "RUNNING", "")}
    assert "--user=me" in commands.asked("squeue")


def test_jobs_of_which_no_id_was_recorded_are_never_asked_for_by_an_empty_list(
    commands: Commands,
) -> None:
    commands.say("squeue", "12|1|RUNNING|None|me|N|a\n")
    assert query() == {}
    assert commands.asked("squeue") == []
    record = AcceptedJobs(number=1, created=NOW, recorded_by=ME, jobs=[], refused="no")
    refused = entry(("a", 2, None))._replace(recorded=record)
    assert query(refused) == {(1, 1): TaskState("running", "RUNNING", "")}
    assert "--user=me" in commands.asked("squeue")
    assert not any(word.startswith("--jobs") for word in commands.asked("squeue"))


def test_a_banner_in_the_answer_is_passed_over(commands: Commands) -> None:
    commands.say("squeue", "Welcome to node17\n12|0|RUNNING|None|me|N|a\n\n")
    commands.say("sacct", "Welcome\n12_1|TIMEOUT|0:0\n")
    assert query(entry(("a", 2, "12"))) == {
        (1, 0): TaskState("running", "RUNNING", ""),
        (1, 1): ended("TIMEOUT", ""),
    }


@pytest.mark.parametrize(
    ("rows", "state"),
    [
        ("12_0|COMPLETED|0:0\n12_0.batch|COMPLETED|0:0\n", ("COMPLETED", "")),
        ("12_0|FAILED|1:0\n12_0.batch|FAILED|1:0\n", ("FAILED", "exit code 1")),
        ("12_0|CANCELLED by 1000|0:15\n", ("CANCELLED", "by user 1000, signal 15", 15)),
        ("12_0|OUT_OF_ME+|0:125\n", ("OUT_OF_ME", "")),
        (
            "12_0|FAILED|0:9\n12_0.batch|OUT_OF_MEMORY|0:125\n12_0.extern|COMPLETED|0:0\n",
            ("OUT_OF_MEMORY", ""),
        ),
        ("12_0|TIMEOUT|0:0\n12_0.batch|CANCELLED|0:15\n", ("TIMEOUT", "")),
        ("12_0|PREEMPTED|0:0\n", ("PREEMPTED", "")),
        ("12_0|NODE_FAIL|0:0|more\n", ("NODE_FAIL", "")),
        ("12_[0-9%2]|PENDING|0:0\n", None),
        ("12_0|RUNNING|0:0\n", None),
        ("13_0|TIMEOUT|0:0\n", None),
        ("", None),
    ],
)
def test_accounting_knows_what_squeue_has_forgotten(
    commands: Commands, rows: str, state: tuple[Any, ...] | None
) -> None:
    commands.say("squeue", "", "slurm_load_jobs error: Invalid job id specified\n", 1)
    commands.say("sacct", rows)
    expected = {} if state is None else {(1, 0): ended(*state)}
    assert query(entry(("a", 1, "12"))) == expected
    assert any(word.startswith("--starttime=2026-01-0") for word in commands.asked("sacct"))


def test_tasks_that_never_began_share_a_row_of_accounting(commands: Commands) -> None:
    commands.say("squeue", "", "slurm_load_jobs error: Invalid job id specified\n", 1)
    rows = "12_[0-1,3,5-9:2%2]|CANCELLED by 7|0:0\n12_3|TIMEOUT|0:0\n12_[x]|CANCELLED|0:0\n"
    commands.say("sacct", rows)
    cancelled = ended("CANCELLED", "by user 7")
    assert query(entry(("a", 8, "12"))) == {
        (1, 0): cancelled,
        (1, 1): cancelled,
        (1, 3): ended("TIMEOUT"),
        (1, 5): cancelled,
        (1, 7): cancelled,
    }


def test_jobs_of_other_clusters_are_asked_for_there(commands: Commands) -> None:
    commands.say("squeue", "\n12|0|RUNNING|None|me|N|a\n")
    commands.say("sacct", "12_1|TIMEOUT|0:0\n")
    assert query(entry(("a", 2, "12;big"))) == {
        (1, 0): TaskState("running", "RUNNING"),
        (1, 1): ended("TIMEOUT"),
    }
    assert "--clusters=big" in commands.asked("squeue")
    assert "--clusters=big" in commands.asked("sacct")
    assert "--jobs=12" in commands.asked("squeue")
    commands.say("scancel")
    asyncio.run(SLURM.cancel([AcceptedJob(name="a", job_id="12;big")]))
    assert commands.asked("scancel") == ["--clusters=big", "12"]
    assert waiting(SLURM, "12;big") == ["--dependency=afterany:12"]
    assert SLURM.task_name("12;big", 3) == "12_3 on cluster big"
    commands.say("squeue", "CLUSTER: big\nARRAY_JOB_ID|NAME\n14|a\nCLUSTER: small\n15|b\n")
    planned = [PlannedJob(name=name, first_task=0, n_tasks=1, log="l") for name in ("a", "b")]
    assert asyncio.run(SLURM.find(planned, "me")) == [
        AcceptedJob(name="a", job_id="14;big"),
        AcceptedJob(name="b", job_id="15;small"),
    ]


def test_how_a_batch_script_ended(commands: Commands) -> None:
    commands.say("sacct", "", "Slurm accounting storage is disabled\n", 1)
    states = "".join(f"12|{i}|FAILED|JobLaunchFailure|me|N|a\n" for i in range(4))
    endings = "12 0 9\n12 1 139\n12 2 32512\n12 3 1\n"
    commands.answer(
        "squeue",
        lambda words, environ: Answer(0, endings if "exit_code" in words[-1] else states, ""),
    )
    assert query(entry(("a", 4, "12"))) == {
        (1, 0): ended("FAILED", "signal 9", 9),
        (1, 1): ended("FAILED", "signal 11", 11),
        (1, 2): ended("FAILED", "exit code 127"),
        (1, 3): ended("FAILED", "exit code 1"),
    }


def test_a_site_without_accounting(commands: Commands) -> None:
    commands.say("squeue", "12|0|RUNNING|None|me|N|a\n")
    commands.say("sacct", "", "Slurm accounting storage is disabled\n", 1)
    assert query(entry(("a", 2, "12"))) == {(1, 0): TaskState("running", "RUNNING", "")}


Ask = Callable[[], Any]


@pytest.mark.parametrize(
    ("name", "ask"),
    [
        ("squeue", lambda: SLURM.query([entry(("a", 1, "12"))])),
        (
            "squeue",
            lambda: SLURM.find([PlannedJob(name="a", first_task=0, n_tasks=1, log="l")], "me"),
        ),
        ("scontrol", lambda: SLURM.max_array_size()),
        ("scancel", lambda: SLURM.cancel([AcceptedJob(name="a", job_id="12")])),
    ],
)
def test_a_failed_query_says_unknown_and_not_gone(commands: Commands, name: str, ask: Ask) -> None:
    with pytest.raises(SchedulerUnavailable, match=f"{name} is not on this host's PATH"):
        asyncio.run(ask())
    commands.say(name, "", "slurm_load: Unable to contact slurm controller\n(connect failure)\n", 1)
    with pytest.raises(SchedulerUnavailable) as caught:
        asyncio.run(ask())
    assert str(caught.value).startswith("slurm: slurm_load: Unable to contact slurm controller")
    assert "\n" not in str(caught.value)


def test_jobs_are_found_by_their_whole_names(commands: Commands) -> None:
    commands.say("squeue", "12|a|b\n12|a|b\n13|a\n14|a|bc\n")
    planned = [
        PlannedJob(name=name, first_task=0, n_tasks=1, log="l") for name in ("a|b", "a", "z")
    ]
    assert asyncio.run(SLURM.find(planned, "me")) == [
        AcceptedJob(name="a", job_id="13"),
        AcceptedJob(name="a|b", job_id="12"),
    ]


def test_cancelling_what_has_ended_is_no_error(commands: Commands) -> None:
    commands.say("scancel", "", "scancel: error: Kill job error on job id 12: Invalid job id\n", 1)
    asyncio.run(SLURM.cancel([AcceptedJob(name="a", job_id="12")]))
    assert commands.asked("scancel") == ["12"]
    asyncio.run(SLURM.cancel([]))
    assert commands.asked("scancel") == ["12"]


@pytest.mark.parametrize("name", ["kube", "", "slrum"])
def test_an_env_without_a_dialect_is_refused(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"has no asynchronous mode here; it works with .*local, "
    ):
        get_scheduler(name)
