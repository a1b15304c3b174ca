"""Before this machine joins a run: what it may claim, its GPUs, and what differs here."""

from __future__ import annotations

from espnet3.cli import show
from espnet3.config.current import chosen_policy
from espnet3.errors import UsageError
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.trust import Trust
from espnet3.schedulers.gpus import NO_GPU, VARIABLE, visible_gpus
from espnet3.specs.models import RunSpec
from espnet3.status.observation import Observation, observe
from espnet3.status.run_status import LIVE


async def shards_to_claim(run_dir: str, trust: Trust | None) -> tuple[RunSpec, list[int] | None]:
    """The run, and which of its shards a worker that joins may claim; None for all.

    In a dynamic schedule claims tell. Workers of a static one claim nothing, so what they are at is
    left to them; what waits for one of them comes last.

    Raises:
        RunDirectoryError: it is not a run directory.
        Untrusted: others could have written it.
    """

    def open_directory() -> RunDirectory:
        directory = RunDirectory.open(run_dir, chosen_policy(trust))
        directory.require_trusted()
        return directory

    return await observe(open_directory, _choose)


def _choose(seen: Observation) -> tuple[RunSpec, list[int] | None]:
    if all(known.submission.schedule == "dynamic" for known in seen.submissions):
        return seen.run, None
    states = seen.status.shards.states
    free = [rank for rank, state in enumerate(states) if state != "done" and state not in LIVE]
    waiting = [rank for rank, state in enumerate(states) if state == "queued"]
    return seen.run, [*free, *reversed(waiting)]


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
