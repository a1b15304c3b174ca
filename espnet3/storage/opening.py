"""The store of a run directory: which kind, by its path or URL."""

from __future__ import annotations

import os

from espnet3.errors import RunDirectoryError
from espnet3.storage.base import Store
from espnet3.storage.paths import absolute, readable


def absolute_root(run_dir: str | os.PathLike[str]) -> str:
    """A run directory's absolute path or URL, without touching the storage.

    Raises:
        RunDirectoryError: it is not a path.

    Example:
        >>> absolute_root("/tmp/run/"), absolute_root("s3://bucket/run/")
        ('/tmp/run', 's3://bucket/run')
    """
    url = os.fspath(run_dir)
    if not url or "\0" in url or "\n" in url:
        raise RunDirectoryError(repr(url), "is not a path; give a folder or a URL")
    url = url.removeprefix("file://")
    protocol, separator, key = url.partition("://")
    if separator:
        return _utf8(f"{protocol}://{key.rstrip('/')}")
    path = os.path.expanduser(url)
    if path.startswith("~"):
        raise RunDirectoryError(url, "there is no such user; write ./~… for a folder")
    return _utf8(os.path.abspath(path) if os.path.isabs(path) else absolute(path))


def _utf8(root: str) -> str:
    if not readable(root):  # no record could name it
        raise RunDirectoryError(
            repr(root), "has a name that is not UTF-8; choose another run_dir, or rename the folder"
        )
    return root


def open_store(run_dir: str | os.PathLike[str]) -> Store:
    """The store of a run directory.

    Args:
        run_dir: a path, or an fsspec URL such as `s3://bucket/run`.

    Raises:
        RunDirectoryError: the URL's file system is not installed or has no exclusive create.

    Example:
        >>> open_store("/tmp/run").root
        '/tmp/run'
    """
    root = absolute_root(run_dir)
    if "://" in root:
        from espnet3.storage.object import ObjectStore

        return ObjectStore(root)
    from espnet3.storage.local import LocalStore

    return LocalStore(root)
