"""What the tests submit. Workers import this module, so it stays light.

Everything that a worker does is noted in files of the folder that the config names, one line each.
A line is one write to a file opened for appending, so that lines of many processes never mix.
Work that must not end too early waits at a gate, which is open once a file is there.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from espnet3.parallel import BaseRunner, EnvironmentProvider

GATE, MENDED = "gate", "mended"


def note(folder: str | Path, name: str, *words: object) -> None:
    """Append one line to a file that others append to as well."""
    line = " ".join(map(str, words)) + "\n"
    file = os.open(Path(folder, name), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


class Workshop(EnvironmentProvider):
    """Keys of the config: folder, and optionally gated and failing (lists of items)."""

    def build_env_local(self) -> dict[str, Any]:
        folder = self.config["folder"]
        note(folder, "built", os.getpid())
        names = ("gated", "failing")
        return {"folder": Path(folder), **{name: self.config.get(name, ()) for name in names}}


class Noting(BaseRunner):
    """Notes each item when it is begun and when it is finished."""

    @staticmethod
    def forward(idx: int, **env: Any) -> Any:
        folder: Path = env["folder"]
        note(folder, "begun", idx)
        while idx in env["gated"] and not (folder / GATE).exists():
            time.sleep(0.02)
        if idx in env["failing"] and not (folder / MENDED).exists():
            raise ValueError(f"item {idx} is bad, {'very ' * 3}bad")
        note(folder, "finished", idx)
        return {"item": idx, "square": idx * idx, "text": f"„{idx}“\n"}


class Deadly(Noting):
    """Kills its process at item 3 until all is mended."""

    @staticmethod
    def forward(idx: int, **env: Any) -> Any:
        note(env["folder"], "begun", idx)
        if idx == 3 and not (env["folder"] / MENDED).exists():
            os.kill(os.getpid(), signal.SIGKILL)
        note(env["folder"], "finished", idx)
        return idx


class Collecting(BaseRunner):
    """Collects another run, and says whether its process came so far without pydantic."""

    @staticmethod
    def forward(idx: int, **env: Any) -> Any:
        light = "pydantic" not in sys.modules
        from espnet3.run import Run

        run = Run(env["folder"] / "run")
        return {"light": light, "counts": run.status().counts(), "results": run.collect()}


class Child(Noting):
    """Runs a child for each item, which ends at once only where all is mended."""

    @staticmethod
    def forward(idx: int, **env: Any) -> Any:
        folder: Path = env["folder"]
        child = subprocess.Popen(["sleep", "0" if (folder / MENDED).exists() else "60"])
        note(folder, "children", child.pid)
        if child.wait() != 0:
            raise RuntimeError(f"the child of item {idx} ended with {child.returncode}")
        return idx


class Clock(EnvironmentProvider):
    """Notes when its process began and when it ended, by a clock that all processes share."""

    def build_env_local(self) -> dict[str, Any]:
        folder, began = self.config["folder"], time.monotonic()
        atexit.register(lambda: note(folder, "spans", began, time.monotonic()))
        return {}


class Square(BaseRunner):
    @staticmethod
    def forward(idx: int, **env: Any) -> int:
        return idx * idx


class Shell(EnvironmentProvider):
    """The worker's environment variables, and its niceness."""

    def build_env_local(self) -> dict[str, Any]:
        return {"seen": {**os.environ, "niceness": str(os.nice(0))}}


class Echo(BaseRunner):
    """The worker's value of each variable that is an item, or None."""

    @staticmethod
    def forward(idx: str, **env: Any) -> Any:
        return env["seen"].get(idx)


class Given(EnvironmentProvider):
    """The environment is what the config holds."""

    def build_env_local(self) -> dict[str, Any]:
        return {"given": self.config}


class Returning(BaseRunner):
    """The value that the config holds for the item."""

    @staticmethod
    def forward(idx: str, **env: Any) -> Any:
        return env["given"][idx]


# --- customize_job_cls ----------------------------------------------------------------------------


# The first three are the recipes of docs/customising.md.


class Commented(Echo):
    """Changes the submit command."""

    @classmethod
    def customize_job_cls(cls, job_cls: type[Any]) -> type[Any]:
        class Job(job_cls):  # type: ignore[misc]
            submit_command = f"{job_cls.submit_command} --comment='from the hook'"

        return Job


class Endless(BaseRunner):
    """So slow that nobody waits for the end of many items."""

    @staticmethod
    def forward(idx: int, **env: Any) -> int:
        time.sleep(0.01)
        return idx


class Exporting(Echo):
    """Adds an environment variable, after what the options' own prologue does."""

    @classmethod
    def customize_job_cls(cls, job_cls: type[Any]) -> type[Any]:
        class Job(job_cls):  # type: ignore[misc]
            def __init__(
                self, *args: Any, job_script_prologue: list[str] | None = None, **kwargs: Any
            ) -> None:
                prologue = [*(job_script_prologue or []), "export FROM_HOOK='a  $b'"]
                super().__init__(*args, job_script_prologue=prologue, **kwargs)

        return Job


class OtherPrologue(Echo):
    """Replaces the prologue entirely."""

    @classmethod
    def customize_job_cls(cls, job_cls: type[Any]) -> type[Any]:
        class Job(job_cls):  # type: ignore[misc]
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                kwargs["job_script_prologue"] = ["export FROM_HOOK=alone"]
                super().__init__(*args, **kwargs)

        return Job


class Nice(Echo):
    """Wraps the worker's command."""

    @classmethod
    def customize_job_cls(cls, job_cls: type[Any]) -> type[Any]:
        class Job(job_cls):  # type: ignore[misc]
            _command_template: str

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                self._command_template = f"nice -n 5 {self._command_template}"

        return Job


class Nonsense(Echo):
    @classmethod
    def customize_job_cls(cls, job_cls: type[Any]) -> type[Any]:
        return dict


class Raising(Echo):
    @classmethod
    def customize_job_cls(cls, job_cls: type[Any]) -> type[Any]:
        raise KeyError("of the hook")


class RaisingLater(Echo):
    @classmethod
    def customize_job_cls(cls, job_cls: type[Any]) -> type[Any]:
        class Job(job_cls):  # type: ignore[misc]
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                raise KeyError("of the hook")

        return Job


class Foreign(Echo):
    """Returns a job class, but not one made from what it was given."""

    @classmethod
    def customize_job_cls(cls, job_cls: type[Any]) -> type[Any]:
        return job_cls.__mro__[1]


class SomeRefused(Noting):
    """Sends jobs that wait for others where Slurm refuses them."""

    @classmethod
    def customize_job_cls(cls, job_cls: type[Any]) -> type[Any]:
        class Job(job_cls):  # type: ignore[misc]
            def submit_words(self) -> list[str]:
                words: list[str] = super().submit_words()
                waits = any(word.startswith("--dependency=") for word in words)
                return [*words, "--partition=no-such-partition"] if waits else words

        return Job


class Helped(Noting):
    """Forks a helper, as pools and data loaders do, that outlives what forked it."""

    @staticmethod
    def forward(idx: int, **env: Any) -> Any:
        folder: Path = env["folder"]
        if not (folder / "helpers").exists():
            helper = os.fork()
            if helper == 0:
                while not (folder / GATE).exists():
                    time.sleep(0.02)
                os._exit(0)
            note(folder, "helpers", helper)
        while idx in env["gated"] and not (folder / MENDED).exists():
            time.sleep(0.02)
        return idx


class Device(Noting):
    """Notes the GPUs of its process before each item."""

    @staticmethod
    def forward(idx: int, **env: Any) -> Any:
        print("a word of forward's", flush=True)
        note(env["folder"], "devices", os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
        return Noting.forward(idx, **env)
