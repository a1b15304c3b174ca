"""The memory that jobs ask for: by which option, how much, and as it is written there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The option that counts instead of `memory`, where it is given.
_INSTEAD = {"slurm": "job_mem"}


def memory_option(scheduler: str, options: Mapping[str, Any]) -> str | None:
    """The option by which jobs are given memory; None where there is none.

    Example:
        >>> memory_option("slurm", {"memory": "4GB", "job_mem": "5G"}), memory_option("sge", {})
        ('job_mem', None)
    """
    other = _INSTEAD.get(scheduler)
    if other is not None and options.get(other) is not None:
        return other
    return "memory" if options.get("memory") is not None else None


def memory_of(scheduler: str, options: Mapping[str, Any]) -> int | None:
    """Bytes that jobs are given; None where that is not known.

    Example:
        >>> memory_of("slurm", {"memory": "4GB"}), memory_of("slurm", {"job_mem": "4G"})
        (4000000000, 4294967296)
    """
    option = memory_option(scheduler, options)
    if option is None:
        return None
    text = str(options[option])
    if option != "memory" and text[-1:] in "KMGT":  # Slurm's units are powers of 1024
        text += "iB"
    try:
        return bytes_of(text)
    except ValueError:
        return None


def bytes_of(size: str | int) -> int:
    """A size as dask-jobqueue reads it, in bytes.

    Raises:
        ValueError: it is none.

    Example:
        >>> bytes_of("4GB"), bytes_of("4 GiB")
        (4000000000, 4294967296)
    """
    from dask.utils import parse_bytes  # a quarter of the start of any command, and few ask

    return int(parse_bytes(size))


def as_option(option: str, size: int) -> str:
    """A size in bytes as it is written for an option, rounded up.

    Example:
        >>> as_option("memory", 6_000_000_000), as_option("job_mem", 6_000_000_000)
        ('6GB', '5723M')
    """
    # Slurm's own option has powers of 1024 for units, and none that all schedulers share.
    return in_bytes(size) if option == "memory" else f"{-(-size // 2**20)}M"


def in_bytes(size: int) -> str:
    """A size as dask-jobqueue reads it, rounded up to a thousandth.

    Example:
        >>> in_bytes(6_000_000_000), in_bytes(1_234_567_890), in_bytes(800)
        ('6GB', '1235MB', '800B')
    """
    for unit, name in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit}{name}"
        if size >= 1000 * unit:
            return f"{-(-size // unit)}{name}"
    return f"{size}B"
