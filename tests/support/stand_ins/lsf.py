"""A stand-in for LSF: bsub(1), bjobs(1), bkill(1), bparams(1) and lsid(1) of LSF 10.1.

It refuses what its reference does not allow, also where a site's real commands are more lenient.
"""

from __future__ import annotations

import math
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from tests.support.stand_ins.batch import Job, Queue, Start, Task
from tests.support.stand_ins.lsf_syntax import (
    MOST_TASKS,
    QUEUES,
    Options,
    Refused,
    bsub_options,
    dependencies,
    job_name,
    limits,
    parsed,
)

FAILED = 255
MINUTE = 4.0  # seconds, of -W: it knows no shorter limit, and no test waits for a whole minute
VERSION = "IBM Spectrum LSF Standard 10.1.0.14, Jun 09 2023"
# bsub(1), -env: what is of use on the host of the submission only; it is made anew on the other.
_STAYS = re.compile(
    r"LS_JOBPID|LSB_(ACCT_MAP|EXIT_PRE_ABORT|EXIT_REQUEUE|EVENT_ATTRIB|HOSTS|INTERACTIVE\w*"
    r"|JOBFILENAME|JOBGROUP|JOBID|JOBNAME|JOB_STARTER|QUEUE|RESTART|TRAPSIGS|XJOB_\w*)"
)
# Of bjobs -o: those that are modelled.
_FIELDS = ("jobid", "jobindex", "stat", "user", "queue", "job_name", "exit_code", "exit_reason",
           "pend_reason", "proj_name")  # fmt: skip
_ALIASES = {"id": "jobid", "name": "job_name", "proj": "proj_name"}


class Shown(NamedTuple):
    """A job, or a task of an array, as bjobs lists it."""

    job: Job
    task: Task


def main(command: str, words: Sequence[str]) -> int:
    """Run a command; its exit code."""
    if list(words) == ["-V"]:
        print(VERSION, file=sys.stderr)
        return 0
    try:
        return int(globals()[f"_{command}"](list(words)))
    except Refused as refusal:
        end = ". Job not submitted." if command == "bsub" else ""
        print(f"{refusal}{end}", file=sys.stderr)
        return FAILED


# bsub


def _bsub(words: list[str]) -> int:
    script = sys.stdin.read()
    if not script.strip():
        raise Refused("No command is specified")
    options = bsub_options(words, script)
    name = job_name(options)
    after = [_dependency(job_id) for job_id in dependencies(options)]
    first = script.partition("\n")[0]
    queue = Queue.here()
    file = queue.keep_script(script if first.startswith("#!") else f"#!/bin/sh\n{script}")
    indices = range(1, name.n_tasks + 1) if name.n_tasks is not None else [0]
    job = queue.submit(
        name.name,
        [
            Start(
                [file],
                _environ(options, name.name, index, len(indices), file),
                os.getcwd(),
                _output(options, index),
                _run_limit(options),
                signal.SIGUSR2,
            )
            for index in indices
        ],
        throttle=name.throttle,
        after=after,
        details={"array": name.n_tasks is not None, "options": options},
    )
    if "BSUB_QUIET" not in os.environ:
        to = f"queue <{options['q'][-1]}>" if "q" in options else f"default queue <{QUEUES[0]}>"
        print(f"Job <{job}> is submitted to {to}.")
    return 0


def _run_limit(options: Options) -> float | None:
    minutes = limits(options).minutes
    return None if minutes is None else minutes * MINUTE


def _dependency(job_id: str) -> int:
    found = re.fullmatch(r"(\d+)(\[\*\])?", job_id)
    if found is None:
        raise Refused("a dependency on other than the id of a job is not modelled")
    if not Queue.here().jobs([int(found[1])]):
        raise Refused(f"Job <{found[1]}> is not found")
    return int(found[1])


def _output(options: Options, index: int) -> str:
    path = options.get("o", ["/dev/null"])[-1].replace("%J", "{job}").replace("%I", str(index))
    return f"{path}{{job}}.out" if path.endswith("/") else path


def _environ(options: Options, name: str, index: int, n_tasks: int, script: str) -> dict[str, str]:
    """What a task finds: the environment of its submission, unless -env says otherwise."""
    propagated = options.get("env", ["all"])[-1]
    if propagated not in ("all", "none"):
        raise Refused("-env with names is not modelled")
    handed = {n: v for n, v in os.environ.items() if not _STAYS.fullmatch(n)}
    slots = options.get("n", ["1"])[-1].partition(",")[0]
    array = {"LSB_JOBINDEX_STEP": "1", "LSB_JOBINDEX_END": str(n_tasks)} if index else {}
    element = f"[{index}]" if index else ""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin", "SHELL": "/bin/bash",
        **(handed if propagated == "all" else {}),
        "HOME": os.environ["HOME"], "LSFUSER": os.environ.get("LOGNAME", "me"),
        "LSB_JOBID": "{job}", "LSB_JOBINDEX": str(index), "LSB_BATCH_JID": f"{{job}}{element}",
        "LSB_JOBNAME": f"{name}{element}", "LSB_QUEUE": options.get("q", [QUEUES[0]])[-1],
        "LSB_HOSTS": " ".join(["node1"] * int(slots)), "LSB_MCPU_HOSTS": f"node1 {slots}",
        "LSB_DJOB_NUMPROC": slots, "LSB_SUB_HOST": "login", "LSB_SUB_USER": "me",
        "LSB_JOBFILENAME": script, "LSB_EXEC_CLUSTER": "here",
        "LSB_TRAPSIGS": "trap # 15 10 12 2 1", "LS_SUBCWD": os.getcwd(),
        "LS_EXEC_T": "START", "LSF_INVOKE_CMD": "bsub", **array,
    }  # fmt: skip


# bjobs and bkill


def _bjobs(words: list[str]) -> int:
    options, ids = parsed(words, ["o", "u", "J"], ["a", "noheader", "UF", "w"])
    if ("UF" in options) == ("o" in options) or ("UF" in options and "noheader" in options):
        raise Refused("one of -o and -UF is expected, the other forms are not modelled")
    shown, missing = _selected(options, ids)
    if "o" in options:
        fields, delimiter = _format(options["o"][-1])
        if "noheader" not in options and shown:
            print(delimiter.join(name.upper() for name, _ in fields))
        for entry in shown:
            values = _values(*entry)
            print(delimiter.join(_cut(name, values[name], width) for name, width in fields))
    else:
        for entry in shown:
            print(_long(entry))
    for complaint in missing:
        print(complaint, file=sys.stderr)
    if not shown and not missing:
        print(f"No {'' if 'a' in options else 'unfinished '}job found", file=sys.stderr)
    # As LSB_BJOBS_CONSISTENT_EXIT_CODE=Y has it, which is the stricter one.
    return FAILED if missing or not shown else 0


def _selected(options: Options, ids: Sequence[str]) -> tuple[list[Shown], list[str]]:
    """What is listed, and complaints of what there is not."""
    user = options.get("u", ["all" if ids else _me()])[-1]
    places, missing = [], []
    for job_id in ids:
        found = [*_named(job_id)]
        places += found
        missing += [] if found else [f"Job <{job_id}> is not found"]
    everything = [Shown(job, task) for job in Queue.here().jobs() for task in job.tasks]
    shown = [
        entry
        for entry in (places if ids else everything)
        if user in ("all", entry.job.owner)
        and ("J" not in options or entry.job.name == options["J"][-1])
        and ("a" in options or entry.task.state != "ended")
    ]
    return shown, missing


def _me() -> str:
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


def _named(job_id: str) -> Iterator[Shown]:
    """The tasks that an id names: of a job, or of elements of an array."""
    found = re.fullmatch(r"([1-9]\d*)(\[([\d,-]+)\])?", job_id)
    if found is None:
        raise Refused(f"{job_id}: Illegal job ID")
    indices: set[int] = set()
    for part in (found[3] or "").split(",") if found[2] else []:
        first, _, last = part.partition("-")
        indices |= {*range(int(first), int(last or first) + 1)}
    for job in Queue.here().jobs([int(found[1])]):
        if found[2] and not job.details["array"]:
            continue
        yield from (Shown(job, t) for t in job.tasks if not found[2] or t.position + 1 in indices)


def _format(text: str) -> tuple[list[tuple[str, int | None]], str]:
    """The fields, each with its width if it has one, and the delimiter."""
    found = re.search(r"(^|\s)delimiter=(['\"])(.*)\2\s*$", text)
    delimiter = " "
    if found is not None:
        text, delimiter = text[: found.start()], found[3]
        if len(delimiter) != 1:
            raise Refused("The delimiter must be a single character")
    fields: list[tuple[str, int | None]] = []
    for word in text.split():
        field = re.fullmatch(r"(\w+)(?::(-?\d+))?", word)
        name = field[1].lower() if field else word
        name = _ALIASES.get(name, name)
        if field is None or name not in _FIELDS:
            raise Refused(f"Unknown field name: {word}")
        fields.append((name, abs(int(field[2])) if field[2] else None))
    if not fields:
        raise Refused("No field is specified")
    return fields, delimiter


def _cut(name: str, value: str, width: int | None) -> str:
    if width is None or len(value) <= width:
        return value
    return f"*{value[1 - width :]}" if name == "job_name" else value[:width]


def _values(job: Job, task: Task) -> Mapping[str, str]:
    """The fields of -o; "-" for one that a job has not."""
    index = task.position + 1 if job.details["array"] else 0
    options = job.details["options"]
    state, code, reason = _end(task, _run_limit(options))
    return {
        "jobid": str(job.id), "jobindex": str(index), "stat": state, "user": job.owner,
        "queue": options.get("q", [QUEUES[0]])[-1], "exit_code": code, "exit_reason": reason,
        "job_name": f"{job.name}[{index}]" if index else job.name,
        "proj_name": options.get("P", ["default"])[-1],
        "pend_reason": _pending(job) if state == "PEND" else "-",
    }  # fmt: skip


def _end(task: Task, limit: float | None) -> tuple[str, str, str]:
    """State, exit code and termination reason."""
    if task.state != "ended":
        return {"queued": "PEND", "running": "RUN"}[task.state], "-", "-"
    status = task.status or 0
    code = 128 + status if 0 < status < 256 else status >> 8
    if task.cancelled is not None:
        return "EXIT", str(code) if task.began else "-", "TERM_OWNER: job killed by owner"
    if status and task.reached(limit):
        told = "TERM_RUNLIMIT: job killed after reaching LSF run time limit"
        return "EXIT", str(code), told
    if 0 < status < 256:
        told = "TERM_EXTERNAL_SIGNAL: job killed by a signal external to LSF"
        return "EXIT", str(code), told
    return ("EXIT", str(code), "-") if code else ("DONE", "-", "-")


def _pending(job: Job) -> str:
    others = Queue.here().jobs(list(job.after))
    if any(task.state != "ended" for other in others for task in other.tasks):
        return "Job dependency condition not satisfied;"
    if Queue.here().held():
        return "The queue is inactivated by its administrator;"
    if sum(task.state == "running" for task in job.tasks) == job.throttle:
        return "The job array has reached its job slot limit;"
    return "New job is waiting for scheduling;"


def _long(entry: Shown) -> str:
    """What -UF shows: what was asked for, and its limits; lines are never broken."""
    told = _values(*entry)
    element = f"[{told['jobindex']}]" if told["jobindex"] != "0" else ""
    options = entry.job.details["options"]
    asked = [f"Requested Resources <{' '.join(options['R'])}>"] if "R" in options else []
    asked += [f"Requested GPU <{options['gpu'][-1]}>"] if "gpu" in options else []
    minutes, kilobytes = limits(options)
    limited = "" if minutes is None else f"\n\n RUNLIMIT\n {minutes:.1f} min"
    limited += "" if kilobytes is None else f"\n\n MEMLIMIT\n {_size(kilobytes):>7}"
    return (
        f"Job <{told['jobid']}{element}>, Job Name <{told['job_name']}>, User <{told['user']}>, "
        f"Project <{told['proj_name']}>, Status <{told['stat']}>, Queue <{told['queue']}>, "
        "Command <#!/usr/bin/env bash;...>\n"
        f"Tue Nov 24 04:35:56: {', '.join(['Submitted from host <login>', *asked])};{limited}\n"
    )


def _size(kilobytes: float) -> str:
    power = min(int(math.log(max(kilobytes, 1), 1024)), 2)
    return f"{kilobytes / 1024**power:.4g} {'KMG'[power]}"


def _bkill(words: list[str]) -> int:
    _, ids = parsed(words, [], [])
    if not ids:
        raise Refused("Job ID is expected; to kill the job submitted last is not modelled")
    code = 0
    for job_id in ids:
        found = [*_named(job_id)]
        if found and any(entry.task.state != "ended" for entry in found):
            for job, task in found:
                Queue.here().cancel(job.id, task.position)
            print(f"Job <{job_id}> is being terminated")
            continue
        said = "Job has already finished" if found else "No matching job found"
        print(f"Job <{job_id}>: {said}", file=sys.stderr)
        code = FAILED
    return code


# bparams and lsid


def _bparams(words: list[str]) -> int:
    if words != ["-a"]:
        raise Refused("only -a is modelled")
    print("lsb.params configuration at Tue Nov 24 04:35:56 2026\n")
    for name, value in {
        "DEFAULT_QUEUE": QUEUES[0], "MBD_SLEEP_TIME": "10 (seconds)", "CLEAN_PERIOD": "3600",
        "MAX_JOB_ARRAY_SIZE": str(MOST_TASKS), "MAX_JOBID": "999999",
    }.items():  # fmt: skip
        print(f"    {name} = {value}")
    return 0


def _lsid(words: list[str]) -> int:
    if words:
        raise Refused("usage: lsid [-h] [-V]")
    print(f"{VERSION}\nCopyright of its owners.\n\nMy cluster name is here\nMy master name is head")
    return 0
