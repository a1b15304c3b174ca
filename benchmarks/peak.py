"""Run a command; print its wall-clock seconds and its resident peak in kilobytes.

A script that imports next to nothing: the kernel never reports a peak below its parent's size.
"""

import os
import sys
import time

began = time.perf_counter()
quiet = [(os.POSIX_SPAWN_DUP2, 2, 1)]
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=quiet)
_, status, usage = os.wait4(pid, 0)
seconds = time.perf_counter() - began
print(seconds, usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status) != 0)
