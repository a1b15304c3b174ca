"""The hooks of a runner that writes its results itself, as ESPnet3 has had them since 2026."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

from espnet3.storage.permissions import replacing
from espnet3.user_code.writers import (
    DONE,
    call_fitting,
    folder_name,
    only_writes,
    seen_as,
    shard_folder,
)

if TYPE_CHECKING:  # every worker imports this module, and few have writers
    from pathlib import Path

_BLOCK = 1 << 20  # bytes


class WriterHooks:
    r"""What a runner overrides that writes its results itself, and what is done where it does not.

    For each shard: `init_state`, which calls `open_writers`; for each item `reduce_state`, which
    calls `write_record`; `finalize_state`, which calls `close_writers`. At the end `merge`, for all
    shards. All but `merge` are called through the class, in the process that computes the shard.

    Attributes:
        append_only: set by a subclass whose writers append to files, have everything in them after
            their `flush`, and keep nothing in `state`: a shard that was cut short goes on then.

    Example:
        >>> class Words(WriterHooks):
        ...     @staticmethod
        ...     def open_writers(shard_dir, **env):
        ...         return {"hyp": open(shard_dir / "hyp.scp", "w")}
        ...
        ...     @staticmethod
        ...     def write_record(writers, result, state, **env):
        ...         writers["hyp"].write(f"{result['utt_id']} {result['hyp']}\n")
    """

    append_only: ClassVar[bool] = False

    @staticmethod
    def open_writers(shard_dir: Path, **env: Any) -> dict[str, Any]:
        """Open what the results of a shard are written with.

        Args:
            shard_dir: the shard's folder.
            **env: what the provider built, and `shard_id`, `output_dir`, `shard_subdir`.
        """
        return {}

    @staticmethod
    def write_record(
        writers: dict[str, Any], result: Any, state: dict[str, Any], **env: Any
    ) -> None:
        """Write what `forward` returned for an item, as it returned it.

        Args:
            writers: what `open_writers` returned.
            result: what `forward` returned.
            state: the shard's state; kept in `records` of it unless this is overridden.
            **env: as for `open_writers`.
        """
        state.setdefault("records", []).append(result)

    @staticmethod
    def close_writers(
        writers: dict[str, Any], state: dict[str, Any] | None = None, **env: Any
    ) -> dict[str, Any] | None:
        """Close the writers: what of them has a `close`.

        Args:
            writers: what `open_writers` returned.
            state: the shard's state.
            **env: as for `open_writers`.

        Returns:
            What is put into the state, or None.
        """
        for writer in writers.values():
            close = getattr(writer, "close", None)
            if callable(close):
                close()
        return None

    @classmethod
    def init_state(
        cls, shard_id: int = 0, output_dir: str = "", shard_subdir: str = "", **env: Any
    ) -> dict[str, Any]:
        """Begin a shard: its state, with its writers.

        Args:
            shard_id: the shard.
            output_dir: as the runner was given it.
            shard_subdir: likewise.
            **env: what the provider built.
        """
        from pathlib import Path

        folder = shard_folder.get() or Path(output_dir) / shard_subdir / folder_name(shard_id)
        folder.mkdir(parents=True, exist_ok=True)
        more = {"shard_id": shard_id, "output_dir": output_dir, "shard_subdir": shard_subdir}
        return {
            "shard_id": shard_id,
            "shard_dir": str(folder),
            "_writers": cls.open_writers(folder, **more, **env),
            "records": [],
        }

    @classmethod
    @only_writes
    def reduce_state(cls, state: dict[str, Any], result: Any, **env: Any) -> dict[str, Any]:
        """Take what `forward` returned for the next item of a shard.

        Returns:
            The shard's state from then on.
        """
        cls.write_record(state["_writers"], result, state, **env)
        return state

    @classmethod
    def finalize_state(cls, state: dict[str, Any], **env: Any) -> dict[str, Any]:
        """End a shard.

        Returns:
            Its state, without writers.
        """
        more = call_fitting(cls.close_writers, state.get("_writers", {}), state, **env)
        state.update(more or {})
        state.pop("_writers", None)
        return state

    @classmethod
    def is_shard_done(cls, shard_dir: str | os.PathLike[str]) -> bool:
        """Whether a shard's folder is whole."""
        return os.path.exists(os.path.join(shard_dir, DONE))

    def merge(self, shard_dirs: list[Path]) -> Any:
        """Make one output of what all shards have written; called once, when all are whole.

        Args:
            shard_dirs: their folders, in the shards' order.

        Returns:
            What a call of the runner, or `collect`, returns.
        """
        return None


def concatenate_shard_files(
    shard_dirs: Iterable[str | os.PathLike[str]],
    relative_name: str,
    out_path: str | os.PathLike[str],
) -> bool:
    """Write what a file of that name holds in each shard's folder into one file.

    Where the writers saw their folder at another path, that is replaced by the folder's: paths of
    arrays that were written beside the text hold in every mode. Not in a file with a zero byte:
    that is no text, and another length would damage it.

    Args:
        shard_dirs: the shards' folders, in order.
        relative_name: the file's path in each of them; those that lack it are passed over.
        out_path: the file to be written; it is replaced, and its folders are made.

    Returns:
        Whether any of them has it; if not, there is no `out_path` afterwards.

    Example:
        >>> concatenate_shard_files([], "hyp.scp", "/tmp/of-no-shard/hyp.scp")
        False
    """
    out = os.fspath(out_path)
    os.makedirs(os.path.dirname(out) or ".", exist_ok=True)
    folders = [os.fspath(each) for each in shard_dirs]
    there = [each for each in folders if os.path.exists(os.path.join(each, relative_name))]
    if not there:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(out)
        return False
    with replacing(out) as target:
        for folder in there:
            _append(folder, relative_name, target)
    return True


def _append(folder: str, relative_name: str, target: BinaryIO) -> None:
    """Append a shard's file, with the paths of its folder as they are now."""
    import shutil

    paths = [tuple(map(os.fsencode, pair)) for pair in seen_as.get(folder, ())]
    with open(os.path.join(folder, relative_name), "rb") as source:
        if not paths or not _is_text(source):
            shutil.copyfileobj(source, target)
            return
        for line in source:
            for old, new in paths:
                line = line.replace(old, new)
            target.write(line)


def _is_text(source: BinaryIO) -> bool:
    """Whether there is no zero byte in a file: where there is, lengths and offsets may be, too."""
    while block := source.read(_BLOCK):
        if b"\0" in block:
            break
    source.seek(0)
    return not block
