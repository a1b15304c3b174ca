"""HTCondor's dialect: what its commands print, and what a job may inherit.

The commands are small programs; what they print has the form that condor_q(1), condor_history(1)
and condor_rm(1) give, and the wording of HTCondor 23.0. No real server was at hand.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from espnet3.errors import ConfigError, SchedulerUnavailable
from espnet3.run_dir.submissions import KnownSubmission
from espnet3.schedulers.base import TaskState
from espnet3.schedulers.commands import Answer
from espnet3.schedulers.condor_description import Description
from espnet3.schedulers.dialect import JobParts
from espnet3.schedulers.dialects.htcondor import queued_words, task_state, waiting_words
from espnet3.specs.models import AcceptedJob, PlannedJob
from tests.support.asking import NOW, Commands, entry, parts, system

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
    return entry((job.name, job.n_tasks, job_id), scheduler="htcondor", throttle=job.throttle)


def ads(*shown: dict[str, Any]) -> str:
    """What -json prints."""
    own = {"ClusterId": 12, "Owner": "me", "EspnetJob": "esp_array"}
    return "[\n" + "\n,\n".join(json.dumps({**own, **ad}, indent=2) for ad in shown) + "\n]\n"


Says: TypeAlias = Answer | Callable[[str], Answer]
Asked: TypeAlias = Callable[..., Callable[[], list[str]]]


@pytest.fixture
def asked(commands: Commands) -> Asked:
    """Let commands say something, by their words where it is a function; what they were asked."""

    def make(**says: Says) -> Callable[[], list[str]]:
        silent = printing("")
        for name, said in {"condor_q": silent, "condor_history": silent, **says}.items():

            def told(words: list[str], environ: Any, said: Says = said) -> Answer:
                return said if isinstance(said, Answer) else said(" ".join(words))

            commands.answer(name, told)
        return commands.lines

    return make


def printing(text: str, code: int = 0, err: str = "") -> Answer:
    """What a command says that prints this and ends."""
    return Answer(code, text, err)


def settled(job: PlannedJob | None = None, **options: Any) -> JobParts:
    """What a job is submitted with, of options that were checked."""
    condor = system("htcondor")
    condor.dialect.check({**OPTIONS, **options})
    return parts(condor, job or planned(), **{**OPTIONS, **options})


# Submitting


def test_the_description() -> None:
    job = planned(throttle=2)
    got = settled(job, walltime="1-12:00:00").amend(SCRIPT)
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
    got = settled(planned(1), walltime=60).amend(script)
    assert "batch_name = mine\n" in got
    assert "transfer_executable = False" not in got
    assert "periodic_remove = (X > 3) || (JobStatus == 2 && time() - JobCurrent" in got
    assert got.endswith("\n\nQueue 1\n")
    assert "max_materialize" not in got
    assert "periodic" not in settled(planned()).amend(SCRIPT)


def test_a_description_of_another_form() -> None:
    with pytest.raises(ConfigError, match="the hook has changed the form"):
        Description(SCRIPT.replace("Queue", "Queue 3"))


def test_names_and_logs() -> None:
    scheduler = system("htcondor")
    words = parts(scheduler, planned()).arguments
    assert words == ["-terse", "-append", 'MY.EspnetJob = "esp_array"']
    export, log = parts(scheduler, planned(), "/a $(ProcId)b").prologue
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
    assert system("htcondor").walltime_seconds(given) == seconds


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
    assert system("htcondor").parse_job_id(output) == job_id


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
    scheduler = system("htcondor")
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
    assert system("htcondor").scrubbed({**left, **kept}) == kept


# States


def test_an_array(asked: Asked) -> None:
    calls = asked(
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
    states = asyncio.run(system("htcondor").query([known("12")]))
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


def test_a_throttled_array(asked: Asked) -> None:
    factory = ads({"JobMaterializeNextProcId": 2, "JobMaterializePaused": 0})
    queue = ads({"ProcId": 1, "JobStatus": 2}, {"ProcId": 2, "JobStatus": 1})
    calls = asked(condor_q=lambda line: printing(factory if "-factory" in line else queue))
    states = asyncio.run(system("htcondor").query([known("12", job=planned(throttle=2))]))
    assert states == {
        (1, 1): TaskState("running", "Running"),
        (1, 2): TaskState("queued", "Idle"),
        (1, 3): TaskState("queued", "", "waits for another task of its cluster to end"),
    }
    assert calls()[0].startswith("condor_q -factory -allusers 12 -json")


@pytest.mark.parametrize("nothing", ["", "[\n]\n"])
def test_a_job_that_is_forgotten(asked: Asked, nothing: str) -> None:
    gone = "Couldn't find/remove all jobs in cluster 12\n"
    asked(
        condor_q=printing(nothing),
        condor_history=printing("", 1, "Error: no history file is defined"),
        condor_rm=printing("", 1, gone),
    )
    scheduler = system("htcondor")
    assert asyncio.run(scheduler.query([known("12")])) == {}
    asyncio.run(scheduler.cancel([AcceptedJob(name="x", job_id="12")]))


@pytest.mark.parametrize("text", ['[\n{\n  "ClusterId": 12,', "-- Failed to fetch ads", "{}"])
def test_truncated_output(asked: Asked, text: str) -> None:
    asked(condor_q=printing(text))
    question = system("htcondor").query([known("12")])
    if text == "{}":
        assert asyncio.run(question) == {}
        return
    with pytest.raises(SchedulerUnavailable, match="condor_q printed no JSON"):
        asyncio.run(question)


@pytest.mark.parametrize("err", ["", "-- Failed to fetch ads from: <10.0.0.1:9618> : login\n"])
def test_a_server_that_does_not_answer(asked: Asked, err: str) -> None:
    script = printing("", 1, err)
    asked(condor_q=script, condor_rm=script, condor_config_val=script)
    scheduler = system("htcondor")
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
def test_a_job_without_a_recorded_id(asked: Asked, where: str) -> None:
    shown = ads({"ProcId": 0, "JobStatus": 4, "ExitCode": 0}, {"EspnetJob": "of_another"})
    calls = asked(**{where: printing(shown)})
    found = asyncio.run(system("htcondor").find([planned()], "me"))
    assert found == [AcceptedJob(name="esp_array", job_id="12")]
    search = '-constraint stringListMember(EspnetJob, "esp_array") && Owner == "me"'
    assert calls()[0].startswith(f"condor_q -allusers {search} -json")
    states = asyncio.run(system("htcondor").query([known(None)]))
    assert states == {(1, 0): TaskState("ended")}


def test_names_that_would_be_expressions(asked: Asked) -> None:
    calls = asked()
    assert asyncio.run(system("htcondor").find([planned()], 'me" || true || "')) == []
    assert calls() == []


def test_damaged_ids_are_not_handed_over(asked: Asked) -> None:
    calls = asked(condor_rm=printing(""))
    jobs = [AcceptedJob(name="x", job_id=i) for i in ("-all", "12", "me", "1 2", "", "1.2")]
    asyncio.run(system("htcondor").cancel(jobs))
    assert calls() == ["condor_rm 12"]


@pytest.mark.parametrize(
    ("script", "size"),
    [
        (printing("5000\n"), 5000),
        (printing("", 1, "Not defined: MAX_JOBS_PER_SUBMISSION\n"), 20000),
        (printing("2 * 10\n"), 20000),
    ],
)
def test_array_sizes(asked: Asked, script: Answer, size: int) -> None:
    asked(condor_config_val=script)
    assert asyncio.run(system("htcondor").max_array_size()) == size


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


def test_reasons_and_version(asked: Asked) -> None:
    asked(
        condor_q=printing(ads({"ProcId": 0, "JobStatus": 5, "HoldReason": "disk  full"})),
        condor_version=printing("$CondorVersion: 23.0.4 2024-02-08 $\n$CondorPlatform: X $\n"),
    )
    scheduler = system("htcondor")
    words = "held: disk full; `condor_release 12.0` lets it start"
    assert asyncio.run(scheduler.reasons(["12", "-all"])) == words
    assert asyncio.run(scheduler.version()) == "$CondorVersion: 23.0.4 2024-02-08 $"
    assert queued_words({"JobStatus": 1}) == ""
