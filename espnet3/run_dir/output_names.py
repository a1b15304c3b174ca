"""Which names the merged file may have, and what they mean."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from espnet3.errors import UsageError
from espnet3.specs import layout

_LOCAL = frozenset({"file", "local"})  # protocols of fsspec
# Endings that programs go by. `.json` is of one document; of one record it would even look so.
_OTHER_FORMATS = frozenset({
    ".csv", ".tsv", ".json", ".yaml", ".yml", ".toml", ".xml", ".html", ".md", ".parquet",
    ".pq", ".feather", ".arrow", ".ipc", ".orc", ".avro", ".xls", ".xlsx", ".ods", ".npy",
    ".npz", ".pkl", ".pickle", ".pt", ".pth", ".safetensors", ".h5", ".hdf5", ".mat", ".db",
    ".sqlite", ".duckdb", ".tfrecord", ".ark", ".scp", ".trn", ".ctm", ".srt", ".vtt", ".wav",
    ".flac", ".gz", ".bz2", ".xz", ".zst", ".zstd", ".lz4", ".br", ".zip", ".tar", ".tgz",
    ".7z",
})  # fmt: skip


def require_outside(root: str, output: str) -> None:
    """Refuse to write a merge over the files of its own run.

    Args:
        root: the run directory, a path or URL.
        output: a path or an fsspec URL.

    Raises:
        UsageError: it is a name that belongs to the run.
    """
    if not output:
        raise UsageError("output: is empty; name a file or URL")
    (storage, path), (own, folder) = _identify(output), _identify(root)
    name = path.removeprefix(f"{folder}/").partition("/")[0]
    its_own = layout.is_own(name) and name != layout.LOGS
    if storage == own and path.startswith(f"{folder}/") and its_own:
        raise UsageError(f"{output}: lies among the run's own files; choose another output")


def require_json_lines(output: str) -> None:
    """Refuse a name that promises another format than the JSON lines that would be written.

    Any other name will do: `.jsonl`, `.txt`, one without an ending, a device or pipe.

    Args:
        output: a path or an fsspec URL.

    Raises:
        UsageError: it names another format, or is `-`.
    """
    if output == "-":
        raise UsageError(
            "output: is -; leave it out for standard output, or write ./- for a file of that name"
        )
    ending = os.path.splitext(output.rpartition("/")[2])[1].lower()
    path = local_path(output)
    if ending not in _OTHER_FORMATS or (path is not None and is_special(expanded(path))):
        return
    raise UsageError(
        f"{output}: {ending} names another format than JSON lines, which is what is written; "
        "choose a name such as results.jsonl"
    )


def _identify(output: str) -> tuple[object, str]:
    """A file system and the path in it, the same for all the names that a file has."""
    url = output.rpartition("::")[2] if "://" in output else output  # behind caches and the like
    path = local_path(url)
    if path is not None:
        return "", os.path.realpath(expanded(path))
    import fsspec

    protocol = url.partition("://")[0]
    try:
        kind = fsspec.get_filesystem_class(protocol)
        return kind, str(kind._strip_protocol(url))
    except (ImportError, ValueError):  # said better where it is opened
        return protocol, url


def local_path(output: str) -> str | None:
    """The path of a local file; None where it is the URL of another one.

    Example:
        >>> local_path("x.jsonl"), local_path("file:///x"), local_path("s3://b/x")
        ('x.jsonl', '/x', None)
    """
    protocol, separator, path = output.partition("://")
    if not separator:
        return output
    return path if protocol in _LOCAL else None


def expanded(output: str) -> str:
    """The absolute path of a local file, `~` being the user's folder."""
    return os.path.abspath(os.path.expanduser(output))


def is_special(path: str) -> bool:
    """Whether it is a device or pipe, which takes what is written to it."""
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)
