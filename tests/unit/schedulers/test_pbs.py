"""PBS's dialect: what the commands of PBS Pro and of Torque print, and what a job may inherit.

The commands are small programs; what they print has the form and the wording of OpenPBS 23.06.06,
as a real server gave them, and of Torque 6.1, by its manual.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from espnet3.errors import SchedulerUnavailable
from espnet3.run_dir.submissions import KnownSubmission
from espnet3.schedulers.base import TaskState
from espnet3.schedulers.batch_system import BatchSystem
from espnet3.schedulers.commands import Answer
from espnet3.schedulers.dialect import JobRequest
from espnet3.schedulers.dialects.pbs import Pbs, Torque, queued_words
from espnet3.schedulers.qstat_output import Told
from espnet3.specs.models import AcceptedJob, PlannedJob
from tests.support.asking import Commands, entry, parts, system, waiting

PRO = Answer(0, "pbs_version = 23.06.06\n", "")
TORQUE = Answer(0, "", "Version: 6.1.3\nCommit: 7c4a0b1\n")

ARRAY = """\
Job Id: 12[].pbs
    Job_Name = esp_array
    Job_Owner = me@login
    job_state = B
    array = True
    comment = Job Array Began at Tue Nov 24 at 04:35

Job Id: 12[0].pbs
    Job_Name = esp_array
    job_state = X
    substate = 93
    Exit_status = 1

Job Id: 12[1].pbs
    Job_Name = esp_array
    resources_used.walltime = 00:30:07
    job_state = X
    Resource_List.walltime = 00:30:00
    substate = 93
    Exit_status = 271

Job Id: 12[2].pbs
    Job_Name = esp_array
    job_state = R
    substate = 42
    Variable_List = PBS_O_HOME=/home/me,PBS_O_PATH=/usr/local/sbin:/usr/local/bi
\tn:/usr/sbin:/usr/bin,FORGED=
    job_state = F

Job Id: 12[3].pbs
    Job_Name = esp_array
    job_state = Q
    comment = Not Running: Insufficient amount of resource: ncpus (R: 64 A: 12 T
\t: 128)

"""
TASKS = """\
Job Id: 12[0].head.site
    Job_Name = esp_array-0
    job_state = C
    exit_status = 271

Job Id: 12[1].head.site
    Job_Name = esp_array-1
    job_state = C
    exit_status = -11

Job Id: 12[2].head.site
    Job_Name = esp_array-2
    job_state = R

Job Id: 12[3].head.site
    Job_Name = esp_array-3
    job_state = H
    Hold_Types = u

"""


def planned(name: str = "esp_array", n_tasks: int = 4, throttle: int | None = None) -> PlannedJob:
    """A job of a submission."""
    return PlannedJob(name=name, first_task=0, n_tasks=n_tasks, log="1-0.{index}.log",
                      throttle=throttle)  # fmt: skip


def known(job_id: str | None, *, job: PlannedJob | None = None) -> KnownSubmission:
    """A submission of one job."""
    job = job or planned()
    return entry((job.name, job.n_tasks, job_id), scheduler="pbs", throttle=job.throttle)


Says: TypeAlias = Answer | Callable[[str], Answer]
Asked: TypeAlias = Callable[..., Callable[[], list[str]]]


@pytest.fixture
def asked(commands: Commands) -> Asked:
    """Let commands say something, by their words where it is a function; what they were asked."""

    def make(version: Answer = PRO, **says: Says) -> Callable[[], list[str]]:
        for name, said in {"qstat": printing(""), **says}.items():

            def told(words: list[str], environ: Any, said: Says = said) -> Answer:
                if words[1:] == ["--version"]:
                    return version
                return said if isinstance(said, Answer) else said(" ".join(words))

            commands.answer(name, told)
        return lambda: [line for line in commands.lines() if line != "qstat --version"]

    return make


def printing(text: str, code: int = 0, err: str = "") -> Answer:
    """What a command says that prints this and ends."""
    return Answer(code, text, err)


def prepared() -> BatchSystem:
    """A dialect that knows whom it speaks to."""
    scheduler = system("pbs")
    asyncio.run(scheduler.identified())
    return scheduler


# Submitting


@pytest.mark.parametrize(
    ("version", "array", "after", "mixed"),
    [
        (PRO, "-J 0-3%2", "afterany:12[].pbs", "afterany:12[].pbs:7.pbs:3[].pbs"),
        (
            TORQUE, "-t 0-3%2", "afteranyarray:12[].pbs",
            "afterany:7.pbs,afteranyarray:12[].pbs:3[].pbs",
        ),
    ],
)  # fmt: skip
def test_an_array(asked: Asked, version: Answer, array: str, after: str, mixed: str) -> None:
    asked(version)
    scheduler = prepared()
    words = parts(scheduler, planned(throttle=2), "/logs", array=True).arguments
    assert " ".join(words) == f"-N esp_array -j oe -o /dev/null {array}"
    assert waiting(scheduler, "12[].pbs") == ["-W", f"depend={after}"]
    assert waiting(scheduler, "12.pbs") == ["-W", "depend=afterany:12.pbs"]
    assert waiting(scheduler, "12.pbs", "7.pbs") == ["-W", "depend=afterany:12.pbs:7.pbs"]
    assert waiting(scheduler, "12[].pbs", "7.pbs", "3[].pbs") == ["-W", f"depend={mixed}"]


@pytest.mark.parametrize("version", [PRO, TORQUE])
@pytest.mark.parametrize(("n_tasks", "array"), [(1, True), (1, False), (4, False)])
def test_no_array(asked: Asked, version: Answer, n_tasks: int, array: bool) -> None:
    asked(version)
    job = planned(n_tasks=n_tasks)
    words = parts(prepared(), job, "/logs", array=array).arguments
    assert words == ["-N", "esp_array", "-j", "oe", "-o", "/dev/null"]
    assert parts(prepared(), job, "/a b:c", array=array).prologue == [
        "exec >>'/a b:c/1-0.'0.log 2>&1"
    ]


def test_neither_pro_nor_torque(asked: Asked) -> None:
    asked(Answer(0, "SGE 8.1.9\n", ""))
    with pytest.raises(SchedulerUnavailable, match="SGE"):
        prepared()


@pytest.mark.parametrize("prefix", ["espnet3", "1st", "日本語", "-N", "a" * 300, "", "x-7"])
def test_unique_names(prefix: str) -> None:
    name = system("pbs").unique_name
    names = {name(prefix, run, n, p) for run in ("a", "b") for n in range(9) for p in range(99)}
    assert len(names) == 2 * 9 * 99
    assert all(len(n) <= 15 and n[0].isalpha() and n.isascii() for n in names)
    assert all(n.replace("_", "").isalnum() for n in names)


def test_the_name_of_the_script_is_left_out() -> None:
    script = (
        "#!/bin/bash\n\n#PBS -N very_long_name_of_a_job\n#PBS -l walltime=1\necho '#PBS -N x'\n"
    )
    got = Pbs().request(JobRequest(planned(), "/logs")).amend(script)
    assert got == "#!/bin/bash\n\n#PBS -l walltime=1\necho '#PBS -N x'\n"


@pytest.mark.parametrize(
    ("output", "job_id"),
    [
        ("123.pbs\n", "123.pbs"),
        ("123[].head.site.edu\n", "123[].head.site.edu"),
        ("Welcome 2026!\n  7[].pbs-1  \n", "7[].pbs-1"),
        ("7.pbs\nquota: 12 of 20\n7.pbs\n", "7.pbs"),
        ("Welcome!\n2026\n  7[].pbs-1  \n", None),
        ("7.pbs\nnode hours left:\n1200.00\n", None),
        ("7\n1200\n", None),
        ("7\n", "7"),
        ("qsub: waiting for job 7.pbs to start\n", None),
        ("7.pbs; rm -rf x\n", None),
        ("", None),
    ],
)
def test_job_ids(output: str, job_id: str | None) -> None:
    assert system("pbs").parse_job_id(output) == job_id


@pytest.mark.parametrize(
    ("given", "got", "seconds"),
    [
        ("04:00:00", "04:00:00", 14400),
        (7200, 7200, 7200),
        ("90:30", "90:30", 5430),
        ("1-12:00:00", "36:00:00", 129600),
        ("soon", "soon", None),
    ],
)
def test_walltimes(given: Any, got: Any, seconds: float | None) -> None:
    assert system("pbs").dialect.adapted({"walltime": given}) == {"walltime": got}
    assert system("pbs").walltime_seconds(given) == seconds


# In a job


@pytest.mark.parametrize(
    ("environ", "index"),
    [
        ({"PBS_JOBID": "12[3].pbs", "PBS_ARRAY_INDEX": "3"}, 3),
        ({"PBS_JOBID": "12[3].head", "PBS_ARRAYID": "3"}, 3),
        ({"PBS_JOBID": "12.pbs"}, None),
        ({"PBS_JOBID": "12.pbs", "PBS_ARRAYID": ""}, None),
    ],
)
def test_a_job_knows_itself(environ: dict[str, str], index: int | None) -> None:
    scheduler = system("pbs")
    assert scheduler.array_index(environ) == index
    assert scheduler.job_id(environ) == environ["PBS_JOBID"]
    assert scheduler.was_requeued(environ)
    assert not scheduler.was_requeued({})
    assert scheduler.task_name("12[].pbs", 3) == "12[3].pbs"
    assert scheduler.task_name("12.pbs", None) == "12.pbs"


def test_what_a_job_leaves_does_not_leak() -> None:
    left = {"PBS_JOBID": "1.pbs", "PBS_ARRAY_INDEX": "3", "PBS_DPREFIX": "#X", "PBS_O_HOME": "/h"}
    kept = {"PBS_DEFAULT": "head", "PBS_CONF_FILE": "/etc/pbs.conf", "HOME": "/h"}
    assert system("pbs").scrubbed({**left, **kept}) == kept


# States


def test_an_array_of_pro(asked: Asked) -> None:
    calls = asked(PRO, qstat=printing(ARRAY, 153, "qstat: Unknown Job Id 99.pbs"))
    states = asyncio.run(system("pbs").query([known("12[].pbs")]))
    assert states == {
        (1, 0): TaskState("ended", "", "exit code 1"),
        (1, 1): TaskState("ended", "", "signal 15", 15, "time limit"),
        (1, 2): TaskState("running", "R"),
        (1, 3): TaskState(
            "queued", "Q", "Insufficient amount of resource: ncpus (R: 64 A: 12 T: 128)"
        ),
    }
    assert calls() == ["qstat -x -f -t 12[].pbs"]


def test_an_array_of_torque(asked: Asked) -> None:
    calls = asked(TORQUE, qstat=printing(TASKS))
    states = asyncio.run(system("pbs").query([known("12[].head.site")]))
    assert states == {
        (1, 0): TaskState("ended", "", "signal 15", 15),
        (1, 1): TaskState("ended", "", "", 0, "time limit"),
        (1, 2): TaskState("running", "R"),
        (1, 3): TaskState("queued", "H", "held, `qrls 12[3].head.site` lets it start"),
    }
    assert calls() == ["qstat -f -t 12[].head.site"]


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ("job_state = Q", TaskState("queued", "Q")),
        ("job_state = B", None),
        ("job_state = F\n    substate = 91", TaskState("ended", stopped="cancelled")),
    ],
)
def test_an_array_whose_tasks_are_not_listed(
    asked: Asked, state: str, told: TaskState | None
) -> None:
    asked(qstat=printing(f"Job Id: 12[].pbs\n    Job_Name = esp_array\n    {state}\n"))
    states = asyncio.run(system("pbs").query([known("12[].pbs")]))
    assert states == ({} if told is None else {(1, task): told for task in range(4)})


def test_how_tasks_ended_is_not_in_their_arrays_row(asked: Asked) -> None:
    parent = "Job Id: 12[].pbs\n    Job_Name = esp_array\n    job_state = F\n    substate = 93\n"
    asked(qstat=printing(f"{parent}    Exit_status = 1\n"))
    states = asyncio.run(system("pbs").query([known("12[].pbs")]))
    assert states == {(1, task): TaskState("ended") for task in range(4)}


FORGED = """\
Job Id: 12.pbs
    Job_Name = esp_array
    job_state = {state}
    substate = {substate}
    Variable_List = PBS_O_HOME=/home/me,STATUS=Job Id: 13.pbs
    Job_Name = esp_array
    job_state = R
    comment = Not Running: forged
    etime = Tue Nov 24 04:35:56 2026
    Exit_status = 271
    Submit_arguments = -N forged

Job Id: 12[1].pbs
    job_state = F
    Exit_status = 9,PBS_O_HOST=login
"""
ENDED = "    comment = Job run at Tue Nov 24 and failed\n    run_count = 1\n    Exit_status = 3\n"


@pytest.mark.parametrize(
    ("state", "substate", "real", "told"),
    [
        ("F", "93", f"{ENDED}    Submit_arguments = -N x\n", TaskState("ended", "", "exit code 3")),
        ("Q", "10", "    comment = Not Running: Not enough free nodes\n    etime = now\n",
         TaskState("queued", "Q", "Not enough free nodes")),
        # It was deleted before it ran, and has no exit status.
        ("F", "91", "    etime = now\n    Submit_arguments = x\n",
         TaskState("ended", stopped="cancelled")),
        ("F", "92", "    etime = now\n    Submit_arguments = x\n", TaskState("ended")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("job_id", ["12.pbs", "13.pbs"])
def test_variables_that_look_like_attributes(
    asked: Asked, state: str, substate: str, real: str, told: TaskState, job_id: str
) -> None:
    """qstat prints them with their line breaks; the real comment and exit status come after."""
    text = FORGED.format(state=state, substate=substate) + real
    if job_id == "13.pbs":
        text = text.replace("13.pbs", "0.pbs").replace("12.pbs", job_id)
    asked(qstat=printing(text))
    job = planned(n_tasks=1)
    assert asyncio.run(system("pbs").query([known(job_id, job=job)])) == {(1, 0): told}


def test_variables_that_look_like_an_earlier_job(asked: Asked) -> None:
    """What a user exported of the first submission is not news of it."""
    first = "Job Id: 12.pbs\n    Job_Name = esp_first\n    job_state = R\n\n"
    forged = "Job Id: 12.pbs\n    Job_Name = esp_first\n    job_state = F\n    Exit_status = 1\n"
    second = "Job Id: 14.pbs\n    Job_Name = esp_array\n    job_state = F\n    substate = 93\n"
    asked(qstat=printing(f"{first}{second}    Variable_List = A={forged}    Exit_status = 3\n"))
    jobs = [known("12.pbs", job=planned("esp_first", 1)), known("14.pbs", job=planned(n_tasks=1))]
    jobs[1] = jobs[1]._replace(submission=jobs[1].submission.model_copy(update={"number": 2}))
    assert asyncio.run(system("pbs").query(jobs)) == {
        (1, 0): TaskState("running", "R"),
        (2, 0): TaskState("ended", "", "exit code 3"),
    }


WAITING = """\
Job Id: 14.pbs
    Job_Name = esp_array
    job_state = {state}
    depend = afterany:12.pbs@pbs
    Hold_Types = s

"""
NEVER = "never starts, since job 12 was deleted before it began; cancel and resume the run"
GONE = Answer(153, "", "qstat: Unknown Job Id 12.pbs\n")


@pytest.mark.parametrize(
    ("other", "later", "told"),
    [
        (Answer(0, "Job Id: 12.pbs\n    job_state = F\n    substate = 91\n", ""), "H", NEVER),
        (GONE, "H", NEVER),  # without job history
        (Answer(0, "Job Id: 12.pbs\n    job_state = R\n", ""), "H", "waits for job 12"),
        (Answer(0, "Job Id: 12.pbs\n    job_state = F\n", ""), "Q", "waits for job 12"),  # just now
    ],
)
def test_a_job_that_waits_for_a_deleted_one(
    asked: Asked, other: Answer, later: str, told: str
) -> None:
    """PBS leaves such a job in the queue for ever."""
    after = WAITING.format(state=later)
    if later != "H":
        after = "".join(line for line in after.splitlines(True) if "depend" not in line)
    of_it = [printing(after), printing(WAITING.format(state="H"))]
    calls = asked(qstat=lambda line: other if line.endswith(" 12.pbs") else of_it.pop())
    job = planned(n_tasks=1)
    assert asyncio.run(system("pbs").query([known("14.pbs", job=job)])) == {
        (1, 0): TaskState("queued", "H", told)
    }
    assert calls()[:2] == ["qstat -x -f -t 14.pbs", "qstat -x -f 12.pbs"]


def test_a_task_that_waits_for_a_deleted_job(asked: Asked) -> None:
    """The array is asked for once more, and named by nobody but its tasks."""
    parent = WAITING.replace("14.pbs", "14[].pbs").format(state="H")
    tasks = "".join(
        WAITING.replace("14.pbs", f"14[{index}].pbs").format(state="Q") for index in range(2)
    )
    listed = printing(parent + tasks)
    asked(qstat=lambda line: GONE if line.endswith(" 12.pbs") else listed)
    states = asyncio.run(system("pbs").query([known("14[].pbs", job=planned(n_tasks=2))]))
    assert states == {(1, task): TaskState("queued", "Q", NEVER) for task in range(2)}


NO_HISTORY = "qstat: PBS is not configured to maintain job history\n"


@pytest.mark.parametrize(
    "refused", [Answer(0, "", NO_HISTORY), Answer(153, "", NO_HISTORY), Answer(0, NO_HISTORY, "")]
)
def test_a_site_without_history(asked: Asked, refused: Answer) -> None:
    calls = asked(qstat=lambda line: refused if " -x " in line else printing(ARRAY))
    assert len(asyncio.run(system("pbs").query([known("12[].pbs")]))) == 4
    assert calls() == ["qstat -x -f -t 12[].pbs", "qstat -f -t 12[].pbs"]


@pytest.mark.parametrize(
    ("version", "code", "err"),
    [
        (PRO, 153, "qstat: Unknown Job Id 12[].pbs"),
        (PRO, 35, "qstat: 12[].pbs Job has finished, use -x or -H to obtain historical job "
                  "information"),
        (TORQUE, 153, "qstat: Unknown Job Id Error 12[].head"),
        (PRO, 35, "qdel: Request invalid for finished array subjob 12[3].pbs"),
    ],
)  # fmt: skip
def test_a_job_that_is_forgotten(asked: Asked, version: Answer, code: int, err: str) -> None:
    asked(version, qstat=printing("", code, err), qdel=printing("", code, err))
    scheduler = system("pbs")
    assert asyncio.run(scheduler.query([known("12[].pbs")])) == {}
    asyncio.run(scheduler.cancel([AcceptedJob(name="x", job_id="12[].pbs")]))


@pytest.mark.parametrize("err", ["", "cannot connect to server pbs (errno=111)"])
def test_a_server_that_does_not_answer(asked: Asked, err: str) -> None:
    script = printing("", 1, err)
    asked(qstat=script, qselect=script, qdel=script)
    scheduler = system("pbs")
    for question in (
        scheduler.query([known("12[].pbs")]),
        scheduler.query([known(None)]),
        scheduler.find([planned()], "me"),
        scheduler.cancel([AcceptedJob(name="x", job_id="12[].pbs")]),
        scheduler.max_array_size(),
    ):
        with pytest.raises(SchedulerUnavailable) as told:
            asyncio.run(question)
        assert (err or "exit code 1") in str(told.value)


@pytest.mark.parametrize(
    ("version", "rows", "first"),
    [
        (PRO, ARRAY, "qselect -x -u me -N esp_array"),
        (TORQUE, TASKS, "qselect -u me"),
    ],
)
def test_a_job_without_a_recorded_id(asked: Asked, version: Answer, rows: str, first: str) -> None:
    ids = "12[].pbs\n" if version == PRO else "12[0].head.site\n12[1].head.site\n"
    calls = asked(version, qselect=printing(ids), qstat=printing(rows))
    expected = "12[].pbs" if version == PRO else "12[].head.site"
    found = asyncio.run(system("pbs").find([planned()], "me"))
    assert found == [AcceptedJob(name="esp_array", job_id=expected)]
    assert calls()[0] == first
    assert len(asyncio.run(system("pbs").query([known(None)]))) == 4


def test_damaged_ids_are_not_handed_over(asked: Asked) -> None:
    calls = asked(qdel=printing(""))
    jobs = [AcceptedJob(name="x", job_id=i) for i in ("-W force", "12.pbs", "all", "1 2", "")]
    asyncio.run(system("pbs").cancel(jobs))
    assert calls() == ["qdel 12.pbs"]


@pytest.mark.parametrize(
    ("output", "size"),
    [
        ("Server: pbs\n    server_state = Active\n    max_array_size = 5000\n", 5000),
        ("Server: head\n    max_job_array_size = 300\n", 300),
        ("Server: pbs\n    server_state = Active\n", 10000),
    ],
)
def test_array_sizes(asked: Asked, output: str, size: int) -> None:
    asked(qstat=printing(output))
    assert asyncio.run(system("pbs").max_array_size()) == size


@pytest.mark.parametrize(
    ("fields", "torque", "told"),
    [
        ({"job_state": "F", "Exit_status": "0"}, False, TaskState("ended")),
        ({"job_state": "C", "exit_status": "0"}, True, TaskState("ended")),
        ({"job_state": "F", "Exit_status": "137"}, False, TaskState("ended", "", "signal 9", 9)),
        ({"job_state": "F", "Exit_status": "265"}, False, TaskState("ended", "", "signal 9", 9)),
        ({"job_state": "F", "Exit_status": "-29"}, False,
         TaskState("ended", stopped="time limit")),
        ({"job_state": "F", "Exit_status": "-27"}, False,
         TaskState("ended", stopped="out of memory")),
        ({"job_state": "C", "exit_status": "-10"}, True,
         TaskState("ended", stopped="out of memory")),
        ({"job_state": "F", "Exit_status": "-10"}, False,
         TaskState("ended", "", "PBS could not run it, exit status -10")),
        ({"job_state": "F", "Exit_status": "271", "substate": "91",
          "resources_used.walltime": "00:00:07"}, False,
         TaskState("ended", "", "signal 15", 15, "cancelled")),
        # Cancelled while it waited; it has no exit status, and its array's may be shown.
        ({"job_state": "F", "Exit_status": "1", "substate": "91", "comment": "Subjob finished"},
         False, TaskState("ended", stopped="cancelled")),
        ({"job_state": "X"}, False, TaskState("ended")),
        # Without job history what has ended of a live array shows the array's own end so far.
        ({"job_state": "X", "substate": "70", "Exit_status": "1"}, False, TaskState("ended")),
        ({"job_state": "X", "substate": "70", "Exit_status": "0"}, False, TaskState("ended")),
        ({"job_state": "X", "substate": "93", "Exit_status": "265"}, False,
         TaskState("ended", "", "signal 9", 9)),
        ({"job_state": "E"}, False, TaskState("running", "E")),
        ({"job_state": "S", "comment": "Job is suspended by a reservation"}, False,
         TaskState("running", "S", "Job is suspended by a reservation")),
    ],
)  # fmt: skip
def test_states(fields: dict[str, str], torque: bool, told: TaskState) -> None:
    assert (Torque() if torque else Pbs()).task_state(Told("7.pbs", fields)) == told


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"job_state": "H", "Hold_Types": "s", "depend": "afterany:6[].pbs@pbs"},
         "waits for job 6[]"),
        # "before…" is the other way round: 174 waits for this one.
        ({"job_state": "H", "Hold_Types": "s",
          "depend": "afterany:172.pbs@pbs,beforeany:174.pbs@pbs"}, "waits for job 172"),
        ({"job_state": "H", "Hold_Types": "s",
          "depend": "beforeany:174.pbs@pbs,afterany:171.pbs@pbs:172.pbs@pbs"},
         "waits for job 171, 172"),
        ({"job_state": "H", "Hold_Types": "u", "depend": "beforeany:174.pbs@pbs"},
         "held, `qrls 7.pbs` lets it start"),
        ({"job_state": "Q", "Hold_Types": "n", "depend": "beforeany:174.pbs@pbs"}, ""),
        ({"job_state": "H", "Hold_Types": "us", "depend": "afteranyarray:6[].head.site@head.site"},
         "waits for job 6[], held, `qrls 7.pbs` lets it start"),
        ({"job_state": "H", "Hold_Types": "l"}, "as many tasks of its array run as may at a time"),
        ({"job_state": "H", "Hold_Types": "o"}, "held by PBS or an administrator"),
        ({"job_state": "H", "Hold_Types": "s",
          "comment": "job held, too many failed attempts to run"},
         "held by PBS or an administrator, job held, too many failed attempts to run"),
        ({"job_state": "W"}, "waits for its start time"),
        ({"job_state": "Q", "comment": "Job Array Began at Tue Nov 24 at 04:35"}, ""),
    ],
)  # fmt: skip
def test_why_a_job_waits(fields: dict[str, str], words: str) -> None:
    assert queued_words(Told("7.pbs", fields)) == words


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"job_state": "Q", "Hold_Types": "s", "depend": "afterany:64[].pbs@pbs"},
         "waits for job 64[]"),
        ({"job_state": "Q", "Hold_Types": "u"}, "held, `qrls 66[].pbs` lets it start"),
        ({"job_state": "Q", "Hold_Types": "us", "depend": "afterany:64[].pbs@pbs"},
         "waits for job 64[], held, `qrls 66[].pbs` lets it start"),
        ({"job_state": "H", "Hold_Types": "u"}, "held, `qrls 66[1].pbs` lets it start"),  # Torque
    ],
)  # fmt: skip
def test_why_a_task_waits(fields: dict[str, str], words: str) -> None:
    """In PBS Pro an array is held, and its tasks are Q; qhold and qrls take no task there."""
    assert queued_words(Told("66[1].pbs", fields)) == words


def test_reasons_and_version(asked: Asked) -> None:
    asked(qstat=printing(ARRAY))
    scheduler = system("pbs")
    assert asyncio.run(scheduler.reasons(["12[].pbs"])).startswith("Insufficient amount")
    assert asyncio.run(scheduler.version()) == "pbs_version = 23.06.06"
