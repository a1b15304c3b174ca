"""SGE's dialect: what its commands print, as Son of Grid Engine 8.1.9 printed it.

The commands are small programs that print these texts again; a real SGE is asked by the tests in
tests/contract and tests/integration.
"""

from __future__ import annotations

import asyncio
import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet3.errors import SchedulerUnavailable
from espnet3.run_dir.submissions import KnownSubmission
from espnet3.schedulers.base import TaskState
from espnet3.specs.models import AcceptedJob, PlannedJob
from tests.support.asking import Commands, entry, parts, system, waiting

SGE = system("sge")


def row(job: int, name: str, state: str, tasks: str = "") -> str:
    """A job of `qstat -xml`."""
    section = "running" if "r" in state else "pending"
    return (
        f'    <job_list state="{section}">\n      <JB_job_number>{job}</JB_job_number>\n'
        f"      <JAT_prio>0.50000</JAT_prio>\n      <JB_name>{name}</JB_name>\n"
        f"      <JB_owner>me</JB_owner>\n      <state>{state}</state>\n"
        "      <queue_name></queue_name>\n      <slots>1</slots>\n"
        + (f"      <tasks>{tasks}</tasks>\n" if tasks else "")
        + "    </job_list>\n"
    )


def answer(*rows: str) -> str:
    """What `qstat -xml` prints."""
    return (
        "<?xml version='1.0'?>\n<job_info  xmlns:xsd=\"http://example/qstat.xsd\">\n"
        "  <queue_info>\n  </queue_info>\n  <job_info>\n"
        f"{''.join(rows)}  </job_info>\n</job_info>\n"
    )


def record(job: int, name: str, task: str, **fields: str) -> str:
    """A job of `qacct -j`, with some of its fields."""
    lines = {
        "qname": "all.q", "jobname": name, "jobnumber": str(job), "taskid": task,
        "failed": "0", "exit_status": "0", "ru_wallclock": "5s", "category": "NONE", **fields,
    }  # fmt: skip
    return "=" * 62 + "\n" + "".join(f"{key:<12} {value:<20}\n" for key, value in lines.items())


def asked(*submissions: KnownSubmission) -> dict[tuple[int, int], TaskState]:
    return dict(asyncio.run(SGE.query(submissions)))


# --- on a node ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "index", "job_id", "requeued"),
    [
        ({}, None, None, False),
        ({"JOB_ID": "12", "SGE_TASK_ID": "undefined", "RESTARTED": "0"}, None, "12", False),
        ({"JOB_ID": "12", "SGE_TASK_ID": "1", "RESTARTED": "0"}, 0, "12.1", False),
        ({"JOB_ID": "12", "SGE_TASK_ID": "7", "RESTARTED": "1"}, 6, "12.7", True),
    ],
)
def test_a_worker_finds_its_task(
    environ: dict[str, str], index: int | None, job_id: str | None, requeued: bool
) -> None:
    assert SGE.array_index(environ) == index
    assert SGE.job_id(environ) == job_id
    assert SGE.was_requeued(environ) is requeued


def test_what_an_enclosing_job_left_is_taken_out() -> None:
    users = {"PATH": "/bin", "SGE_ROOT": "/sge", "SGE_QMASTER_PORT": "6444", "PERL5LIB": "/p"}
    mine = {"QUEUE": "of mine", "REQUESTS_CA_BUNDLE": "/certificates"}
    job = {"SGE_TASK_ID": "3", "SGE_O_HOME": "/home/me", "JOB_ID": "12", "RESTARTED": "1"}
    assert SGE.scrubbed({**users, **mine}) == {**users, **mine}
    assert SGE.scrubbed({**users, **mine, **job, "QUEUE": "all.q"}) == {
        **users, "REQUESTS_CA_BUNDLE": "/certificates",
    }  # fmt: skip


# --- submitting -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "job_id"),
    [
        ("28\n", "28"),
        ("2.1-3:1\n", "2"),
        ("Welcome to node17\n  2.1-3:1  \nYour project has 300 hours left\n", "2"),
        ("Quota:\n99\n2.1-3:1\n", None),
        ("28\nhours left:\n  1200\n", None),
        ("", None),
        ('Your job 28 ("decode") has been submitted\n1200\n', "28"),
        ('Welcome\nYour job-array 28.1-3:1 ("decode") has been submitted\n', "28"),
        ("Unable to run job: 12 reasons\nExiting.\n", None),
    ],
)
def test_the_job_id_is_found_between_banners(output: str, job_id: str | None) -> None:
    assert SGE.parse_job_id(output) == job_id


def test_arrays_and_dependencies_as_qsub_takes_them() -> None:
    job = PlannedJob(name="n", first_task=100, n_tasks=50, throttle=4, log="0001-0.{index}.log")
    free = job.model_copy(update={"throttle": None})
    words = " ".join(parts(SGE, job, "/logs", array=True).arguments)
    assert words.endswith("-N n -j y -o /logs/0001-0.$TASK_ID.log -t 1-50 -tc 4")
    assert parts(SGE, free, "/logs", array=True).arguments[-2:] == ["-t", "1-50"]
    assert parts(SGE, job, "/logs", array=False).arguments[-1] == "/logs/0001-0.1.log"
    assert SGE.log_file(job, 0) == "0001-0.1.log"
    assert SGE.task_name("12", 0) == "12.1"
    assert waiting(SGE, "12") == ["-hold_jid", "12"]
    assert waiting(SGE, "12", "7") == ["-hold_jid", "12,7"]


@pytest.mark.parametrize("folder", ["/a:b", "/a,b", "/a$HOME"])
def test_logs_that_o_would_misread_are_opened_by_the_script(folder: str) -> None:
    job = PlannedJob(name="n", first_task=0, n_tasks=5, log="0001-0.{index}.log")
    assert "/dev/null" in parts(SGE, job, folder, array=True).arguments
    [line] = parts(SGE, job, folder, array=True).prologue
    start = shlex.quote(f"{folder}/0001-0.")
    assert line == f'exec >>{start}"$SGE_TASK_ID".log 2>&1'
    [line] = parts(SGE, job, folder, array=False).prologue
    assert line == f"exec >>{start}1.log 2>&1"


@given(st.text(max_size=600), st.integers(1, 9999), st.integers(0, 99))
def test_names_are_such_as_sge_takes(prefix: str, number: int, position: int) -> None:
    name = SGE.unique_name(prefix, "r1a2b3", number, position)
    assert name.isascii()
    assert name.isprintable()
    assert not set(name) & set(" /:@\\*?")
    assert not name[0].isdigit()
    assert len(name) <= 512
    assert name.endswith(f"r1a2b3-{number:04d}-{position}")


@pytest.mark.parametrize(
    ("walltime", "adapted"),
    [
        ("04:00:00", "04:00:00"),
        (7200, 7200),
        ("90:30", "1:30:30"),
        ("1-12:00:00", "36:00:00"),
        ("soon", "soon"),
        (None, None),
    ],
)
def test_walltimes_as_h_rt_takes_them(walltime: Any, adapted: Any) -> None:
    assert SGE.dialect.adapted({"walltime": walltime}) == {"walltime": adapted}


@pytest.mark.parametrize(
    ("out", "size"),
    [
        ("max_aj_instances             2000\nmax_aj_tasks                 75000\n", 75000),
        ("max_aj_tasks                 0\n", 2**31 - 1),
        ("max_u_jobs                   0\n", 75000),
    ],
)
def test_how_many_tasks_an_array_may_have(commands: Commands, out: str, size: int) -> None:
    commands.say("qconf", f"Welcome\n#global:\n{out}")
    assert asyncio.run(SGE.max_array_size()) == size


# --- asking ---------------------------------------------------------------------------------------


def test_the_states_of_an_array(commands: Commands) -> None:
    rows = [
        row(12, "a", "r", "2"), row(12, "a", "dr", "3"), row(12, "a", "s", "4"),
        row(12, "a", "Rr", "5"), row(12, "a", "t", "6"), row(12, "a", "qw", "8-12:2,14"),
        row(12, "a", "Rq", "7"), row(12, "a", "z", "1-3:2"),
    ]  # fmt: skip
    commands.say("qstat", "A banner of 12 lines\n" + answer(*rows) + "Bye\n")
    commands.say("qacct", code=1, err="error: job name a-* not found\n")
    states = asked(entry(("a", 14, "12")))
    assert {task: told.state for (_, task), told in states.items()} == {
        0: "ended", **dict.fromkeys(range(1, 6), "running"),
        **dict.fromkeys((6, 7, 9, 11, 13), "queued"),
    }  # fmt: skip
    assert states[1, 2].reason == "being deleted"
    assert states[1, 3].reason == "suspended"
    assert states[1, 6].reason == "requeued (Rq)"
    words = ["-xml", "-u", "me", "-s", "psrz"]
    # Again without -q, since it lists nothing of tasks 8, 10 and 12.
    assert commands.asked("qstat") == [*words, "-q", "*", *words]


def test_why_jobs_wait(commands: Commands) -> None:
    details = f"""{"=" * 62}
job_number:                 12
job_name:                   a
error reason          1:      11/24/2026 03:46:20 [0:14003]: error: can't chdir to /gone: No such file or directory
error reason          3:      11/24/2026 03:46:18 [0:13768]: exit_status of job start = 100
scheduling info:            queue instance "all.q@vm" dropped because it is full
                            Job is in error state
{"=" * 62}
job_number:                 13
jid_predecessor_list (req): 12,9
jid_predecessor_list:       12,9
scheduling info:            job dropped because of job dependencies
{"=" * 62}
job_number:                 14
scheduling info:            Job is in hold state
                            (Collecting of scheduler job information is turned off)
"""  # noqa: E501 (as SGE prints it)
    rows = [
        row(12, "a", "Eqw", "1-3:1"), row(12, "a", "qw", "4"), row(13, "b", "hqw"),
        row(14, "c", "hqw"),
    ]  # fmt: skip
    commands.say("qstat", answer(*rows) + details)
    known = entry(("a", 4, "12"), ("b", 1, "13"), ("c", 1, "14"))
    states = asked(known)
    again = "in an error state, `qmod -cj 12` lets it start again (Eqw)"
    assert [states[1, task].reason for task in range(6)] == [
        f"{again}: can't chdir to /gone: No such file or directory",
        again,
        f"{again}: exit_status of job start = 100",
        "",
        "waits for job 12,9 (hqw)",
        "held, `qrls 14` lets it start (hqw)",
    ]
    assert {state.state for state in states.values()} == {"queued"}
    assert commands.asked("qstat")[-2:] == ["-j", "12,13,14"]
    assert asyncio.run(SGE.reasons(["12", "13", "14", "--all"])) == (
        'Job is in error state, Job is in hold state, job dropped because of job dependencies, '
        'queue instance "all.q@vm" dropped because it is full'
    )  # fmt: skip
    assert commands.asked("qstat")[-2:] == ["-j", "12,13,14"]


LIMIT = "37  : qmaster enforced h_rt, h_cpu, or h_vmem limit"
AFTER = "100 : assumedly after job"


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({}, TaskState("ended")),
        ({"exit_status": "1"}, TaskState("ended", "", "exit code 1")),
        ({"exit_status": "137"}, TaskState("ended", "", "exit code 137")),
        ({"failed": AFTER, "exit_status": "137                  (Killed)"},
         TaskState("ended", "", "signal 9", 9)),
        ({"failed": AFTER, "exit_status": "139                  (Segmentation fault)"},
         TaskState("ended", "", "signal 11", 11)),
        ({"failed": LIMIT, "exit_status": "75", "category": "-l h_rt=5,h_vmem=4G"},
         TaskState("ended", "", "", 0, "time limit")),
        ({"failed": LIMIT, "exit_status": "137", "category": "-l h_vmem=4G,h_rt=0:0:5 -pe smp 2"},
         TaskState("ended", "", "signal 9", 9, "time limit")),
        ({"failed": LIMIT, "exit_status": "137", "category": "-l h_vmem=4G,h_rt=7200"},
         TaskState("ended", "", "signal 9", 9,
                   "a limit of time or memory (h_rt, h_cpu or h_vmem)")),
        ({"failed": "28  : changing into working directory"},
         TaskState("ended", "", "changing into working directory")),
        ({"failed": "30  : application error returned", "exit_status": "100"},
         TaskState("ended", "", "exit code 100, which SGE takes for an error of the job")),
        ({"failed": "25  : rescheduling", "exit_status": "99"},
         TaskState("ended", "", "ended after it was requeued")),
    ],
)  # fmt: skip
def test_how_a_task_ended(commands: Commands, fields: dict[str, str], state: TaskState) -> None:
    commands.say("qstat", answer())
    first = record(12, "a-0001-0", "2", failed="25  : rescheduling", exit_status="99")
    others = record(12, "another", "2", exit_status="7") + record(77, "a-0001-1", "2")
    commands.say("qacct", first + others + record(12, "a-0001-0", "2", **fields))
    assert asked(entry(("a-0001-0", 3, "12"))) == {(1, 1): state}
    assert commands.asked("qacct") == ["-o", "me", "-j", "a-0001-*"]


def test_accounting_may_be_out_of_reach(commands: Commands) -> None:
    commands.say("qstat", answer(row(12, "a", "r", "1")))
    assert set(asked(entry(("a", 2, "12")))) == {(1, 0)}


def test_an_id_that_was_used_again_is_another_jobs(commands: Commands) -> None:
    rows = answer(row(12, "somebody-elses", "r", "1"), row(13, "a&amp;b%lt;c", "r"))
    commands.say("qstat", rows.replace("<JB_owner>me<", "<JB_owner>you<"))
    commands.say("qacct", code=1)
    assert asked(entry(("a", 2, "12"))) == {}


def test_a_job_that_its_user_has_renamed(commands: Commands) -> None:
    commands.say("qstat", answer(row(12, "mine", "r", "1")))
    assert {told.state for told in asked(entry(("a", 1, "12"))).values()} == {"running"}


def test_a_job_without_a_recorded_id_is_known_by_its_name(commands: Commands) -> None:
    commands.say("qstat", answer(row(12, "a", "qw", "1-2:1"), row(13, "b", "qw")))
    assert {told.state for told in asked(entry(("a", 2, None))).values()} == {"queued"}
    planned = PlannedJob(name="a", first_task=0, n_tasks=2, log="l")
    assert asyncio.run(SGE.find([planned], "me")) == [AcceptedJob(name="a", job_id="12")]


@pytest.mark.parametrize(
    ("out", "err", "code"),
    [
        ("", "error: commlib error: got select error (Connection refused)\n", 1),
        ("", "", 0),
        ("Down for maintenance\n", "", 0),
        (answer(row(12, "a", "r"))[:200], "", 0),
    ],
)
def test_an_answer_that_is_none_is_no_empty_queue(
    commands: Commands, out: str, err: str, code: int
) -> None:
    commands.say("qstat", out, err, code)
    with pytest.raises(SchedulerUnavailable, match=r"commlib error|no list|maintenance|queue_info"):
        asked(entry(("a", 2, "12")))


# --- cancelling -----------------------------------------------------------------------------------


def cancel(*ids: str) -> None:
    asyncio.run(SGE.cancel([AcceptedJob(name=f"n{i}", job_id=i) for i in ids]))


def test_jobs_that_are_gone_need_no_cancelling(commands: Commands) -> None:
    commands.say(
        "qdel", 'root has registered the job 12 for deletion\ndenied: job "13" does not exist\n',
        code=1,
    )  # fmt: skip
    cancel("12", "13", "-u", "*", "1 2", "٣")
    assert commands.asked("qdel") == ["12", "13"]


def test_a_job_that_may_not_be_cancelled_is_told(commands: Commands) -> None:
    said = 'nobody - you do not have the necessary privileges to delete the job "103"'
    commands.say("qdel", f'denied: job "13" does not exist\n{said}\n', code=1)
    with pytest.raises(SchedulerUnavailable, match="necessary privileges"):
        cancel("103", "13")


def test_damaged_ids_reach_no_command(commands: Commands) -> None:
    cancel("-u", "*")
    assert asyncio.run(SGE.reasons(["*"])) == ""
    assert commands.asked("qdel") == commands.asked("qstat") == []
