"""Removing what a run directory holds, so that each crash leaves what can be removed again.

The order is that of decision 0025: the note first, then run.json, then the rest, the note last.
"""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

from espnet3.errors import EspnetError, RunDirectoryError
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.own_files import OwnFiles
from espnet3.run_dir.processes import this_process
from espnet3.specs import layout
from espnet3.specs.models import now
from espnet3.specs.removal import Removal
from espnet3.storage.deletion import Entry, delete, delete_file, delete_root, entries
from espnet3.storage.local import LocalStore
from espnet3.text import one_line

_SHOWN = 5  # foreign files that an error names


class Contents(NamedTuple):
    """What a run directory holds.

    Attributes:
        files: how many files and links; the note of a removal that was cut short is none.
        foreign: paths of what is not the run's own; a folder stands for all in it.
    """

    files: int
    foreign: list[str]


def require_real(directory: RunDirectory) -> None:
    """Refuse what is not there, and a link: what it leads to has another name.

    Raises:
        RunDirectoryError: see above.
    """
    root = directory.root
    if not isinstance(directory.store, LocalStore):
        return
    if os.path.islink(root):
        there = one_line(os.path.realpath(root))
        raise RunDirectoryError(root, f"is a link; name {there}, to which it leads")
    if not os.path.isdir(root):
        raise RunDirectoryError(root, "is not there, or no folder")


def is_half_removed(directory: RunDirectory) -> bool:
    """Whether somebody began to remove the run, and what is left is no run any more."""
    store = directory.store
    return not store.exists(layout.RUN) and store.exists(layout.REMOVAL)


def look(directory: RunDirectory) -> Contents:
    """Count what a directory holds, and name what is not the run's.

    Raises:
        StoreError: a folder cannot be read.
    """
    own, files = OwnFiles(directory), 0
    foreign: dict[str, None] = {}
    for entry in entries(directory.store):
        files += entry.kind != "folder" and entry.path != layout.REMOVAL
        if not own(entry):
            foreign[_outermost(entry.path, own)] = None
    return Contents(files, sorted(foreign))


def _outermost(path: str, own: OwnFiles) -> str:
    """Of what is foreign, the folder that stands for all in it."""
    steps = path.split("/")
    above = ("/".join(steps[:n]) for n in range(1, len(steps)))
    return next((folder for folder in above if not own(Entry(folder, "folder"))), path)


def require_own(directory: RunDirectory, seen: Contents, output: str | None) -> None:
    """Refuse to remove what is not the run's, or what merged files may name.

    Args:
        directory: the run directory.
        seen: what it holds.
        output: the output folder whose `split.N` lead there; None where it does not matter.

    Raises:
        RunDirectoryError: names the first ones, the output folder, and what lifts no more than
            this refusal.
    """
    problems = []
    if seen.foreign:
        names = ", ".join(one_line(path, 200) for path in seen.foreign[:_SHOWN])
        more = len(seen.foreign) - _SHOWN
        problems.append(
            f"holds what is not the run's: {names}{f' and {more} more' if more > 0 else ''}; "
            "move it away"
        )
    if output is not None:
        problems.append(
            f"holds what the shards of {one_line(output)} have written (its split.N lead "
            "here), which files that were merged may name; copy what you need"
        )
    if problems:
        said = "--all (everything=True)" if seen.foreign else "--merged (merged=True)"
        them = "both" if len(problems) > 1 else "it"
        both = ", and ".join(problems)
        raise RunDirectoryError(directory.root, f"{both}, or say {said} to remove {them} too")


def begin(directory: RunDirectory, run_id: str, known: int) -> None:
    """Announce the removal, so that nobody submits any more.

    Args:
        directory: the run directory.
        run_id: of the run that was looked at.
        known: how many submissions were seen, none of which is alive.

    Raises:
        RunDirectoryError: there is another submission by now.
        UsageError, FileMissing: there is another run by now, or none.
        StoreError: it cannot be written.
    """
    note = Removal(run_id=run_id, created=now(), by=this_process())
    directory.publish_first(note)
    try:
        directory.require_run(run_id)
        names = map(layout.submission_number, directory.store.names(layout.SUBMISSIONS))
        if sum(number is not None for number in names) > known:
            problem = "was submitted again meanwhile; look at it first"
            raise RunDirectoryError(directory.root, problem)
    except EspnetError:
        with contextlib.suppress(EspnetError):
            if directory.read(Removal, layout.REMOVAL) == note:  # else somebody else goes on
                delete_file(directory.store, layout.REMOVAL)
        raise


def clear(directory: RunDirectory, run_id: str | None, *, everything: bool) -> int:
    """Remove run.json, then the rest, and the folder at last. May be called again after a crash.

    Args:
        directory: the run directory, of which `begin` has announced the removal.
        run_id: of the run that is removed; None where its run.json was gone already.
        everything: also what is not the run's own.

    Returns:
        How many files and links were removed, without the note.

    Raises:
        RunDirectoryError: somebody else was faster; what is there now may be another run.
        StoreError: something cannot be removed, or was written meanwhile.
    """
    store, own = directory.store, OwnFiles(directory)

    def wanted(entry: Entry) -> bool:
        if entry.path == layout.REMOVAL or entry.kind == "other":
            return False
        return everything or own(entry)

    if not store.exists(layout.REMOVAL):
        raise RunDirectoryError(directory.root, "was removed by somebody else meanwhile")
    there = store.exists(layout.RUN)
    if there and directory.run().run_id != run_id:
        raise RunDirectoryError(directory.root, "holds another run by now; look at it first")
    delete_file(store, layout.RUN)
    removed = delete(store, wanted) + there
    delete_file(store, layout.REMOVAL)
    delete_root(store)
    return removed


def require_not_removed(directory: RunDirectory) -> None:
    """Refuse to submit where somebody removes the run.

    Raises:
        RunDirectoryError: see above.
    """
    if directory.store.exists(layout.REMOVAL):
        raise RunDirectoryError(
            directory.root,
            "is being removed, or was half; `espnet3 remove` finishes that; or choose another "
            "run_dir",
        )
