"""What a submission asked for, of each worker. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

from espnet3.redaction import masked_text
from espnet3.report.model import Asked
from espnet3.run_dir.finishers import ON_THIS_HOST
from espnet3.run_dir.submissions import KnownSubmission
from espnet3.specs.models import Submission
from espnet3.submit.asked_memory import memory_of, memory_option
from espnet3.text import cut

# `--gres=gpu:a100:2`, `--gpus-per-task=1`, `-gpu "num=1"`, `ngpus=1`, `/gpu=1`, `request_gpus=1`
_GPUS = r"""(?i)gpus?(?:-per-[a-z]+)?(?:[:=][a-z][\w.-]*)?(?:[:=]|\s+["']?num=)["']?(\d{1,3})\b"""
_ANY_GPU = r"(?i)--gres=gpu\b|(?<!\w)-gpu\b"
_MOST_COMMAND = 4000  # bytes


def asked_of(known: KnownSubmission, remark: str | None) -> Asked:
    """What a submission asked for.

    Args:
        known: the submission, with its jobs.
        remark: why it was cancelled; None where it was not.
    """
    submission, recorded = known
    refused = "" if recorded is None else recorded.refused or ""
    if remark is not None:
        refused = f"cancelled: {remark}" if remark else "cancelled"
    unlimited = submission.scheduler in ON_THIS_HOST  # which has no use for these options
    option = memory_option(submission.scheduler, submission.options)
    return Asked(
        number=submission.number,
        created=submission.created.timestamp(),
        queued=None if recorded is None else recorded.created.timestamp(),
        scheduler=submission.scheduler,
        schedule=submission.schedule,
        n_shards=len(submission.ranks),
        n_tasks=submission.n_tasks,
        cores=1.0 if unlimited else _cores(submission),
        gpus=gpus(submission),
        memory=None if unlimited else memory_of(submission.scheduler, submission.options),
        memory_option=None if unlimited else option,
        jobs=() if recorded is None else tuple(job.job_id for job in recorded.jobs),
        command=cut(masked_text(shlex.join(submission.submit_command)), _MOST_COMMAND),
        typed=cut(masked_text(submission.typed), _MOST_COMMAND),
        remark=refused,
    )


def _cores(submission: Submission) -> float:
    for option in ("job_cpu", "cores"):
        value: Any = submission.options.get(option)
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            return float(value)
    return 1.0


def gpus(submission: Submission) -> int:
    """How many GPUs each worker is given, as far as the options of the known schedulers tell."""
    if submission.scheduler == "local_gpu":
        return 1
    texts = [*_texts(submission.options)]
    counts = [int(found) for text in texts for found in re.findall(_GPUS, text)]
    if counts:
        return max(counts)
    return int(any(re.search(_ANY_GPU, text) for text in texts))


def _texts(options: dict[str, Any]) -> Iterator[str]:
    """The options in which GPUs can be asked for, as text."""
    for name in ("resource_spec", "job_extra_directives", "job_extra", "submit_command_extra"):
        value = options.get(name)
        if isinstance(value, dict):
            yield from (f"{key}={part}" for key, part in value.items())
        elif isinstance(value, list):
            yield from map(str, value)
        elif value is not None:
            yield str(value)
