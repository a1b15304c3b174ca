"""Where the submitter runs: interpreter, directory, import path, environment, versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterable

from espnet3.errors import UsageError
from espnet3.storage.paths import absolute
from espnet3.storage.permissions import require_usable_umask
from espnet3.submit.plan import SubmitterProcess
from espnet3.submit.process_record import held_here, require_utf8
from espnet3.user_code.main_module import WORKER_VARIABLE

# Variables that change what Python or the usual libraries do, and that hold no secrets.
RECORDED = (
    "CONDA_PREFIX",
    "HF_HOME",
    "LD_LIBRARY_PATH",
    "MKL_NUM_THREADS",
    "NLTK_DATA",
    "OMP_NUM_THREADS",
    "PYTHONPATH",
    "TOKENIZERS_PARALLELISM",
    "TORCH_HOME",
    "TZ",
    "VIRTUAL_ENV",
)
PACKAGES = ("espnet3", "dask", "distributed", "dask-jobqueue", "pydantic", "orjson")


def refuse_in_worker() -> None:
    """Refuse to submit from a worker.

    Raises:
        UsageError: this process is one: the submitted script submits when it is imported.
    """
    if os.environ.get(WORKER_VARIABLE):
        raise UsageError(
            "a worker would submit again: put the submission below "
            '`if __name__ == "__main__":`, so that importing the script does not run it'
        )


def this_submitter(
    python: str, variables: Iterable[str] = (), *, passed_on: bool = False
) -> SubmitterProcess:
    """Describe this process.

    Args:
        python: the interpreter's command, as it stands in a job script.
        variables: names of further environment variables to record.
        passed_on: whether workers get the environment from the scheduler, too.

    Raises:
        UsageError: this process is itself a worker: the submitted script submits when it is
            imported; or its umask takes files from their owner.
        ConfigError: something that a worker has to take over is not UTF-8, so that no record could
            hold it.
    """
    refuse_in_worker()
    require_usable_umask()
    process, weak = held_here(variables, passed_on=passed_on)
    here, import_path = absolute(os.curdir), [absolute(entry) for entry in sys.path]
    recorded = {name: os.environ[name] for name in (*RECORDED, *variables) if name in os.environ}
    require_utf8("the working directory", here)
    require_utf8("the interpreter", python)
    for position, entry in enumerate(import_path):
        require_utf8(f"sys.path[{position}] (is it in PYTHONPATH?)", entry)
    for name, value in recorded.items():
        require_utf8(f"os.environ[{name!r}]", value)
    return SubmitterProcess(
        python=python,
        working_directory=here,
        sys_path=import_path,
        environment_variables=recorded | weak,
        versions=versions_here(),
        git_commit=_git_commit(),
        process=process,
    )


def versions_here() -> dict[str, str]:
    """Versions of Python and of packages that results may depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _git_commit() -> str | None:
    return commit_of(os.curdir)


def commit_of(folder: str) -> str | None:
    """The commit that a folder is at, with `+` where it has changes; None where it has none."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        answer = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
