"""Bad input: one clear line that names the field and the way out, and nothing half-written."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import espnet3
from espnet3.errors import (
    ClassError,
    ConfigError,
    DamagedResult,
    EspnetError,
    FormatError,
    IncompleteRun,
    InvalidFile,
    ItemsError,
    NewerFormat,
    PlanMismatch,
    PreflightError,
    RunDirectoryError,
    SchedulerUnavailable,
    UsageError,
)
from espnet3.parallel import BaseRunner, EnvironmentProvider, InferenceProvider, set_parallel
from espnet3.run import submit_run
from espnet3.specs.layout import FOLDERS
from espnet3.specs.models import AttemptRecord, RunSpec, decode
from espnet3.storage.opening import open_store
from espnet3.submit.new_run import dry_run, submit

REPOSITORY = Path(__file__).parents[2]
IN_WORKER = "ESPNET3_IN_WORKER"


# --- what users write ---------------------------------------------------------------------------


class Provider(EnvironmentProvider):
    def build_env_local(self) -> dict[str, Any]:
        return {}


class Runner(BaseRunner):
    @staticmethod
    def forward(idx: Any, **env: Any) -> Any:
        return idx


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


class ClassMethodRunner(BaseRunner):
    @classmethod
    def forward(cls, idx: Any, **env: Any) -> Any:
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


class Opaque:
    """What JSON cannot hold; unpickling it would show."""

    unpickled = 0

    def __reduce__(self) -> Any:
        return _unpickled, ()


def _unpickled() -> Opaque:
    Opaque.unpickled += 1
    return Opaque()


class Odd(BaseRunner):
    """Returns what the provider says, in a form that JSON cannot hold."""

    @staticmethod
    def forward(idx: Any, **env: Any) -> Any:
        if idx != 1:
            return idx
        odd = {"object": Opaque(), "nan": {"loss": float("nan")}, "keys": {1: "a"}, "set": {1, 2}}
        return odd[env["kind"]]


class OddProvider(EnvironmentProvider):
    def build_env_local(self) -> dict[str, Any]:
        return {"kind": self.config["kind"]}


# --- how it is checked --------------------------------------------------------------------------

Snapshot = dict[str, tuple[str, bytes]]


def snapshot(folder: Path) -> Snapshot:
    """Everything below a folder: names, kinds, contents."""
    found: Snapshot = {}
    for path in sorted(folder.rglob("*")):
        kind = "link" if path.is_symlink() else "folder" if path.is_dir() else "file"
        found[str(path.relative_to(folder))] = kind, path.read_bytes() if kind == "file" else b""
    return found


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Every test in a folder of its own, so that whatever a call writes by mistake shows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(IN_WORKER, raising=False)
    yield tmp_path
    set_parallel(None)


@contextlib.contextmanager
def refused(error: type[EspnetError], *words: str, folder: Path) -> Iterator[list[Any]]:
    """The block raises that error, in one line that holds the words, and writes nothing."""
    before = snapshot(folder)
    caught: list[Any] = []
    with pytest.raises(EspnetError) as raised:
        yield caught
    caught.append(raised.value)
    assert type(raised.value) is error, repr(raised.value)
    one_clear_line(str(raised.value), *words)
    assert snapshot(folder) == before


def one_clear_line(message: str, *words: str) -> None:
    assert "\n" not in message
    assert len(message) < 700
    assert not message.startswith("Traceback")
    for word in words:
        assert word in message


def start(
    runner: Any = None, items: Any = range(4), parallel: Any = None, run_dir: Any = "run"
) -> Any:
    runner = Runner(Provider({})) if runner is None else runner
    return submit_run(runner, items, run_dir=run_dir, parallel=parallel)


# --- the parallel config ------------------------------------------------------------------------

SLURM = {"env": "slurm", "options": {"cores": 1, "memory": "1GB"}}


@pytest.mark.parametrize(
    ("parallel", "words"),
    [
        ({"env": "slrum"}, ["parallel.env", "'slrum'", "did you mean slurm?"]),
        ({"env": None}, ["parallel.env", "None", "valid are htcondor", "local", "slurm"]),
        ({"env": ["slurm"]}, ["parallel.env", "did you mean slurm?"]),
        ({"env": "kube"}, ["parallel.env", "'kube'", "no asynchronous mode", "local,"]),
        ({"n_worker": 3}, ["parallel.n_worker", "unknown key", "did you mean n_workers?"]),
        ({"zzz": 3}, ["parallel.zzz", "unknown key", "valid are", "n_workers", "options"]),
        ({"n_workers": 0}, ["parallel.n_workers", "greater than or equal to 1", "got 0"]),
        ({"n_workers": -1}, ["parallel.n_workers", "greater than or equal to 1", "got -1"]),
        ({"n_workers": "4"}, ["parallel.n_workers", "valid integer", "got '4'"]),
        ({"n_workers": True}, ["parallel.n_workers", "valid integer", "got True"]),
        ({"n_workers": 2.0}, ["parallel.n_workers", "valid integer", "got 2.0"]),
        ({"n_shards": 0}, ["parallel.n_shards", "greater than or equal to 1", "got 0"]),
        ({"shards_per_job": 0}, ["parallel.shards_per_job", "greater than", "got 0"]),
        ({"max_array_size": 0}, ["parallel.max_array_size", "greater than", "got 0"]),
        ({"checkpoint_every": 0}, ["parallel.checkpoint_every", "greater than 0", "got 0"]),
        ({"results": "parquet"}, ["parallel.results", "'json' or 'pickle'", "got 'parquet'"]),
        ({"on_error": "ignore"}, ["parallel.on_error", "'stop' or 'record'", "got 'ignore'"]),
        ({"options": "--mem=3"}, ["parallel.options", "dictionary", "got '--mem=3'"]),
        ({"options": {"cores": {1}}}, ["parallel.options.cores", "of type builtins.set"]),
        ({"options": {"cores": float("nan")}}, ["parallel.options.cores", "nan is not JSON"]),
        (["slurm"], ["parallel", "expected a mapping"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("way", ["argument", "omegaconf", "set_parallel"])
def test_a_wrong_parallel_config_is_refused(
    here: Path, parallel: Any, words: list[str], way: str
) -> None:
    if way == "omegaconf":
        parallel = OmegaConf.create(parallel, flags={"allow_objects": True})
    with refused(ConfigError, *words, folder=here) as caught:
        if way == "set_parallel":
            set_parallel(parallel)
            Runner(Provider({}), async_mode=True, run_dir="run")(range(4))
        start(parallel=parallel)
    assert caught[0].field == words[0]


@pytest.mark.parametrize("parallel", ["slurm", 4, Runner, [{}]])
def test_a_parallel_config_that_is_no_mapping_is_refused(here: Path, parallel: Any) -> None:
    with refused(ConfigError, "parallel: ", folder=here):
        start(parallel=parallel)
    with refused(ConfigError, "parallel: ", folder=here):
        set_parallel(parallel)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"memory": "1GB"}, ["parallel.options.cores", "is missing", "`cores: 1`"]),
        ({"cores": 1}, ["parallel.options.memory", "is missing", "`memory: 4GB`"]),
        ({}, ["parallel.options.cores", "is missing"]),
        ({"cores": 1, "memory": None}, ["parallel.options.memory", "is missing"]),
        (
            {"cores": 1, "memory": "1GB", "wall_time": "1:00"},
            ["parallel.options.wall_time", "SLURMJob has no such option", "did you mean walltime?"],
        ),
        (
            {"cores": 1, "memory": "1GB", "qqqq": 1},
            ["parallel.options.qqqq", "no such option", "valid are"],
        ),
        ({"cores": 0, "memory": "1GB"}, ["parallel.options.cores", "an integer from 1, got 0"]),
        ({"cores": "one", "memory": "1GB"}, ["parallel.options.cores", "from 1, got 'one'"]),
        ({"cores": 1.5, "memory": "1GB"}, ["parallel.options.cores", "from 1, got 1.5"]),
        (
            {"cores": 1, "memory": "1GB", "processes": 0},
            ["parallel.options.processes", "an integer from 1, got 0"],
        ),
        ({"cores": 1, "memory": "lots"}, ["parallel.options.memory", "such as 4GB, got 'lots'"]),
        ({"cores": 1, "memory": "-1GB"}, ["parallel.options.memory", "such as 4GB, got '-1GB'"]),
        ({"cores": 1, "memory": 0}, ["parallel.options.memory", "such as 4GB, got 0"]),
        ({"cores": 1, "memory": [4]}, ["parallel.options.memory", "such as 4GB, got [4]"]),
        (
            {"cores": 1, "memory": "1GB", "job_script_prologue": "export FOO=1"},
            ["parallel.options.job_script_prologue", 'write ["export FOO=1"]'],
        ),
        (
            {"cores": 1, "memory": "1GB", "job_extra_directives": ["#SBATCH --partition=x"]},
            ["parallel.options.job_extra_directives", 'write "--partition=x"'],
        ),
        (
            {"cores": 1, "memory": "1GB", "job_extra_directives": ["-J mine"]},
            ["parallel.options.job_extra_directives", '"-J mine"', "job_name"],
        ),
    ],
    ids=str,
)
def test_wrong_slurm_options_are_refused_without_a_slurm(
    here: Path, monkeypatch: pytest.MonkeyPatch, options: Any, words: list[str]
) -> None:
    monkeypatch.setenv("PATH", str(here))
    with refused(ConfigError, *words, folder=here):
        start(parallel={"env": "slurm", "options": options})


def test_a_missing_sbatch_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(here))
    words = ["slurm: sbatch is not on this host's PATH", "submit from a login node"]
    with refused(SchedulerUnavailable, *words, folder=here):
        start(parallel=SLURM)


@pytest.mark.parametrize("n_shards", [0, -1, True, 2.0, "2"])
def test_a_wrong_number_of_shards_is_refused(here: Path, n_shards: Any) -> None:
    words = ["n_shards", "an integer from 1", repr(n_shards)]
    for call in (submit, dry_run):
        with refused(ConfigError, *words, folder=here):
            asyncio.run(call(Runner(Provider({})), range(4), run_dir="run", n_shards=n_shards))


@pytest.mark.parametrize("batch_size", [0, -2, True, "4", 2.0])
def test_a_wrong_batch_size_is_refused(here: Path, batch_size: Any) -> None:
    words = ["batch_size", "must be an integer from 1", repr(batch_size)]
    with refused(ConfigError, *words, folder=here):
        Runner(Provider({}), batch_size=batch_size)
    runner = Runner(Provider({}))
    runner.batch_size = batch_size
    with refused(ConfigError, "batch_size", repr(batch_size), folder=here):
        start(runner)


# --- items --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([], ["items: there are none", "at least one"]),
        (range(0), ["items: there are none"]),
        (iter(()), ["items: there are none"]),
        ([1, object()], ["items[1]", "of type object", "load the rest in the provider"]),
        ([0.5, float("nan")], ["items[1]: nan is not JSON"]),
        ([0, float("inf")], ["items[1]: inf is not JSON"]),
        ([1, {2}], ["items[1]", "of type set"]),
        ([b"a.wav"], ["items[0]", "of type bytes"]),
        ([Path("a.wav")], ["items[0]", "Path"]),
        ([{"a": 1}, {1: "a"}], ["items[1]: the key 1 is no string"]),
        ([{"a": [0, {"b": b"x"}]}], ["items[0].a[1].b", "of type bytes"]),
        ([0, [1, [2, {"x": float("nan")}]]], ["items[1][1][1].x: nan is not JSON"]),
        ([2**70, "a"], ["items", "not JSON"]),
        (["\ud800"], ["items", "not JSON"]),
        ("abc", ["items", "expected an iterable such as range(1000)", "str 'abc'"]),
        (b"abc", ["items", "expected an iterable", "bytes"]),
        ({"a": 1}, ["items", "expected an iterable", "dict"]),
        (1000, ["items", "expected an iterable such as range(1000)", "int 1000"]),
        (None, ["items", "expected an iterable", "NoneType"]),
    ],
)
def test_items_that_cannot_be_planned_are_refused(here: Path, items: Any, words: list[str]) -> None:
    with refused(ItemsError, *words, folder=here):
        start(items=items)


# --- provider and runner ------------------------------------------------------------------------


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
        (lambda: lambda i: i, ["<lambda>", "is no runner", "a BaseRunner subclass"]),
        (lambda: Runner, ["Runner", "is a class; pass an instance of it"]),
        (lambda: "decode", ["'decode'", "is no runner"]),
        (_local_runner, ["Local", "inside a function", "to the top level of a module"]),
        (_local_provider, ["Local", "inside a function", "to the top level of a module"]),
        (lambda: MethodRunner(Provider({})), ["MethodRunner", "must be a @staticmethod"]),
        (lambda: ClassMethodRunner(Provider({})), ["ClassMethodRunner", "must be a @staticmethod"]),
        (lambda: LambdaRunner(Provider({})), ["LambdaRunner", "must be a @staticmethod"]),
        (
            lambda: Runner(NoProvider({})),  # type: ignore[arg-type]
            ["NoProvider", "is no provider; subclass EnvironmentProvider"],
        ),
        (lambda: Runner({"a": 1}), ["dict", "is no provider; subclass"]),  # type: ignore[arg-type]
        (lambda: Runner(None), ["NoneType", "is no provider; subclass"]),  # type: ignore[arg-type]
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


# --- the run directory --------------------------------------------------------------------------


def test_a_file_is_no_run_directory(here: Path) -> None:
    (here / "run").write_text("a file")
    for run_dir in ("run", "run/below", "run/far/below"):
        words = [str(here / "run"), "is a file", "choose another run_dir"]
        with refused(RunDirectoryError, *words, folder=here):
            start(run_dir=run_dir)


def test_below_a_file_is_no_run_directory(here: Path) -> None:
    (here / "notes").write_text("keep")
    for name in (f"{here}/notes", "/dev/null"):  # everyone may write the second one
        with refused(RunDirectoryError, "is a file, or below a file; choose", folder=here):
            start(run_dir=f"{name}/run")


def test_a_folder_with_foreign_files_is_refused(here: Path) -> None:
    (here / "run").mkdir()
    (here / "run/thesis.tex").write_text("years of work")
    words = [str(here / "run"), "'thesis.tex'", "choose another run_dir"]
    with refused(RunDirectoryError, *words, folder=here):
        start()


@pytest.mark.parametrize("run_dir", ["", "a\nb", "a\0b", "http://host/run", "zip://a.zip"])
def test_what_cannot_be_a_run_directory_is_refused(here: Path, run_dir: str) -> None:
    with refused(RunDirectoryError, folder=here):
        start(run_dir=run_dir)


def test_a_directory_that_holds_another_run_is_refused(here: Path) -> None:
    start(Runner(Provider({"beam": 5})))
    espnet3.Run("run").wait(60, 0.1)
    for runner, items, words in (
        (Runner(Provider({"beam": 8})), range(4), ["provider.args.0.value.beam is 5 there and 8"]),
        (Runner(Provider({})), range(4), ["provider.args.0.value.beam", "not there here"]),
        (Runner(Provider({"beam": 5})), range(5), ["the number of items is 4 there and 5 here"]),
        (Runner(Provider({"beam": 5})), range(1, 5), ["the checksum of the items is"]),
        (Runner(Provider({"beam": 5}), batch_size=2), range(4), ["batch_size is None there and 2"]),
        (Odd(Provider({"beam": 5})), range(4), ["runner.qualname is 'Runner' there and 'Odd'"]),
    ):
        with refused(PlanMismatch, *words, "choose another run_dir", folder=here):
            start(runner, items)
    words = ["results is 'json' there and 'pickle' here"]
    with refused(PlanMismatch, *words, folder=here):
        start(Runner(Provider({"beam": 5})), parallel={"results": "pickle"})
    assert start(Runner(Provider({"beam": 5}))).submitted.ranks == []


def test_shards_of_another_plan_cut_short_are_refused(here: Path) -> None:
    start(Runner(Provider({"beam": 5})))
    espnet3.Run("run").wait(60, 0.1)
    (here / "run/run.json").unlink()
    words = [str(here / "run"), "another plan that was cut short", "000000.json", "remove the"]
    with refused(RunDirectoryError, *words, folder=here):
        start(Runner(Provider({"beam": 8})))


UNPRIVILEGED = """
import os, sys
sys.path.insert(0, {repository!r})
from tests.integration.test_bad_input import Provider, Runner
from espnet3.run import submit_run
from espnet3.errors import EspnetError
try:
    submit_run(Runner(Provider({{}})), range(3), run_dir=sys.argv[1])
except EspnetError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("state", ["not there", "empty", "prepared", "hidden", "hidden parent"])
def test_a_run_directory_without_permission_is_refused(here: Path, state: str) -> None:
    parent = here / "parent"
    run = parent / "run"
    parent.mkdir()
    if state not in ("not there", "hidden parent"):
        run.mkdir()
    if state == "prepared":
        for folder in FOLDERS:
            (run / folder).mkdir()
            (run / folder).chmod(0o555)
    if run.exists():
        run.chmod(0 if state == "hidden" else 0o555)
    parent.chmod(0 if state == "hidden parent" else 0o555)
    done = subprocess.run(
        [*without_privileges(), sys.executable, "-B", "-c",
         UNPRIVILEGED.format(repository=str(REPOSITORY)), str(run)],
        cwd="/", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    parent.chmod(0o755)
    if run.exists():
        run.chmod(0o755)
    assert done.returncode == 0, done.stderr
    one_clear_line(done.stdout.strip(), str(run), "Permission denied")
    if state in ("not there", "empty", "hidden"):
        one_clear_line(done.stdout.strip(), "RunDirectoryError", "choose another run_dir")
    assert [path for path in parent.rglob("*") if path.is_file()] == []
    assert run.exists() is (state not in ("not there", "hidden parent"))


def without_privileges() -> list[str]:
    """For root, who may write everywhere: a command's prefix that takes that power away."""
    if os.geteuid() != 0:
        return []
    power = "-dac_override,-dac_read_search"
    command = ["setpriv", f"--bounding-set={power}", f"--inh-caps={power}"]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"root cannot give up its privileges here: {error}")
    return command


def _ask(folder: Path) -> dict[str, Callable[[], Any]]:
    run = espnet3.Run(folder)
    return {
        "status": run.status,
        "collect": lambda: run.collect(patience=0),
        "stream": lambda: list(run.stream(patience=0)),
        "resume": run.resume,
        "cancel": run.cancel,
        "logs": lambda: run.logs(0),
        "wait": lambda: run.wait(1),
    }


@pytest.mark.parametrize("kind", ["missing", "empty", "file", "foreign"])
def test_a_directory_that_is_no_run_is_refused_by_all(here: Path, kind: str) -> None:
    folder = here / "run"
    if kind == "file":
        folder.write_text("")
    elif kind != "missing":
        folder.mkdir()
    if kind == "foreign":
        (folder / "thesis.tex").write_text("")
    words = [str(folder), "is no run directory", "run.json", "submit again"]
    if kind == "missing":
        words = [f"{folder}: does not exist; name the run directory that submit printed"]
    for name, ask in _ask(folder).items():
        if (kind, name) == ("missing", "cancel"):
            with refused(RunDirectoryError, "its jobs are not known; if it was", folder=here):
                ask()
            continue
        with refused(RunDirectoryError, *words, folder=here):
            ask()
    code, error = worker(folder)
    assert code == 2
    one_clear_line(error, f"espnet3.worker: {folder}/run.json", "no such file")


# --- damaged files ------------------------------------------------------------------------------


def worker(run_dir: Path, *arguments: str) -> tuple[int, str]:
    """Run the worker of the first task; its exit code and what it wrote to stderr."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "espnet3.worker", str(run_dir), "0001", "--task", "0",
         *arguments],
        capture_output=True, text=True, cwd="/", timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.rstrip("\n")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two shards. Copied before it is damaged."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    run = submit_run(Runner(Provider({})), range(4), run_dir=folder, parallel={"n_workers": 2})
    assert run.wait(60, 0.1).done
    return folder


@pytest.fixture
def run_dir(finished: Path, here: Path) -> Path:
    shutil.copytree(finished, here / "run")
    return here / "run"


def unfinish(run_dir: Path) -> None:
    """Take back that shard 0 was done."""
    (run_dir / "receipts/000000.json").unlink()


def truncated(text: str) -> str:
    return text[:-20]


def emptied(text: str) -> str:
    return ""


def newer(text: str) -> str:
    return json.dumps({**json.loads(text), "schema_version": 3, "colour": "blue"})


def with_unknown_field(text: str) -> str:
    return json.dumps({**json.loads(text), "colour": "blue"})


def without_version_one(text: str) -> str:
    return json.dumps({**json.loads(text), "schema_version": 0})


DAMAGES: dict[Callable[[str], str], tuple[type[FormatError], list[str]]] = {
    truncated: (InvalidFile, ["the file is truncated or damaged"]),
    emptied: (InvalidFile, ["the file is truncated or damaged"]),
    newer: (NewerFormat, ["field schema_version: is 3", "upgrade espnet3"]),
    with_unknown_field: (InvalidFile, ["field colour: unknown field", "edited by hand"]),
    without_version_one: (InvalidFile, ["field schema_version"]),
}
damages = pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)


def hurt(file: Path, damage: Callable[[str], str]) -> tuple[type[FormatError], list[str]]:
    file.write_text(damage(file.read_text()))
    error, words = DAMAGES[damage]
    return error, [str(file), *words]


@damages
def test_a_damaged_run_json_is_refused_by_all(
    here: Path, run_dir: Path, damage: Callable[[str], str]
) -> None:
    unfinish(run_dir)
    error, words = hurt(run_dir / "run.json", damage)
    for ask in _ask(run_dir).values():
        with refused(error, *words, folder=here):
            ask()
    with refused(error, *words, folder=here):
        start()
    before = snapshot(here)
    code, message = worker(run_dir)
    assert code == 2
    one_clear_line(message, "espnet3.worker: ", *words)
    assert snapshot(here) == before


@damages
@pytest.mark.parametrize("name", ["0001.json", "0001.jobs.json"])
def test_a_damaged_submission_is_refused_by_all_who_need_it(
    here: Path, run_dir: Path, damage: Callable[[str], str], name: str
) -> None:
    unfinish(run_dir)
    error, words = hurt(run_dir / "submissions" / name, damage)
    asks = _ask(run_dir)
    for ask in asks.values():
        with refused(error, *words, folder=here):
            ask()
    with refused(error, *words, folder=here):
        start(parallel={"n_workers": 2})
    if name == "0001.json":
        before = snapshot(here)
        code, message = worker(run_dir)
        assert code == 2
        one_clear_line(message, "espnet3.worker: ", *words)
        assert snapshot(here) == before
    else:  # a worker does not read who else was submitted
        assert worker(run_dir)[0] == 0


@damages
def test_a_complete_run_is_collected_whatever_became_of_its_submissions(
    run_dir: Path, damage: Callable[[str], str]
) -> None:
    hurt(run_dir / "submissions/0001.json", damage)
    assert espnet3.Run(run_dir).collect() == [0, 1, 2, 3]


@damages
def test_a_damaged_shard_fails_with_a_record(run_dir: Path, damage: Callable[[str], str]) -> None:
    unfinish(run_dir)
    _, words = hurt(run_dir / "shards/000000.json", damage)
    before = snapshot(run_dir)
    code, log = worker(run_dir)
    assert code == 1
    one_clear_line(log, "shard 0: failed after 0 items", *words)
    new = set(snapshot(run_dir)) - set(before)
    [failed] = [name for name in new if name.endswith(".failed.json")]
    record = decode(AttemptRecord, (run_dir / failed).read_bytes(), failed)
    one_clear_line(record.cause, *words)
    assert {name.partition("/")[0] for name in new} == {"attempts"}
    with pytest.raises(IncompleteRun) as caught:
        espnet3.Run(run_dir).collect()
    one_clear_line(str(caught.value), "1 of 2 shards", words[0], "resume the run")


@damages
def test_a_damaged_receipt_is_refused_by_collect(
    here: Path, run_dir: Path, damage: Callable[[str], str]
) -> None:
    refusal, words = hurt(run_dir / "receipts/000000.json", damage)
    error: type[EspnetError] = refusal
    if refusal is InvalidFile:  # what a newer espnet3 wrote is not damaged
        error, words = DamagedResult, [*words, "--repair"]
    for name in ("collect", "stream"):
        with refused(error, *words, folder=here):
            _ask(run_dir)[name]()
    output = here / "all.jsonl"
    with refused(error, *words, folder=here):
        espnet3.Run(run_dir).collect(output, patience=0)
    assert worker(run_dir)[0] == 0  # receipts are created once, so there is nothing to do


def test_collect_spares_devices_symlinks_and_the_run_itself(here: Path, run_dir: Path) -> None:
    run, pipe, link = espnet3.Run(run_dir), here / "pipe", here / "link.jsonl"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        run.collect(pipe)
        written, _ = reader.communicate(timeout=60)
    assert pipe.is_fifo()
    link.symlink_to("behind.jsonl")
    run.collect(link)
    assert link.is_symlink()
    assert (here / "behind.jsonl").read_bytes() == written
    pipe.unlink()
    before = {path: path.read_bytes() for path in run_dir.rglob("*.json*")}
    (here / "alias").symlink_to(run_dir)
    for name in ("run/receipts/000000.json", "alias/run.json", "run/results/all.jsonl"):
        with refused(UsageError, name, "among the run's own files", folder=here):
            run.collect(here / name)
    for prefix in ("file://", "local://", "simplecache::file://"):
        with refused(UsageError, "among the run's own files", folder=here):
            run.collect(f"{prefix}{here}/alias/run.json")
    assert before == {path: path.read_bytes() for path in run_dir.rglob("*.json*")}
    run.collect(f"file://{link}")  # a path like any other
    assert link.is_symlink()
    assert (here / "behind.jsonl").read_bytes() == written


def test_a_shard_or_receipt_of_another_plan_is_refused(here: Path, run_dir: Path) -> None:
    other = here / "other"
    submit_run(Runner(Provider({"beam": 5})), range(4), run_dir=other,
               parallel={"n_workers": 2}).wait(60, 0.1)  # fmt: skip
    shutil.copy(other / "receipts/000000.json", run_dir / "receipts/000000.json")
    words = ["receipts/000000.json: field fingerprint: belongs to another shard or plan"]
    with refused(DamagedResult, *words, folder=here):
        espnet3.Run(run_dir).collect(patience=0)
    unfinish(run_dir)
    shutil.copy(other / "shards/000000.json", run_dir / "shards/000000.json")
    code, log = worker(run_dir)
    assert code == 1
    one_clear_line(log, "shards/000000.json: field fingerprint: belongs to another plan")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[:-3], ["bytes, but the receipt vouches for"]),
        (lambda data: data.replace(b"1", b"7"), ["has changed since its receipt was written"]),
        (None, ["is missing"]),
    ],
    ids=["truncated", "changed", "missing"],
)
def test_a_damaged_result_is_refused_by_collect(
    here: Path, run_dir: Path, damage: Any, words: list[str]
) -> None:
    [file] = (run_dir / "results").glob("000000.*")
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage(file.read_bytes()))
    for collect in (
        lambda: espnet3.Run(run_dir).collect(patience=0),
        lambda: espnet3.Run(run_dir).collect(here / "all.jsonl", patience=0),
        lambda: list(espnet3.Run(run_dir).stream(patience=0)),
    ):
        with refused(DamagedResult, str(file), *words, "shard 0", folder=here):
            collect()


def test_a_result_with_a_line_too_many_is_refused_though_its_checksum_is_right(
    here: Path, run_dir: Path
) -> None:
    [file] = (run_dir / "results").glob("000000.*")
    file.write_bytes(file.read_bytes() + b"\n")
    receipt = json.loads((run_dir / "receipts/000000.json").read_text())
    [part] = receipt["parts"]
    part["bytes"] += 1
    part["checksum"] = f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    (run_dir / "receipts/000000.json").write_text(json.dumps(receipt))
    words = [str(file), "records, but the receipt vouches for", "shard 0"]
    with refused(DamagedResult, *words, folder=here):
        espnet3.Run(run_dir).collect(patience=0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--task", "9"], ["task 9", "has 2 tasks"]),
        (["--task", "-1"], ["task -1", "has 2 tasks"]),
    ],
)
def test_a_task_that_is_not_there_is_refused(
    run_dir: Path, arguments: list[str], words: list[str]
) -> None:
    before = snapshot(run_dir)
    code, message = worker(run_dir, *arguments)
    assert code == 2
    one_clear_line(message, "espnet3.worker: ", *words)
    assert snapshot(run_dir) == before


# --- results ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "type_name"),
    [("object", "Opaque"), ("nan", "float"), ("keys", "int"), ("set", "set")],
)
def test_a_result_that_json_cannot_hold_fails_its_shard(
    here: Path, kind: str, type_name: str
) -> None:
    run = start(Odd(OddProvider({"kind": kind})))
    seen = run.wait(60, 0.1)
    assert seen.counts() == {"failed": 1}
    [file] = (here / "run/attempts").glob("*.failed.json")
    record = decode(AttemptRecord, file.read_bytes(), str(file))
    one_clear_line(record.cause, "item 1 cannot be stored as JSON", "set `results: pickle`")
    assert record.item == 1
    assert record.items_done == 1
    assert record.error is not None
    assert record.error.type == "UnserializableResult"
    where = {"object": "Opaque", "nan": "nan at loss", "keys": "the key 1", "set": "set"}[kind]
    assert where in record.cause
    with pytest.raises(IncompleteRun) as caught:
        run.collect()
    one_clear_line(str(caught.value), "0 failed: the result of item 1 cannot be stored as JSON")


def test_pickle_takes_such_results(here: Path) -> None:
    run = start(Odd(OddProvider({"kind": "set"})), parallel={"results": "pickle"})
    assert run.wait(60, 0.1).done
    assert run.collect() == [0, {1, 2}, 2, 3]


def test_nothing_is_unpickled_where_the_run_says_json(here: Path, monkeypatch: Any) -> None:
    """Neither a pickled line nor one with a receipt of its own makes collect run its code."""
    run = start(Odd(OddProvider({"kind": "object"})), parallel={"results": "pickle"})
    assert run.wait(60, 0.1).done
    monkeypatch.setattr(Opaque, "unpickled", 0)
    file = here / "run/run.json"
    file.write_text(file.read_text().replace('"pickle"', '"json"'))
    words = ["results of shard 0", "a pickled result, but the run says `results: json`"]
    with refused(InvalidFile, *words, folder=here):
        run.collect(patience=0)
    with refused(InvalidFile, *words, folder=here):
        list(run.stream(patience=0))
    assert Opaque.unpickled == 0


def test_a_wrong_class_name_in_a_resume_is_found_before_anything_is_submitted(
    here: Path, run_dir: Path
) -> None:
    unfinish(run_dir)
    file = run_dir / "run.json"
    file.write_text(file.read_text().replace('"qualname":"Runner"', '"qualname":"Gone"'))
    with refused(PreflightError, "Gone", "nothing was submitted", folder=here):
        espnet3.Run(run_dir).resume()


@pytest.mark.parametrize("rank", [2, -1, "7"])
def test_a_rank_that_is_not_there_is_refused(here: Path, run_dir: Path, rank: Any) -> None:
    unfinish(run_dir)
    before = snapshot(here)
    with pytest.raises(EspnetError) as caught:
        espnet3.Run(run_dir).resume([rank])
    one_clear_line(str(caught.value), f"rank {rank}", "has shards 0 to 1")
    with pytest.raises(EspnetError) as caught:
        espnet3.Run(run_dir).logs(int(rank))
    one_clear_line(str(caught.value), f"rank {rank}", "has shards 0 to 1")
    assert snapshot(here) == before


@pytest.mark.parametrize("rank", ["two", "1.5", "shards/000000.json"])
def test_a_rank_that_is_no_rank_is_refused(here: Path, run_dir: Path, rank: Any) -> None:
    unfinish(run_dir)
    before = snapshot(here)
    with pytest.raises(EspnetError) as caught:
        espnet3.Run(run_dir).resume([rank])
    one_clear_line(str(caught.value), str(rank))
    assert snapshot(here) == before


def test_resume_names_a_wrong_option(
    here: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The options of a resume are checked as those of a submission."""
    shutil.copytree(finished, here / "run")
    unfinish(here / "run")
    for file in (here / "run/run.json", here / "run/submissions/0001.json"):
        raw = json.loads(file.read_text())
        raw["parallel"] |= SLURM
        file.write_text(json.dumps(raw))
    with refused(ConfigError, "parallel.options.memry", "did you mean memory?", folder=here):
        espnet3.Run("run").resume(options={"memry": "2GB"})
    with refused(ConfigError, "options.memory", "not JSON", folder=here):
        espnet3.Run("run").resume(options={"memory": {1}})


def test_the_store_agrees_that_nothing_is_there(here: Path) -> None:
    assert not open_store(here / "run").exists("run.json")
