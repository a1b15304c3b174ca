"""LSF's dialect: what its commands print, and what a job may inherit.

The commands are small programs; what they print has the form that the references of LSF 10.1 give.
No real server was at hand.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet3.errors import SchedulerUnavailable
from espnet3.run_dir.submissions import KnownSubmission
from espnet3.schedulers.base import TaskState
from espnet3.schedulers.commands import Answer
from espnet3.schedulers.dialect import SubmitCall
from espnet3.schedulers.dialects.lsf import parsed, task_state
from espnet3.specs.models import AcceptedJob, PlannedJob
from tests.support.asking import Commands, entry, parts, system, waiting

LSF = system("lsf")
FORMAT = "jobid jobindex stat user exit_code job_name exit_reason pend_reason delimiter='^'"
ARRAY = """\
Welcome to the cluster
12^1^DONE^me^-^esp^-^-
12^2^EXIT^me^140^esp[2]^TERM_RUNLIMIT: job killed after reaching LSF run time limit.^-
12[3]^3^RUN^me^-^esp[3]^-^-
12^4^PEND^me^-^esp[4]^-^Job's resource requirements not satisfied: 4 hosts;Not enough slots: 2^9;
 Candidate host pending reasons (0 of 4 hosts)
12^5^PE
"""


def planned(name: str = "esp", n_tasks: int = 4, throttle: int | None = None) -> PlannedJob:
    """A job of a submission."""
    return PlannedJob(name=name, first_task=0, n_tasks=n_tasks, log="1-0.{index}.log",
                      throttle=throttle)  # fmt: skip


def known(job_id: str | None = "12", n_tasks: int = 4, **more: Any) -> KnownSubmission:
    """A submission of one job."""
    return entry(("esp", n_tasks, job_id), scheduler="lsf", **more)


# Submitting


@pytest.mark.parametrize(
    ("job", "array", "name", "index"),
    [
        (planned(throttle=2), True, "esp[1-4]%2", '"$LSB_JOBINDEX"'),
        (planned(), True, "esp[1-4]", '"$LSB_JOBINDEX"'),
        (planned(n_tasks=1), True, "esp", "1"),
        (planned(), False, "esp", "1"),
    ],
)
def test_names_arrays_and_logs(job: PlannedJob, array: bool, name: str, index: str) -> None:
    assert parts(LSF, job, "/logs", array=array).arguments == ["-J", name, "-o", "/dev/null"]
    [line] = parts(LSF, job, "/100%J b", array=array).prologue
    assert line == f"exec >>'/100%J b/1-0.'{index}.log 2>&1"
    assert LSF.log_file(job, 0) == "1-0.1.log"


def test_waiting_for_other_jobs() -> None:
    assert waiting(LSF, "12") == ["-w", "ended(12)"]
    assert waiting(LSF, "12", "7", "3") == ["-w", "ended(12) && ended(7) && ended(3)"]


@pytest.mark.parametrize("prefix", ["espnet3", "1st", "[x]", "日本語", "-N", "a" * 300, "", "/g/x"])
def test_unique_names(prefix: str) -> None:
    name = LSF.unique_name
    names = {name(prefix, run, n, p) for run in ("a", "b") for n in range(9) for p in range(99)}
    assert len(names) == 2 * 9 * 99
    assert all(len(n) <= 150 and n.isascii() for n in names)
    assert all((n[0].isalpha() or n[0] == "_") and "[" not in n and "/" not in n for n in names)


def test_the_name_of_the_script_is_left_out() -> None:
    script = "#!/bin/bash\n\n#BSUB -J -N\n#BSUB -n 1\necho '#BSUB -J x'\n"
    got = parts(LSF, planned()).amend(script)
    assert got == "#!/bin/bash\n\n#BSUB -n 1\necho '#BSUB -J x'\n"


@pytest.mark.parametrize("use_stdin", [True, None, False])
def test_how_the_script_is_handed_over(use_stdin: bool | None) -> None:
    words, script = ["bsub", "-J", "esp"], "#!/bin/sh\n# é\n"
    call = LSF.dialect.submit_call(words, "/job.sh", script, {"use_stdin": use_stdin})
    if use_stdin is False:
        assert call == SubmitCall([*words, "/job.sh"])
    else:
        assert call == SubmitCall(words, script)


@pytest.mark.parametrize(
    ("output", "job_id"),
    [
        ("Job <123> is submitted to queue <normal>.\n", "123"),
        ("Job <7> is submitted to default queue <normal>.\nBalance: 20 of 2026\n", "7"),
        ("Job <1> is a fine job\n  Job <7> is submitted to project <x>.\nJob <2>\n", "7"),
        ("Cannot connect to LSF. Please wait ...\nJob <7> is submitted to queue <q>.\n", "7"),
        ("Job <8> is submitted to queue <q>.\nJob <7> is submitted to queue <q>.\n", None),
        ("Job <fuzz> is submitted to queue <q>.\n", None),
        ("Job <-1> is submitted to queue <q>.\n", None),
        ("", None),
    ],
)
def test_job_ids(output: str, job_id: str | None) -> None:
    assert LSF.parse_job_id(output) == job_id


@pytest.mark.parametrize(
    ("given", "got", "seconds"),
    [
        ("04:00:00", "4:00", 14400),
        ("00:30", "00:30", 1800),
        (90, 90, 5400),
        ("0:0:1", "0:01", 1),
        ("1:59:31", "2:00", 7171),
        ("1-12:00:00", "36:00", 129600),
        ("4:00/node1", "4:00/node1", None),
        ("soon", "soon", None),
        (None, None, None),
    ],
)
def test_walltimes(given: Any, got: Any, seconds: float | None) -> None:
    assert LSF.dialect.adapted({"walltime": given}) == {"walltime": got}
    assert LSF.walltime_seconds(given) == seconds


@pytest.mark.parametrize(
    ("said", "silent"),
    [
        ("LSF is down. Please wait ...", True),
        ("Cannot connect to LSF. Please wait ...", True),
        ("batch system daemon not responding ... still trying", True),
        ("Failed in receiving job submission reply: Communication time out", True),
        ("Request from non-LSF host rejected", True),
        ("none: No such queue. Job not submitted.", False),
        ("Bad job name. Job not submitted.", False),
    ],
)
def test_what_leaves_open_whether_a_job_was_accepted(said: str, silent: bool) -> None:
    assert (LSF.no_answer.search(said) is not None) == silent


# In a job


@pytest.mark.parametrize(
    ("environ", "index", "job_id"),
    [
        ({"LSB_JOBID": "12", "LSB_JOBINDEX": "3"}, 2, "12[3]"),
        ({"LSB_JOBID": "12", "LSB_JOBINDEX": "0"}, None, "12"),
        ({"LSB_JOBID": "12"}, None, "12"),
        ({"LSB_JOBID": "12", "LSB_JOBINDEX": ""}, None, "12"),
        ({}, None, None),
    ],
)
def test_a_job_knows_itself(environ: dict[str, str], index: int | None, job_id: str | None) -> None:
    assert LSF.array_index(environ) == index
    assert LSF.job_id(environ) == job_id
    assert LSF.was_requeued(environ) == (job_id is not None)
    assert job_id is None or LSF.task_name("12", index) == job_id


def test_what_a_job_leaves_does_not_leak() -> None:
    left = {"LSB_JOBID": "1", "LSB_JOBINDEX": "3", "LSF_INVOKE_CMD": "bsub", "LS_SUBCWD": "/x",
            "LS_JOBPID": "7", "LS_EXEC_T": "START", "BSUB_QUIET": "y",
            "LSB_BJOBS_FORMAT": "id"}  # fmt: skip
    kept = {"LSF_ENVDIR": "/etc", "LSF_SERVERDIR": "/s", "LSF_LIBDIR": "/l", "LSF_BINDIR": "/b",
            "LSB_DEFAULTQUEUE": "gpu", "LS_COLORS": "di=1", "HOME": "/h"}  # fmt: skip
    assert LSF.scrubbed({**left, **kept}) == kept


# States


def test_an_array(commands: Commands) -> None:
    commands.say("bjobs", ARRAY, "Job <99> is not found\n", 255)
    states = asyncio.run(LSF.query([known(n_tasks=5)]))
    assert states == {
        (1, 0): TaskState("ended"),
        (1, 1): TaskState("ended", "", "signal 12", 12, "time limit"),
        (1, 2): TaskState("running", "RUN"),
        (1, 3): TaskState(
            "queued",
            "PEND",
            "Job's resource requirements not satisfied: 4 hosts; Not enough slots: 2^9; "
            "Candidate host pending reasons (0 of 4 hosts)",
        ),
    }
    assert commands.asked("bjobs") == ["-a", "-u", "all", "-noheader", "-o", FORMAT, "12"]


def test_a_job_that_is_no_array(commands: Commands) -> None:
    commands.say("bjobs", "12^0^EXIT^me^3^esp^-^-\n")
    states = asyncio.run(LSF.query([known(n_tasks=1)]))
    assert states == {(1, 0): TaskState("ended", "", "exit code 3")}


def test_an_id_that_is_used_again(commands: Commands) -> None:
    commands.say("bjobs", "12^0^RUN^you^-^of-another^-^-\n")
    assert asyncio.run(LSF.query([known(n_tasks=1)])) == {}


def test_a_job_that_its_user_has_renamed(commands: Commands) -> None:
    commands.say("bjobs", "12^0^RUN^me^-^mine^-^-\n")
    [state] = asyncio.run(LSF.query([known(n_tasks=1)])).values()
    assert state.state == "running"


def test_nothing_is_asked_where_nothing_is_wanted(commands: Commands) -> None:
    commands.say("bjobs", "")
    assert asyncio.run(LSF.query([known()], {1: []})) == {}
    assert asyncio.run(LSF.query([])) == {}
    assert commands.asked("bjobs") == []


@pytest.mark.parametrize(
    ("code", "out", "err"),
    [
        (255, "", "Job <12> is not found\n"),
        (0, "", "Job <12> is not found\n"),
        (255, "No unfinished job found\n", ""),
        (0, "", "No job found\n"),
        (255, "", "LSF is processing your request. Please wait ...\nJob <12> is not found\n"),
    ],
)
def test_a_job_that_is_forgotten(commands: Commands, code: int, out: str, err: str) -> None:
    commands.say("bjobs", out, err, code)
    assert asyncio.run(LSF.query([known()])) == {}
    assert asyncio.run(LSF.find([planned()], "me")) == []


def test_a_job_that_is_not_shown_yet(commands: Commands) -> None:
    """A server with several threads answers from a copy of the queue that is some seconds old."""
    commands.say("bjobs", "13^0^RUN^me^-^old^-^-\n", "Job <12> is not found\n", 255)
    new = known(n_tasks=2)
    assert new.recorded is not None
    recorded = new.recorded.model_copy(update={"created": datetime.now(UTC)})
    old = entry(("old", 1, "13"), ("gone", 1, "14"), number=2, scheduler="lsf")
    state = TaskState("queued", "", "LSF does not show it yet")
    assert asyncio.run(LSF.query([new._replace(recorded=recorded), old])) == {
        (1, 0): state,
        (1, 1): state,
        (2, 0): TaskState("running", "RUN"),
    }


@pytest.mark.parametrize(
    ("out", "err", "words"),
    [
        ("", "LSF is down. Please wait ...\n", "LSF is down"),
        ("12^1^RUN^me^-^esp[1]^-^-\n", "Failed in an LSF library call: LIM\n", "library call"),
        ("", "", "exit code 1"),
        ("Sorry\n", "", "Sorry"),
    ],
)
def test_a_server_that_does_not_answer(commands: Commands, out: str, err: str, words: str) -> None:
    for command in ("bjobs", "bkill", "bparams"):
        commands.say(command, out, err, 1)
    for question in (
        LSF.query([known()]),
        LSF.query([known(None)]),
        LSF.find([planned()], "me"),
        LSF.cancel([AcceptedJob(name="x", job_id="12")]),
        LSF.max_array_size(),
        LSF.reasons(["12"]),
    ):
        with pytest.raises(SchedulerUnavailable) as told:
            asyncio.run(question)
        assert words in str(told.value)


def test_commands_do_not_try_for_ever(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    commands.answer(
        "bparams",
        lambda words, environ: Answer(0, f"MAX_JOB_ARRAY_SIZE = {environ['LSB_NTRIES']}\n", ""),
    )
    assert asyncio.run(LSF.max_array_size()) == 5
    monkeypatch.setenv("LSB_NTRIES", "77")
    assert asyncio.run(LSF.max_array_size()) == 77


def test_a_job_without_a_recorded_id(commands: Commands) -> None:
    rows = "11^0^RUN^me^-^other^-^-\n12^1^RUN^me^-^esp[1]^-^-\n12^2^PEND^me^-^esp[2]^-^-\n"
    commands.say("bjobs", rows)
    assert asyncio.run(LSF.find([planned()], "me")) == [AcceptedJob(name="esp", job_id="12")]
    assert commands.asked("bjobs") == ["-a", "-u", "me", "-noheader", "-o", FORMAT]
    states = asyncio.run(LSF.query([known(None)]))
    assert states == {(1, 0): TaskState("running", "RUN"), (1, 1): TaskState("queued", "PEND")}


def test_cancelling_what_has_ended_is_no_error(commands: Commands) -> None:
    said = "Job <12>: Job has already finished\nJob <13>: No matching job found\n"
    commands.say("bkill", "Job <14> is being terminated\n", said, 255)
    asyncio.run(LSF.cancel([AcceptedJob(name="x", job_id=i) for i in ("12", "13", "14")]))
    assert commands.asked("bkill") == ["12", "13", "14"]


def test_damaged_ids_are_not_handed_over(commands: Commands) -> None:
    commands.say("bkill")
    ids = ("0", "-u all", "12", "12[1]", "1 2", "")
    asyncio.run(LSF.cancel([AcceptedJob(name="x", job_id=i) for i in ids]))
    assert commands.asked("bkill") == ["12"]


@pytest.mark.parametrize(
    ("output", "size"),
    [
        ("    DEFAULT_QUEUE = normal\n    MAX_JOB_ARRAY_SIZE = 5000\n", 5000),
        ("MAX_JOB_ARRAY_SIZE=75000\n", 75000),
        ("    DEFAULT_QUEUE = normal\n", 1000),
    ],
)
def test_array_sizes(commands: Commands, output: str, size: int) -> None:
    commands.say("bparams", output)
    assert asyncio.run(LSF.max_array_size()) == size
    assert commands.asked("bparams") == ["-a"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("DONE", "0"), TaskState("ended")),
        (("EXIT", "1"), TaskState("ended", "", "exit code 1")),
        (("EXIT", "137"), TaskState("ended", "", "signal 9", 9)),
        (("EXIT", ""), TaskState("ended")),
        (("EXIT", "130", "TERM_OWNER: job killed by owner"),
         TaskState("ended", "", "signal 2", 2, "cancelled")),
        (("EXIT", "1", "TERM_MEMLIMIT: job killed after reaching LSF memory usage limit."),
         TaskState("ended", "", "exit code 1", 0, "out of memory")),
        (("EXIT", "137", "TERM_EXTERNAL_SIGNAL: job killed by a signal external to LSF"),
         TaskState("ended", "", "job killed by a signal external to LSF, signal 9", 9)),
        (("EXIT", "255", "TERM_CWD_NOTEXIST: current working directory does not exist."),
         TaskState("ended", "", "current working directory does not exist, exit code 255")),
        (("EXIT", "137", "TERM_PREEMPT: job killed after preemption"),
         TaskState("ended", "", "signal 9", 9, "preempted")),
        (("PSUSP",), TaskState("queued", "PSUSP", "held, `bresume 7[2]` lets it start")),
        (("WAIT",), TaskState("queued", "WAIT")),
        (("PEND", "", "", "New job is waiting for scheduling;"),
         TaskState("queued", "PEND", "New job is waiting for scheduling")),
        (("USUSP",), TaskState("running", "USUSP", "suspended, `bresume 7[2]` lets it go on")),
        (("SSUSP",), TaskState("running", "SSUSP", "suspended by LSF")),
        (("UNKWN",), TaskState("running", "UNKWN", "its host does not answer")),
        (("ZOMBI",), TaskState("running", "ZOMBI", "killed, but its host does not answer; "
                               "`bkill -r 7[2]` gives it up")),
        (("NEW_WORD",), TaskState("running", "NEW_WORD")),
    ],
)  # fmt: skip
def test_states(words: tuple[str, ...], told: TaskState) -> None:
    assert task_state("7[2]", *words) == told


@given(st.text())
def test_any_text_can_be_read(text: str) -> None:
    assert all(row.job_id.isdecimal() for row in parsed(text))


def test_reasons_and_version(commands: Commands) -> None:
    commands.say("bjobs", ARRAY)
    commands.say("lsid", "IBM Spectrum LSF Standard 10.1.0.14, Jun 09 2023\nCopyright ...\n")
    assert asyncio.run(LSF.reasons(["12"])).startswith("Job's resource requirements not satisfied")
    assert asyncio.run(LSF.version()) == "IBM Spectrum LSF Standard 10.1.0.14, Jun 09 2023"
