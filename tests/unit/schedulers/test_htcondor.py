"""HTCondor's dialect: what its commands print, and what a job may inherit.

The commands are small programs; what they print has the form that condor_q(1), condor_history(1)
and condor_rm(1) give, and the wording of HTCondor 23.0. No real server was at hand.
"""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from espnet3.errors import ConfigError, SchedulerUnavailable
from espnet3.run_dir.submissions import KnownSubmission
from espnet3.schedulers.base import TaskState
from espnet3.schedulers.dialects.htcondor import HtcondorScheduler
from espnet3.schedulers.dialects.htcondor_description import Description
from espnet3.schedulers.dialects.htcondor_words import queued_words, task_state, waiting_words
from espnet3.specs.items import ItemRange
from espnet3.specs.models import (
    AcceptedJob,
    AcceptedJobs,
    PlannedJob,
    ProcessIdentity,
    Submission,
)

ME = ProcessIdentity(host="login", pid=1, started=0.0, user="me")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SINCE = f"EnteredCurrentStatus < {int(NOW.timestamp()) - 3600}"
OPTIONS: dict[str, Any] = {"cores": 1, "memory": "1GB", "disk": "1GB"}
ATTRIBUTES = (
    "ClusterId,ProcId,Owner,EspnetJob,JobStatus,HoldReason,HoldReasonCode,RemoveReason,ExitCode,"
    "ExitBySignal,ExitSignal,LastRejMatchReason"
)
SCRIPT = """\
#!/usr/bin/env condor_submit

batch_name = espnet3
RequestCpus = MY.DaskWorkerCores

Arguments = "-c 'export A=$(hostname)
exec python -m espnet3.worker ''/a ""b""'''"
Executable = /bin/sh

Queue
"""


def planned(n_tasks: int = 4, throttle: int | None = None) -> PlannedJob:
    """A job of a submission."""
    return PlannedJob(name="esp_array", first_task=0, n_tasks=n_tasks, log="1-0.{index}.log",
                      throttle=throttle)  # fmt: skip


def known(job_id: str | None, *, job: PlannedJob | None = None) -> KnownSubmission:
    """A submission of one job."""
    job = job or planned()
    submission = Submission(
        number=1, created=NOW, submitter=ME, scheduler="htcondor", n_workers=1, shards_per_job=1,
        options={}, worker_command=["python"], submit_command=["condor_submit"], script="",
        log_directory="/logs", parallel={"env": "htcondor"},
        ranks=ItemRange(start=0, stop=job.n_tasks), jobs=[job],
    )  # fmt: skip
    if job_id is None:
        return KnownSubmission(submission, None)
    accepted = [AcceptedJob(name=job.name, job_id=job_id)]
    recorded = AcceptedJobs(number=1, created=NOW, recorded_by=ME, jobs=accepted)
    return KnownSubmission(submission, recorded)


def ads(*shown: dict[str, Any]) -> str:
    """What -json prints."""
    own = {"ClusterId": 12, "Owner": "me", "EspnetJob": "esp_array"}
    return "[\n" + "\n,\n".join(json.dumps({**own, **ad}, indent=2) for ad in shown) + "\n]\n"


Commands = Callable[..., Callable[[], list[str]]]


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Put commands on PATH that do what is said; the result tells how they were called."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    calls = tmp_path / "calls"

    def make(**scripts: str) -> Callable[[], list[str]]:
        for name, script in {"condor_q": "", "condor_history": "", **scripts}.items():
            (tmp_path / name).write_text(
                f'#!/bin/bash\necho "{name} $*" >>{shlex.quote(str(calls))}\n{script}\n'
            )
            (tmp_path / name).chmod(0o755)
        return lambda: calls.read_text().splitlines() if calls.exists() else []

    return make


def printing(text: str, code: int = 0, err: str = "") -> str:
    """A script that prints and ends."""
    complain = f"printf %s {shlex.quote(err)} >&2; " if err else ""
    return f"printf %s {shlex.quote(text)}; {complain}exit {code}"


def settled(**options: Any) -> HtcondorScheduler:
    """A dialect that was told its options."""
    scheduler = HtcondorScheduler()
    scheduler.settle({**OPTIONS, **options})
    return scheduler


# Submitting


def test_the_description() -> None:
    job = planned(throttle=2)
    got = settled(walltime="1-12:00:00").amended(SCRIPT, job, "/logs", array=True, after=None)
    assert got == (
        "#!/usr/bin/env condor_submit\n\nRequestCpus = MY.DaskWorkerCores\n\n"
        """Arguments = "-c 'eval ""`printf ''%b\\n'' ""$@""`""' sh 'export A=\\0044(hostname)' """
        """'exec python -m espnet3.worker ''/a ""b""'''"\n"""
        "Executable = /bin/sh\nbatch_name = esp_array\ntransfer_executable = False\n"
        "periodic_remove = JobStatus == 2 && time() - JobCurrentStartDate > 129600\n"
        "max_materialize = 2\n\nQueue 4\n"
    )


def test_what_the_options_say_is_kept() -> None:
    script = SCRIPT.replace("batch_name = espnet3", "batch_name = mine").replace(
        "\n\nArguments", "\nTransfer_Executable = True\nPeriodic_Remove = X > 3\n\nArguments"
    )
    got = settled(walltime=60).amended(script, planned(1), "/logs", array=True, after=None)
    assert "batch_name = mine\n" in got
    assert "transfer_executable = False" not in got
    assert "periodic_remove = (X > 3) || (JobStatus == 2 && time() - JobCurrent" in got
    assert got.endswith("\n\nQueue 1\n")
    assert "max_materialize" not in got
    assert "periodic" not in settled().amended(SCRIPT, planned(), "/logs", array=True, after=None)


def test_a_description_of_another_form() -> None:
    with pytest.raises(ConfigError, match="the hook has changed the form"):
        Description(SCRIPT.replace("Queue", "Queue 3"))


def test_names_and_logs() -> None:
    scheduler = settled()
    words = scheduler.submit_arguments(planned(), "/logs", array=True)
    assert words == ["-terse", "-append", 'MY.EspnetJob = "esp_array"']
    export, log = scheduler.log_redirection(planned(), "/a $(ProcId)b", array=True)
    assert export.startswith("export ESPNET3_HTCONDOR_JOB=$(ClusterId).$(ProcId) ")
    assert log == "exec >>'/a $''(ProcId)b/1-0.'$(ProcId).log 2>&1"
    name = scheduler.unique_name('1st "x" 日本', "a1", 2, 3)
    assert name == "1st__x____-a1-0002-3"
    assert len(scheduler.unique_name("a" * 999, "a1", 2, 3)) < 130


@pytest.mark.parametrize(
    ("options", "field", "words"),
    [
        ({"disk": None}, "disk", "is missing"),
        ({"submit_command_extra": ["-name", "other"]}, "submit_command_extra", "has -name"),
        ({"submit_command_extra": ["-remote", "other"]}, "submit_command_extra", "SCHEDD_HOST"),
        ({"walltime": "soon"}, "walltime", "is 'soon'"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(ConfigError) as told:
        settled(**options)
    assert f"parallel.options.{field}" in str(told.value)
    assert words in str(told.value)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("04:00:00", 14400), (7200, 7200), ("90:30", 5430), ("1-12:00:00", 129600), ("soon", None)],
)
def test_walltimes(given: Any, seconds: float | None) -> None:
    assert HtcondorScheduler().walltime_seconds(given) == seconds


@pytest.mark.parametrize(
    ("output", "job_id"),
    [
        ("123.0 - 123.99\n", "123"),
        ("Welcome!\n2026.0 - 7.3\n  7.0 - 7.0  \n", "7"),
        ("8.0 - 8.0\n7.0 - 7.0\n", None),
        ("Submitting job(s).....\n5 job(s) submitted to cluster 45.\n", "45"),
        ("7\n", None),
        ("7.0 - 8.3\n", None),
        ("", None),
    ],
)
def test_job_ids(output: str, job_id: str | None) -> None:
    assert HtcondorScheduler().parse_job_id(output) == job_id


# In a job


@pytest.mark.parametrize(
    ("environ", "index", "job_id"),
    [
        ({"ESPNET3_HTCONDOR_JOB": "12.3"}, 3, "12.3"),
        ({"ESPNET3_HTCONDOR_JOB": "$(ClusterId).$(ProcId)"}, None, "$(ClusterId).$(ProcId)"),
        ({"_CONDOR_SLOT": "slot1_1"}, None, None),
    ],
)
def test_a_job_knows_itself(environ: dict[str, str], index: int | None, job_id: str | None) -> None:
    scheduler = HtcondorScheduler()
    assert scheduler.array_index(environ) == index
    assert scheduler.job_id(environ) == job_id
    assert scheduler.was_requeued(environ) == (job_id is not None)
    assert scheduler.task_name("12", 3) == "12.3"
    assert scheduler.task_name("12", None) == "12.0"


def test_what_a_job_leaves_does_not_leak() -> None:
    left = {"_CONDOR_JOB_AD": "/x", "_CONDOR_SLOT": "slot1", "_CONDOR_ANCESTOR_12": "12",
            "BATCH_SYSTEM": "HTCondor", "ESPNET3_HTCONDOR_JOB": "12.3"}  # fmt: skip
    kept = {
        "CONDOR_CONFIG": "/etc/c",
        "_CONDOR_SCHEDD_HOST": "s1",
        "_condor_POOL": "p",
        "HOME": "/",
    }
    assert HtcondorScheduler().scrubbed({**left, **kept}) == kept


# States


def test_an_array(commands: Commands) -> None:
    calls = commands(
        condor_q=printing(
            ads(
                {"ProcId": 2, "JobStatus": 2},
                {"ProcId": 3, "JobStatus": 1, "LastRejMatchReason": "no match found \n"},
                {"ProcId": 9, "JobStatus": 2},
                {"ProcId": 0, "JobStatus": 2, "EspnetJob": "of_another"},
            )
        ),
        condor_history=printing(
            ads(
                {"ProcId": 2, "JobStatus": 4, "ExitCode": 0},
                {"ProcId": 1, "JobStatus": 3, "RemoveReason": "via condor_rm (by user me)"},
                {"ProcId": 0, "JobStatus": 4, "ExitBySignal": False, "ExitCode": 1},
                {"ProcId": 0, "JobStatus": 4, "Owner": "somebody"},
            )
        ),
    )
    states = asyncio.run(HtcondorScheduler().query([known("12")]))
    assert states == {
        (1, 0): TaskState("ended", "", "exit code 1"),
        (1, 1): TaskState("ended", "", "via condor_rm (by user me)", 0, "cancelled"),
        (1, 2): TaskState("running", "Running"),
        (1, 3): TaskState("queued", "Idle", "no match found"),
    }
    assert calls() == [
        f"condor_q -allusers 12 -json -attributes {ATTRIBUTES}",
        f"condor_history -limit 4 -since {SINCE} 12 -json -attributes {ATTRIBUTES}",
    ]


def test_a_throttled_array(commands: Commands) -> None:
    factory = ads({"JobMaterializeNextProcId": 2, "JobMaterializePaused": 0})
    queue = ads({"ProcId": 1, "JobStatus": 2}, {"ProcId": 2, "JobStatus": 1})
    calls = commands(
        condor_q=f"[[ $* = *-factory* ]] && {{ {printing(factory)}; }}\n{printing(queue)}"
    )
    states = asyncio.run(HtcondorScheduler().query([known("12", job=planned(throttle=2))]))
    assert states == {
        (1, 1): TaskState("running", "Running"),
        (1, 2): TaskState("queued", "Idle"),
        (1, 3): TaskState("queued", "", "waits for another task of its cluster to end"),
    }
    assert calls()[0].startswith("condor_q -factory -allusers 12 -json")


@pytest.mark.parametrize("nothing", ["", "[\n]\n"])
def test_a_job_that_is_forgotten(commands: Commands, nothing: str) -> None:
    gone = "Couldn't find/remove all jobs in cluster 12\n"
    commands(
        condor_q=printing(nothing),
        condor_history=printing("", 1, "Error: no history file is defined"),
        condor_rm=printing("", 1, gone),
    )
    scheduler = HtcondorScheduler()
    assert asyncio.run(scheduler.query([known("12")])) == {}
    asyncio.run(scheduler.cancel([AcceptedJob(name="x", job_id="12")]))


@pytest.mark.parametrize("text", ['[\n{\n  "ClusterId": 12,', "-- Failed to fetch ads", "{}"])
def test_truncated_output(commands: Commands, text: str) -> None:
    commands(condor_q=printing(text))
    question = HtcondorScheduler().query([known("12")])
    if text == "{}":
        assert asyncio.run(question) == {}
        return
    with pytest.raises(SchedulerUnavailable, match="condor_q printed no JSON"):
        asyncio.run(question)


@pytest.mark.parametrize("err", ["", "-- Failed to fetch ads from: <10.0.0.1:9618> : login\n"])
def test_a_server_that_does_not_answer(commands: Commands, err: str) -> None:
    script = printing("", 1, err)
    commands(condor_q=script, condor_rm=script, condor_config_val=script)
    scheduler = HtcondorScheduler()
    for question in (
        scheduler.query([known("12")]),
        scheduler.query([known(None)]),
        scheduler.find([planned()], "me"),
        scheduler.cancel([AcceptedJob(name="x", job_id="12")]),
        scheduler.reasons(["12"]),
        *([scheduler.max_array_size()] if err else []),
    ):
        with pytest.raises(SchedulerUnavailable) as told:
            asyncio.run(question)
        assert (err.strip() or "exit code 1") in str(told.value)


@pytest.mark.parametrize("where", ["condor_q", "condor_history"])
def test_a_job_without_a_recorded_id(commands: Commands, where: str) -> None:
    shown = ads({"ProcId": 0, "JobStatus": 4, "ExitCode": 0}, {"EspnetJob": "of_another"})
    calls = commands(**{where: printing(shown)})
    found = asyncio.run(HtcondorScheduler().find([planned()], "me"))
    assert found == [AcceptedJob(name="esp_array", job_id="12")]
    asked = '-constraint stringListMember(EspnetJob, "esp_array") && Owner == "me"'
    assert calls()[0].startswith(f"condor_q -allusers {asked} -json")
    states = asyncio.run(HtcondorScheduler().query([known(None)]))
    assert states == {(1, 0): TaskState("ended")}


def test_names_that_would_be_expressions(commands: Commands) -> None:
    calls = commands()
    assert asyncio.run(HtcondorScheduler().find([planned()], 'me" || true || "')) == []
    assert calls() == []


def test_damaged_ids_are_not_handed_over(commands: Commands) -> None:
    calls = commands(condor_rm="")
    jobs = [AcceptedJob(name="x", job_id=i) for i in ("-all", "12", "me", "1 2", "", "1.2")]
    asyncio.run(HtcondorScheduler().cancel(jobs))
    assert calls() == ["condor_rm 12"]


@pytest.mark.parametrize(
    ("script", "size"),
    [
        (printing("5000\n"), 5000),
        (printing("", 1, "Not defined: MAX_JOBS_PER_SUBMISSION\n"), 20000),
        (printing("2 * 10\n"), 20000),
    ],
)
def test_array_sizes(commands: Commands, script: str, size: int) -> None:
    commands(condor_config_val=script)
    assert asyncio.run(HtcondorScheduler().max_array_size()) == size


OVER_TIME = ("The job attribute PeriodicRemove expression 'JobStatus == 2 && time() - "
             "JobCurrentStartDate > 60' evaluated to TRUE")  # fmt: skip

BOTH = OVER_TIME.replace("'JobStatus", "'(MemoryUsage > 2000) || (JobStatus").replace("60'", "60)'")


@pytest.mark.parametrize(
    ("ad", "in_queue", "told"),
    [
        ({"JobStatus": 1}, True, TaskState("queued", "Idle")),
        ({"JobStatus": 2}, True, TaskState("running", "Running")),
        ({"JobStatus": 3}, True, TaskState("running", "Removed", "is being removed")),
        ({"JobStatus": 4, "ExitCode": 0}, True, TaskState("ended")),
        ({"JobStatus": 6}, True, TaskState("running", "Transferring Output")),
        ({"JobStatus": 7}, True, TaskState("running", "Suspended", "is suspended")),
        ({"JobStatus": 9}, True, TaskState("queued", "JobStatus 9")),
        ({}, True, TaskState("queued", "JobStatus None")),
        ({"JobStatus": 5, "HoldReasonCode": 1, "HoldReason": "via condor_hold"}, True,
         TaskState("queued", "Held",
                   "held: via condor_hold; `condor_release 7.2` lets it start")),
        ({"JobStatus": 5, "HoldReasonCode": 46, "HoldReason": "too long"}, True,
         TaskState("ended", "Held", "held: too long; `condor_release 7.2` lets it start", 0,
                   "time limit")),
        ({"JobStatus": 5, "HoldReasonCode": 34}, True,
         TaskState("ended", "Held", "held: no reason given; `condor_release 7.2` lets it start", 0,
                   "out of memory")),
        ({"JobStatus": 3, "RemoveReason": OVER_TIME}, False,
         TaskState("ended", "", OVER_TIME, 0, "time limit")),
        ({"JobStatus": 3, "RemoveReason": "The system macro SYSTEM_PERIODIC_REMOVE expression "
          "'ResidentSetSize > 9' evaluated to TRUE"}, False,
         TaskState("ended", "", "The system macro SYSTEM_PERIODIC_REMOVE expression "
                   "'ResidentSetSize > 9' evaluated to TRUE", 0, "out of memory")),
        # The user's own expression, and that of the walltime, are one; which was true is not said.
        ({"JobStatus": 3, "RemoveReason": BOTH}, False,
         TaskState("ended", "", BOTH, 0, "a limit of memory or time")),
        # The words of a person who removed it.
        ({"JobStatus": 3, "RemoveReason": "via condor_rm: its expression needs Memory"}, False,
         TaskState("ended", "", "via condor_rm: its expression needs Memory", 0, "cancelled")),
        ({"JobStatus": 3}, False, TaskState("ended", stopped="cancelled")),
        ({"JobStatus": 4, "ExitBySignal": True, "ExitSignal": 9}, False,
         TaskState("ended", "", "signal 9", 9)),
        ({"JobStatus": 4, "ExitBySignal": False, "ExitCode": 143}, False,
         TaskState("ended", "", "signal 15", 15)),
        ({"JobStatus": 4, "ExitCode": "/Expr(undefined)/"}, False, TaskState("ended")),
    ],
)  # fmt: skip
def test_states(ad: dict[str, Any], in_queue: bool, told: TaskState) -> None:
    assert task_state({"ClusterId": 7, "ProcId": 2, **ad}, in_queue=in_queue) == told


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ({}, "waits for another task of its cluster to end"),
        ({"JobMaterializePaused": 1}, "held, `condor_release 7` lets it start"),
        ({"JobMaterializePaused": -1, "JobMaterializePauseReason": "no digest"},
         "HTCondor makes no more of its jobs: no digest"),
        ({"JobMaterializePaused": 3}, "waits for another task of its cluster to end"),
    ],
)  # fmt: skip
def test_why_a_task_is_no_job_yet(factory: dict[str, Any], words: str) -> None:
    assert waiting_words({"ClusterId": 7, **factory}) == words


def test_reasons_and_version(commands: Commands) -> None:
    commands(
        condor_q=printing(ads({"ProcId": 0, "JobStatus": 5, "HoldReason": "disk  full"})),
        condor_version=printing("$CondorVersion: 23.0.4 2024-02-08 $\n$CondorPlatform: X $\n"),
    )
    scheduler = HtcondorScheduler()
    words = "held: disk full; `condor_release 12.0` lets it start"
    assert asyncio.run(scheduler.reasons(["12", "-all"])) == words
    assert asyncio.run(scheduler.version()) == "$CondorVersion: 23.0.4 2024-02-08 $"
    assert queued_words({"JobStatus": 1}) == ""
