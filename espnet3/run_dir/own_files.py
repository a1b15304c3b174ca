"""Which files of a run directory are the run's own, by their names."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable

from espnet3.errors import EspnetError, FileMissing
from espnet3.run_dir.directory import RunDirectory
from espnet3.specs import layout
from espnet3.specs.finishing import Finished
from espnet3.specs.models import CodeRecord
from espnet3.storage.deletion import Entry

# Unfinished files and folders, what tries a folder out, and what NFS makes of an open file.
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{12}\.tmp|\.probe-[0-9a-f]+|\.nfs[0-9a-f]+")
_LOG = re.compile(r"(?:[0-9]{4,}-[0-9]+|finisher-[0-9]{4,})\..+")
_REMAINING = layout.REMAINING.rpartition("/")[2]
_SUBMISSION = re.compile(r"([0-9]{4,})(?:\.jobs|\.cancelled)?\.json")


def _is_number(name: str) -> bool:
    return layout.submission_number(name) is not None


_RECORDS: dict[str, Callable[[str], object]] = {
    layout.SHARDS: lambda name: (found := layout.parse_receipt(name)) and found.generation == 1,
    layout.SUBMISSIONS: _SUBMISSION.fullmatch,
    layout.RESULTS: layout.parse_result,
    layout.ATTEMPTS: layout.parse_attempt_record,
    layout.RECEIPTS: layout.parse_receipt,
    layout.WITHDRAWALS: layout.parse_withdrawal,
    layout.CLAIMS: lambda name: name == _REMAINING or layout.parse_claim(name),
    layout.WORKERS: layout.parse_worker,
    layout.FINISHERS: lambda name: _is_number(name.replace(".job.json", ".json")),
    layout.WAVES: _is_number,
    layout.LOGS: _LOG.fullmatch,
    layout.CODE: _is_number,
    layout.WRITTEN: lambda name: False,  # folders, see below
}


class OwnFiles:
    """Tells a run's own files from others that somebody has put beside them.

    Example:
        >>> OwnFiles(RunDirectory.open("/shared/run"))(Entry("results/notes.txt", "file"))
        False
    """

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self._snapshots: dict[int, frozenset[str] | None] = {}
        self._results: frozenset[str] | None = None

    def __call__(self, entry: Entry) -> bool:
        """Whether it is the run's own."""
        if entry.kind == "other":
            return False
        steps = entry.path.split("/")
        for step in steps[:3]:  # a snapshot's folder is made elsewhere first, with what is in it
            if _UNFINISHED.fullmatch(step):
                return True
        top = steps[0]
        if len(steps) == 1:
            is_folder = top in _RECORDS
            if entry.kind == "file" and top in self._collected():
                return True
            return layout.is_own(top) and entry.kind == ("folder" if is_folder else "file")
        if top not in _RECORDS:
            return False
        if top == layout.CODE and steps[1].isdecimal():
            return self._is_of_snapshot(entry, int(steps[1]), "/".join(steps[2:]))
        if top == layout.WRITTEN:  # what a runner's hooks leave there is theirs to name
            return layout.is_written(steps[1]) and (len(steps) > 2 or entry.kind == "folder")
        return len(steps) == 2 and entry.kind == "file" and bool(_RECORDS[top](steps[1]))

    def _collected(self) -> frozenset[str]:
        """What a finisher collected into the run directory, by name."""
        if self._results is None:
            names, number = {layout.COLLECTED}, 1
            with contextlib.suppress(EspnetError):  # there are no more, or one cannot be read
                while True:
                    end = self._directory.read(Finished, layout.finished(number))
                    folder, _, name = (end.results or "").rpartition("/")
                    names |= {name} if folder == self._directory.root else set()
                    number += 1
            self._results = frozenset(names)
        return self._results

    def _is_of_snapshot(self, entry: Entry, number: int, path: str) -> bool:
        if entry.kind == "link" and not path:
            return False  # in place of the snapshot itself
        if entry.kind in ("folder", "link"):  # links lead to what lay beside the user's files
            return True
        if "/__pycache__/" in path and path.endswith(".pyc"):
            return True
        names = self._names_of(number)
        return names is None or path in names

    def _names_of(self, number: int) -> frozenset[str] | None:
        """The files of a snapshot; None where it has no record, and so was never used."""
        if number not in self._snapshots:
            self._snapshots[number] = self._read(number)
        return self._snapshots[number]

    def _read(self, number: int) -> frozenset[str] | None:
        try:
            record = self._directory.read(CodeRecord, layout.code_record(number))
        except FileMissing:
            return None
        except EspnetError:  # which files it names is not known
            return frozenset()
        return frozenset(f"{file.root}/{file.name}" for file in record.files)
