"""Terminals that commands write to."""

from __future__ import annotations

import os


def read_all(descriptor: int) -> str:
    """What is written to a terminal, until nobody has it open any more."""
    parts: list[bytes] = []
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        while True:
            try:
                part = file.read(4096)
            except OSError:  # Linux's way to say that the other side is closed
                part = b""
            if not part:
                return b"".join(parts).decode()
            parts.append(part)
