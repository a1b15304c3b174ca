"""A stand-in for Torque: qsub(1), qstat(1), qselect(1) and qdel(1) of Torque 6.1."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence

from tests.support.stand_ins.batch import Job, Task
from tests.support.stand_ins.pbs import Options, PbsCommands, Refused, Shape, exit_status

_MOST_TASKS = 1000


class Torque(PbsCommands):
    """It keeps jobs for a while after their end, and shows them without being asked."""

    server = "head.site"
    version = "Version: 6.1.3\nCommit: 20a5f0a4e9c2d3f1b7d0c6a5e8f9b1c2d3e4f5a6"
    submit_options = "a:A:b:c:C:d:D:e:fF:hIj:k:K:l:L:m:M:nN:o:p:P:q:r:S:t:T:u:v:Vw:W:xXz"
    listing_options = "fBt1"
    selection_options = "u:N:"
    name = re.compile(r"[A-Za-z][!-~]{0,14}")
    attributes = frozenset({
        "depend", "group_list", "interactive", "job_radix", "stagein", "stageout", "umask", "x",
    })  # fmt: skip
    dependencies = frozenset({
        "after", "afterok", "afternotok", "afterany",
        "afterstartarray", "afterokarray", "afternotokarray", "afteranyarray",
    })  # fmt: skip
    unknown_queue = "submit error (Unknown queue MSG=cannot locate queue)"
    unknown_job = "Unknown Job Id Error"
    over = "Request invalid for state of job MSG=invalid state for job - COMPLETE"
    task_over = over
    names_arrays = True

    def print_version(self) -> None:
        print(self.version, file=sys.stderr)

    def check_resources(self, value: str) -> None:
        if re.match(r"(select|place)=", value):
            raise Refused(
                "submit error (Unknown resource type  MSG=cannot locate attribute select)"
            )
        if not re.fullmatch(r"[\w.]+=[^,]+(,[\w.]+=[^,]+)*", value):
            raise Refused("illegal -l value", 2)

    def shape(self, options: Options) -> Shape | None:
        if "t" not in options:
            return None
        found = re.fullmatch(r"(\d+)(?:-(\d+))?(?:%(\d+))?", options["t"][-1])
        if found is None or int(found[1]):
            raise Refused("submit error (Bad Job Array Request)", 1)
        n_tasks = int(found[2] or 0) + 1
        if n_tasks > _MOST_TASKS:
            words = "Bad Job Array Request MSG=Requested array size too large"
            raise Refused(f"submit error ({words}, limit is {_MOST_TASKS})")
        return Shape(n_tasks, int(found[3]) if found[3] else None)

    def check_dependency(self, kind: str, job: Job, index: int | None) -> None:
        whole_array = job.details["array"] and index is None
        if kind.endswith("array") != whole_array:
            raise Refused("submit error (Invalid Job Dependency)")

    def own_variables(self, index: int | None) -> dict[str, str]:
        array = {} if index is None else {"PBS_ARRAYID": str(index)}
        return {"PBS_SERVER": self.server, "PBS_VERSION": "TORQUE-6.1.3", "PBS_NP": "1", **array}

    def about_server(self) -> Mapping[str, str]:
        return {"server_state": "Active", "max_job_array_size": str(_MOST_TASKS)}

    def rows(
        self, job: Job, index: int | None, options: Options
    ) -> Iterator[tuple[str, Mapping[str, str]]]:
        if not job.details["array"]:
            yield self._id(job), self._shown(job, job.tasks[0])
        elif index is None and "t" not in options:
            yield self._id(job), self._shown(job, None)
        else:
            for task in job.tasks if index is None else [job.tasks[index]]:
                task_id = self.job_id(job.id, array=True, index=task.position)
                yield task_id, self._shown(job, task)

    def _shown(self, job: Job, task: Task | None) -> Mapping[str, str]:
        state, holds = self._state(job, task), self._holds(job, task)
        shown = self.attributes_of(job, task, state)
        if job.details["array"] and task:
            shown["Job_Name"] = f"{job.name}-{task.position}"
        shown |= self.attributes_after(job, holds)
        shown["Variable_List"] = job.details["variables"]
        if task and task.state == "ended":
            # Also of a job that was deleted while it waited.
            shown["exit_status"] = "271" if task.status is None else str(exit_status(task.status))
        return {**shown, "submit_args": "-N x", "submit_host": "login"}

    def _state(self, job: Job, task: Task | None) -> str:
        if task is None:  # a summary, which says "Q" until all are over
            return "C" if all(other.state == "ended" for other in job.tasks) else "Q"
        if task.state != "queued":
            return {"running": "R", "ended": "C"}[task.state]
        return "H" if self._holds(job, task) else "Q"

    def _holds(self, job: Job, task: Task | None) -> str:
        """A task beyond what may run at a time has a hold of its own, "l"."""
        if task is None or task.state != "queued":
            return ""
        running = sum(other.state == "running" for other in job.tasks)
        first = sum(other.state == "queued" for other in job.tasks[: task.position])
        beyond = job.throttle is not None and running + first >= job.throttle
        return self.holds(job) + "l" * beyond

    def selected(self, job: Job, options: Options) -> list[str]:
        if not job.details["array"]:
            return [self._id(job)]
        return [self.job_id(job.id, array=True, index=task.position) for task in job.tasks]


def main(command: str, words: Sequence[str]) -> int:
    """Run a command; its exit code."""
    return Torque().main(command, words)
