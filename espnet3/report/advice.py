"""What memory should be asked for, as one line to copy. Pure."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from espnet3.report.model import Asked, Facts
from espnet3.submit.asked_memory import as_option
from espnet3.submit.more import more_memory, rounded
from espnet3.text import counted

MARGIN = 1.25  # of what is asked for over what was needed
WORTHWHILE = 0.8  # less than this share of what was asked for is worth a line


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do about memory; `line` is the command, "" where nothing needs to change."""

    words: str
    line: str = ""


def advice(facts: Facts) -> Advice:
    """What to ask for next: more where shards ran out of memory, less where most of it was idle."""
    asked = facts.submissions[-1] if facts.submissions else None
    limited = [own for own in facts.submissions if own.memory is not None]
    if asked is None or not limited:
        return Advice("Nothing that was submitted limits memory, so there is nothing to change.")
    asked = limited[-1]
    given = asked.memory or 0
    peak = max((a.peak_memory for a in facts.attempts if a.peak_memory), default=None)
    without = [shard.rank for shard in facts.unfinished if shard.kind == "memory"]
    if without:
        wanted = more_memory(given, peak) or 0
        n = len(without)
        words = f"{counted(n, 'shard')} ran out of the memory that was asked for."
        return Advice(words, _line(facts, asked, wanted))
    if peak is None:
        return Advice("No record says how much memory was needed.")
    wanted, unknown = rounded(int(MARGIN * peak)), _without_figures(facts)
    if wanted < WORTHWHILE * given:
        if any(a.peak_memory is None and a.outcome == "lost" for a in facts.attempts):
            return Advice(
                f"Much of the memory was not needed, as far as that is known.{unknown} Some of "
                "them ended without a word and may have needed more, so less is not advised."
            )
        words = (
            "Much of the memory was not needed; with a quarter more than the highest peak, jobs "
            f"are started sooner.{unknown}"
        )
        return Advice(words, _line(facts, asked, wanted))
    if wanted > given:
        return Advice(
            "The highest peak is near to what was asked for; a little more is on the safe side."
            f"{unknown}",
            _line(facts, asked, wanted),
        )
    return Advice(f"What was asked for fits what was needed.{unknown}")


def _without_figures(facts: Facts) -> str:
    """A sentence on the attempts of which it is not known what they needed; "" for none."""
    over = [attempt for attempt in facts.attempts if attempt.outcome != "running"]
    n = sum(attempt.peak_memory is None for attempt in over)
    of_all = counted(len(over), "attempt", ",")
    return f" What {n:,} of {of_all} needed is not known." if n else ""


def _line(facts: Facts, asked: Asked, wanted: int) -> str:
    """For what is missing a resume; of a run that is done, the next one's submission."""
    option = asked.memory_option or "memory"
    value = as_option(option, wanted)
    if set(facts.states) <= {"done"}:
        return f"espnet3 submit CONFIG.yaml parallel.options.{option}={value}"
    return shlex.join(["espnet3", "resume", facts.run_dir, "--set", f"{option}={value}"])
