"""The hooks by which a runner writes its results itself, and a shard's way through them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from espnet3.errors import OutputError

if TYPE_CHECKING:  # every worker imports this module, and few have writers
    from pathlib import Path

Hook = TypeVar("Hook", bound=Callable[..., Any])
HOOKS = (
    "open_writers", "write_record", "close_writers", "init_state", "reduce_state",
    "finalize_state", "is_shard_done", "merge",
)  # fmt: skip
DONE = "done"  # the file that says that a folder is whole, as in ESPnet3
# The folder of the shard that is begun; for `init_state`, whose arguments do not say it.
shard_folder: ContextVar[Path | None] = ContextVar("shard_folder", default=None)
# Folder of a shard -> paths by which its writers may have known it, each with what it is now.
# Filled in processes that do nothing but merge, and for all of their threads.
seen_as: dict[str, Sequence[tuple[str, str]]] = {}
# What the constructor of a runner sets itself; all else that a runner holds is the user's.
SET_BY_BASE = frozenset({
    "provider", "batch_size", "async_mode", "run_dir", "async_result_dir", "async_specs_dir",
    "output_dir", "shard_subdir", "resume",
})  # fmt: skip
_DEFAULTS = "espnet3.parallel.writer_hooks"  # by name: not to be imported from here


def folder_name(shard_id: int) -> str:
    """Name of a shard's folder, as in ESPnet3.

    >>> folder_name(3)
    'split.3'
    """
    return f"split.{shard_id}"


def is_folder_name(name: str) -> bool:
    """Whether a shard's folder has this name.

    >>> is_folder_name("split.3"), is_folder_name("split.03"), is_folder_name("split.last")
    (True, False, False)
    """
    number = name.rpartition(".")[2]
    return number.isdecimal() and name == folder_name(int(number))


def has_writers(runner: type[Any]) -> bool:
    """Whether a runner writes its results itself: whether it overrides one of the hooks.

    Args:
        runner: its class.

    Example:
        >>> from espnet3.parallel import BaseRunner
        >>> has_writers(BaseRunner)
        False
    """
    owners = (next((c for c in runner.__mro__ if name in vars(c)), None) for name in HOOKS)
    return any(owner is not None and owner.__module__ != _DEFAULTS for owner in owners)


def output_dir_of(runner: Any) -> str:
    """The `output_dir` of a runner with writers, as it was given.

    Raises:
        OutputError: it was given none.
    """
    if runner.output_dir is None:
        raise OutputError(
            "",
            f"is missing, and {type(runner).__qualname__} writes its results itself; construct it "
            "with output_dir=FOLDER",
        )
    return str(runner.output_dir)


class ShardWriters:
    """The hooks of a runner's class, called for one shard: `open`, `write` for each item, `close`.

    Whatever a hook raises is raised.

    Args:
        runner: the runner's class.
        shard_id: the shard.
        shard_dir: the folder that its files are to be in; it is there.
        output_dir: as the runner was given it.
        shard_subdir: likewise.
        env: what the provider built.

    Attributes:
        env: what the hooks get, besides.
        state: what they have made of the shard so far.
        write: called with what `forward` returned for the next item, which the hooks get as it is.
    """

    def __init__(
        self,
        runner: type[Any],
        shard_id: int,
        shard_dir: Path,
        output_dir: str,
        shard_subdir: str,
        env: Mapping[str, Any],
    ) -> None:
        self._runner, self._shard_dir, self._reduce = runner, shard_dir, runner.reduce_state
        given = {"output_dir": output_dir, "shard_subdir": shard_subdir}
        self.env: dict[str, Any] = {**given, **env, "shard_id": shard_id}
        self.state: Any = None
        self.write: Callable[[Any], None] = self._reduce_one

    def forward_env(self, env: Mapping[str, Any]) -> dict[str, Any]:
        """What `forward` gets: what the provider built, and of the rest what it takes."""
        from espnet3.user_code.keywords import taken_by

        more = {name: self.env[name] for name in taken_by(self._runner.forward, self.env)}
        return {**more, **env}

    def open(self) -> None:
        """Begin the shard.

        Raises:
            OutputError: `init_state` has chosen another folder.
        """
        self._place = os.stat(self._shard_dir)
        token = shard_folder.set(self._shard_dir)
        try:
            self.state = self._runner.init_state(**self.env)
        finally:
            shard_folder.reset(token)
        chosen = self.state.get("shard_dir") if isinstance(self.state, dict) else None
        if chosen is not None and type(self._shard_dir)(chosen) != self._shard_dir:
            raise OutputError(
                str(chosen),
                f"was chosen by init_state, but the shard's folder is {self._shard_dir}; call "
                "super().init_state for it",
            )
        if getattr(self._reduce, "only_writes", False):
            self.write = self._quick_write()

    def _reduce_one(self, result: Any) -> None:
        self.state = self._reduce(self.state, result, **self.env)

    def _quick_write(self) -> Callable[[Any], None]:
        """What `_reduce_one` does where `reduce_state` is not overridden, in fewer calls."""
        record, state, env = self._runner.write_record, self.state, self.env

        def write(result: Any) -> None:
            record(state["_writers"], result, state, **env)

        return write

    def close(self) -> None:
        """End the shard: its folder is whole afterwards, and says so.

        Raises:
            OutputError: its path leads elsewhere by now, and so may some of what was written.
        """
        self._require_same_place()
        self.state = self._runner.finalize_state(self.state, **self.env)
        self._require_same_place()
        (self._shard_dir / DONE).write_text("")

    def _require_same_place(self) -> None:
        try:
            if os.path.samestat(os.stat(self._shard_dir), self._place):
                return
        except FileNotFoundError:
            pass
        raise OutputError(
            str(self._shard_dir),
            "is not where the shard was begun: the folder was moved, or the working directory "
            "changed; give an absolute output_dir",
        )


def writers_in(state: Any) -> Iterator[Any]:
    """The writers in a shard's state, also those within mappings and lists, in order.

    What can be closed or flushed is one, though it be a mapping, too.

    Example:
        >>> import io
        >>> state = {"_writers": {"hyp": io.StringIO("a"), "more": [io.StringIO("b")]}}
        >>> [writer.getvalue() for writer in writers_in(state)]
        ['a', 'b']
    """
    return _within(state.get("_writers") if isinstance(state, Mapping) else None)


def _within(found: Any) -> Iterator[Any]:
    if hasattr(found, "close") or hasattr(found, "flush"):
        yield found
    elif isinstance(found, Mapping | list | tuple):
        for each in found.values() if isinstance(found, Mapping) else found:
            yield from _within(each)


def flush_writers(state: Any) -> bool:
    """Flush the writers in a shard's state.

    Returns:
        Whether all that they were given is in files then. It is not known where a writer has a
        `close` and no `flush`, where the state has no writers, and where it holds records.

    Example:
        >>> flush_writers({"_writers": {}}), flush_writers({"of": "another init_state"})
        (True, False)
    """
    if not isinstance(state, Mapping) or "_writers" not in state or state.get("records"):
        return False
    writers = [*writers_in(state)]
    if not all(hasattr(writer, "flush") for writer in writers):
        return False
    for writer in writers:
        writer.flush()
    return True


def close_all(state: Any) -> None:
    """Close the writers of a shard that failed, or they would write on when they are collected."""
    with contextlib.suppress(Exception):  # of the user's
        for writer in writers_in(state):
            if hasattr(writer, "close"):
                writer.close()


def only_writes(reduce_state: Hook) -> Hook:
    """Mark a `reduce_state` that calls `write_record` and nothing else."""
    reduce_state.only_writes = True  # type: ignore[attr-defined]  # functions have any
    return reduce_state


def call_fitting(function: Callable[..., Any], *args: Any, **env: Any) -> Any:
    """Call a hook that may be defined for fewer arguments, as older ones are.

    Example:
        >>> call_fitting(lambda writers: writers, {"a": 1}, {}, beam=5)
        {'a': 1}
    """
    import inspect

    signature = inspect.signature(function)
    for given, keywords in ((args, env), (args, {}), (args[:1], {})):
        try:
            signature.bind(*given, **keywords)
        except TypeError:
            continue
        return function(*given, **keywords)
    return function(*args, **env)  # which says what is wrong
