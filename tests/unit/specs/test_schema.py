"""The committed JSON Schemas, and the tree of errors."""

from __future__ import annotations

import inspect
import json
import pickle
import re
from pathlib import Path

import jsonschema
import pytest

from espnet3 import errors
from espnet3.errors import EspnetError
from espnet3.specs import schema
from espnet3.specs.models import PersistedModel
from espnet3.text import one_line

SAMPLES: list[EspnetError] = [
    errors.ConfigError("parallel.n_workers", "is wrong"),
    errors.ConfigError("", "is wrong"),
    errors.MissingExtra("parallel.env", "'kube' needs dask_kubernetes"),
    errors.ItemsError("items: there are none"),
    errors.ClassError("module.Name", "is not a class"),
    errors.PreflightError("provider: fails", "line one\nline two"),
    errors.PlanMismatch("/run", "items", "a\nb" * 200, "c"),
    errors.CodeChanged("/run", ["/p/a.py"], "source files differ: a.py"),
    errors.RunDirectoryError("/run", "is a file"),
    errors.Untrusted("/shared/run", "it is world-writable; run `chmod o-w /shared/run`"),
    errors.InvalidFile("f.json", "a\nb", "problem\nof two lines"),
    errors.InvalidFile("f.json", "", "problem"),
    errors.FileTooLarge("f.json", 20, 10),
    errors.NewerFormat("f.json", 2, 1),
    errors.StoreError("f.json", "is full"),
    errors.FileMissing("f.json"),
    errors.FileTaken("f.json"),
    errors.SchedulerUnavailable("slurm", "no\nanswer"),
    errors.SubmissionRefused("slurm", "sbatch: error:\n no"),
    errors.IncompleteRun("/run", 9, dict.fromkeys(range(8), "failed:\nwhy")),
    errors.DamagedResult("f.jsonl", 3, "is cut", "r"),
    errors.FailedItems("/run", 20, list(range(20))),
    errors.EnvironmentFailed("the provider raised"),
    errors.NoWorkers("slurm", 30.0, "PENDING\nResources"),
    errors.WorkersKilled({"a": 1}, "tcp://node1:1"),
    errors.ForwardFailed({"a": "b\nc"}, "ValueError: x"),
    errors.OutputError("", "is missing"),
    errors.OutputError("/exp/decode", "holds another plan"),
    errors.WriterFailed("write_record", {"a": "b\nc"}, "ValueError: x"),
    errors.WriterFailed("close_writers", None, "OSError: x"),
    errors.UnserializableResult(3, "set", "type set\nis not JSON"),
    errors.TooManyErrors(3, 2, 3, {"a": "b\nc"}, "ValueError:\nx"),
]


def _classes() -> dict[str, type[EspnetError]]:
    found: list[tuple[str, type[EspnetError]]] = inspect.getmembers(errors, inspect.isclass)
    return {name: cls for name, cls in found if cls.__module__.startswith(errors.__name__)}


def test_the_docstring_draws_the_tree_of_errors() -> None:
    drawn: dict[str, str] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^((?:│   |    )*)(?:├── |└── )?([A-Z]\w+)(?:  |$)", line)
        if found is None:
            continue
        is_root = not line.startswith(("│", "├", "└", " "))
        depth = 0 if is_root else len(found[1]) // 4 + 1
        above[depth:] = [found[2]]
        if depth:
            drawn[found[2]] = above[depth - 1]
    actual = {name: cls.__bases__[0].__name__ for name, cls in _classes().items()}
    assert actual.pop("EspnetError") == "Exception"
    assert drawn == actual


def test_every_error_has_a_sample_here() -> None:
    leaves = {name for name, cls in _classes().items() if not cls.__subclasses__()}
    assert leaves <= {type(error).__name__ for error in SAMPLES}


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
class TestErrors:
    def test_is_one_line(self, error: EspnetError) -> None:
        assert "\n" not in str(error)
        assert 0 < len(str(error)) < 1500

    def test_survives_pickling(self, error: EspnetError) -> None:
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert (str(again), again.__dict__) == (str(error), error.__dict__)


@pytest.mark.parametrize(
    ("text", "limit", "folded"),
    [
        ("a", 5, "a"),
        (" a\n\tb\r\n c ", 9, "a b c"),
        ("abcdef", 6, "abcdef"),
        ("abcdefg", 6, "abcde…"),
        ("", 3, ""),
    ],
)
def test_one_line(text: str, limit: int, folded: str) -> None:
    assert one_line(text, limit) == folded


def test_the_committed_schemas_are_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert schema.main(["--check"]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("model", schema.ALL, ids=lambda model: model.title)
def test_schemas_are_schemas(model: type[PersistedModel]) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(schema.schema_text(model)))


def test_schemas_are_written_and_stale_ones_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "schemas"
    monkeypatch.setattr(schema, "FOLDER", folder)
    assert schema.main(["--check"]) == 1
    assert schema.main([]) == 0
    assert schema.main(["--check"]) == 0
    (folder / "old.v1.json").write_text("{}")
    (folder / "run.v1.json").write_text("{}")  # an older version: stays as it is
    (folder / "run.v5.json").write_text("{}")
    capsys.readouterr()
    assert schema.main(["--check"]) == 1
    assert "old.v1.json, run.v5.json; run `make schemas`" in capsys.readouterr().out
    assert schema.main([]) == 0
    current = {f"{model.title}.v{model.version}.json" for model in schema.ALL}
    assert {path.name for path in folder.iterdir()} == current | {"run.v1.json"}
    assert (folder / "run.v1.json").read_text() == "{}"
