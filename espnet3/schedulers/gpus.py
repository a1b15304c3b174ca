"""The GPUs of this host: of `env: local_gpu`, and of a machine that joins a run."""

from __future__ import annotations

import os
from itertools import takewhile

from espnet3.specs.models import Submission

VARIABLE = "CUDA_VISIBLE_DEVICES"
NO_GPU = "no GPU is visible here (nvidia-smi, CUDA_VISIBLE_DEVICES)"


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them.

    Example:
        >>> visible_gpus()  # doctest: +SKIP
        ['0', '1']
    """
    said = os.environ.get(VARIABLE)
    if said is not None:  # CUDA, too, passes over what stands behind the first that is none
        return [*takewhile(lambda d: d not in ("", "-1"), map(str.strip, said.split(",")))]
    import subprocess  # workers, which import this module, never come here

    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return answer.stdout.split()


def gpus_of(submission: Submission) -> list[str]:
    """The GPUs that a submission gives to its workers, one to each; none where it gives none."""
    devices = submission.options.get(VARIABLE) if submission.scheduler == "local_gpu" else None
    return [str(device) for device in devices] if isinstance(devices, list) else []
