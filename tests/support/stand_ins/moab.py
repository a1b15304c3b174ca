"""A stand-in for Moab 9.1 above Torque: msub, showq, checkjob and canceljob, by its manual.

It refuses what the manual does not allow, also where a site's real commands are more lenient. The
form of `showq --xml` is that of answers which users of real servers have published.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import quoteattr

from tests.support.stand_ins.batch import Job, Queue, Start, Task
from tests.support.stand_ins.pbs import Options, Refused, directives, exit_status, handed_on, parsed

VERSION = "moab client 9.1.3"
CLUSTER = "Moab"  # with which ids begin
CLASSES = ("batch", "gpu")
_SUBMIT = "a:A:c:C:d:e:EF:hIj:k:Kl:m:M:N:o:p:q:r:S:t:u:v:VW:xz"
_MOST_TASKS = 100_000  # msub, -t
# Torque's, which takes the job over; "Job Exit Status" in its guide has JOB_EXEC_OVERLIMIT_WT.
_OVER_WALLTIME = -11
_NAME = re.compile(r"[A-Za-z][!-~]{0,14}")
_ARRAY = re.compile(r"(?:[A-Za-z]\w*\.)?\[([\d,:-]+)\](?:%(\d+))?|([\d,-]+)(?:%(\d+))?")
_RESOURCES = frozenset({
    "advres", "arch", "cput", "depend", "excludenodes", "feature", "file", "gres", "host", "mem",
    "naccesspolicy", "ncpus", "nice", "nodes", "nodeset", "opsys", "partition", "pcput", "pmem",
    "pref", "procs",
    "pvmem", "qos", "signal", "size", "software", "tpn", "trig", "ttc", "var", "vmem", "walltime",
})  # fmt: skip
_WALLTIME = re.compile(r"(\d+:){0,3}\d+")
_DEPENDENCIES = frozenset({"after", "afterany", "afterok", "afternotok"})
_MODELLED = {
    "j": re.compile("oe|n"), "r": re.compile("[yn]"), "A": re.compile(r"\S+"),
    "o": re.compile(r"\S.*"), "e": re.compile(r"\S.*"), "S": re.compile(r"/.*"), "N": _NAME,
}  # fmt: skip


class _Shape(NamedTuple):
    """What the option for an array says."""

    indices: list[int]
    throttle: int | None


# msub


def msub(words: list[str]) -> int:
    """Submit a script."""
    given, operands = parsed(words, _SUBMIT)
    if len(operands) != 1:
        raise Refused("one script is expected, standard input is not modelled")
    text = Path(operands[0]).read_text()
    options = directives(text, ("#PBS", "#MSUB"), _SUBMIT)
    for option, values in given.items():  # the command line takes precedence, resource by resource
        options[option] = [*options.get(option, []), *values] if option == "l" else values
    resources = _checked(options)
    shape = _shape(options)
    after = _after(resources.get("depend", ""))
    queue = Queue.here()
    script = queue.keep_script(text)
    name = options.get("N", ["STDIN"])[-1]
    log = options.get("o", ["/dev/null"])[-1].rpartition(":")[2]
    indices: list[int | None] = [*shape.indices] if shape else [None]
    environs = (_environ(options, name, index, len(indices)) for index in indices)
    walltime = resources.get("walltime", "01:00:00")
    limit = _seconds(walltime)
    job = queue.submit(
        name,
        [Start([script], environ, os.environ["HOME"], log, limit) for environ in environs],
        throttle=shape.throttle if shape else None,
        after=after,
        details={
            "array": shape is not None, "indices": indices,
            "account": options.get("A", [""])[-1], "class": options.get("q", [CLASSES[0]])[-1],
            "walltime": walltime, "dedicated": _dedicated(resources),
        },
    )  # fmt: skip
    if "z" not in options:
        print(f"\n{CLUSTER}.{job}")
    return 0


def _checked(options: Options) -> dict[str, str]:
    """The resources that are asked for."""
    for option, pattern in _MODELLED.items():
        for value in options.get(option, [])[-1:]:
            if not pattern.fullmatch(value):
                raise Refused(f"invalid value for option -{option}: {value}")
    for option in ("a", "c", "C", "h", "I", "K", "u", "x"):
        if option in options:
            raise Refused(f"-{option} is not modelled")
    for value in options.get("q", [])[-1:]:
        if value not in CLASSES:
            raise Refused(f"cannot locate class '{value}'")
    for value in options.get("W", []):
        if not re.fullmatch(r"x=\w+=\S+|umask=\d+", value):
            raise Refused(f"invalid value for option -W: {value}")
    resources: dict[str, str] = {}
    for value in options.get("l", []):
        for part in value.split(","):
            resource, equals, amount = part.partition("=")
            if resource not in _RESOURCES or not equals or not amount:
                raise Refused(f"invalid resource specification '{part}'")
            resources[resource] = amount
    if not _WALLTIME.fullmatch(resources.get("walltime", "1")):
        raise Refused(f"invalid walltime '{resources['walltime']}'")
    return resources


def _dedicated(resources: Mapping[str, str]) -> str:
    """What is asked for, as checkjob shows it."""
    node = re.search(r":ppn=(\d+)", resources.get("nodes", ""))
    words = [f"PROCS: {node[1] if node else 1}"]
    memory = re.fullmatch(r"(\d+)(mb|gb)", resources.get("mem", ""), re.IGNORECASE)
    words += [f"MEM: {memory[1]}{memory[2][0].upper()}"] if memory else []
    gpus = re.search(r":gpus=(\d+)", resources.get("nodes", ""))
    words += [f"GPUS: {gpus[1]}"] if gpus else []
    return f"Dedicated Resources Per Task: {'  '.join(words)}"


def _shape(options: Options) -> _Shape | None:
    if "t" not in options:
        return None
    text = options["t"][-1]
    found = _ARRAY.fullmatch(text)
    if found is None:
        raise Refused(f"invalid job array specification '{text}'")
    indices: list[int] = []
    for part in (found[1] or found[3]).split(","):
        span = re.fullmatch(r"(\d+)(?:-(\d+)(?::([1-9]\d*))?)?", part)
        if span is None or int(span[2] or span[1]) < int(span[1]):
            raise Refused(f"invalid job array specification '{text}'")
        last = min(int(span[2] or span[1]), int(span[1]) + _MOST_TASKS * int(span[3] or 1))
        indices += range(int(span[1]), last + 1, int(span[3] or 1))
    if len(indices) > _MOST_TASKS:
        raise Refused(f"job array exceeds the limit of {_MOST_TASKS} sub-jobs")
    throttle = found[2] or found[4]
    if throttle is not None and int(throttle) < 1:
        raise Refused(f"invalid job array specification '{text}'")
    return _Shape(sorted(set(indices)), int(throttle) if throttle else None)


def _after(depend: str) -> list[int]:
    if not depend:
        return []
    kind, *ids = depend.split(":")
    if kind not in _DEPENDENCIES or not ids:
        raise Refused(f"invalid dependency '{depend}'")
    return [_find(job_id)[0].id for job_id in ids]


def _environ(options: Options, name: str, index: int | None, n_tasks: int) -> dict[str, str]:
    """What a task finds; Moab's own variables only where -E (or -V) is given."""
    environ = handed_on(options)
    # Torque knows each task of an array as a job of its own.
    torque = f"9{{job}}{0 if index is None else index:05}.head"
    environ |= {
        "PBS_ENVIRONMENT": "PBS_BATCH", "PBS_JOBID": torque, "PBS_JOBNAME": name,
        "PBS_QUEUE": options.get("q", [CLASSES[0]])[-1],
    }  # fmt: skip
    if "E" in options or "V" in options:
        job_id = f"{CLUSTER}.{{job}}"
        array = {"MOAB_JOBARRAYINDEX": str(index), "MOAB_JOBARRAYRANGE": str(n_tasks)}
        environ |= {"MOAB_JOBID": job_id, "MOAB_JOBNAME": name, "MOAB_BATCH": ""}
        if index is not None:
            environ |= {**array, "MOAB_JOBID": f"{job_id}[{index}]"}
    return environ


# What the other commands know


def _find(job_id: str) -> tuple[Job, int | None]:
    """The job that an id names, and the position of a task in it."""
    found = re.fullmatch(rf"{CLUSTER}\.(\d+)(?:\[(\d+)\])?", job_id)
    jobs = Queue.here().jobs([int(found[1])]) if found else []
    if not found or not jobs or (found[2] and int(found[2]) not in jobs[0].details["indices"]):
        raise Refused(f"invalid job specified ({job_id})")
    return jobs[0], jobs[0].details["indices"].index(int(found[2])) if found[2] else None


def _id(job: Job, task: Task) -> str:
    index = job.details["indices"][task.position]
    return f"{CLUSTER}.{job.id}" + ("" if index is None else f"[{index}]")


def _waits(job: Job) -> bool:
    others = Queue.here().jobs(list(job.after))
    return any(task.state != "ended" for other in others for task in other.tasks)


def _seconds(walltime: str) -> int:
    seconds, factors = 0, (1, 60, 3600, 86400)
    for field, factor in zip(reversed(walltime.split(":")), factors, strict=False):
        seconds += int(field) * factor
    return seconds


# showq


def showq(words: list[str]) -> int:
    """List jobs."""
    long = [word for word in words if word.startswith("--")]
    options, operands = parsed([word for word in words if word not in long], "bcgilnop:ru:vw:")
    if long != ["--xml"] or operands or set(options) - {"c", "w"}:
        raise Refused("only showq [-c] --xml [-w user=NAME] is modelled")
    users: set[str] = set()
    for value in options.get("w", []):
        name, equals, user = value.partition("=")
        if name != "user" or not equals:
            raise Refused(f"invalid constraint '{value}'")
        users.add(user)
    lists: dict[str, list[str]] = {
        name: [] for name in (("completed",) if "c" in options else _LISTS)
    }
    for job in Queue.here().jobs():
        for task in job.tasks:
            name = _list_of(job, task)
            if name in lists and (not users or job.owner in users):
                attributes = _attributes(job, task, name)
                told = " ".join(f"{key}={quoteattr(value)}" for key, value in attributes)
                lists[name].append(f"<job {told}></job>")
    purge = ' purgetime="86400"' if "c" in options else ""
    queues = "".join(
        f'<queue count="{len(jobs)}" option="{name}"{purge}>{"".join(jobs)}</queue>'
        for name, jobs in lists.items()
    )
    cluster = f'<cluster LocalActiveNodes="1" LocalUpNodes="4" time="{int(time.time())}"></cluster>'
    print(f"<Data><Object>queue</Object>{cluster}{queues}</Data>")
    return 0


_LISTS = ("active", "eligible", "blocked")


def _list_of(job: Job, task: Task) -> str:
    if task.state != "queued":
        return {"running": "active", "ended": "completed"}[task.state]
    if _waits(job):
        return "blocked"
    alive = sum(other.state == "running" for other in job.tasks)
    return "blocked" if job.throttle is not None and alive >= job.throttle else "eligible"


def _attributes(job: Job, task: Task, listed: str) -> Iterator[tuple[str, str]]:
    """In the order of the alphabet, as Moab has them."""
    details: Mapping[str, str] = job.details
    job_id = _id(job, task)
    if task.began is not None:
        yield "AWDuration", str(int((task.ended or time.time()) - task.began))
    if details["account"]:
        yield "Account", details["account"]
    yield "Class", details["class"]
    if listed == "completed":
        yield "CompletionCode", _completion(job, task)
        yield "CompletionTime", str(int(task.ended or 0))
    yield "EEDuration", "1"
    yield "GJID", job_id
    yield "Group", "users"
    yield "JobID", job_id
    yield "JobName", job.name
    yield "ReqAWDuration", str(_seconds(details["walltime"]))
    yield "ReqProcs", "1"
    yield "StartTime", str(int(task.began or 0))
    yield "State", _state(task)
    yield "SubmissionTime", str(int(job.submitted))
    yield "SuspendDuration", "0"
    yield "User", job.owner


def _completion(job: Job, task: Task) -> str:
    if task.cancelled is None and task.status and task.reached(_seconds(job.details["walltime"])):
        return str(_OVER_WALLTIME)
    if task.cancelled is None:
        return str(exit_status(task.status or 0))
    return "CNCLD" if task.status is None else f"CNCLD({exit_status(task.status)})"


def _state(task: Task) -> str:
    if task.state == "ended":
        return "Completed" if task.cancelled is None else "Removed"
    return "Running" if task.state == "running" else "Idle"


# checkjob and canceljob


def checkjob(words: list[str]) -> int:
    """Tell about one job."""
    _, operands = parsed(words, "v")
    if len(operands) != 1:
        raise Refused("one job is expected")
    job, position = _find(operands[0])
    task = job.tasks[position or 0]
    account = job.details["account"]
    print(f"job {operands[0]}\n\nAName: {job.name}\nState: {_state(task)}")
    credentials = f"user:{job.owner}  group:users  class:{job.details['class']}"
    print(f"Creds:  {credentials}{f'  account:{account}' if account else ''}")
    print(f"WallTime:   00:00:00 of {job.details['walltime']}")
    print(f"SubmitTime: {time.ctime(job.submitted)}\n\nTotal Requested Tasks: 1\n")
    print(f"Req[0]  TaskCount: 1  Partition: ALL\n{job.details['dedicated']}\n")
    if task.state == "queued":
        print(f"NOTE:  job cannot run  ({'dependency' if _waits(job) else 'insufficient procs'})")
    return 0


def canceljob(words: list[str]) -> int:
    """Cancel jobs, and go on behind those that it does not know."""
    _, operands = parsed(words, "h")
    if not operands:
        raise Refused("a job is expected")
    code = 0
    for job_id in operands:
        try:
            job, position = _find(job_id)
            tasks = job.tasks if position is None else [job.tasks[position]]
            if all(task.state == "ended" for task in tasks):
                raise Refused(f"invalid job specified ({job_id})")
            Queue.here().cancel(job.id, position)
            print(f"\njob '{job_id}' cancelled\n")
        except Refused as refusal:
            print(f"ERROR:  {refusal}", file=sys.stderr)
            code = refusal.code
    return code


def main(command: str, words: Sequence[str]) -> int:
    """Run a command; its exit code."""
    if [*words] == ["--version"]:
        print(VERSION)
        return 0
    commands = {"msub": msub, "showq": showq, "checkjob": checkjob, "canceljob": canceljob}
    try:
        return commands[command]([*words])
    except Refused as refusal:
        print(f"ERROR:  {refusal}", file=sys.stderr)
        return refusal.code
