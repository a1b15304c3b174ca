"""A user's folder for tests of the command: a module, a config file, and `espnet3` run in it."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.commands import Said, said

MODULE = """
import time
from pathlib import Path

from espnet3.parallel import BaseRunner, EnvironmentProvider


class Provider(EnvironmentProvider):
    def __init__(self, config, *, params=None):
        super().__init__(config)
        self.params = params or {}

    def build_env_local(self):
        return {"folder": Path(self.config.folder), "scale": self.config.scale, **self.params}


class Runner(BaseRunner):
    @staticmethod
    def forward(idx, folder, scale, failing=(), gated=()):
        print(f"item {idx}", flush=True)
        if idx in failing and not (folder / "mended").exists():
            raise ValueError(f"item {idx} is bad")
        while idx in gated and not (folder / "open").exists():
            time.sleep(0.02)
        return {"scaled": scale * idx}


def many(n):
    return range(n)


print("imported")
"""
CONFIG = """
provider: {{_target_: cli_decode.Provider, params: {{}}}}
runner: {{_target_: cli_decode.Runner}}
items: {{_target_: cli_decode.many, n: 12}}
run_dir: "a run/${{config.name}}"
n_shards: 4
config: {{name: first, scale: 3, folder: "{folder}"}}
parallel: {{env: {env}, n_workers: 4, options: {options}, preflight: {preflight}}}
"""
COMMAND = [sys.executable, "-P", "-m", "espnet3"]
# What they import of the user's, print by another process, or record of themselves.
ALONE = frozenset({"submit", "run", "run-shard", "doctor"})


class Project:
    """A folder whose name has a space, with `conf dir/decode.yaml` and the module beside it.

    Without the preflight, as in `helpers.parallel`, unless that is asked for.
    """

    def __init__(
        self,
        folder: Path,
        env: str,
        options: dict[str, Any] | None = None,
        *,
        preflight: bool = False,
    ) -> None:
        self.folder = folder / "my project"
        conf = self.folder / "conf dir"
        conf.mkdir(parents=True)
        (conf / "cli_decode.py").write_text(MODULE)
        given = {"options": json.dumps(options or {}), "preflight": json.dumps(preflight)}
        text = CONFIG.format(folder=self.folder, env=env, **given)
        (conf / "decode.yaml").write_text(text)
        self.config = "conf dir/decode.yaml"
        self.run_dir = "a run/first"

    @classmethod
    def finished(cls, folder: Path) -> Project:
        """One whose run is done, here."""
        project = cls(folder, "local")
        project("submit", project.config)
        project.watch()
        return project

    def start(self, *words: str, **keys: Any) -> subprocess.Popen[str]:
        """Start a command in the folder, in a process group of its own."""
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **keys}
        return subprocess.Popen(
            [*COMMAND, *words], cwd=self.folder, text=True, start_new_session=True, **pipes
        )

    def __call__(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command in the folder and check its exit code, and that it shows no traceback.

        In this process, unless it has to be one of its own: a start is most of what one costs.
        """
        if words[0] in ALONE:
            return self.alone(*words, code=code)
        done = self.here(*words, code=code)
        assert "Traceback" not in done.err, done.err
        return subprocess.CompletedProcess(words, *done)

    def alone(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """The same in a process of its own, as a user's shell would."""
        done = subprocess.run(
            [*COMMAND, *words],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == code, (words, done)
        if words[0] != "run-shard":
            assert "Traceback" not in done.stderr, done.stderr
        return done

    def shell(self, line: str, *before: str) -> subprocess.CompletedProcess[str]:
        """Run a line of bash in which `espnet3` is the command; `before` stands before `bash`."""
        return subprocess.run(
            [*before, "bash", "-c", f'espnet3() {{ {shlex.join(COMMAND)} "$@"; }}; {line}'],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def here(self, *words: str, code: int = 0) -> Said:
        """Run a command within this process and check its exit code."""
        with contextlib.chdir(self.folder):
            done = said(*words)
        assert done.code == code, (words, done)
        return done

    def lines(self, *words: str, code: int = 0) -> list[str]:
        """What a command prints."""
        return self(*words, code=code).stdout.splitlines()

    def json(self, *words: str, code: int = 0) -> Any:
        """The one document that a command prints."""
        return json.loads(self(*words, "--json", code=code).stdout)

    def watch(self, code: int = 0) -> list[str]:
        """Wait for the end of the run."""
        return self.lines("watch", self.run_dir, "--interval", "0.2", code=code)

    def files(self) -> set[str]:
        """All files and folders, without what Python caches."""
        return {
            os.path.relpath(path, self.folder)
            for path in self.folder.rglob("*")
            if "__pycache__" not in str(path)
        }

    def expected(self, n: int = 12) -> list[Any]:
        """The records of the run, in order."""
        return [{"item": i, "result": {"scaled": 3 * i}} for i in range(n)]
