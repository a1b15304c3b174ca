"""Whether a Slurm can limit the memory of its jobs on this host, and how."""

from __future__ import annotations

import os
from pathlib import Path

MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")
LIMITS_MEMORY = os.access(MEMORY_GROUPS, os.W_OK) and (MEMORY_GROUPS / "tasks").exists()
CGROUP_CONF = """
CgroupMountpoint=/sys/fs/cgroup
CgroupAutomount=no
CgroupPlugin=cgroup/v1
ConstrainRAMSpace=yes
"""
