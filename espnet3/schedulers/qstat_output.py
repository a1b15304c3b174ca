"""What `qstat -f` of PBS Pro and of Torque prints, as rows. Checked with OpenPBS 23.06.06."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import datetime

from espnet3._structs import Struct

# An attribute whose value is the user's own text, with its line breaks: whatever stands in it looks
# like more attributes, or more jobs, to those who read line by line.
_VARIABLES = re.compile(r"^ {4}Variable_List = ", re.MULTILINE)
_BEFORE = frozenset({
    "Job_Name", "Job_Owner", "ctime", "job_state", "substate", "depend", "Hold_Types",
    "resources_used.walltime", "Resource_List.walltime",
})  # fmt: skip
# What both print behind it, each at most once and in this order.
_BEHIND = (
    "comment", "etime", "run_count", "eligible_time", "Stageout_status", "Exit_status",
    "exit_status", "Submit_arguments", "submit_args",
)  # fmt: skip
_NAMES = "|".join(map(re.escape, [*sorted(_BEFORE), *_BEHIND]))
_FIELD = re.compile(rf"^ {{4}}({_NAMES}) = (.*)$", re.MULTILINE)


class Told(Struct):
    """What is told of a job, an array or an array's task.

    Attributes:
        job_id: its id.
        fields: those of its attributes that matter here, by their names.
    """

    job_id: str
    fields: dict[str, str]

    @property
    def name(self) -> str:
        """The name that the job was given; Torque appends the index to those of tasks."""
        return re.sub(r"(-\d+|\[\d+\])$", "", self.fields.get("Job_Name", ""))

    @property
    def user(self) -> str:
        """Whose job it is."""
        return self.fields.get("Job_Owner", "").partition("@")[0]

    @property
    def created(self) -> float | None:
        """When it was submitted, in seconds since 1970; None where that is not told."""
        try:
            told = datetime.strptime(self.fields.get("ctime", ""), "%a %b %d %H:%M:%S %Y")
        except ValueError:
            return None
        return told.timestamp()


def parsed(output: str, asked: Iterable[str]) -> Iterator[Told]:
    """The jobs in what `qstat -f` printed.

    Args:
        output: that. Its long lines go on behind a tab.
        asked: the ids that it was asked for.

    Example:
        >>> lines = ["Job Id: 7.pbs", "    job_state = F", "    Variable_List = A=x"]
        >>> lines += ["    Exit_status = 0", "Job Id: 6.pbs"]  # more of that value
        >>> lines += ["    comment = Job run", "    Exit_status = 9"]
        >>> [row.fields for row in parsed(chr(10).join(lines), ["7.pbs"])]
        [{'job_state': 'F', 'comment': 'Job run', 'Exit_status': '9'}]
    """
    jobs = {_whole(job_id) for job_id in asked}
    blocks: dict[str, str] = {}
    job_id = ""
    for part in re.split(r"^(?=Job Id: )", output.replace("\n\t", ""), flags=re.MULTILINE):
        found = re.match(r"Job Id: *(\S+) *$", part, re.MULTILINE)
        # Of anything else a job's variables speak: another job, or one that was told before.
        if found is not None and _whole(found[1]) in jobs and found[1] not in blocks:
            job_id = found[1]
        blocks[job_id] = blocks.get(job_id, "") + part
    return (Told(job_id, _fields(text)) for job_id, text in blocks.items() if job_id)


def _fields(block: str) -> dict[str, str]:
    """The attributes of a job, without what its variables make believe."""
    found = _VARIABLES.search(block)
    before, behind = (block[: found.start()], block[found.end() :]) if found else (block, "")
    fields: dict[str, str] = {}
    for name, value in _FIELD.findall(before):
        fields.setdefault(name, value)
    told: dict[str, str] = {}
    last = -1
    for name, value in _FIELD.findall(behind):
        if name in _BEHIND:
            place = _BEHIND.index(name)
            if place <= last:  # so what seemed to stand before it was part of a variable
                told = {}
            last, told[name] = place, value
    return fields | told


def parts(job_id: str) -> tuple[str, str | None]:
    """The id of the job that a task belongs to, and the task's index in it.

    >>> parts("12[3].pbs"), parts("12[].pbs"), parts("12.pbs")
    (('12[].pbs', '3'), ('12[].pbs', None), ('12.pbs', None))
    """
    found = re.fullmatch(r"(\d+)\[(\d+)\](.*)", job_id)
    return (f"{found[1]}[]{found[3]}", found[2]) if found else (job_id, None)


def _whole(job_id: str) -> str:
    """The job or array of an id, without its server's name, which may be left out."""
    return parts(job_id)[0].partition(".")[0]
