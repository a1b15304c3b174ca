"""How much memory this process and its children have needed, as they themselves can tell.

Accounting is wrong with several schedulers, and not to be had on many nodes. Each source sees only
a part, so the largest number counts:

- `VmHWM` of `/proc/self/status` (proc_pid_status(5)): the largest resident set of this program.
  Before `ru_maxrss` of getrusage(2), which also tells of what the process was before it became
  Python, a larger parent of a fork say, since that survives exec.
- `ru_maxrss` of `RUSAGE_CHILDREN` (getrusage(2)): the largest resident set of any one descendant
  that has been waited for, as of data loaders and decoders that `forward` starts.
- `memory.peak` (cgroup v2, from Linux 5.19 on) or `memory.max_usage_in_bytes` (v1) of the job's
  cgroup (admin-guide/cgroup-v2 and cgroup-v1/memory of the kernel's documentation): all processes
  at the same time, which is what the limit is compared with. The page cache is in it, so it may be
  as high as the limit where files were read, and is never higher. It counts only where the cgroup
  is the job's own, and so has a limit: elsewhere it is that of a session or of the whole machine.
"""

from __future__ import annotations

import os
import sys

from espnet3._structs import Struct

_NO_LIMIT = 1 << 62  # cgroup v1 has a number of about that size where there is no limit
_KIB = 1 if sys.platform == "darwin" else 1024  # the unit of `ru_maxrss`


class _Files(Struct):
    folder: str
    limit: str
    peak: str


_V1 = _Files("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes")
_V2 = _Files("/sys/fs/cgroup", "memory.max", "memory.peak")


def peak_memory() -> int | None:
    """The most memory that this process, or its job, is known to have had, in bytes.

    Returns:
        None where nothing tells it.

    Example:
        >>> peak_memory() > 1_000_000
        True
    """
    own = _high_water()
    children = None
    try:
        import resource  # which a worker that goes well need not load

        children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * _KIB
        if own is None:
            own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB
    except (ImportError, OSError, MemoryError):  # it may be memory itself that is short
        pass
    return max((n for n in (own, children, _of_cgroup()) if n), default=None)


def _high_water(path: str = "/proc/self/status") -> int | None:
    try:
        with open(path, "rb") as file:
            told = file.read()
        # In kB, as it says, which are KiB.
        return int(told.partition(b"\nVmHWM:")[2].split(None, 1)[0]) * 1024
    except (OSError, MemoryError, ValueError, IndexError):
        return None


def _of_cgroup(path: str = "/proc/self/cgroup", v1: _Files = _V1, v2: _Files = _V2) -> int | None:
    """The peak of the job's cgroup; None where it has none, or it is not known.

    Args:
        path: the file that names this process's cgroups.
        v1: where the first version has its files.
        v2: where the second one has them.
    """
    try:
        with open(path, "rb") as file:
            lines = os.fsdecode(file.read()).splitlines()
        for line in lines:
            _, kinds, name = line.split(":", 2)
            if kinds == "" or "memory" in kinds.split(","):
                found = _of_job(v1 if kinds else v2, name)
                if found is not None:
                    return found
    except (OSError, MemoryError, ValueError):
        pass
    return None


def _of_job(files: _Files, name: str) -> int | None:
    """The peak of a cgroup, or of the one above it that is the job's, if it has a limit.

    Slurm and LSF set the limit at the job's cgroup (`job_17`, `job.17.…`), above the step's and the
    task's. The root is that of the machine or container.
    """
    is_own = True
    while name.strip("/") and (is_own or "/job" in name):
        folder, is_own = files.folder + name, False
        name = name.rpartition("/")[0]
        try:
            limit = _number(f"{folder}/{files.limit}")
            if limit is not None and limit < _NO_LIMIT:
                return _number(f"{folder}/{files.peak}")
        except OSError:  # a cgroup without this file, or one that is seen from elsewhere
            continue
    return None


def _number(path: str) -> int | None:
    with open(path, "rb") as file:
        told = file.read(32).strip()
    return int(told) if told.isdigit() else None
