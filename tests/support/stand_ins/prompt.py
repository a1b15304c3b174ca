"""Runs a stand-in's commands, each in a fork of one process that has imported what they need.

Python's start and its imports are most of what a command of so small a batch system costs, and
tests call thousands. What a user calls is a program that hands its words, environment, folder and
standard streams over, and ends as the fork does.

    python -m tests.support.stand_ins.prompt MODULE FD    # a listening socket; until it is killed
"""

from __future__ import annotations

import importlib
import os
import shlex
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

# With next to no import: that of `socket` would take as long as all the rest.
_CALL = """\
import _socket, os, sys
place, command, *words = map(os.fsencode, sys.argv[1:])
settings = [name + b"=" + value for name, value in os.environb.items()]
line = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
line.connect(place)
streams = b"".join(number.to_bytes(4, sys.byteorder) for number in range(3))
line.sendmsg([b"."], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, streams)])
line.sendall(b"\\0".join([command, os.getcwdb(), b"%d" % len(words), *words, *settings]))
line.shutdown(_socket.SHUT_WR)
sys.exit(int(line.recv(4) or 1))
"""


def write_command(file: Path, place: str) -> None:
    """Write the program of a command, whose name is the file's; `place` is that of the socket."""
    # Without a variable of its own, since some commands hand on their caller's.
    words = [sys.executable, "-I", "-S", "-c", _CALL, place, file.name]
    file.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    file.chmod(0o755)


def serve(main: Callable[[str, Sequence[str]], int], listening: socket.socket) -> None:
    """Answer each call in a fork, until this process is killed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    while True:
        line, _ = listening.accept()
        with line:
            if os.fork() == 0:
                code = 1
                try:
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    listening.close()
                    code = _answered(main, line)
                finally:
                    line.sendall(b"%d" % code)
                    os._exit(0)


def _answered(main: Callable[[str, Sequence[str]], int], line: socket.socket) -> int:
    """Be the command that was called; its exit code."""
    _, streams, _, _ = socket.recv_fds(line, 1, 3)
    with line.makefile("rb") as file:
        command, folder, n_words, *rest = file.read().split(b"\0")
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environb.clear()
    for setting in rest[int(n_words) :]:
        name, _, value = setting.partition(b"=")
        os.environb[name] = value
    try:
        code = main(os.fsdecode(command), [*map(os.fsdecode, rest[: int(n_words)])])
        sys.stdout.flush()
    except Exception:  # noqa: BLE001 (what Python says of a program that raises)
        traceback.print_exc()
        return 1
    return code


if __name__ == "__main__":
    called = importlib.import_module(sys.argv[1])
    serve(called.main, socket.socket(fileno=int(sys.argv[2])))
