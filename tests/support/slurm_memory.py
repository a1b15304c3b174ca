"""A Slurm that limits the memory of its jobs, and whether there can be one on this host."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.slurm_cluster import SlurmCluster

MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")
# Where it may make groups of its own in the old kind of hierarchy.
LIMITS_MEMORY = os.access(MEMORY_GROUPS, os.W_OK) and (MEMORY_GROUPS / "tasks").exists()
_CGROUP_CONF = """
CgroupMountpoint=/sys/fs/cgroup
CgroupAutomount=no
CgroupPlugin=cgroup/v1
ConstrainRAMSpace=yes
"""


@contextlib.contextmanager
def limiting(folder: Path, **cluster: Any) -> Iterator[SlurmCluster]:
    """A cluster that limits the memory of its jobs, and whose nodes have names of its own.

    The groups of all clusters of a host are side by side, by node and job: two of these with the
    same names would limit each other's jobs.
    """
    (folder / "cgroup.conf").write_text(_CGROUP_CONF)
    config, node = {"TaskPlugin": "task/cgroup"}, f"m{secrets.token_hex(4)}n"
    with SlurmCluster(folder, node=node, config=config, **cluster) as started:
        yield started
    for name in started.names:
        with contextlib.suppress(OSError):  # it never had a job
            (MEMORY_GROUPS / f"slurm_{name}").rmdir()
