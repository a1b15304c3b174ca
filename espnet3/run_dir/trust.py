"""Whose files this process believes: docs/decisions/0007-trust.md.

Specs name modules and scripts to import, so whoever can write them can run code as this process's
user. What imports or unpickles because of a run directory asks here first. Only paths are looked
at: an object store has neither owners nor modes.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import pwd
import shlex
import stat
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

from espnet3.errors import FileMissing, Untrusted
from espnet3.specs import layout
from espnet3.specs.models import RunSpec
from espnet3.storage.base import Store
from espnet3.storage.local import LocalStore
from espnet3.text import one_line

Trust = Literal["owner", "group"]
POLICIES: tuple[str, ...] = get_args(Trust)
MAX_LINKS = 40  # that Linux follows in one path

# Not logs: nothing that is read there is believed.
_FOLDERS = (
    *(folder for folder in layout.FOLDERS if folder != layout.LOGS),
    *layout.MADE_LATER,
)

# Others' scripts, commands and ids of jobs are taken from there.
_SAY_WHAT_IS_DONE = (layout.SUBMISSIONS, layout.FINISHERS, layout.WAVES)


def stricter(policy: Trust | None, parallel: Mapping[str, Any]) -> Trust | None:
    """The policy for a run. What its directory says of itself can make it stricter, never looser.

    Args:
        policy: of the call.
        parallel: the parallel config that the directory holds.

    Example:
        >>> stricter("group", {"trust": "owner"}), stricter(None, {"trust": "group"})
        ('owner', None)
    """
    return "owner" if parallel.get("trust") == "owner" else policy


def require_trusted(store: Store, policy: Trust | None, files: Iterable[str] = ()) -> None:
    """Refuse a run directory that somebody else could have filled.

    Args:
        store: the run directory; one on an object store is not looked at.
        policy: `owner`, `group`, or None for the usual one.
        files: paths in it that are about to be believed; run.json is always one of them. What is
            not there is passed over.

    Raises:
        Untrusted: names the first folder or file that others control, and the way out.

    Example:
        >>> require_trusted(open_store("/shared/run"), "owner", ["shards/000000.json"])
        ... # doctest: +SKIP
    """
    if isinstance(store, LocalStore):
        require_own(store.root, policy)
        require_files(store, policy, (*_FOLDERS, layout.RUN, *files))


def require_submissions(store: Store, policy: Trust | None) -> None:
    """Refuse a run directory before something is done because of what its submissions say.

    What is to be submitted next, and run at the end, stands in finishers' decisions, too.

    Raises:
        Untrusted: see `require_trusted`.
    """
    files: list[str] = []
    for folder in _SAY_WHAT_IS_DONE:
        with contextlib.suppress(FileMissing):  # a file, or below one: who reads the run says so
            files += [f"{folder}/{name}" for name in store.names(folder)]
    require_trusted(store, policy, files)


def require_files(store: Store, policy: Trust | None, files: Iterable[str]) -> None:
    """Refuse files of a trusted run directory that others control; one look at each.

    Raises:
        Untrusted: see `require_trusted`.
    """
    if not isinstance(store, LocalStore):
        return
    for path in map(store.locate, files):
        try:
            found = os.lstat(path)
        except OSError:
            continue  # who reads it will say so
        if stat.S_ISLNK(found.st_mode):
            require_own(path, policy)
        else:
            _require_mine(path, found, policy)


def require_own(path: str, policy: Trust | None) -> None:
    """Refuse one file or folder that others control, or that lies where everyone may swap it.

    Args:
        path: absolute. It may not exist; the folders above it are looked at all the same.
        policy: `owner`, `group`, or None for the usual one.

    Raises:
        Untrusted: see `require_trusted`.
    """
    real, found, _ = _follow(path)
    if found is not None:
        _require_mine(real, found, policy)


def require_scripts(run: RunSpec, policy: Trust | None) -> None:
    """Refuse a script, recorded by its path, that everyone may write or swap.

    In a folder that everyone may write (a temporary one) it has to belong to this user as well.
    Elsewhere it may be a colleague's: who submitted has run it already.

    Raises:
        Untrusted: names the script.
    """
    for file in dict.fromkeys(reference.file for reference in run.references()):
        if file is None:
            continue
        real, found, folder = _follow(os.path.abspath(file))
        if found is None:
            continue  # the import will say so
        if folder is not None and folder.st_mode & stat.S_IWOTH:
            _require_mine(real, found, policy)
        elif found.st_mode & stat.S_IWOTH:
            raise Untrusted(real, f"it is world-writable; {_take_away(real)}")


_Found = os.stat_result | None


def _follow(path: str) -> tuple[str, _Found, _Found]:
    """Walk a path as the kernel does: name by name, into the targets of symbolic links.

    Returns:
        The path without links, its own state (None where there is none) and its folder's.

    Raises:
        Untrusted: a folder on the way, where others could put something else in its place; or it
            cannot be walked.
    """
    try:
        return _walk(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Untrusted(one_line(repr(path)[1:-1]), f"cannot be checked ({reason})") from None


def _walk(path: str) -> tuple[str, _Found, _Found]:
    names = _names(path)
    here, links = "/", 0
    state = folder = os.lstat(here)
    while names:
        name = names.pop()
        if name == "..":
            here = os.path.dirname(here)
            state = os.lstat(here)
            continue
        folder = state
        _require_no_strangers(here, folder)
        below = f"{here.rstrip('/')}/{name}"
        try:
            state = os.lstat(below)
        except (FileNotFoundError, NotADirectoryError):
            return below, None, folder
        if not stat.S_ISLNK(state.st_mode):
            here = below
            continue
        links += 1
        if links > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if folder.st_mode & stat.S_IWOTH and not _is_mine(state):
            raise Untrusted(
                below, f"is a link that {_owner(state)} made in a folder that everyone may write; "
                "name its target instead"
            )  # fmt: skip
        target = os.readlink(below)
        names += _names(target)
        if target.startswith("/"):
            here = "/"
        state = os.lstat(here)
    return here, state, folder


def _names(path: str) -> list[str]:
    """The names in a path, the last one first."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]


def _require_no_strangers(folder: str, found: os.stat_result) -> None:
    """A folder on the way; where it is sticky, one can only replace what is one's own."""
    if not stat.S_ISDIR(found.st_mode):
        return  # nothing lies in it, as whoever opens what is below will say
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        raise Untrusted(
            folder, f"anyone could replace what is in it; {_take_away(folder)}, or use a folder "
            "elsewhere"
        )  # fmt: skip


def _require_mine(path: str, found: os.stat_result, policy: Trust | None) -> None:
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        return  # a device or pipe, which is not read, as whoever opens it will say
    if found.st_mode & stat.S_IWOTH:
        raise Untrusted(path, f"it is world-writable; {_take_away(path)}")
    if policy == "owner" and found.st_mode & stat.S_IWGRP:
        raise Untrusted(
            path, f"it is group-writable, which `trust: owner` refuses; {_take_away(path, 'g')}"
        )
    if _is_mine(found):
        return
    if policy == "group":
        if found.st_gid not in {os.getegid(), *os.getgroups()}:
            raise Untrusted(path, f"belongs to {_owner(found)} and to none of your groups; copy it")
        # In a setgid folder everybody's files get the folder's group, a stranger's too.
        if _is_member(found.st_uid, found.st_gid):
            return
        raise Untrusted(
            path, f"belongs to {_owner(found)}, who is not a member of its group; "
            "copy it"
        )  # fmt: skip
    way_out = "copy it" if policy == "owner" else "copy it, or say `trust: group` (--trust group)"
    raise Untrusted(path, f"belongs to {_owner(found)}, who could run code as you; {way_out}")


def _is_mine(found: os.stat_result) -> bool:
    """Whether it is this user's, or root's, who can do everything anyway."""
    return found.st_uid in (os.geteuid(), 0)


@functools.lru_cache(maxsize=64)  # a run may have a million files
def _is_member(user: int, group: int) -> bool:
    """Whether a user is in a group, as this host's name services say; without a name, in none."""
    try:
        entry = pwd.getpwuid(user)
        return group in os.getgrouplist(entry.pw_name, entry.pw_gid)
    except (KeyError, OSError):
        return False


def _take_away(path: str, who: str = "o") -> str:
    return f"run `chmod {who}-w {shlex.quote(path)}`"


def _owner(found: os.stat_result) -> str:
    try:
        return pwd.getpwuid(found.st_uid).pw_name
    except KeyError:
        return f"user {found.st_uid}"
