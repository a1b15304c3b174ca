"""Which names the merged file may have, and what they mean: a place, and a form."""

from __future__ import annotations

import importlib.util
import os
import stat
from pathlib import Path

from espnet3.errors import UsageError
from espnet3.specs import layout

_LOCAL = frozenset({"file", "local"})  # protocols of fsspec
# What each form of results needs besides espnet3: the library, which an extra installs.
FORMS = {
    ".jsonl": "",
    ".jsonl.gz": "",
    ".jsonl.zst": "pyarrow",
    ".csv": "",
    ".parquet": "pyarrow",
    ".arrow": "pyarrow",
}
TABLES = frozenset({".csv", ".parquet", ".arrow"})
_EXTRAS = {"pyarrow": "parquet", "pandas": "pandas", "datasets": "datasets"}


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


def form_of(output: str) -> str:
    """The form in which results are written to a file, by the end of its name.

    Args:
        output: a path or an fsspec URL; JSON lines go to a name without a suffix.

    Raises:
        UsageError: its suffix is that of no form.

    Example:
        >>> form_of("hyp.jsonl.gz"), form_of("s3://bucket/HYP.CSV"), form_of("/dev/stdout")
        ('.jsonl.gz', '.csv', '.jsonl')
    """
    name = output.rpartition("/")[2].lower()
    for form in sorted(FORMS, key=len, reverse=True):
        if name.endswith(form):
            return form
    suffix = os.path.splitext(name)[1]
    if not suffix:
        return ".jsonl"
    *most, last = FORMS
    raise UsageError(
        f"{output}: {suffix} is no form that results are written in; choose a name that ends in "
        f"{', '.join(most)} or {last}"
    )


def require_form(output: str, *, pickled: bool = False) -> str:
    """The form of a file that results may be written to here.

    Args:
        output: a path or an fsspec URL.
        pickled: whether the results are pickled.

    Raises:
        UsageError: its suffix is that of no form, its form needs what is not installed here, or
            cannot hold these results; or it is `-`.
    """
    if output == "-":
        raise UsageError("output: is -; only `espnet3 collect` knows that as standard output")
    form, path = form_of(output), local_path(output)
    if form in TABLES and path is not None and is_special(expanded(path)):
        raise UsageError(f"{output}: is a device or pipe, which takes JSON lines; name a file")
    if form in TABLES and pickled:
        raise pickled_results(output)
    if FORMS[form]:
        require_installed(output, FORMS[form])
    return form


def pickled_results(what: str) -> UsageError:
    """The error where pickled results are asked for in a form of columns.

    Example:
        >>> print(pickled_results("x.csv"))
        x.csv: the results are pickled, which no table holds; collect them to a list, or to .jsonl
    """
    return UsageError(
        f"{what}: the results are pickled, which no table holds; collect them to a list, or to "
        ".jsonl"
    )


def require_installed(what: str, library: str) -> None:
    """Refuse what needs a library that is not installed here.

    Args:
        what: what needs it, for the message.
        library: its name where it is imported; one that an extra of espnet3 installs.

    Raises:
        UsageError: it is not; says which extra installs it.
    """
    if importlib.util.find_spec(library) is None:
        raise UsageError(
            f"{what}: needs {library}, which is not installed here; "
            f"pip install 'espnet3[{_EXTRAS[library]}]'"
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
