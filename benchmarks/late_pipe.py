"""`python -m benchmarks.late_pipe SECONDS PROGRAM …`: run a program, its input and output late.

As a connection to a distant host would be. Of sshfs, say, whose every operation waits for one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

_BLOCK = 1 << 16  # bytes


def pass_on(source: int, target: int, seconds: float) -> None:
    """Copy what comes, that much later, until there is no more."""
    while data := os.read(source, _BLOCK):
        time.sleep(seconds)
        while data:
            data = data[os.write(target, data) :]
    os.close(target)


def main(seconds: float, command: list[str]) -> int:
    """Run it; its exit code."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        to_program = (0, os.dup(program.stdin.fileno()), seconds)
        threading.Thread(target=pass_on, args=to_program, daemon=True).start()
        program.stdin.close()
        pass_on(program.stdout.fileno(), 1, seconds)
        return program.wait()


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
