"""The public names. A change here is a change for users: it goes into the changelog."""

from __future__ import annotations

import ast
import importlib
import inspect
import tomllib
from pathlib import Path

import pytest

import espnet3
import espnet3.collect
import espnet3.report
import espnet3.submit
from espnet3 import AsyncRun, Run

PUBLIC = {
    "espnet3": [
        "AsyncRun",
        "ClassError",
        "CodeChanged",
        "ConfigError",
        "DamagedResult",
        "EnvironmentFailed",
        "EspnetError",
        "FailedItems",
        "FileMissing",
        "FileTaken",
        "FileTooLarge",
        "FormatError",
        "ForwardFailed",
        "IncompleteRun",
        "InvalidFile",
        "ItemsError",
        "MissingExtra",
        "NewerFormat",
        "NoWorkers",
        "OutputError",
        "PlanMismatch",
        "PreflightError",
        "Run",
        "RunDirectoryError",
        "RunError",
        "SchedulerError",
        "SchedulerUnavailable",
        "StoreError",
        "SubmissionRefused",
        "TooManyErrors",
        "UnserializableResult",
        "Untrusted",
        "UsageError",
        "WorkError",
        "WorkersKilled",
        "WriterFailed",
        "__version__",
    ],
    "espnet3.collect": [
        "Collected",
        "ErrorRecord",
        "PartialResults",
        "ResultRecord",
        "RunStatus",
        "ShardStatus",
        "collect",
        "logs",
        "status",
        "stream",
        "to_dataset",
        "to_kaldi",
        "to_pandas",
        "watch",
    ],
    "espnet3.parallel": [
        "BaseRunner",
        "DictReturnWorkerPlugin",
        "EnvironmentProvider",
        "InferenceProvider",
        "ParallelConfig",
        "WriterHooks",
        "build_client",
        "build_local_gpu_cluster",
        "concatenate_shard_files",
        "get_client",
        "get_parallel_config",
        "make_client",
        "make_local_gpu_cluster",
        "parallel_for",
        "parallel_map",
        "set_parallel",
        "wrap_func_with_worker_env",
    ],
    "espnet3.specs": [
        "AcceptedJobs",
        "AttemptRecord",
        "Cancellation",
        "ParallelConfig",
        "Receipt",
        "ResultRecord",
        "RunSpec",
        "ShardSpec",
        "Store",
        "Submission",
        "open_store",
    ],
    "espnet3.status": ["Progress", "RunStatus", "ShardStatus", "Silence"],
    "espnet3.submit": [
        "Removed",
        "Rendered",
        "Submitted",
        "cancel",
        "dry_run",
        "remove",
        "resume",
        "submit",
    ],
}
PUBLIC["espnet3.errors"] = sorted({*PUBLIC["espnet3"]} - {"AsyncRun", "Run", "__version__"})
# The methods of `Run`, and of `AsyncRun`, and their parameters; * stands before keywords.
RUN = {
    "cancel": [],
    "finish": [],
    "report": ["output"],
    "collect": ["output", "*partial", "*errors", "*patience"],
    "logs": ["rank"],
    "remove": ["*cancel", "*merged", "*everything", "*force"],
    "resume": [
        "ranks",
        "*options",
        "*force",
        "*repair",
        "*items",
        "*patience",
        "*code",
        "*skip",
        "*skip_failing",
    ],
    "status": [],
    "stream": ["*partial", "*errors", "*patience"],
    "to_dataset": ["*partial", "*errors", "*patience"],
    "to_kaldi": ["folder", "key", "*partial", "*errors", "*patience"],
    "to_pandas": ["*partial", "*errors", "*patience"],
    "wait": ["timeout", "interval"],
}
# Old names of what other rooms hold now: the one thing that a stub has from a room above its own.
OLD = {"espnet3.specs": {"ParallelConfig", "ResultRecord", "Store", "open_store"}}
NAMES = [(module, name) for module, names in PUBLIC.items() for name in names]


@pytest.mark.parametrize("module", PUBLIC)
def test_the_public_names_are_these(module: str) -> None:
    package = importlib.import_module(module)
    assert sorted(package.__all__) == PUBLIC[module]
    if hasattr(package, "__getattr__"):  # a lazy one
        assert dir(package) == package.__all__
    assert package.__doc__


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_each_is_there_and_documented(module: str, name: str) -> None:
    member = getattr(importlib.import_module(module), name)
    if name == "__version__":
        assert isinstance(member, str)
        return
    # A class without a docstring would show that of its base.
    own = vars(member).get("__doc__") if inspect.isclass(member) else member.__doc__
    assert own
    assert own.strip().partition("\n")[0].endswith(".")
    assert not inspect.ismodule(member)


@pytest.mark.parametrize("module", PUBLIC)
def test_public_methods_are_documented(module: str) -> None:
    package = importlib.import_module(module)
    for name in PUBLIC[module]:
        member = getattr(package, name)
        if not inspect.isclass(member):
            continue
        for method, value in vars(member).items():
            if inspect.isfunction(value) and not method.startswith("_"):
                assert inspect.getdoc(getattr(member, method)), f"{module}.{name}.{method}"


@pytest.mark.parametrize("module", PUBLIC)
def test_other_names_are_missing_in_the_usual_way(module: str) -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing_of_this_name'"):
        importlib.import_module(module).nothing_of_this_name  # noqa: B018


def test_a_star_imports_the_public_names() -> None:
    names: dict[str, object] = {}
    exec("from espnet3 import *", names)
    assert PUBLIC["espnet3"] == sorted(names.keys() - {"__builtins__"})


def methods(cls: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(getattr(cls, name)) for name in dir(cls) if not name.startswith("_")
    }


def parameters(signature: inspect.Signature) -> list[str]:
    _, *rest = signature.parameters.values()
    return ["*" * (each.kind is each.KEYWORD_ONLY) + each.name for each in rest]


@pytest.mark.parametrize("cls", [Run, AsyncRun])
def test_the_methods_of_a_run_are_these(cls: type) -> None:
    assert {name: parameters(signature) for name, signature in methods(cls).items()} == RUN


def test_both_kinds_of_run_are_the_same_but_for_awaiting() -> None:
    assert inspect.signature(Run) == inspect.signature(AsyncRun)
    awaited = methods(AsyncRun)
    for name, signature in methods(Run).items():
        assert signature.parameters == awaited[name].parameters
        if name == "stream":
            assert signature.return_annotation == awaited[name].return_annotation[len("Async") :]
            continue
        assert signature.return_annotation == awaited[name].return_annotation
        assert inspect.iscoroutinefunction(getattr(AsyncRun, name))
        assert not inspect.iscoroutinefunction(getattr(Run, name))


@pytest.mark.parametrize("name", sorted({*RUN} - {"finish", "wait"}))  # which are no functions
def test_a_run_does_with_the_same_defaults_what_a_function_does(name: str) -> None:
    rooms = espnet3.collect, espnet3.submit, espnet3.report
    function = next(getattr(room, name) for room in rooms if name in dir(room))
    taken = inspect.signature(function).parameters.values()
    own = methods(AsyncRun)[name].parameters.values()
    assert [each for each in taken if each.name not in ("run_dir", "trust")] == [*own][1:]


# --- stubs: import-linter does not read them, and its rules hold for them all the same ------------

STUBS = sorted(Path(espnet3.__file__).parent.rglob("*.pyi"))


def test_each_lazy_name_stands_in_the_stub_alone() -> None:
    assert {stub.name for stub in STUBS} == {"__init__.pyi"}
    for stub in STUBS:
        assert "import_module" not in (code := stub.with_suffix(".py").read_text())
        assert "TYPE_CHECKING" not in code


@pytest.mark.parametrize("stub", STUBS, ids=lambda stub: stub.parent.name)
def test_a_stub_imports_from_its_room_or_from_below(stub: Path) -> None:
    package = ".".join(stub.relative_to(Path(espnet3.__file__).parents[1]).parts[:-1])
    rules = tomllib.loads((Path(espnet3.__file__).parents[1] / "pyproject.toml").read_text())
    [layers] = [
        contract["layers"]
        for contract in rules["tool"]["importlinter"]["contracts"]
        if contract["id"] == "layers"
    ]
    height = {
        room.strip(): -number for number, layer in enumerate(layers) for room in layer.split("|")
    }
    for statement in ast.parse(stub.read_text()).body:
        if not isinstance(statement, ast.ImportFrom):
            continue
        [name] = [each.name for each in statement.names]
        assert statement.module
        if name in OLD.get(package, ()) or package == "espnet3":
            continue
        own, theirs = package.split(".")[1], statement.module.split(".")[1]
        assert own == theirs or height[theirs] < height[own], statement.module
