"""A stand-in for PBS Pro: qsub(1B), qstat(1B), qselect(1B) and qdel(1B) of OpenPBS 23.06."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from tests.stand_ins.batch import Job, Queue, Task
from tests.stand_ins.pbs import FINISHED, Options, PbsCommands, Refused, Shape, exit_status

_MOST_TASKS = 10000


class PbsPro(PbsCommands):
    """With history, and names of up to 230 characters."""

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
            "job_history_enable": "True",
        }

    def rows(
        self, job: Job, index: int | None, options: Options
    ) -> Iterator[tuple[str, Mapping[str, str]]]:
        is_array = job.details["array"]
        over = all(task.state == "ended" for task in job.tasks)
        if over and "x" not in options:
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
        state = self._state(job, task)
        shown = self.attributes_of(job, task, state)
        shown |= {"ctime": "Tue Nov 24 04:35:56 2026", **self.attributes_after(job, state)}
        if task is None:
            shown |= {"array": "True", "array_indices_submitted": f"0-{len(job.tasks) - 1}"}
        if state == "Q":
            shown["comment"] = (
                "Not Running: Queue not started." if Queue.here().held() else
                "Not Running: Insufficient amount of resource: ncpus (R: 1 A: 0 T: 16)"
            )  # fmt: skip
        if task and task.state == "ended":
            code = None if task.status is None else exit_status(task.status)
            shown["substate"] = "91" if task.cancelled else "93" if code else "92"
            if code is not None:
                shown["Exit_status"] = str(code)
        return shown

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
        return "H" if self.waits_for(job) else "Q"

    def selected(self, job: Job, options: Options) -> list[str]:
        over = all(task.state == "ended" for task in job.tasks)
        return [] if over and "x" not in options else [self._id(job)]


def main(command: str, words: Sequence[str]) -> int:
    """Run a command; its exit code."""
    return PbsPro().main(command, words)
