"""A stand-in for HTCondor: its commands, by the manual pages of 23.0.

Jobs of a cluster with `max_materialize` are made one by one, as a factory does it; those that are
not made yet are nowhere but in `condor_q -factory`. Two ways to limit a job's time are modelled:
the `periodic_remove` of one that has run for some seconds, and `allowed_job_duration`.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.stand_ins.batch import Job, Queue, Start, Task
from tests.support.stand_ins.htcondor_submit import (
    MAX_JOBS_PER_SUBMISSION,
    Refused,
    Submitted,
    read,
)

COMMANDS = (
    "condor_config_val", "condor_history", "condor_q", "condor_rm", "condor_submit",
    "condor_version",
)  # fmt: skip
VERSION = "$CondorVersion: 23.0.4 2024-02-08 BuildID: 712251 PackageID: 23.0.4-1 $"
_FLAGS = frozenset({"terse", "allusers", "json", "factory", "nobatch"})
_ARGUMENTS = frozenset({
    "append", "batch-name", "file", "name", "pool", "attributes", "constraint", "limit", "match",
    "since", "scanlimit",
})  # fmt: skip
_OPTIONS = {
    "condor_submit": {"terse", "append", "batch-name", "file", "name", "pool"},
    "condor_q": {"allusers", "json", "factory", "nobatch", "attributes", "constraint", "limit"},
    "condor_history": {"json", "attributes", "constraint", "limit", "match", "since", "scanlimit"},
    "condor_rm": {"constraint"},
    "condor_config_val": set(),
    "condor_version": set(),
}
Ad = dict[str, Any]


def main(command: str, words: Sequence[str]) -> int:
    """Run a command; its exit code."""
    try:
        run: Callable[[dict[str, list[str]], list[str]], int] = globals()[command]
        return run(*_parsed(command, words))
    except Refused as refusal:
        print(f"\nERROR: {refusal}", file=sys.stderr)
        return 1


def _parsed(command: str, words: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Options, without their dash, and operands."""
    options: dict[str, list[str]] = {}
    operands: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            operands.append(word)
            continue
        name = word[1:]
        if name not in _OPTIONS[command]:
            raise Refused(f"unknown option {word}")
        if name in _FLAGS:
            options[name] = []
        elif rest:
            options.setdefault(name, []).append(rest.pop(0))
        else:
            raise Refused(f"{word} requires another argument")
    return options, operands


# condor_submit


def condor_submit(options: dict[str, list[str]], operands: list[str]) -> int:
    """Submit a description."""
    if "name" in options or "pool" in options:
        raise Refused(f"Can't find address of schedd {options.get('name', ['there'])[-1]}")
    files = [*options.get("file", []), *(word for word in operands if "=" not in word)]
    if len(files) != 1:
        raise Refused("one submit description is expected, standard input is not modelled")
    macros = "".join(f"{word}\n" for word in operands if "=" in word)
    appended = list(options.get("append", []))
    if "batch-name" in options:
        appended.append(f"batch_name = {options['batch-name'][-1]}")
    found = read(macros + Path(files[0]).read_text(), appended, os.environ)
    for warning in found.warnings:
        print(warning, file=sys.stderr)
    queue = Queue.here()
    name = found.ad.get("JobBatchName", '""').strip('"')
    n_jobs = len(found.arguments)
    cluster = queue.submit(
        name,
        [_start(found, number) for number in range(n_jobs)],
        throttle=found.max_materialize,
        details={"ad": found.ad, "max_materialize": found.max_materialize, **_limits(found)},
    )
    if "terse" in options:
        print(f"{cluster}.0 - {cluster}.{n_jobs - 1}")
    else:
        print(f"Submitting job(s){'.' * n_jobs}\n{n_jobs} job(s) submitted to cluster {cluster}.")
    return 0


def _start(found: Submitted, number: int) -> Start:
    """A job, ready to run: an environment of its own, and nothing else but what it asked for."""
    folder = found.commands.get("initialdir", os.getcwd())
    scratch = "/var/lib/condor/execute/dir_{job}" + f"_{number}"
    own = {
        "_CONDOR_JOB_AD": f"{scratch}/.job.ad", "_CONDOR_MACHINE_AD": f"{scratch}/.machine.ad",
        "_CONDOR_SCRATCH_DIR": scratch, "_CONDOR_SLOT": "slot1_1", "_CONDOR_JOB_IWD": folder,
        "_CONDOR_CHIRP_CONFIG": f"{scratch}/.chirp.config", "_CONDOR_JOB_PIDS": "",
        "_CONDOR_WRAPPER_ERROR_FILE": f"{scratch}/.job_wrapper_failure",
        "_CONDOR_ANCESTOR_1": "1:1700000000:1", "BATCH_SYSTEM": "HTCondor", "TMPDIR": "/tmp",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    executable = found.commands["executable"]
    log = os.path.join(folder, found.commands.get("output", "/dev/null"))
    return Start(
        [executable, *found.arguments[number]], {**found.environ, **own}, folder, log,
        min(filter(None, _limits(found).values()), default=None),
    )  # fmt: skip


def _limits(found: Submitted) -> dict[str, int | None]:
    """After how many seconds a job is removed, and held."""
    over = re.search(
        r"\bJobStatus == 2 && time\(\) - JobCurrentStartDate > (\d+)",
        found.ad.get("PeriodicRemove", ""),
    )
    allowed = found.ad.get("AllowedJobDuration", "")
    return {
        "remove_after": int(over[1]) if over else None,
        "hold_after": int(allowed) if allowed.isdecimal() else None,
    }


def _is_held(job: Job, task: Task) -> bool:
    """Whether it was stopped, and stays in the queue; condor_release is not modelled."""
    return (
        task.state == "ended" and task.cancelled is None and task.reached(job.details["hold_after"])
    )


# condor_q, condor_history


def _made(job: Job) -> int:
    """How many of a cluster's jobs a factory has made; all where there is none."""
    limit, alive = job.details["max_materialize"], 0
    for task in job.tasks:
        alive += task.state != "ended"
        if limit is not None and alive == limit:
            return task.position + 1
    return len(job.tasks)


def _is_there(job: Job, task: Task) -> bool:
    """Whether it is in the queue."""
    return task.state != "ended" or _is_held(job, task)


def _literal(expression: str, ad: Mapping[str, Any]) -> Any:
    """The value of an attribute, as -json prints it."""
    if re.fullmatch(r'"[^"]*"', expression):
        return expression[1:-1].replace("{job}", str(ad["ClusterId"]))
    if re.fullmatch(r"-?\d+", expression):
        return int(expression)
    if expression.lower() in ("true", "false"):
        return expression.lower() == "true"
    return f"/Expr({expression})/"


def _ad(job: Job, task: Task) -> Ad:
    ad: Ad = {"ClusterId": job.id, "ProcId": task.position, "Owner": job.owner}
    ad |= {name: _literal(text, ad) for name, text in job.details["ad"].items()}
    ad |= {"QDate": int(job.submitted), "NumJobStarts": int(task.began is not None)}
    ad["EnteredCurrentStatus"] = int(task.ended or task.began or job.submitted)
    if task.cancelled is not None:
        ad |= {"JobStatus": 3, "RemoveReason": f"via condor_rm (by user {job.owner})"}
    elif _is_held(job, task):
        seconds = job.details["hold_after"]
        reason = f"The job exceeded allowed job duration of {seconds} seconds"
        ad |= {"JobStatus": 5, "HoldReasonCode": 46, "HoldReason": reason}
    elif task.status != 0 and task.reached(job.details["remove_after"]):
        why = f"expression '{job.details['ad']['PeriodicRemove']}' evaluated to TRUE"
        ad |= {"JobStatus": 3, "RemoveReason": f"The job attribute PeriodicRemove {why}"}
    elif task.state != "ended":
        ad["JobStatus"] = 1 if task.state == "queued" else 2
    else:
        ad |= {"JobStatus": 4, "ExitBySignal": bool(task.status is None or task.status & 127)}
        status = 9 if task.status is None else task.status
        ad |= {"ExitSignal": status & 127} if status & 127 else {"ExitCode": status >> 8}
    if ad["JobStatus"] == 1 and Queue.here().held():
        ad["LastRejMatchReason"] = "no match found "
    return ad


def _factory(job: Job) -> Ad:
    ad: Ad = {"ClusterId": job.id, "Owner": job.owner}
    ad |= {name: _literal(text, ad) for name, text in job.details["ad"].items()}
    made = _made(job)
    return ad | {
        "JobMaterializeLimit": job.details["max_materialize"],
        "JobMaterializeNextProcId": made,
        "JobMaterializePaused": 3 if made == len(job.tasks) else 0,
        "TotalSubmitProcs": len(job.tasks),
    }


def condor_q(options: dict[str, list[str]], operands: list[str]) -> int:
    """Show the jobs in the queue, or the factories."""
    return _show(_queued("factory" in options), options, operands)


def _queued(factories: bool) -> Iterator[Ad]:
    for job in Queue.here().jobs():
        alive = [task for task in job.tasks[: _made(job)] if _is_there(job, task)]
        if not factories:
            yield from (_ad(job, task) for task in alive)
        elif job.details["max_materialize"] is not None and alive:
            yield _factory(job)


def condor_history(options: dict[str, list[str]], operands: list[str]) -> int:
    """Show the jobs that have left the queue, the newest first."""
    left = [
        _ad(job, task)
        for job in Queue.here().jobs()
        for task in job.tasks
        if not _is_there(job, task) and (task.began or job.details["max_materialize"] is None)
    ]
    left.sort(key=lambda ad: ad["EnteredCurrentStatus"], reverse=True)
    for expression in options.get("since", []):
        found = re.fullmatch(r"EnteredCurrentStatus < (\d+)", expression)
        if found is None:
            raise Refused(f"-since {expression} is not modelled")
        left = [ad for ad in left if ad["EnteredCurrentStatus"] >= int(found[1])]
    return _show(iter(left), options, operands)


def _show(ads: Iterator[Ad], options: dict[str, list[str]], operands: list[str]) -> int:
    if "json" not in options:
        raise Refused("only -json is modelled")
    for expression in options.get("constraint", []):
        _holds(expression, {})  # refused also where there are no jobs
    chosen = [ad for ad in ads if _is_meant(ad, options, operands)]
    for number in [*options.get("limit", []), *options.get("match", [])]:
        chosen = chosen[: int(number)]
    names = ",".join(options.get("attributes", [])).split(",") if "attributes" in options else None
    shown = [{k: v for k, v in ad.items() if names is None or k in names} for ad in chosen]
    if shown:
        print("[\n" + "\n,\n".join(json.dumps(ad, indent=2) for ad in shown) + "\n]")
    return 0


def _is_meant(ad: Ad, options: dict[str, list[str]], operands: list[str]) -> bool:
    """Whether a job is asked for: by its id, its cluster's, its owner, or a constraint."""
    wanted = []
    for word in operands:
        if re.fullmatch(r"\d+", word):
            wanted.append(ad["ClusterId"] == int(word))
        elif re.fullmatch(r"\d+\.\d+", word):
            wanted.append(word == f"{ad['ClusterId']}.{ad.get('ProcId')}")
        else:
            wanted.append(ad["Owner"] == word)
    wanted += [_holds(expression, ad) for expression in options.get("constraint", [])]
    return any(wanted) or not (operands or "constraint" in options)


def _holds(expression: str, ad: Mapping[str, Any]) -> bool:
    """Whether a constraint is true; what is modelled are comparisons joined by &&."""
    true = True
    for part in expression.split(" && "):
        member = re.fullmatch(r'stringListMember\((\w+), "([^"]*)"\)', part)
        equal = re.fullmatch(r'(\w+) == (?:"([^"]*)"|(\d+))', part)
        if member is not None:
            true &= ad.get(member[1]) in re.split(r"[ ,]+", member[2])
        elif equal is not None:
            true &= str(ad.get(equal[1])) == (equal[2] if equal[3] is None else equal[3])
        else:
            raise Refused(f"Invalid constraint expression: {part}")
    return true


# condor_rm and the others


def condor_rm(options: dict[str, list[str]], operands: list[str]) -> int:
    """Remove clusters and jobs."""
    if not operands or "constraint" in options:
        raise Refused("clusters or jobs are expected, -constraint is not modelled")
    code = 0
    for word in operands:
        cluster, dot, number = word.partition(".")
        if not cluster.isdecimal() or (dot and not number.isdecimal()):
            raise Refused(f"Unable to parse {word} as a job ID")
        jobs = Queue.here().jobs([int(cluster)])
        position = int(number) if dot else None
        there = [
            task
            for job in jobs
            for task in job.tasks[: _made(job)]
            if _is_there(job, task) and position in (None, task.position)
        ]
        if not there:
            words = f"Job {word} not found" if dot else ""
            words = words or f"Couldn't find/remove all jobs in cluster {word}"
            print(words, file=sys.stderr)
            code = 1
            continue
        Queue.here().cancel(int(cluster), position)  # also those that are not made yet
        for task in there:
            Queue.here().cancel(int(cluster), task.position, also_ended=True)
        shown = f"Job {word}" if dot else f"All jobs in cluster {word}"
        print(f"{shown} {'has' if dot else 'have'} been marked for removal")
    return code


def condor_config_val(options: dict[str, list[str]], operands: list[str]) -> int:
    """Show a configuration variable."""
    values = {"MAX_JOBS_PER_SUBMISSION": str(MAX_JOBS_PER_SUBMISSION)}
    for word in operands:
        if word not in values:
            print(f"Not defined: {word}", file=sys.stderr)
            return 1
        print(values[word])
    return 0


def condor_version(options: dict[str, list[str]], operands: list[str]) -> int:
    """Show the version."""
    print(f"{VERSION}\n$CondorPlatform: x86_64_Debian12 $")
    return 0
