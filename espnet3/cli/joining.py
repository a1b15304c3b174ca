"""Before this machine joins a run: what it may claim, its GPUs, and what differs here."""

from __future__ import annotations

import os
import subprocess

from espnet3.cli import show
from espnet3.config.current import chosen_policy
from espnet3.errors import UsageError
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.trust import Trust
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
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = (
        _listed_gpus() if said is None else [d for d in said.split(",") if d not in ("", "-1")]
    )
    if not devices:
        raise UsageError("--per-gpu: no GPU is visible here (nvidia-smi, CUDA_VISIBLE_DEVICES)")
    return [{"CUDA_VISIBLE_DEVICES": device} for device in devices]


def _listed_gpus() -> list[str]:
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return answer.stdout.split()
