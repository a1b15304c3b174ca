"""Moab's dialect: what its commands print, and what a job may inherit.

What the commands say has the form of the manual's pages for Moab 9.1,
and of answers that users of real servers have published. No real server was at hand.
"""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import pytest

from espnet3.errors import SchedulerUnavailable
from espnet3.schedulers.base import TaskState
from espnet3.schedulers.commands import Answer
from espnet3.schedulers.dialects.moab import task_state
from espnet3.specs.models import AcceptedJob, PlannedJob
from tests.support.asking import NOW, Commands, entry, parts, system, waiting

NAME = "esp_array"
LIVE, ENDED = ("active", "eligible", "blocked"), ("completed",)
Rows = dict[str, list[dict[str, str]]]


def planned(n_tasks: int = 4, throttle: int | None = None) -> PlannedJob:
    """A job of a submission."""
    return PlannedJob(
        name=NAME, first_task=0, n_tasks=n_tasks, log="1-0.{index}.log", throttle=throttle
    )


def data(lists: tuple[str, ...], rows: Rows) -> str:
    """What `showq --xml` prints."""
    queues = ""
    for name in lists:
        jobs = "".join(
            f"<job {' '.join(f'{key}={quoteattr(value)}' for key, value in row.items())}/>"
            for row in rows.get(name, [])
        )
        queues += f'<queue count="1" option="{name}">{jobs}</queue>'
    return f'\n<Data><Object>queue</Object><cluster LocalUpNodes="4"/>{queues}</Data>\n'


def row(job_id: str, state: str, **more: str) -> dict[str, str]:
    """A job in it."""
    return {"GJID": job_id, "JobID": job_id, "JobName": NAME, "State": state, "User": "me", **more}


def showq(commands: Commands, **lists: list[dict[str, str]]) -> None:
    """Let showq print these lists."""
    answer(commands, data(LIVE, lists), data(ENDED, lists))


def answer(commands: Commands, live: str, ended: str) -> None:
    """Let showq print these texts."""
    commands.answer(
        "showq", lambda words, environ: Answer(0, ended if words[1] == "-c" else live, "")
    )


def query(job: tuple[str, int, str | None]) -> dict[tuple[int, int], TaskState]:
    """The states of a submission of one job."""
    return dict(asyncio.run(system("moab").query([entry(job, scheduler="moab")])))


# Submitting


def test_an_array() -> None:
    words = parts(system("moab"), planned(throttle=2), "/logs", array=True).arguments
    assert " ".join(words) == "-E -N esp_array -j oe -o /dev/null -t esp_array.[0-3]%2"
    assert waiting(system("moab"), "Moab.12") == ["-l", "depend=afterany:Moab.12"]
    assert waiting(system("moab"), "Moab.12", "7") == ["-l", "depend=afterany:Moab.12:7"]


@pytest.mark.parametrize(("n_tasks", "array"), [(1, True), (1, False), (4, False)])
def test_no_array(n_tasks: int, array: bool) -> None:
    job = planned(n_tasks)
    words = parts(system("moab"), job, "/logs", array=array).arguments
    assert words == ["-E", "-N", "esp_array", "-j", "oe", "-o", "/dev/null"]
    assert parts(system("moab"), job, "/a b:c", array=array).prologue == [
        "exec >>'/a b:c/1-0.'0.log 2>&1"
    ]


@pytest.mark.parametrize(
    ("index", "code", "log"), [("3", 0, "1-0.3.log"), (None, 2, "1-0.unknown.log")]
)
def test_a_task_without_an_index_ends_at_once(
    tmp_path: Path, index: str | None, code: int, log: str
) -> None:
    """It would compute what the first task computes, as all others would."""
    lines = parts(system("moab"), planned(), str(tmp_path), array=True).prologue
    environ = {} if index is None else {"MOAB_JOBARRAYINDEX": index}
    done = subprocess.run(["/bin/sh", "-c", "\n".join([*lines, "echo begun"])], env=environ)
    text = (tmp_path / log).read_text()
    assert done.returncode == code
    assert text == "begun\n" if code == 0 else "MOAB_JOBARRAYINDEX: is not set here" in text


def test_what_the_script_asks_for() -> None:
    script = "#!/bin/bash\n\n#PBS -N a_name\n#PBS -l {}\n#PBS -l walltime=1\necho\n"
    amended = parts(system("moab"), planned()).amend(script.format("select=1:ncpus=4:mem=8GB"))
    asked = "#!/bin/bash\n\n#PBS -l {}\n#PBS -l walltime=1\necho\n"
    assert amended == asked.format("nodes=1:ppn=4,mem=8GB")
    own = parts(system("moab"), planned()).amend(script.format("nodes=1:ppn=4:gpus=1"))
    assert own == asked.format("nodes=1:ppn=4:gpus=1")


@pytest.mark.parametrize("prefix", ["espnet3", "1st", "日本語", "-N", "a" * 300, "", "x-7"])
def test_unique_names(prefix: str) -> None:
    name = system("moab").unique_name
    names = {name(prefix, run, n, p) for run in ("a", "b") for n in range(9) for p in range(99)}
    assert len(names) == 2 * 9 * 99
    assert all(len(n) <= 15 and n[0].isalpha() and n.isascii() for n in names)
    assert all(n.replace("_", "").isalnum() for n in names)


@pytest.mark.parametrize(
    ("output", "job_id"),
    [
        ("\nMoab.123\n", "Moab.123"),
        ("\n123\n\n", "123"),
        ("Welcome 2026!\n\nMoab.7\nquota: 12 of 20\n", "Moab.7"),
        ("Welcome!\n2026\n\nMoab.7\n", None),
        ("Moab.7\n1200\n", None),
        ("\nMoab.7[]\n", "Moab.7"),
        ("my-cluster.7\n", "my-cluster.7"),
        ("123.head.site.edu\n", "123.head.site.edu"),
        ("ERROR:  cannot locate class 'x'\n", None),
        ("Moab.7; rm -rf x\n", None),
        ("", None),
    ],
)
def test_job_ids(output: str, job_id: str | None) -> None:
    assert system("moab").parse_job_id(output) == job_id


@pytest.mark.parametrize(
    ("given", "got", "seconds"),
    [
        ("04:00:00", "04:00:00", 14400),
        (7200, 7200, 7200),
        ("90:30", "90:30", 5430),
        ("1:12:00:00", "1:12:00:00", 129600),
        ("1-12:00:00", "36:00:00", 129600),
        ("1:2:3:4:5", "1:2:3:4:5", None),
        ("soon", "soon", None),
    ],
)
def test_walltimes(given: Any, got: Any, seconds: float | None) -> None:
    assert system("moab").dialect.adapted({"walltime": given}) == {"walltime": got}
    assert system("moab").walltime_seconds(given) == seconds


# In a job


@pytest.mark.parametrize(
    ("environ", "index"),
    [
        ({"MOAB_JOBID": "Moab.12[3]", "MOAB_JOBARRAYINDEX": "3", "PBS_JOBID": "77.head"}, 3),
        ({"MOAB_JOBID": "Moab.12", "MOAB_JOBARRAYINDEX": ""}, None),
        ({"MOAB_JOBID": "Moab.12", "PBS_ARRAYID": "3"}, None),
    ],
)
def test_a_job_knows_itself(environ: dict[str, str], index: int | None) -> None:
    scheduler = system("moab")
    assert scheduler.array_index(environ) == index
    assert scheduler.job_id(environ) == environ["MOAB_JOBID"]
    assert scheduler.was_requeued(environ)
    assert not scheduler.was_requeued({})
    assert scheduler.task_name("Moab.12", 3) == "Moab.12[3]"
    assert scheduler.task_name("Moab.12", None) == "Moab.12"


def test_what_a_job_leaves_does_not_leak() -> None:
    left = {"MOAB_JOBID": "Moab.1", "MOAB_NODELIST": "n", "PBS_JOBID": "1.h", "SLURM_JOB_ID": "1"}
    kept = {"MOABHOMEDIR": "/opt/moab", "PBS_DEFAULT": "head", "SLURM_CONF": "/c", "HOME": "/h"}
    assert system("moab").scrubbed({**left, **kept}) == kept


# States


def test_the_tasks_of_an_array(commands: Commands) -> None:
    showq(
        commands,
        active=[row("Moab.12[1]", "Running"), row("Moab.99[0]", "Running", JobName="other")],
        eligible=[row("Moab.12[2]", "Idle")],
        blocked=[row("Moab.12[3]", "UserHold")],
        completed=[row("Moab.12[0]", "Completed", CompletionCode="1"), {"State": "Completed"}],
    )
    assert query((NAME, 4, "Moab.12")) == {
        (1, 0): TaskState("ended", "", "exit code 1"),
        (1, 1): TaskState("running", "Running"),
        (1, 2): TaskState("queued", "Idle"),
        (1, 3): TaskState("queued", "UserHold", "held, `mjobctl -u user Moab.12[3]` lets it start"),
    }
    assert commands.lines() == ["showq --xml -w user=me", "showq -c --xml -w user=me"]


@pytest.mark.parametrize(
    ("job_id", "fields"),
    [
        ("Moab.12", {"GJID": "Moab.12[1]", "JobID": "77.head"}),
        ("77", {"GJID": "Moab.12[1]", "JobID": "77[1]"}),
        ("Moab.12", {"JobID": "Moab.12[1]"}),
        ("Moab.12", {"GJID": "Moab.12", "JobID": "Moab.12[1]"}),
        ("Moab.12", {"GJID": "Moab.12[1]", "JobName": "esp_array-1"}),
        ("Moab.12", {"GJID": "Moab.12[1]", "JobName": "esp_array.[1]"}),
        (None, {"GJID": "Moab.12[1]"}),
    ],
)
def test_either_id_of_a_job(commands: Commands, job_id: str | None, fields: dict[str, str]) -> None:
    showq(commands, active=[{"JobName": NAME, "State": "Running", **fields}])
    assert query((NAME, 4, job_id)) == {(1, 1): TaskState("running", "Running")}


def test_an_id_that_was_used_again(commands: Commands) -> None:
    later = str(int(NOW.timestamp()) + 86400)
    for fields in ({"User": "you"}, {"User": "me", "SubmissionTime": later}):
        showq(commands, active=[row("Moab.12[0]", "Running", JobName="another_job", **fields)])
        assert query((NAME, 4, "Moab.12")) == {}


def test_a_job_that_its_user_has_renamed(commands: Commands) -> None:
    mine = {"User": "me", "SubmissionTime": str(int(NOW.timestamp()))}
    showq(commands, active=[row("Moab.12[0]", "Running", JobName="mine", **mine)])
    assert query((NAME, 4, "Moab.12")) == {(1, 0): TaskState("running", "Running")}


def test_tasks_in_one_row(commands: Commands) -> None:
    showq(commands, active=[row("Moab.12[0]", "Running")], eligible=[row("Moab.12[1-2]", "Idle")])
    assert {task: state.state for (_, task), state in query((NAME, 4, "Moab.12")).items()} == {
        0: "running", 1: "queued", 2: "queued",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("listed", "state", "told"),
    [
        ("eligible", "Idle", TaskState("queued", "Idle")),
        ("active", "Running", TaskState("running", "Running")),
        ("completed", "Removed", TaskState("ended", stopped="cancelled")),
        # The array's completion code is not a task's.
        ("completed", "Completed", TaskState("ended")),
    ],
)
def test_an_array_whose_tasks_are_not_listed(
    commands: Commands, listed: str, state: str, told: TaskState
) -> None:
    code = {"CompletionCode": "1"} if state == "Completed" else {}
    showq(commands, **{listed: [row("Moab.12", state, **code)]})
    assert query((NAME, 4, "Moab.12")) == {(1, task): told for task in range(4)}


def test_an_array_of_which_only_some_tasks_are_listed(commands: Commands) -> None:
    """The others may still run, so they are not taken for gone."""
    ended = row("Moab.12[1]", "Completed", CompletionCode="1")
    showq(
        commands,
        active=[row("Moab.12", "Running")],
        completed=[ended, row("Moab.12", "Completed")],
    )
    states = query((NAME, 4, "Moab.12"))
    assert [states[1, task].state for task in range(4)] == ["running", "ended", *["running"] * 2]


def test_a_job_that_is_no_array(commands: Commands) -> None:
    showq(commands, active=[row("7", "Starting")])
    assert query((NAME, 1, "7")) == {(1, 0): TaskState("running", "Starting")}


def test_a_task_that_ends_between_the_questions(commands: Commands) -> None:
    showq(
        commands,
        active=[row("Moab.12[0]", "Running"), row("Moab.12[1]", "Running")],
        completed=[
            row("Moab.12[0]", "Completed", CompletionCode="0"),
            row("Moab.12[1]", "Vacated", CompletionCode="271"),
        ],
    )
    states = query((NAME, 4, "Moab.12"))
    assert states[1, 0] == TaskState("ended")
    assert states[1, 1] == TaskState("running", "Running")  # it was given back, and runs again


@pytest.mark.parametrize(
    ("listed", "fields", "told"),
    [
        ("active", {"State": "Suspended"}, TaskState("running", "Suspended", "suspended")),
        ("blocked", {"State": "Idle"},
         TaskState("queued", "Idle", "blocked by a policy, or by a job that it waits for")),
        ("blocked", {"State": "BatchHold", "JobID": "7"},
         TaskState("queued", "BatchHold",
                   "held by Moab, as it cannot run; `checkjob 7` says why")),
        ("eligible", {"State": "Deferred"},
         TaskState("queued", "Deferred", "Moab could not start it, and tries again later")),
        ("completed", {"State": "Completed", "CompletionCode": "0"}, TaskState("ended")),
        ("completed", {"State": "Completed"}, TaskState("ended")),
        ("completed", {"State": "Completed", "CompletionCode": "137"},
         TaskState("ended", "", "signal 9", 9)),
        ("completed", {"State": "Completed", "CompletionCode": "265"},
         TaskState("ended", "", "signal 9", 9)),
        ("completed", {"State": "Removed", "CompletionCode": "CNCLD"},
         TaskState("ended", stopped="cancelled")),
        ("completed", {"State": "Removed", "CompletionCode": "CNCLD(271)"},
         TaskState("ended", "", "signal 15", 15, "cancelled")),
        ("completed", {"State": "Removed", "CompletionCode": "CNCLD(271)", "AWDuration": "1805",
                       "ReqAWDuration": "1800"},
         TaskState("ended", "", "signal 15", 15, "time limit")),
        ("completed", {"State": "Completed", "CompletionCode": "-11"},
         TaskState("ended", stopped="time limit")),
        ("completed", {"State": "Completed", "CompletionCode": "-3"},
         TaskState("ended", "", "Moab could not run it, exit status -3")),
        ("completed", {"State": "Vacated", "CompletionCode": "271"},
         TaskState("ended", "", "signal 15", 15, "preempted")),
        ("completed", {"State": "Completed", "CompletionCode": "what?"}, TaskState("ended")),
    ],
)  # fmt: skip
def test_states(listed: str, fields: dict[str, str], told: TaskState) -> None:
    assert task_state(listed, fields) == told


# A scheduler that is lost


@pytest.mark.parametrize(
    "printed",
    [
        "",
        "ERROR:  client timed out after 30 seconds (hostname:port=head:42559)\n",
        data(LIVE, {"active": [row("Moab.12[0]", "Running")]})[:-40],
        "<Data></Data>",
        '<Data><Object>queue</Object><cluster LocalUpNodes="4"/></Data>',
        data(LIVE, {}) + data(LIVE, {}),
    ],
)
@pytest.mark.parametrize("which", ["live", "ended"])
def test_an_answer_that_is_not_whole(commands: Commands, which: str, printed: str) -> None:
    """It is never taken for a list without the job."""
    whole = {"live": data(LIVE, {}), "ended": data(ENDED, {})}
    answer(commands, **{**whole, which: printed})
    for question in (
        system("moab").query([entry((NAME, 4, "Moab.12"), scheduler="moab")]),
        system("moab").find([planned()], "me"),
    ):
        with pytest.raises(SchedulerUnavailable, match="no whole list"):
            asyncio.run(question)


@pytest.mark.parametrize("err", ["", "ERROR:  cannot connect to server head:42559"])
def test_a_server_that_does_not_answer(commands: Commands, err: str) -> None:
    for name in ("showq", "canceljob", "checkjob"):
        commands.say(name, err=err, code=1)
    scheduler = system("moab")
    for ask in (
        lambda: scheduler.query([entry((NAME, 4, "Moab.12"), scheduler="moab")]),
        lambda: scheduler.find([planned()], "me"),
        lambda: scheduler.cancel([AcceptedJob(name="x", job_id="Moab.12")]),
        lambda: scheduler.reasons(["Moab.12"]),
    ):
        words = "cannot connect to server head:42559" if err else "exit code 1"
        with pytest.raises(SchedulerUnavailable, match=words):
            asyncio.run(ask())


@pytest.mark.parametrize(
    "said",
    [
        "ERROR:  client timed out after 30 seconds (hostname:port=head:42559)",
        "ERROR:  cannot connect to server 'head' on port 42559",
        "ERROR:  communication error head:42559 (end of file)",
    ],
)
def test_words_behind_which_a_job_may_have_been_accepted(said: str) -> None:
    assert system("moab").no_answer.search(said)
    assert not system("moab").no_answer.search("ERROR:  cannot locate class 'x'")


# The other commands


def test_a_job_without_a_recorded_id(commands: Commands) -> None:
    showq(
        commands,
        eligible=[row(f"Moab.12[{index}]", "Idle") for index in range(4)],
        completed=[row("Moab.11", "Completed", JobName="esp_other")],
    )
    found = asyncio.run(system("moab").find([planned()], "me"))
    assert found == [AcceptedJob(name=NAME, job_id="Moab.12")]
    assert len(query((NAME, 4, None))) == 4


def test_nobody_is_asked_of_no_jobs(commands: Commands) -> None:
    assert asyncio.run(system("moab").query([])) == {}
    known = entry((NAME, 4, "Moab.12"), scheduler="moab")
    assert asyncio.run(system("moab").query([known], {1: []})) == {}


def test_damaged_ids_are_not_handed_over(commands: Commands) -> None:
    commands.say("canceljob", out="\njob 'Moab.12' cancelled\n\n")
    ids = ("-h", "Moab.12", "ALL", "x:.*", "1 2", "")
    asyncio.run(system("moab").cancel([AcceptedJob(name="x", job_id=i) for i in ids]))
    assert commands.asked("canceljob") == ["Moab.12"]


def test_jobs_that_are_gone_are_cancelled_all_the_same(commands: Commands) -> None:
    commands.say("canceljob", err="ERROR:  invalid job specified (Moab.11)\n", code=1)
    jobs = [AcceptedJob(name="x", job_id=job_id) for job_id in ("Moab.11", "Moab.12")]
    asyncio.run(system("moab").cancel(jobs))
    # Together, and then each: the command may have stopped at the first.
    assert commands.asked("canceljob") == ["Moab.11", "Moab.12", "Moab.11", "Moab.12"]


def test_a_cancellation_that_is_refused(commands: Commands) -> None:
    commands.say("canceljob", err="ERROR:  user 'me' is not authorized to cancel job 'Moab.12'\n")
    with pytest.raises(SchedulerUnavailable, match="not authorized"):
        asyncio.run(system("moab").cancel([AcceptedJob(name="x", job_id="Moab.12")]))


def test_reasons_and_version(commands: Commands) -> None:
    commands.say(
        "checkjob",
        "job Moab.12\n\nState: Idle\n\nNOTE:  job cannot run  (procs)\n"
        "BLOCK MSG: job violates idle limit (recorded at last scheduling iteration)\n",
    )
    reasons = asyncio.run(system("moab").reasons(["Moab.12", "Moab.13"]))
    assert reasons == (
        "job cannot run  (procs), job violates idle limit (recorded at last scheduling iteration)"
    )
    commands.say("checkjob", err="ERROR:  invalid job specified (Moab.12)\n", code=1)
    assert asyncio.run(system("moab").reasons(["Moab.12"])) == ""
    commands.say("showq", "moab client 9.1.3\n")
    assert asyncio.run(system("moab").version()) == "moab client 9.1.3"


def test_the_size_of_an_array(commands: Commands) -> None:
    assert asyncio.run(system("moab").max_array_size()) == 1000
