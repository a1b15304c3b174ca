"""From what became of each shard to what is submitted again, and how. Pure.

No file, no clock, no scheduler: a table tests it (decision 0021).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from espnet3.submit.asked_memory import in_bytes
from espnet3.submit.finishers import MORE_MEMORY, MORE_TIME, at_most
from espnet3.text import counted

FAST = 60.0  # seconds; a shard that failed within them may have failed because of its node
_AS_IT_WAS = {
    "preempted": "preempted",
    "node": "its node failed",
    "killed": "killed by a signal",
    "crashed": "crashed",
    "silent": "ended without a word",
    "refused": "refused by the scheduler",
    "not-submitted": "never submitted",
    "not-begun": "its workers ended before they came to it",
}
_UNCOUNTED = frozenset({"preempted", "node", "refused", "not-submitted", "not-begun"})


class Policy(NamedTuple):
    """What may be tried; see `espnet3.config.finish.Finish`.

    Attributes:
        waves: how many waves there may be that count.
        max_memory: bytes that a shard may ask for; None for any number.
        max_walltime: seconds that it may ask for; None for any number.
        retry_errors: how many times a shard is tried again at which `forward` raised.
        max_attempts: how many times a shard is tried, those not counted that were not its fault.
    """

    waves: int = 3
    max_memory: int | None = None
    max_walltime: float | None = None
    retry_errors: int = 0
    max_attempts: int = 3


class Missing(NamedTuple):
    """A shard that is not done, and all that is known of why.

    Attributes:
        rank: the shard.
        kind: the kind of its cause, as a status tells it.
        words: the cause, for a person.
        items_done: how many of its items have a result that the next attempt keeps.
        memory: bytes that it was given; None where that is not known, or cannot be changed.
        peak: bytes that its worker has measured at most; None where it has not.
        walltime: seconds that it was given; None as for memory.
        attempts: how many it has had that count.
        retries: how many waves tried it again because of an exception.
        host: where its last attempt ran.
        elapsed: seconds that this attempt took.
    """

    rank: int
    kind: str
    words: str = ""
    items_done: int = 0
    memory: int | None = None
    peak: int | None = None
    walltime: float | None = None
    attempts: int = 1
    retries: int = 0
    host: str | None = None
    elapsed: float = math.inf


class Again(NamedTuple):
    """How a shard is tried again; shards for which it is the same make a portion.

    Attributes:
        cause: why, and what is different, for a person.
        memory: bytes; None for as many as before.
        walltime: seconds; None for as many as before.
        counted: whether this is one of its `max_attempts`.
        retries_errors: whether this is one of its `retry_errors`.
    """

    cause: str
    memory: int | None = None
    walltime: float | None = None
    counted: bool = True
    retries_errors: bool = False

    @property
    def changes(self) -> bool:
        """Whether anything is asked for differently."""
        return self.memory is not None or self.walltime is not None


class Before(NamedTuple):
    """What the last wave found.

    Attributes:
        n_waves: how many there were.
        n_done: how many shards were done then.
        items_done: how many items of the others.
        n_free: how many waves do not count: no shard was to blame, and the run got further.
    """

    n_waves: int = 0
    n_done: int = 0
    items_done: int = 0
    n_free: int = 0


class NextWave(NamedTuple):
    """What is submitted again.

    Attributes:
        portions: how -> the shards, in order.
        bad_nodes: node -> why it is kept away from.
        left: rank -> why it is not tried again.
    """

    portions: dict[Again, list[int]]
    bad_nodes: dict[str, str]
    left: dict[int, str]


class End(NamedTuple):
    """Why nothing is submitted.

    Attributes:
        outcome: as `finished.json` has it.
        cause: for a person; "" where all is done.
        left: rank -> why it is not tried again.
    """

    outcome: Literal["done", "incomplete", "stopped"]
    cause: str = ""
    left: Mapping[int, str] = {}


def decide(
    missing: Sequence[Missing],
    n_done: int,
    policy: Policy,
    before: Before,
    done_on: Mapping[str, int],
    stopped: str = "",
) -> NextWave | End:
    """What a finisher does next.

    Args:
        missing: the shards that are not done; none of them queued or running.
        n_done: how many shards are done.
        policy: what may be tried.
        before: what the last wave found.
        done_on: node -> how many shards were done there, as far as that is known.
        stopped: why somebody has cancelled the run; "" where nobody has.

    Example:
        >>> decide([Missing(3, "memory", memory=4_000_000_000)], 7, Policy(), Before(), {}).portions
        {Again(cause='out of memory at 4GB, now 6GB', memory=6000000000, ...): [3]}
    """
    if not missing:
        return End("done")
    if stopped:
        return End("stopped", stopped, _words_of(missing))
    if before.n_waves - before.n_free >= policy.waves:
        said = "no wave is wanted" if not policy.waves else f"{counted(policy.waves, 'wave')} spent"
        return End("incomplete", said, _words_of(missing))
    bad = bad_nodes(missing, done_on)
    items_done = sum(shard.items_done for shard in missing)
    is_further = (n_done, items_done) > (before.n_done, before.items_done)
    is_stuck = bool(before.n_waves) and not is_further
    portions: dict[Again, list[int]] = {}
    left: dict[int, str] = {}
    for shard in missing:
        how = judge(shard, policy, bad, is_stuck=is_stuck)
        if isinstance(how, str):
            left[shard.rank] = how
        else:
            portions.setdefault(how, []).append(shard.rank)
    if not portions:
        return End("incomplete", "the finisher does not retry what is missing", left)
    is_other = any(how.changes for how in portions) or bool(bad)
    counts = all(how.counted for how in portions)
    if is_stuck and counts and not is_other:
        return End("incomplete", "the last wave got no further", _words_of(missing))
    return NextWave(portions, bad, left)


def judge(
    shard: Missing, policy: Policy, bad: Mapping[str, str] = {}, *, is_stuck: bool = False
) -> Again | str:
    """How a shard is tried again, or why it is not.

    Args:
        shard: the shard.
        policy: what may be tried.
        bad: nodes that the next wave keeps away from.
        is_stuck: whether the last wave got no further, so that no item has been done since.
    """
    counts = shard.kind not in _UNCOUNTED and shard.host not in bad
    if counts and shard.attempts >= policy.max_attempts:
        tried = counted(shard.attempts, "attempt")
        return f"{tried}, the last one: {shard.words or shard.kind}"
    if shard.host in bad and shard.kind not in ("memory", "time"):
        return Again(f"failed on {shard.host}, which is kept away from", counted=False)
    if shard.kind == "cancelled":
        return shard.words or shard.kind
    if shard.kind == "memory":
        return _with_more_memory(shard, policy)
    if shard.kind == "time":
        return _with_more_time(shard, policy, is_stuck=is_stuck)
    if shard.kind in ("error", "cuda-memory"):
        if shard.retries >= policy.retry_errors:
            return shard.words or shard.kind
        what = "out of GPU memory" if shard.kind == "cuda-memory" else "an exception"
        return Again(f"{what}, as retry_errors allows", retries_errors=True)
    return Again(_AS_IT_WAS.get(shard.kind, shard.kind), counted=counts)


def _with_more_memory(shard: Missing, policy: Policy) -> Again | str:
    used = max(shard.memory or 0, shard.peak or 0)
    if not shard.memory:  # nothing limits it that could be raised
        return Again("out of memory")
    wanted = math.ceil(MORE_MEMORY * used)
    given = at_most(wanted, policy.max_memory)
    if given <= shard.memory:
        return f"out of memory at {in_bytes(shard.memory)}, which is max_memory"
    return Again(f"out of memory at {in_bytes(used)}, now {in_bytes(given)}", memory=given)


def _with_more_time(shard: Missing, policy: Policy, *, is_stuck: bool) -> Again | str:
    if shard.walltime is None:
        return Again("time limit")
    if shard.items_done and not is_stuck:
        return Again("time limit, some items done")
    wanted = MORE_TIME * shard.walltime
    given = at_most(wanted, policy.max_walltime)
    what = f"time limit of {shard.walltime:g} s with no {'further ' * is_stuck}item done"
    if given <= shard.walltime:
        return f"{what}, which is max_walltime"
    return Again(f"{what}, now {given:g} s", walltime=given)


def suspects(missing: Iterable[Missing]) -> dict[str, list[int]]:
    """Node -> the shards that failed there fast, where they are two or more.

    Example:
        >>> suspects(Missing(rank, "error", host="n7", elapsed=2.0) for rank in (3, 5))
        {'n7': [3, 5]}
    """
    fast: dict[str, list[int]] = {}
    for shard in missing:
        if shard.host is not None and shard.elapsed < FAST and shard.kind in _BLAMED:
            fast.setdefault(shard.host, []).append(shard.rank)
    return {host: ranks for host, ranks in fast.items() if len(ranks) >= 2}


def bad_nodes(missing: Iterable[Missing], done_on: Mapping[str, int]) -> dict[str, str]:
    """Nodes that are to blame for what failed there, each with the evidence.

    Two different shards have failed there fast, none was done there, and some were elsewhere.

    Args:
        missing: the shards that are not done.
        done_on: node -> how many shards were done there.

    Example:
        >>> failed = [Missing(rank, "error", host="n7", elapsed=2.0) for rank in (3, 5)]
        >>> bad_nodes(failed, {"n1": 20})
        {'n7': 'shards 3, 5 failed there within 60 s; none was done there, and 20 elsewhere'}
    """
    found = {}
    for host, ranks in suspects(missing).items():
        elsewhere = sum(n for other, n in done_on.items() if other != host)
        if not done_on.get(host) and elsewhere:
            some = ", ".join(map(str, ranks[:5])) + (" …" if len(ranks) > 5 else "")
            found[host] = (
                f"shards {some} failed there within {FAST:g} s; none was done there, "
                f"and {elsewhere} elsewhere"
            )
    return found


_BLAMED = frozenset({"error", "killed", "crashed", "silent", "cuda-memory"})


def _words_of(missing: Iterable[Missing]) -> dict[int, str]:
    return {shard.rank: shard.words or shard.kind for shard in missing}
