"""A machine joins a run: what it may claim, its GPUs, what differs here, and what it did."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from espnet3.cli import show
from espnet3.cli.foreground import JOIN, Started, run_in_foreground
from espnet3.config.current import chosen_policy
from espnet3.errors import UsageError
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.trust import Trust
from espnet3.schedulers.gpus import NO_GPU, VARIABLE, visible_gpus
from espnet3.specs.models import RunSpec
from espnet3.status.observation import Observation, observe
from espnet3.status.run_status import LIVE, NOT_DONE

_MOST_TOLD = 1 << 16  # bytes of what a worker says that it did


class Joinable(NamedTuple):
    """A run to join.

    Attributes:
        root: its run directory.
        run: its run.json.
        ranks: the shards that a worker which joins may claim, in the order in which to try them;
            None for all of them, in the usual order.
        is_done: whether every shard is done.
    """

    root: str
    run: RunSpec
    ranks: list[int] | None
    is_done: bool = False


async def joinable(run_dir: str, trust: Trust | None) -> Joinable:
    """The run, and which of its shards a worker that joins may claim.

    In a dynamic submission claims tell. Workers of a static one claim nothing, so what they are at
    is left to them; what waits for one of them comes last.

    Raises:
        RunDirectoryError: it is not a run directory.
        Untrusted: others could have written it.
    """

    def open_directory() -> RunDirectory:
        directory = RunDirectory.open(run_dir, chosen_policy(trust))
        directory.require_trusted()
        return directory

    return await observe(open_directory, _choose)


def _choose(seen: Observation) -> Joinable:
    root, run, shards = seen.directory.root, seen.run, seen.status.shards
    if seen.status.done:
        return Joinable(root, run, [], is_done=True)
    numbers = {s.submission.number for s in seen.submissions if s.submission.schedule == "static"}
    if not numbers:
        return Joinable(root, run, None)
    free, waiting = [], []
    for rank in shards.ranks(NOT_DONE):
        if shards.states[rank] not in LIVE or shards[rank].submission not in numbers:
            free.append(rank)
        elif shards.states[rank] == "queued":
            waiting.append(rank)
    if run.weights is not None:
        weights = run.weights
        free.sort(key=lambda rank: -weights[rank])
    return Joinable(root, run, [*free, *reversed(waiting)])


def run_workers(
    to_join: Joinable, words: Sequence[str], environs: Sequence[Mapping[str, str]], *, quiet: bool
) -> tuple[int, int | None, list[dict[str, Any]]]:
    """Run workers that join, one for each of some environments, and wait for their end.

    Args:
        to_join: the run.
        words: their options.
        environs: the variables of each of them.
        quiet: whether what they print goes to standard error.

    Returns:
        As `foreground.run_in_foreground`; and what each worker did, where it could still tell.
    """
    with contextlib.ExitStack() as files:
        # Not on the command line, which holds some ten thousand numbers and no more.
        ranks = _file(files, b"" if to_join.ranks is None else orjson.dumps(to_join.ranks))
        told = [_file(files) for _ in environs]
        workers = [
            Started(
                [*words, f"--ranks-from={ranks}", f"--tell={each}", "--", to_join.root],
                environ,
                [ranks, each],
            )
            for each, environ in zip(told, environs, strict=True)
        ]
        code, number = run_in_foreground(JOIN, workers, quiet=quiet)
        words_of = [os.pread(each, _MOST_TOLD, 0) for each in told]
    return code, number, [orjson.loads(each) for each in words_of if each]


def _file(files: contextlib.ExitStack, data: bytes = b"") -> int:
    """A file without a name, which nobody has to remove."""
    file = files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 (closed by `files`)
    file.write(data)
    file.flush()
    return file.fileno()


def work_document(to_join: Joinable, did: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """`work --json`: what all workers did together, and each of them.

    Example:
        >>> work_document(to_join, [])  # doctest: +SKIP
        {'run_dir': '/shared/run', 'shards_done': 0, 'items_done': 0, 'workers': []}
    """
    return {
        "run_dir": to_join.root,
        "shards_done": sum(each["shards_done"] for each in did),
        "items_done": sum(each["items_done"] for each in did),
        "workers": list(did),
    }


def tell_differences(run: RunSpec) -> None:
    """Say in which versions this host differs from the submitter's."""
    from espnet3.submit.submitter import versions_here

    here = versions_here()
    differing = [
        f"{name} {here.get(name, 'missing')} here, {version} there"
        for name, version in run.versions.items()
        if here.get(name) != version
    ]
    if differing:
        show.problem(f"other versions than the submitter's: {'; '.join(differing)}")


def gpu_environs() -> list[dict[str, str]]:
    """The variables of one worker for each GPU that this process may use.

    Raises:
        UsageError: there is none.
    """
    devices = visible_gpus()
    if not devices:
        raise UsageError(f"--per-gpu: {NO_GPU}")
    return [{VARIABLE: device} for device in devices]
