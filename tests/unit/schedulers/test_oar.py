"""OAR's dialect, with outputs as OAR 2.5.9 on Debian 12 printed them, shortened."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from espnet3.errors import SchedulerUnavailable
from espnet3.schedulers.base import TaskState
from espnet3.schedulers.commands import Answer
from espnet3.schedulers.dialects.oar import task_state
from espnet3.specs.models import AcceptedJob, PlannedJob
from tests.support import asking
from tests.support.asking import NOW, Commands, parts, system, waiting

OAR = system("oar")
MESSAGE = "R=1,W=0:2:0,J=B,N=arr (Karma=0.000,quota_ok)"
EVENTS = """\
2026-11-24 04:42:25> [3] FRAG_JOB_REQUEST: User root requested to frag the job 3
2026-11-24 04:42:26> [3] SEND_KILL_JOB: [Leon] Send the kill signal to oarexec on node1 for job 3
2026-11-24 04:42:26> [3] SWITCH_INTO_ERROR_STATE: [bipbip 3] Ask to change the job state
2026-11-24 04:42:30> [4] FRAG_JOB_REQUEST: User root requested to frag the job 4
2026-11-24 04:42:30> [4] WALLTIME: [sarko] Job [4] from 1795495339 with 2; current time=1795495350 (Elapsed)
2026-11-24 04:42:32> [4] SWITCH_INTO_ERROR_STATE: [bipbip 4] Ask to change the job state
2026-11-24 04:42:22> [6] SCHEDULER_PRIORITY_UPDATED_START: Scheduler priority for job 6 updated (network_address/resource_id)
2026-11-24 04:42:34> [6] BESTEFFORT_KILL: [MetaSched] kill the besteffort job 6
2026-11-24 04:42:34> [6] FRAG_JOB_REQUEST: User root requested to frag the job 6
2026-11-24 04:42:36> [6] SWITCH_INTO_ERROR_STATE: [bipbip 6] Ask to change the job state
2026-11-24 04:42:56> [9] SWITCH_INTO_ERROR_STATE: [bipbip 9] Ask to change the job state
2026-11-24 04:42:56> [9] WORKING_DIRECTORY: [bipbip 9] Cannot go into the working directory /nonexistent of the job on node node1
"""  # noqa: E501
entry = partial(asking.entry, scheduler="oar")


def row(job_id: int, state: str, *, array: int = 0, index: int = 1, **more: Any) -> dict[str, Any]:
    """A job as `oarstat --json` shows it; the fields that are not asked for are left out."""
    return {
        "Job_Id": job_id, "array_id": array or job_id, "array_index": index, "state": state,
        "owner": "me", "name": "arr", "message": MESSAGE, "exit_code": None, **more,
    }  # fmt: skip


class OarCommands(Commands):
    """oarstat with its three forms, and oardel."""

    def show(self, *rows: dict[str, Any], events: str = "", around: str = "") -> None:
        """Let oarstat know these jobs."""
        text = json.dumps({str(r["Job_Id"]): r for r in rows}, indent=3)
        told = f"{around}{text}\n{around}"
        self.answer(
            "oarstat",
            lambda words, environ: Answer(0, events if "--events" in words else told, ""),
        )


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> OarCommands:
    """Let oarstat know nothing."""
    commands = OarCommands()
    commands.say("oarstat")
    monkeypatch.setattr(Commands, "current", commands, raising=False)
    return commands


# --- submitting ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "job_id"),
    [
        ("[ADMISSION RULE] Modify resource description\nOAR_JOB_ID=12\n", "12"),
        ("OAR_JOB_ID=2\nOAR_JOB_ID=3\nOAR_JOB_ID=4\nOAR_ARRAY_ID=2\n", "2"),
        ("Welcome, OAR_JOB_ID=9 is taken\nOAR_JOB_ID=12 \nYour quota: 99\n", "12"),
        ("OAR_JOB_ID=9\nOAR_JOB_ID=12\n", None),
        ("OAR_JOB_ID=-5\n", None),
        ("OAR_JOB_ID=\n", None),
        ("", None),
    ],
)
def test_the_job_id_is_found_between_banners(output: str, job_id: str | None) -> None:
    assert OAR.parse_job_id(output) == job_id


@pytest.mark.parametrize(
    ("job", "array", "index", "task", "requeued"),
    [("7", "7", "1", 0, False), ("9", "7", "3", 2, False), ("11", "7", "3", 2, True)],
)
def test_a_worker_finds_its_task(
    job: str, array: str, index: str, task: int, requeued: bool
) -> None:
    environ = {"OAR_JOB_ID": job, "OAR_ARRAY_ID": array, "OAR_ARRAY_INDEX": index}
    assert OAR.job_id(environ) == job
    assert OAR.array_index(environ) == task
    assert OAR.was_requeued(environ) is requeued
    assert OAR.array_index({}) is None
    assert OAR.job_id({}) is None
    assert not OAR.was_requeued({})


@pytest.mark.parametrize("prefix", ["it's; drop table", "日本語", "-a/b", "x" * 300, ""])
def test_names_that_need_no_quotes(prefix: str) -> None:
    name = OAR.unique_name(prefix, "0123456789ab", 12, 345)
    assert name.endswith("-0123456789ab-0012-345")
    assert len(name) <= 100
    assert set(name) <= {*"abcdefghijklmnopqrstuvwxyz0123456789_-."}


def test_arrays_logs_and_dependencies_as_oarsub_takes_them() -> None:
    job = PlannedJob(name="n", first_task=100, n_tasks=50, log="0001.{index}.log")
    words = parts(OAR, job, "/logs", array=True).arguments
    assert words[:2] == ["--name=n", "--stdout=/logs/0001.oar.log"]
    assert words[-1] == "--array=50"
    one = job.model_copy(update={"n_tasks": 1})
    assert "--array" not in " ".join(parts(OAR, one, "/logs", array=True).arguments)
    assert "--array" not in " ".join(parts(OAR, job, "/logs", array=False).arguments)
    assert "--stdout=/dev/null" in parts(OAR, job, "/it's %jobid%", array=True).arguments
    [line] = parts(OAR, job, "/it's", array=True).prologue
    assert line == """exec >>'/it'"'"'s/0001.'"$OAR_ARRAY_INDEX".log 2>&1"""
    assert OAR.log_file(job, 0) == "0001.1.log"
    assert waiting(OAR, "12") == ["--anterior=12"]
    assert waiting(OAR, "12", "7") == ["--anterior=12", "--anterior=7"]


async def test_a_job_that_waits_for_an_array_names_its_tasks(commands: OarCommands) -> None:
    """Those that are not over, also where OAR has submitted one again."""
    commands.show(
        row(3, "Terminated", array=3, exit_code=0),
        row(5, "Running", array=3, index=2),
        row(11, "Waiting", array=3, index=3),
        row(7, "Waiting", array=7),
        row(12, "Waiting", array=12),
    )
    assert await OAR.awaited(["7", "3", "<id of n>"]) == ["<id of n>", "5", "7", "11"]
    [asked] = [word for word in commands.asked("oarstat") if "array_id" in word]
    assert asked.startswith("(array_id in (7,3) and state not in ('Error','Terminated'))")
    assert await OAR.awaited(["<id of n>"]) == ["<id of n>"]


def test_the_script_becomes_the_command() -> None:
    """GPUs and the like are directives, whose words oarsub gets without their quotes."""
    script = (
        "#!/usr/bin/env bash\n\n#OAR -n name\n#OAR -l /nodes=1/gpu=1,walltime=2:0:0\n"
        "#OAR -p \"gpu_model = 'A100'\"\n# a comment\ncat <<end\n# kept\nend\nexec python\n"
    )
    call = OAR.dialect.submit_call(["oarsub", "--name=n", "--array=2"], "/script", script, {})
    assert call.words[:-1] == [
        "oarsub", "-n", "name", "-l", "/nodes=1/gpu=1,walltime=2:0:0", "-p", "gpu_model = 'A100'",
        "--name=n", "--array=2",
    ]  # fmt: skip
    assert call.words[-1] == "\n# a comment\ncat <<end\n# kept\nend\nexec python\n"


@pytest.mark.parametrize(
    ("walltime", "seconds"),
    [
        ("2", 7200), (2, 7200), ("1:30", 5400), ("04:00:00", 14400), ("0:0:10", 10),
        (None, None), ("1-12:00:00", None), ("2h", None),
    ],
)  # fmt: skip
def test_walltimes(walltime: object, seconds: float | None) -> None:
    assert OAR.walltime_seconds(walltime) == seconds


# --- states -------------------------------------------------------------------------------------


async def test_an_array_whose_tasks_end_in_all_ways(commands: OarCommands) -> None:
    commands.show(
        row(3, "Error", array=3),
        row(4, "Error", array=3, index=2),
        row(5, "Running", array=3, index=3),
        row(6, "Error", array=3, index=4),
        row(7, "Terminated", array=3, index=5, exit_code=9),
        row(8, "Terminated", array=3, index=6, exit_code=768),
        row(9, "Error", array=3, index=7),
        events=EVENTS,
        around="Welcome to the frontend\n",
    )
    known = entry(("arr", 8, "3"))
    assert await OAR.query([known]) == {
        (1, 0): TaskState("ended", "Error", stopped="cancelled"),
        (1, 1): TaskState("ended", "Error", stopped="time limit"),
        (1, 2): TaskState("running", "Running"),
        (1, 3): TaskState("ended", "Error", stopped="preempted"),
        (1, 4): TaskState("ended", "Terminated", "signal 9", 9),
        (1, 5): TaskState("ended", "Terminated", "exit code 3"),
        (1, 6): TaskState(
            "ended",
            "Error",
            "Cannot go into the working directory /nonexistent of the job on node node1",
        ),
    }
    asked = commands.asked("oarstat")
    assert len([word for word in asked if word.startswith("(array_id in (3))")]) == 1
    assert [word for word in asked if word.startswith("--job=")] == [
        "--job=3", "--job=4", "--job=6", "--job=9",
    ]  # fmt: skip


async def test_a_job_that_oar_has_submitted_again(commands: OarCommands) -> None:
    commands.show(row(12, "Running", array=3), row(3, "Error", array=3), events=EVENTS)
    known = entry(("arr", 1, "3"))
    assert await OAR.query([known]) == {(1, 0): TaskState("running", "Running")}


async def test_jobs_of_others_are_not_ours(commands: OarCommands) -> None:
    later = int(NOW.timestamp()) + 86400
    used_again = row(3, "Running", name="other", submissionTime=later)
    commands.show(used_again, row(4, "Running", owner="you"))
    assert await OAR.query([entry(("arr", 1, "3"))]) == {}
    assert await OAR.query([entry(("arr", 1, None))]) == {}
    assert await OAR.find([entry(("arr", 1, None)).submission.jobs[0]], "me") == []


async def test_a_job_of_another_name_and_of_that_time_is_ours(commands: OarCommands) -> None:
    commands.show(row(3, "Running", name="other", submissionTime=int(NOW.timestamp())))
    [state] = (await OAR.query([entry(("arr", 1, "3"))])).values()
    assert state.state == "running"


async def test_unrecorded_jobs_are_found_by_their_names(commands: OarCommands) -> None:
    commands.show(row(3, "Hold", array=3), row(4, "Waiting", array=3, index=2))
    known = entry(("arr", 2, None))
    states = await OAR.query([known])
    assert [state.state for state in states.values()] == ["queued", "queued"]
    assert states[1, 0].reason == "held, `oarresume` lets it start"
    found = await OAR.find(known.submission.jobs, "me")
    assert found == [AcceptedJob(name="arr", job_id="3")]


@pytest.mark.parametrize(
    ("out", "err", "code"),
    [
        ("", "DB connection error, exiting.\n", 25),
        ("", "", 0),  # so it is where the database does not understand the question
        ("Welcome\n", "", 0),
        ('{"3": {"array_id"', "", 0),
        ("", "No Perl JSON module is available on the system.\n", 1),
    ],
)
async def test_an_oarstat_that_does_not_know(
    commands: OarCommands, out: str, err: str, code: int
) -> None:
    commands.say("oarstat", out, err, code)
    with pytest.raises(SchedulerUnavailable):
        await OAR.query([entry(("arr", 1, "3"))])
    with pytest.raises(SchedulerUnavailable):
        await OAR.find([entry(("arr", 1, None)).submission.jobs[0]], "me")


async def test_damaged_ids_and_names_reach_no_command(commands: OarCommands) -> None:
    bad = ["1) or (1=1", "--sql", "", "1 2"]
    for text in bad:
        assert await OAR.query([entry(("arr", 1, text))]) == {}
        named = PlannedJob(name=f"'{text}", first_task=0, n_tasks=1, log="l")
        assert await OAR.find([named], "me") == []
        assert await OAR.reasons([text]) == ""
    await OAR.cancel([AcceptedJob(name="arr", job_id=text) for text in bad])
    assert await OAR.find([PlannedJob(name="n", first_task=0, n_tasks=1, log="l")], "m'e") == []
    assert commands.asked("oarstat") == []


@pytest.mark.parametrize(
    ("err", "code", "fine"),
    [
        ("", 0, True),
        ("Cannot frag 2 ; This job was already killed.\n", 6, True),
        ('[ERROR] "999" is not a valid array job\n', 4, True),
        ("Cannot frag 2 ; You are not the right user.\n", 1, False),
        (
            "Cannot frag 2 ; You are not the right user.\n"
            "Cannot frag 3 ; This job was already killed.\n",
            6,
            False,
        ),
        ("Cannot connect to localhost:6666\n", 2, False),
    ],
)
async def test_cancelling(commands: OarCommands, err: str, code: int, fine: bool) -> None:
    commands.say("oardel", "Deleting the job = 2 ...", err, code)
    jobs = [AcceptedJob(name="arr", job_id="2"), AcceptedJob(name="b", job_id="3")]
    if fine:
        await OAR.cancel(jobs)
    else:
        with pytest.raises(SchedulerUnavailable):
            await OAR.cancel(jobs)
    assert commands.asked("oardel") == ["--array", "2", "3"]


async def test_why_jobs_wait(commands: OarCommands) -> None:
    waits = "Cannot determine scheduling time due to dependency with the job 5"
    commands.show(row(3, "Waiting"), row(8, "Waiting", message=waits), row(9, "Running"))
    assert await OAR.reasons(["3", "8"]) == f"Waiting, Waiting {waits}"


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ("Waiting", "queued"), ("toLaunch", "queued"), ("Launching", "queued"),
        ("Running", "running"), ("Suspended", "running"), ("Finishing", "running"),
        ("toError", "running"), ("Terminated", "ended"), ("Error", "ended"),
    ],
)  # fmt: skip
def test_every_state_has_a_meaning(state: str, told: str) -> None:
    assert task_state(state, MESSAGE).state == told


def test_tasks_for_a_person() -> None:
    assert OAR.task_name("12", None) == "12"
    assert OAR.task_name("12", 0) == "12 (index 1)"
