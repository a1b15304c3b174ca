"""What the stand-ins for PBS Pro and for Torque share: qsub, qstat, qselect, qdel, qhold and qrls.

What the two manuals have in common is here, and what a real OpenPBS 23.06.06 said; each refuses
what its manual does not allow, also where a site's real commands are more lenient.
"""

from __future__ import annotations

import getopt
import os
import re
import shlex
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

from tests.support.stand_ins.batch import Job, Queue, Start, Task

Options = dict[str, list[str]]
"""Option without its dash -> its values, the last one counts most often."""

# Codes of pbs_error.h, as exit codes: modulo 256.
UNKNOWN_JOB, UNKNOWN_QUEUE, FINISHED, INVALID_REQUEST = 153, 170, 35, 156
LINE, TAB = 78, 8  # columns
FLAGS = frozenset("fhIVXz")
QUEUES = ("workq", "batch")


class Refused(Exception):
    """A command complains.

    Args:
        words: what it prints.
        code: its exit code.
    """

    def __init__(self, words: str, code: int = 1) -> None:
        super().__init__(words)
        self.code = code


class Shape(NamedTuple):
    """What the options for an array say."""

    n_tasks: int
    throttle: int | None


def parsed(words: Sequence[str], allowed: str) -> tuple[Options, list[str]]:
    """Options and operands.

    Raises:
        Refused: one is not allowed.
    """
    try:
        pairs, operands = getopt.getopt(list(words), allowed)
    except getopt.GetoptError as error:
        raise Refused(f"invalid option: {error}", 2) from None
    options: Options = {}
    for name, value in pairs:
        options.setdefault(name.lstrip("-"), []).append(value)
    return options, operands


def directives(text: str, prefix: str | tuple[str, ...], allowed: str) -> Options:
    """Those before the first line that is neither blank nor a comment; qsub(1B).

    Raises:
        Refused: one is none.
    """
    options: Options = {}
    for number, line in enumerate(text.splitlines()):
        if line.strip() and not line.lstrip().startswith("#") and number > 0:
            break
        if line.startswith(prefix):
            given = line.partition(" ")[2].strip()
            try:
                found, operands = parsed(shlex.split(given), allowed)
            except Refused:
                raise Refused(f"directive error: {given}", 2) from None
            if operands or {"C", "z"}.intersection(found):
                raise Refused(f"directive error: {given}", 2)
            for name, values in found.items():
                options.setdefault(name, []).extend(values)
    return options


def handed_on(options: Options) -> dict[str, str]:
    """What a task finds of the submitting shell: nothing but what it is asked to hand on."""
    mine = {name: os.environ[name] for name in ("HOME", "LANG", "LOGNAME") if name in os.environ}
    handed: dict[str, str] = dict(os.environ) if "V" in options else {}
    for value in options.get("v", []):
        for part in value.split(","):
            variable, equals, text = part.partition("=")
            handed[variable] = text if equals else os.environ.get(variable, "")
    origin = {
        f"PBS_O_{variable}": os.environ[variable]
        for variable in ("HOME", "LANG", "LOGNAME", "PATH", "MAIL", "SHELL", "TZ")
        if variable in os.environ
    }
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin", "SHELL": "/bin/bash",
        **mine, **handed, **origin, "PBS_O_HOST": "login", "PBS_O_WORKDIR": os.getcwd(),
    }  # fmt: skip


class PbsCommands(ABC):
    """The commands of one PBS.

    Attributes:
        server: its name, with which ids end.
        version: what `--version` prints.
        submit_options: of qsub, as for getopt.
        listing_options: of qstat, those that are modelled.
        selection_options: of qselect, those that are modelled.
        name: what a job's name has to match.
        attributes: what `-W` may set.
        dependencies: what a job may wait for.
    """

    server: ClassVar[str]
    version: ClassVar[str]
    submit_options: ClassVar[str]
    listing_options: ClassVar[str]
    selection_options: ClassVar[str]
    name: ClassVar[re.Pattern[str]]
    attributes: ClassVar[frozenset[str]]
    dependencies: ClassVar[frozenset[str]]

    def main(self, command: str, words: Sequence[str]) -> int:
        """Run a command; its exit code."""
        try:
            if "--version" in words:
                if len(words) > 1:
                    raise Refused("usage: --version can only be used alone", 2)
                self.print_version()
                return 0
            return int(getattr(self, command)(list(words)))
        except Refused as refusal:
            print(f"{command}: {refusal}", file=sys.stderr)
            return refusal.code

    def print_version(self) -> None:
        """Print the version where the real commands do."""
        print(self.version)

    # qsub

    def qsub(self, words: list[str]) -> int:
        """Submit a script."""
        given, operands = parsed(words, self.submit_options)
        if len(operands) != 1:
            raise Refused("one script is expected, standard input is not modelled", 2)
        text = Path(operands[0]).read_text()
        # The command line takes precedence.
        options = {**directives(text, "#PBS", self.submit_options), **given}
        self._check(options)
        shape = self.shape(options)
        after = self._after(options)
        queue = Queue.here()
        script = queue.keep_script(text)
        name = options.get("N", ["STDIN"])[-1]
        indices: list[int | None] = [*range(shape.n_tasks)] if shape else [None]
        log = options.get("o", ["/dev/null"])[-1].rpartition(":")[2]
        job = queue.submit(
            name,
            [
                Start(
                    [script],
                    self._environ(options, name, index),
                    os.environ["HOME"],
                    log,
                    _limit(options),
                )
                for index in indices
            ],
            throttle=shape.throttle if shape else None,
            after=after,
            details={
                "array": shape is not None,
                "options": options,
                "variables": self._variables(options),
                "releases_nobody_if_deleted": self.strands and shape is None,
            },
        )
        if "z" not in options:
            print(self.job_id(job, array=shape is not None))
        return 0

    strands: ClassVar[bool] = False
    """Whether what waits for a job, no array, waits for ever where that is deleted in the queue."""

    def _variables(self, options: Options) -> str:
        """`Variable_List`, in which line breaks stay what they are."""
        told = {"PBS_O_QUEUE": QUEUES[0], **handed_on(options)}
        return ",".join(f"{name}={value}".replace(",", "\\,") for name, value in told.items())

    def _check(self, options: Options) -> None:
        patterns = {
            "N": self.name, "j": re.compile("oe|eo|n"), "r": re.compile("[yn]"),
            "p": re.compile(r"-?\d{1,4}"), "A": re.compile(r".+"), "o": re.compile(r"\S.*"),
            "e": re.compile(r"\S.*"), "S": re.compile(r"/.*"),
        }  # fmt: skip
        for name, pattern in patterns.items():
            for value in options.get(name, [])[-1:]:
                if not pattern.fullmatch(value):
                    raise Refused(f"illegal -{name} value", 2)
        for name in ("a", "c", "C", "h", "I", "X", "u"):
            if name in options:
                raise Refused(f"-{name} is not modelled")
        for value in options.get("W", []):
            if value.partition("=")[0] not in self.attributes or "=" not in value:
                raise Refused("illegal -W value", 2)
        for value in options.get("q", [])[-1:]:
            if value not in QUEUES:
                raise Refused(self.unknown_queue, UNKNOWN_QUEUE)
        for value in options.get("l", []):
            self.check_resources(value)

    unknown_queue: ClassVar[str] = "Unknown queue"

    @abstractmethod
    def check_resources(self, value: str) -> None:
        """Refuse a resource list that is none."""

    @abstractmethod
    def shape(self, options: Options) -> Shape | None:
        """The array that is asked for; None for a job that is none."""

    def _after(self, options: Options) -> list[int]:
        found: list[int] = []
        for value in options.get("W", []):
            name, _, dependency = value.partition("=")
            if name != "depend":
                continue
            for part in dependency.split(","):
                kind, *ids = part.split(":")
                if kind not in self.dependencies or not ids:
                    raise Refused("illegal -W value", 2)
                for job_id in ids:
                    job, index = self.find_dependency(job_id)
                    self.check_dependency(kind, job, index)
                    found.append(job.id)
        return found

    def find_dependency(self, job_id: str) -> tuple[Job, int | None]:
        """The job that a dependency names, and the task's index."""
        return self.find(job_id)

    def check_dependency(self, kind: str, job: Job, index: int | None) -> None:
        """Refuse a dependency that does not fit the other job."""

    def _environ(self, options: Options, name: str, index: int | None) -> dict[str, str]:
        """What a task finds: nothing of the submitting shell but what it is asked to hand on."""
        queue = options.get("q", [QUEUES[0]])[-1]
        return {
            **handed_on(options), "PBS_O_QUEUE": queue,
            "PBS_ENVIRONMENT": "PBS_BATCH", "PBS_JOBNAME": name, "PBS_QUEUE": queue,
            "PBS_NODEFILE": "/var/spool/pbs/aux/{job}",
            "PBS_JOBID": self.job_id("{job}", array=index is not None, index=index),
            **self.own_variables(index),
        }  # fmt: skip

    @abstractmethod
    def own_variables(self, index: int | None) -> dict[str, str]:
        """Variables that the other one does not set."""

    def job_id(self, number: object, *, array: bool, index: int | None = None) -> str:
        """An id: of a job, an array, or an array's task."""
        brackets = f"[{'' if index is None else index}]" if array else ""
        return f"{number}{brackets}.{self.server}"

    def find(self, job_id: str) -> tuple[Job, int | None]:
        """The job that an id names, and the task's index.

        Raises:
            Refused: there is none.
        """
        found = re.fullmatch(rf"(\d+)(\[(\d*)\])?(\.{re.escape(self.server)})?", job_id)
        if found is None and not re.match(r"\d+(\[|\.|$)", job_id):
            raise Refused(f"illegally formed job identifier: {job_id}", 1)
        jobs = Queue.here().jobs([int(found[1])]) if found else []
        if not found or not jobs or bool(found[2]) != bool(jobs[0].details["array"]):
            raise Refused(f"{self.unknown_job} {job_id}", UNKNOWN_JOB)
        index = int(found[3]) if found[3] else None
        if index is not None and index >= len(jobs[0].tasks):
            raise Refused(f"{self.unknown_job} {job_id}", UNKNOWN_JOB)
        return jobs[0], index

    unknown_job: ClassVar[str] = "Unknown Job Id"

    # qstat

    def qstat(self, words: list[str]) -> int:
        """Show jobs, or the server."""
        options, operands = parsed(words, self.listing_options)
        if "f" not in options:
            raise Refused("only the long format is modelled", 2)
        if "B" in options:
            self._print(f"Server: {self.server}", self.about_server())
            return 0
        code = 0
        for job_id in operands or [self._id(job) for job in Queue.here().jobs()]:
            try:
                job, index = self.find(job_id)
                for shown in self.rows(job, index, options):
                    self._print(f"Job Id: {shown[0]}", shown[1])
            except Refused as refusal:
                print(f"qstat: {refusal}", file=sys.stderr)
                code = refusal.code
        return code

    def _id(self, job: Job) -> str:
        return self.job_id(job.id, array=job.details["array"])

    @abstractmethod
    def about_server(self) -> Mapping[str, str]:
        """What `qstat -B -f` tells."""

    @abstractmethod
    def rows(
        self, job: Job, index: int | None, options: Options
    ) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Id and attributes of what is listed of a job.

        Raises:
            Refused: it is not listed.
        """

    def waits(self, job: Job) -> bool:
        """Whether a job it depends on has not released it."""
        return any(other.keeps_waiting() for other in Queue.here().jobs(list(job.after)))

    def holds(self, job: Job) -> str:
        """The letters of a job's holds: of its user's, and of the system's."""
        return "u" * (job.id in Queue.here().held_jobs()) + "s" * self.waits(job)

    def depend(self, job: Job) -> str:
        """Whom a job waits for, and who waits for it."""
        after: dict[str, list[str]] = {}
        before: list[str] = []
        for other in Queue.here().jobs():
            name = f"{self._id(other)}@{self.server}"
            if other.id in job.after and other.keeps_waiting():
                array = "array" * (self.names_arrays and "[]" in name)
                after.setdefault(f"afterany{array}", []).append(name)
            if job.id in other.after and job.keeps_waiting():
                before.append(name)
        found = [f"{kind}:{':'.join(names)}" for kind, names in after.items()]
        return ",".join([*found, *([f"beforeany:{':'.join(before)}"] if before else [])])

    names_arrays: ClassVar[bool] = False
    """Whether a dependency says that it is on an array."""

    def attributes_of(self, job: Job, task: Task | None, state: str) -> dict[str, str]:
        """What both tell of a job or a task, up to its state."""
        began = task.began if task else None
        shown = {"Job_Name": job.name, "Job_Owner": f"{job.owner}@login"}
        if task and began is not None:
            seconds = int((task.ended or time.time()) - began)
            used = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
            shown["resources_used.walltime"] = used
        return {**shown, "job_state": state, "queue": QUEUES[0], "server": self.server}

    def attributes_after(self, job: Job, holds: str) -> dict[str, str]:
        """What both tell behind that, up to the variables."""
        options = job.details["options"]
        shown = {"Account_Name": options["A"][-1]} if "A" in options else {}
        if depend := self.depend(job):
            shown["depend"] = depend
        shown |= {"Hold_Types": holds or "n", "Join_Path": "oe"}
        for value in options.get("l", []):
            for part in value.split(","):
                resource, _, amount = part.partition("=")
                shown[f"Resource_List.{resource}"] = amount
        return shown

    @staticmethod
    def _print(head: str, attributes: Mapping[str, str]) -> None:
        print(head)
        for name, value in attributes.items():
            print(_folded(f"    {name} = ", value))
        print()

    # qselect, qdel, qhold and qrls

    def qselect(self, words: list[str]) -> int:
        """List the ids of jobs."""
        options, operands = parsed(words, self.selection_options)
        if operands:
            raise Refused("usage: qselect takes no operands", 2)
        users = ",".join(options.get("u", [])).split(",") if "u" in options else None
        for job in Queue.here().jobs():
            if users is not None and job.owner not in users:
                continue
            if "N" in options and job.name != options["N"][-1]:
                continue
            for job_id in self.selected(job, options):
                print(job_id)
        return 0

    @abstractmethod
    def selected(self, job: Job, options: Options) -> list[str]:
        """The ids that are listed for a job."""

    def qdel(self, words: list[str]) -> int:
        """Delete jobs."""
        _, operands = parsed(words, "")
        if not operands:
            raise Refused("usage: qdel job_identifier...", 2)
        code = 0
        for job_id in operands:
            try:
                job, index = self.find(job_id)
                tasks = job.tasks if index is None else [job.tasks[index]]
                if all(task.state == "ended" for task in tasks):
                    whole = all(task.state == "ended" for task in job.tasks)
                    raise Refused(f"{self.over if whole else self.task_over} {job_id}", FINISHED)
                Queue.here().cancel(job.id, index)
            except Refused as refusal:
                print(f"qdel: {refusal}", file=sys.stderr)
                code = refusal.code
        return code

    over: ClassVar[str]
    task_over: ClassVar[str]

    def qhold(self, words: list[str]) -> int:
        """Hold jobs."""
        return self._hold(words, True)

    def qrls(self, words: list[str]) -> int:
        """Release jobs."""
        return self._hold(words, False)

    def _hold(self, words: list[str], yes: bool) -> int:
        _, operands = parsed(words, "")
        if not operands:
            raise Refused("usage: [-h hold_list] job_identifier...", 2)
        for job_id in operands:
            job, index = self.find(job_id)
            if index is not None:
                raise Refused(f"{self.no_hold_of_a_task} {job_id}", INVALID_REQUEST)
            Queue.here().hold_job(job.id, yes)
        return 0

    no_hold_of_a_task: ClassVar[str] = "that of a task is not modelled"


def _folded(name: str, value: str) -> str:
    """An attribute as it is printed: in long lines that go on behind a tab, broken at commas."""
    shown, width = name, len(name)
    for position, part in enumerate(value.split(",")):
        comma = "," if position else ""
        shown, width = shown + comma, width + len(comma)
        if position and width + len(part) >= LINE:
            shown, width = f"{shown}\n\t", TAB
        while width + len(part) >= LINE:
            shown, part = f"{shown}{part[: LINE - width]}\n\t", part[LINE - width :]
            width = TAB
        shown, width = shown + part, width + len(part)
    return shown


def exit_status(status: int) -> int:
    """PBS's number for a status of wait(2): 256 and the signal, or the exit code."""
    return 256 + status if status < 256 and status else status >> 8


def _limit(options: Options) -> float | None:
    """The time limit in seconds, which is `h:m:s`, `m:s` or `s`."""
    found = re.search(r"\bwalltime=([\d:]+)", ",".join(options.get("l", [])))
    if found is None:
        return None
    seconds = 0
    for number in found[1].split(":"):
        seconds = 60 * seconds + int(number)
    return seconds
