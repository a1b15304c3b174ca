"""Bad input, provider and runner: refused in one clear line, with nothing half-written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import espnet3
from espnet3.errors import (
    ClassError,
    ConfigError,
    PreflightError,
)
from espnet3.parallel import BaseRunner, EnvironmentProvider, InferenceProvider
from espnet3.specs.models import RunSpec, decode
from tests.support.refusals import (
    IN_WORKER,
    Opaque,
    Provider,
    Runner,
    one_clear_line,
    refused,
    snapshot,
    start,
    unfinish,
)


class Inference(InferenceProvider):
    @staticmethod
    def build_dataset(config: Any) -> Any:
        return []

    @staticmethod
    def build_model(config: Any) -> Any:
        return None


class MethodRunner(BaseRunner):
    def forward(self, idx: Any, **env: Any) -> Any:  # type: ignore[override]
        return idx


class LambdaRunner(BaseRunner):
    forward = lambda idx, **env: idx  # noqa: E731


class NoForward(BaseRunner):
    pass


class FailsOnWorker(EnvironmentProvider):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        if IN_WORKER in os.environ:
            raise OSError("the tokenizer\nis not here")


class NoProvider:
    def __init__(self, config: Any) -> None:
        self.config = config


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            OmegaConf.create({"a": [{"b": Opaque()}]}, flags={"allow_objects": True}),
            ["config.a.0.b", "Opaque", "build objects in the provider"],
        ),
        ({"a": {"b": [1, object()]}}, ["config.a.b.1", "object", "build objects in the provider"]),
        ({"a": {"b": bytearray(b"x")}}, ["config.a.b", "bytearray"]),
        ({"a": 1j}, ["config.a", "complex is not JSON"]),
        ({"a": {object(): 2}}, ["config.a.<object object at 0x", "object is not JSON"]),
        ({"a": {"seed": 10**5000}}, ["config.a.seed", "too long an integer"]),
        ({"a": ["\udcff"]}, ["config.a.0", "UTF-8"]),
        ({"a": {"\udcff": 1}}, ["config.a", "UTF-8"]),
    ],
)
def test_a_config_that_a_worker_could_not_get_is_refused(
    here: Path, config: Any, words: list[str]
) -> None:
    with refused(ConfigError, *words, folder=here):
        start(Runner(Provider(config)))


def test_a_config_that_holds_itself_is_refused(here: Path) -> None:
    config: dict[str, Any] = {}
    config["again"] = config
    with refused(ConfigError, "config", "nested deeper than", folder=here):
        start(Runner(Provider(config)))


def test_a_wrong_entry_of_params_is_named(here: Path) -> None:
    with refused(ConfigError, ".tokenizer", "Opaque", folder=here):
        start(Runner(Inference(OmegaConf.create({}, flags={"allow_objects": True}),
                               params={"tokenizer": Opaque()})))  # fmt: skip


class Outer:
    class Nested(BaseRunner):
        @staticmethod
        def forward(idx: Any, **env: Any) -> Any:
            return idx


def test_a_runner_inside_a_class_is_found_again(here: Path) -> None:
    start(Outer.Nested(Provider({})))
    assert decode(RunSpec, (here / "run/run.json").read_bytes(), "").runner.qualname == (
        "Outer.Nested"
    )
    espnet3.Run("run").wait(60, 0.1)


def _local_runner() -> Any:
    class Local(BaseRunner):
        @staticmethod
        def forward(idx: Any, **env: Any) -> Any:
            return idx

    return Local(Provider({}))


def _local_provider() -> Any:
    class Local(EnvironmentProvider):
        def build_env_local(self) -> dict[str, Any]:
            return {}

    return Runner(Local({}))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: lambda i: i, ["<lambda>", "is not a runner", "a BaseRunner subclass"]),
        (lambda: Runner, ["Runner", "is a class; pass an instance of it"]),
        (lambda: "decode", ["'decode'", "is not a runner"]),
        (_local_runner, ["Local", "inside a function", "to the top level of a module"]),
        (_local_provider, ["Local", "inside a function", "to the top level of a module"]),
        (lambda: MethodRunner(Provider({})), ["MethodRunner", "must be a @staticmethod"]),
        (lambda: LambdaRunner(Provider({})), ["LambdaRunner", "must be a @staticmethod"]),
        (
            lambda: Runner(NoProvider({})),  # type: ignore[arg-type]
            ["NoProvider", "is not a provider; subclass EnvironmentProvider"],
        ),
        (lambda: Runner({"a": 1}), ["dict", "is not a provider; subclass"]),  # type: ignore[arg-type]
        (lambda: Runner(None), ["NoneType", "is not a provider; subclass"]),  # type: ignore[arg-type]
        (lambda: Runner(Provider), ["Provider", "is a class; pass an instance"]),  # type: ignore[arg-type]
    ],
)
def test_what_a_worker_could_not_find_is_refused(
    here: Path, make: Callable[[], Any], words: list[str]
) -> None:
    with refused(ClassError, *words, folder=here):
        start(make())


def test_local_mode_wants_a_static_forward_too() -> None:
    with pytest.raises(ClassError, match="must be a @staticmethod"):
        MethodRunner(Provider({}))(range(3))


PROMPT = """
import sys
from espnet3.parallel import BaseRunner, EnvironmentProvider
from espnet3.run import submit_run
from espnet3.errors import EspnetError

class P(EnvironmentProvider):
    def build_env_local(self):
        return {}

class R(BaseRunner):
    @staticmethod
    def forward(idx, **env):
        return idx

try:
    submit_run(R(P({})), range(3), run_dir="run")
except EspnetError as error:
    print(type(error).__name__, error)
"""
# As ipykernel does: what is typed lives in a new module that takes the place of __main__.
KERNEL = f"""
import sys, types
user = types.ModuleType("__main__")
sys.modules["__main__"] = user
exec(compile({PROMPT!r}, "<ipython-input-1>", "exec"), user.__dict__)
"""


@pytest.mark.parametrize("where", ["command", "stdin", "kernel", "kernel_as_module", "launcher"])
def test_classes_of_a_prompt_or_notebook_are_refused(here: Path, where: str) -> None:
    launcher = here / "ipykernel_launcher.py"
    launcher.write_text(PROMPT if where == "launcher" else KERNEL)
    before = snapshot(here)
    arguments, given = {
        "command": (["-c", PROMPT], ""),
        "stdin": (["-"], PROMPT),
        "kernel": ([str(launcher)], ""),
        "kernel_as_module": (["-m", "ipykernel_launcher"], ""),
        "launcher": ([str(launcher)], ""),
    }[where]
    done = subprocess.run(
        [sys.executable, "-B", *arguments],
        input=given, capture_output=True, text=True, cwd=here, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.count("\n") == 1
    one_clear_line(
        done.stdout.strip(),
        "ClassError __main__.R",
        {"command": "on the command line (python -c)", "stdin": "on standard input"}.get(
            where, "is defined in a notebook or a prompt"
        ),
        "move it to a module or a script",
    )
    assert snapshot(here) == before


# --- preflight ----------------------------------------------------------------------------------

MODULE = """
import os, sys
from espnet3.parallel import BaseRunner, EnvironmentProvider

if "ESPNET3_IN_WORKER" in os.environ:
    {trouble}

class P(EnvironmentProvider):
    def build_env_local(self):
        return {{}}

class R(BaseRunner):
    @staticmethod
    def forward(idx, **env):
        return idx
"""


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ("import no_such_package", ["ModuleNotFoundError", "no_such_package"]),
        ("raise ValueError('two\\nlines')", ["ValueError: two lines"]),
        ("sys.exit('usage: decode.py CONFIG')", ["SystemExit", "usage: decode.py CONFIG"]),
        ("sys.exit(0)", ["SystemExit"]),
        ("raise KeyboardInterrupt", ["KeyboardInterrupt"]),
        ("os._exit(3)", ["the check died"]),
        ("os._exit(0)", ["the check died"]),
    ],
)
def test_a_provider_that_does_not_import_is_found_before_anything_is_submitted(
    here: Path, monkeypatch: pytest.MonkeyPatch, trouble: str, words: list[str]
) -> None:
    (here / "user_code.py").write_text(MODULE.format(trouble=trouble))
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.delitem(sys.modules, "user_code", raising=False)
    import user_code  # type: ignore[import-not-found]

    try:
        with refused(PreflightError, *words, "nothing was submitted", folder=here):
            start(user_code.R(user_code.P({})))
    finally:
        del sys.modules["user_code"]


def test_a_provider_whose_constructor_raises_is_found_before_anything_is_submitted(
    here: Path,
) -> None:
    words = ["FailsOnWorker", "OSError: the tokenizer is not here", "nothing was submitted"]
    with refused(PreflightError, *words, folder=here) as caught:
        start(Runner(FailsOnWorker({})))
    assert "Traceback" in caught[0].output


def test_a_wrong_class_name_in_a_resume_is_found_before_anything_is_submitted(
    here: Path, run_dir: Path
) -> None:
    unfinish(run_dir)
    file = run_dir / "run.json"
    file.write_text(file.read_text().replace('"qualname":"Runner"', '"qualname":"Gone"'))
    with refused(PreflightError, "Gone", "nothing was submitted", folder=here):
        espnet3.Run(run_dir).resume()
