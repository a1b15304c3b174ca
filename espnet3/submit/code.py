"""The code that a submission is made with: its record, its snapshot, and what a change of it means.

Why it is so is in `docs/decisions/0022-code.md`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, get_args

from espnet3.checksums import checksum
from espnet3.errors import CodeChanged, FileTaken, UsageError
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.processes import this_process
from espnet3.run_dir.snapshots import links_beside, with_snapshot
from espnet3.specs import layout
from espnet3.specs.models import CodeRecord, RunSpec, SourceFile, Submission, now
from espnet3.storage.paths import readable
from espnet3.storage.tree import TreeFile, create_tree
from espnet3.submit.submitter import commit_of
from espnet3.user_code.sources import (
    Source,
    below,
    differing,
    loaded_sources,
    named,
    outermost,
    read_whole,
)

WhichCode = Literal["current", "submitted"]
_SMALL = 1 << 20  # bytes of a file of a package that no module was made of
_MOST_BESIDE = 1000  # such files of one folder


class KnownCode(NamedTuple):
    """What is known of the code that a run was last submitted with, and what is to be done.

    Attributes:
        record: of the last submission; None where it has none.
        is_current: whether a new record is to be made of the files as they are now.
        is_past: whether the snapshot is what counts, and the files are others by now.
        keeps: whether a new record gets copies of the files.
    """

    record: CodeRecord | None
    is_current: bool
    is_past: bool = False
    keeps: bool = False

    def run(self, directory: RunDirectory, run: RunSpec) -> RunSpec:
        """The run, whose modules are found in the snapshot where that is what counts.

        Raises:
            Untrusted, StoreError, FormatError: the snapshot cannot be used.
        """
        if self.record is None or not self.is_past:
            return run
        return with_snapshot(directory, run, self.record)


def require_choice(choice: WhichCode | None) -> None:
    """Refuse what is no choice.

    Raises:
        UsageError: it is neither of them.
    """
    if choice is not None and choice not in get_args(WhichCode):
        raise UsageError(f"code: {choice!r} is neither current nor submitted")


def known_code(
    directory: RunDirectory,
    last: Submission | None,
    choice: WhichCode | None,
    *,
    snapshot: bool = False,
    again: str | None = None,
) -> KnownCode:
    """Compare the user's source files with those of the last submission.

    Args:
        directory: the run directory.
        last: the last submission; None where there is none.
        choice: what to go on with where they differ.
        snapshot: whether the run is to have copies of them from now on.
        again: the command that goes on, for the error; that which was typed where unset.

    Raises:
        CodeChanged: they differ, and nobody said what to go on with.
        UsageError: what was submitted is asked for, and nobody kept it.
        FormatError, StoreError: the record cannot be used.
    """
    record = directory.code(last)
    if record is None:
        return KnownCode(None, True, keeps=snapshot)
    changed = differing(record)
    if not changed:
        return KnownCode(record, snapshot and not record.snapshot, keeps=snapshot)
    if choice is None:
        raise CodeChanged(
            directory.root, [*map(record.path_of, changed)], _what_to_do(record, changed, again)
        )
    if choice == "submitted" and not record.snapshot:
        raise UsageError(
            f"{directory.root}: nobody kept the source files as they were submitted "
            f"({named(record, changed)}); put them back, or go on with `--code current`; "
            "snapshot: true in the parallel config keeps them the next time"
        )
    keeps = snapshot or record.snapshot
    return KnownCode(record, choice == "current", choice == "submitted", keeps)


def _what_to_do(record: CodeRecord, changed: list[SourceFile], again: str | None) -> str:
    how = 'repeat the command with `--code current`, in Python `code="current"`'
    old = "`--code submitted`"
    if again is not None:
        how, old = (f"`{again} --code {choice}`" for choice in ("current", "submitted"))
    back = f"with what was submitted ({old})" if record.snapshot else "put them back"
    return (
        f"source files differ from those that were submitted: {named(record, changed)}; go on with "
        f"what is there now ({how}; what is done stays), or {back}"
    )


def run_for(
    choice: WhichCode | None, directory: RunDirectory, run: RunSpec, last: Submission | None
) -> RunSpec:
    """The run, whose modules are found in its snapshot where that is chosen and differs.

    Raises:
        UsageError: as `known_code`.
    """
    return known_code(directory, last, choice).run(directory, run)


def run_as_submitted(directory: RunDirectory, run: RunSpec, last: Submission | None) -> RunSpec:
    """The run, whose modules are found as its workers find them: in its snapshot, if it has one.

    Raises:
        Untrusted, StoreError, FormatError: the snapshot cannot be used.
    """
    record = directory.code(last)
    if record is None or not record.snapshot:
        return run
    return run_for("submitted", directory, run, last)


async def number_of_code(
    directory: RunDirectory,
    run: RunSpec,
    number: int,
    known: KnownCode,
    sources: Sequence[Source] | None,
) -> int | None:
    """The number of the record that a submission is to name, which is made where need be.

    Args:
        directory: the run directory.
        run: its run.json.
        number: of the submission.
        known: what is known of the code.
        sources: the user's files that a worker loads; those that this process has loaded, where
            unset.

    Returns:
        None where nothing of the user's own is imported.

    Raises:
        StoreError: it cannot be written.
    """
    if not known.is_current:
        return None if known.record is None else known.record.number
    found = loaded_sources(run) if sources is None else sources
    if not found:
        return None
    commit = run.git_commit
    if number > 1:
        commit = await asyncio.to_thread(commit_of, run.working_directory)
    return await asyncio.to_thread(_make, directory, number, found, commit, known.keeps)


def _make(
    directory: RunDirectory, number: int, sources: Iterable[Source], commit: str | None, kept: bool
) -> int | None:
    """Make a record under the first number from one on that is free."""
    if kept:
        sources = _with_packages(sources)
    directory.store.prepare([layout.CODE])
    while True:
        copying = _Copying(sources)
        try:
            if kept:
                copying.copy_to(directory, number)
            record = copying.record(number, commit, kept)
            if record is not None:
                directory.publish(record)
        except FileTaken:  # a submitter was cut short, or is at it
            number += 1
        else:
            return None if record is None else number


class _Copying:
    """Source files that are read once, for a record and for copies."""

    def __init__(self, sources: Iterable[Source]) -> None:
        self._sources = sorted({*sources})
        self._roots = outermost(source.root for source in self._sources)
        self._files: dict[tuple[int, str], SourceFile] = {}
        self._is_read = False

    def _read(self) -> Iterator[TreeFile]:
        for source in self._sources:
            place = below(source.path, self._roots)
            if place is None or place in self._files:
                continue
            try:
                data, mode = read_whole(source.path)
            except OSError:
                continue  # it has just gone
            root, name = place
            self._files[place] = SourceFile(
                root=root, name=name, sha256=checksum(data), size=len(data)
            )
            yield TreeFile(f"{root}/{name}", data, mode)  # as secret as it was
        self._is_read = True

    def copy_to(self, directory: RunDirectory, number: int) -> None:
        """Copy the files to a snapshot.

        Raises:
            FileTaken: there is one of that number.
            StoreError: it cannot be written.
        """

        def links() -> Iterator[tuple[str, str]]:
            names = [f"{root}/{name}" for root, name in self._files]
            yield from links_beside(self._roots, names)

        create_tree(directory.store, layout.snapshot(number), self._read(), links())

    def record(self, number: int, commit: str | None, kept: bool) -> CodeRecord | None:
        """The record of what was read; None where nothing was."""
        if not self._is_read:
            for _ in self._read():
                pass
        if not self._files:
            return None
        return CodeRecord(
            number=number,
            created=now(),
            by=this_process(),
            roots=self._roots,
            import_path=sorted({source.root for source in self._sources}),
            files=[*self._files.values()],
            git_commit=commit,
            snapshot=kept,
        )


def _with_packages(sources: Iterable[Source]) -> list[Source]:
    """Source files, and all small files of the packages' folders that they lie in.

    Modules that are imported later, that is, and data that a package reads.
    """
    found = {*sources}
    folders = {(source.root, os.path.dirname(source.name)) for source in found}
    for root, folder in folders:
        place = os.path.join(root, folder)
        if not folder or not os.path.isfile(os.path.join(place, "__init__.py")):
            continue  # a folder of the user's, which may hold anything
        found |= {Source(root, f"{folder}/{name}") for name in _small_files(place)}
    return [*found]


def _small_files(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            names = [
                entry.name
                for entry in entries
                if entry.name[0] != "."
                and not entry.name.endswith(".pyc")
                and readable(entry.name)
                and entry.is_file()
                and entry.stat().st_size <= _SMALL
            ]
    except OSError:
        return []
    return sorted(names)[:_MOST_BESIDE]
