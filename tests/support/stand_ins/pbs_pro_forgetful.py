"""The stand-in for PBS Pro without job history, which is how its server comes."""

from __future__ import annotations

from collections.abc import Sequence

from tests.support.stand_ins.pbs_pro import PbsPro


class Forgetful(PbsPro):
    """A job that is over is unknown; of a task that is, its array's row is all there is."""

    history = False


def main(command: str, words: Sequence[str]) -> int:
    """Run a command; its exit code."""
    return Forgetful().main(command, words)
