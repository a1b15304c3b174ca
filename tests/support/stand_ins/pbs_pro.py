"""A stand-in for PBS Pro: the commands of OpenPBS 23.06, by their manual pages.

Where a real OpenPBS 23.06.06 has said more than they do, it says the same.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from tests.support.stand_ins.batch import Job, Queue, Task
from tests.support.stand_ins.pbs import (
    FINISHED,
    UNKNOWN_JOB,
    Options,
    PbsCommands,
    Refused,
    Shape,
    exit_status,
)

_MOST_TASKS = 10000
_BEGUN = "70"  # substate of an array


class PbsPro(PbsCommands):
    """With names of up to 230 characters.

    Attributes:
        history: whether the server keeps the jobs that have ended, `job_history_enable`.
    """

    history: ClassVar[bool] = True
    strands = True

    server = "pbs"
    version = "pbs_version = 23.06.06"
    submit_options = "a:A:c:C:e:fhIj:J:k:l:m:M:N:o:p:P:q:r:R:S:u:v:VW:Xz"
    listing_options = "fBtxw"
    selection_options = "u:N:x"
    name = re.compile(r"[A-Za-z][A-Za-z0-9+_.-]{0,229}")
    attributes = frozenset({
        "block", "create_resv_from_job", "depend", "group_list", "pwd", "release_nodes_on_stageout",
        "run_count", "sandbox", "stagein", "stageout", "umask",
    })  # fmt: skip
    dependencies = frozenset({"after", "afterok", "afternotok", "afterany"})
    over = "Job has finished"
    task_over = "Request invalid for finished array subjob"
    no_hold_of_a_task = "Invalid request"

    def check_resources(self, value: str) -> None:
        name, equals, rest = value.partition("=")
        pattern = r"[\w.]+=[^:,=]+"
        if name == "select":
            fine = re.fullmatch(rf"(\d+:)?{pattern}(:{pattern})*(\+.*)?", rest)
        elif name == "place":
            fine = re.fullmatch(r"[\w:=]+", rest)
        else:
            fine = re.fullmatch(r"[\w.]+=[^,=]+(,[\w.]+=[^,=]+)*", value)
            times = re.findall(r"walltime=([^,]*)", value)
            if name in ("nodes", "ppn"):
                fine = None  # the old form, which does not mix with select
            if any(not re.fullmatch(r"(\d+:){0,2}\d+", text) for text in times):
                fine = None
        if not equals or fine is None:
            raise Refused("Illegal attribute or resource value", 1)

    def shape(self, options: Options) -> Shape | None:
        if "J" not in options:
            return None
        found = re.fullmatch(r"(\d+)-(\d+)(%\d+)?", options["J"][-1])
        if found is None or int(found[2]) <= int(found[1]) or found[3] == "%0":
            raise Refused("illegal -J value", 2)
        n_tasks = int(found[2]) - int(found[1]) + 1
        if int(found[1]):
            raise Refused("-J from another index than 0 is not modelled")
        if n_tasks > _MOST_TASKS:
            raise Refused("Array job exceeds server or queue size limit", 1)
        return Shape(n_tasks, int(found[3][1:]) if found[3] else None)

    def own_variables(self, index: int | None) -> dict[str, str]:
        array = {"PBS_ARRAY_ID": "{job}[].pbs", "PBS_ARRAY_INDEX": str(index)}
        more = {"PBS_JOBDIR": "/home/me", "PBS_O_SYSTEM": "Linux", "NCPUS": "1"}
        return more | (array if index is not None else {}) | {"OMP_NUM_THREADS": "1"}

    def about_server(self) -> Mapping[str, str]:
        return {
            "server_state": "Active",
            "max_array_size": str(_MOST_TASKS),
            **({"job_history_enable": "True"} if self.history else {}),
        }

    def main(self, command: str, words: Sequence[str]) -> int:
        """Run a command; its exit code."""
        asks_for_history = command in ("qstat", "qselect") and "-x" in words
        if asks_for_history and not self.history:
            print(f"{command}: PBS is not configured to maintain job history", file=sys.stderr)
            return 0
        return super().main(command, words)

    def find(self, job_id: str) -> tuple[Job, int | None]:
        """The job that an id names, and the task's index; without history, of those not over."""
        job, index = super().find(job_id)
        if not self.history and _is_over(job):
            raise Refused(f"{self.unknown_job} {job_id}", UNKNOWN_JOB)
        return job, index

    def find_dependency(self, job_id: str) -> tuple[Job, int | None]:
        """The same of one that is over, too: what a real one says then has not been seen."""
        return super().find(job_id)

    def rows(
        self, job: Job, index: int | None, options: Options
    ) -> Iterator[tuple[str, Mapping[str, str]]]:
        is_array = job.details["array"]
        if _is_over(job) and "x" not in options:
            raise Refused(
                f"{self._id(job)} Job has finished, use -x or -H to obtain historical job "
                "information",
                FINISHED,
            )
        if index is None:
            yield self._id(job), self._shown(job, None if is_array else job.tasks[0])
        if is_array and (index is not None or "t" in options):
            for task in job.tasks if index is None else [job.tasks[index]]:
                task_id = self.job_id(job.id, array=True, index=task.position)
                yield task_id, self._shown(job, task)

    def _shown(self, job: Job, task: Task | None) -> Mapping[str, str]:
        state, holds = self._state(job, task), self._holds(job, task)
        substate, comment, status = self._end(job, task)
        shown = self.attributes_of(job, task, state)
        shown |= {"ctime": "Tue Nov 24 04:35:56 2026", **self.attributes_after(job, holds)}
        live = {"B": _BEGUN, "R": "42", "H": "22" if "s" in holds else "20"}
        shown["substate"] = substate or live.get(state, "10")
        # What follows the variables follows them here, too.
        shown["Variable_List"] = job.details["variables"]
        if task is None:
            shown |= {"array": "True", "array_indices_submitted": f"0-{len(job.tasks) - 1}"}
        if state == "Q" and not holds:
            comment = (
                "Not Running: Queue not started." if Queue.here().held() else
                "Not Running: Insufficient amount of resource: ncpus (R: 1 A: 0 T: 16)"
            )  # fmt: skip
        if comment:
            shown["comment"] = comment
        shown |= {"etime": "Tue Nov 24 04:35:56 2026", "run_count": "1"}
        if status:
            shown["Exit_status"] = status
        return {**shown, "Submit_arguments": "-N x", "project": "_pbs_project_default"}

    def _holds(self, job: Job, task: Task | None) -> str:
        """Of what waits; its tasks have an array's holds, though they are no H."""
        return self.holds(job) if task is None or task.state == "queued" else ""

    def _end(self, job: Job, task: Task | None) -> tuple[str, str, str]:
        """Substate, comment and exit status of what has ended; "" for what has not, or has none."""
        of_array = ""  # so far
        if job.details["array"]:
            statuses = [task.status for task in job.tasks if task.state == "ended"]
            of_array = str(int(any(statuses))) if statuses else ""
        if task is None:
            deleted = _is_over(job) and all(task.cancelled for task in job.tasks)
            over = "91" if deleted else "92" if of_array == "0" else "93"
            return over if _is_over(job) else "", "", of_array
        if task.state != "ended":
            return "", "", ""
        if not self.history:
            return _BEGUN, "", of_array  # nothing of its own is left
        if task.status is None:
            return "91", "Subjob finished" if of_array or job.details["array"] else "", ""
        code = exit_status(task.status)
        comment = "Subjob finished" if job.details["array"] else "Job run and finished"
        return "91" if task.cancelled else "93" if code else "92", comment, str(code)

    def _state(self, job: Job, task: Task | None) -> str:
        states = {other.state for other in job.tasks}
        if task is None:
            if states == {"ended"}:
                return "F"
            if states != {"queued"}:
                return "B"
        elif task.state == "running":
            return "R"
        elif task.state == "ended":
            return "X" if job.details["array"] and states != {"ended"} else "F"
        elif job.details["array"]:
            return "Q"  # also of an array that is H
        return "H" if self.holds(job) else "Q"

    def selected(self, job: Job, options: Options) -> list[str]:
        return [] if _is_over(job) and "x" not in options else [self._id(job)]


def _is_over(job: Job) -> bool:
    return all(task.state == "ended" for task in job.tasks)


def main(command: str, words: Sequence[str]) -> int:
    """Run a command; its exit code."""
    return PbsPro().main(command, words)
