"""The public names. A change here is a change for users: it goes into the changelog."""

from __future__ import annotations

import importlib
import inspect

import pytest

PUBLIC = {
    "espnet3": [
        "ClassError",
        "ConfigError",
        "DamagedResult",
        "EnvironmentFailed",
        "EspnetError",
        "FailedItems",
        "FileMissing",
        "FileTaken",
        "FormatError",
        "ForwardFailed",
        "IncompleteRun",
        "InvalidFile",
        "ItemsError",
        "NewerFormat",
        "NoWorkers",
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
        "watch",
    ],
    "espnet3.parallel": [
        "BaseRunner",
        "DictReturnWorkerPlugin",
        "EnvironmentProvider",
        "InferenceProvider",
        "ParallelConfig",
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
    "espnet3.submit": ["Rendered", "Submitted", "cancel", "dry_run", "resume", "submit"],
}
NAMES = [(module, name) for module, names in PUBLIC.items() for name in names]


@pytest.mark.parametrize("module", PUBLIC)
def test_the_public_names_are_these(module: str) -> None:
    package = importlib.import_module(module)
    assert sorted(package.__all__) == PUBLIC[module]
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
