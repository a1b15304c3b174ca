"""Workers read and write by kept schemas what pydantic's models read and write, to the letter."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import ValidationError

from espnet3.errors import FormatError
from espnet3.specs import models
from espnet3.startup import kept_schemas

FIXTURES = Path(__file__).parents[2] / "fixtures"
MODELS = {
    "run.json": "RunSpec",
    "shards/*.json": "ShardSpec",
    "submissions/000?.json": "Submission",
    "submissions/*.jobs.json": "AcceptedJobs",
    "submissions/*.cancelled.json": "Cancellation",
    "attempts/*.json": "AttemptRecord",
    "receipts/*.json": "Receipt",
    "withdrawals/*.json": "Withdrawal",
    "claims/*.[0-9].json": "Claim",
    "claims/*.part.json": "PartialReceipt",
    "workers/*.json": "WorkerState",
}
WRONG = ["", "x", "é\n", "2026-01-02T03:04:05", -1, 0, 1, 2**70, 1.5, None, True, [], [None], {}]
KEEP = """
from espnet3.startup import kept_schemas
kept_schemas.load()
with kept_schemas.in_place_of_pydantic():
    from espnet3.specs.models import NestedModel
kept_schemas.keep(NestedModel)
"""
LOAD = (
    "from espnet3.startup import kept_schemas; kept_schemas.load(); print(kept_schemas.is_loaded())"
)
PICKLE = """
import copy, pickle, sys
from espnet3.startup import kept_schemas
kept_schemas.load()
with kept_schemas.in_place_of_pydantic():
    from espnet3.specs.models import ErrorRecord
made = ErrorRecord(type="ValueError", message="3 is bad")
assert kept_schemas.is_loaded() and copy.deepcopy(made) == made
assert pickle.loads(bytes.fromhex(sys.stdin.read())) == made
print(pickle.dumps(made).hex())
"""
READ = """
import json, sys
from espnet3.startup import kept_schemas
kept_schemas.load()
with kept_schemas.in_place_of_pydantic():
    from espnet3.specs import models
from tests.unit.startup.test_kept_schemas import outcome
for line in sys.stdin:
    print(json.dumps(outcome(*json.loads(line))))
print(json.dumps("with pydantic" if "pydantic" in sys.modules else "without pydantic"))
"""


def outcome(name: str, document: str, how: str) -> str:
    """What becomes of a document, or of a model that is made of its fields."""
    model = getattr(models, name)
    try:
        if how == "read":
            return models.encode(models.decode(model, document.encode(), "file")).decode()
        made = model(**json.loads(document))
        return f"{made.model_dump()} {sorted(made.model_fields_set)}"
    except ValidationError as error:
        return str(error.errors(include_url=False, include_context=False))
    except (FormatError, ValueError, TypeError) as error:
        return str(error)


def variants(value: Any) -> Iterator[Any]:
    """The value with one thing wrong, in each of many ways."""
    yield from WRONG
    if isinstance(value, dict):
        yield {**value, "unknown": 1}
        for key, part in value.items():
            yield {k: v for k, v in value.items() if k != key}
            for wrong in variants(part):
                yield {**value, key: wrong}
    elif isinstance(value, list) and value:
        yield value + value
        for wrong in variants(value[0]):
            yield [wrong, *value[1:]]
    elif isinstance(value, str):
        yield value + "0"


def documents() -> Iterator[tuple[str, str]]:
    """Documents of every model, good and bad."""
    seen = set()
    for pattern, name in MODELS.items():
        for file in sorted(FIXTURES.glob(f"v[134]/*/{pattern}")):
            text = file.read_text()
            yield name, text
            yield name, text[:-5]
            yield name, text.replace("1", "NaN", 1)
            shape = name, *json.loads(text)
            if shape not in seen:
                seen.add(shape)
                yield from ((name, json.dumps(wrong)) for wrong in variants(json.loads(text)))
    jobs = json.loads(next(FIXTURES.glob("v1/*/submissions/0001.jobs.json")).read_text())
    cancelled = {"schema_version": 1, "number": 1, "created": jobs["created"],
                 "by": jobs["recorded_by"]}  # fmt: skip
    yield from (("Cancellation", json.dumps(each)) for each in (cancelled, *variants(cancelled)))
    source = {"root": 0, "name": "lib/net.py", "sha256": f"sha256:{'0' * 64}", "size": 3}
    coded = {**cancelled, "roots": ["/p"], "import_path": ["/p/lib"], "files": [source],
             "git_commit": None, "snapshot": True}  # fmt: skip
    left = {"schema_version": 1, "run_id": "0" * 12, "worker": "0001-9f86d081884c", "number": 1,
            "time": jobs["created"], "free": [3], "claimed": [1, 2]}  # fmt: skip
    yield from (("Remaining", json.dumps(each)) for each in (left, *variants(left)))
    yield from (("CodeRecord", json.dumps(each)) for each in (coded, *variants(coded)))


def python(code: str, folder: Path, text: str = "", **environ: str) -> str:
    """The output of a Python that has its bytecode below a folder."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPYCACHEPREFIX": str(folder), **environ},
        cwd=Path(__file__).parents[3],
        input=text,
        stdout=subprocess.PIPE,
        text=True,
        timeout=100,
        check=True,
    )
    return done.stdout


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bytecode in which the schemas are kept."""
    folder = tmp_path_factory.mktemp("bytecode")
    python(KEEP, folder, PYTHONDONTWRITEBYTECODE="")
    return folder


def checked(kept: bytes) -> bytes:
    """Kept schemas as their file holds them."""
    return zlib.crc32(kept).to_bytes(4, "big") + kept


def file_of(folder: Path) -> Path:
    """Where the schemas are kept."""
    return next(folder.rglob("*.schemas"))


def test_every_document_is_read_as_pydantic_reads_it(kept: Path) -> None:
    asked = [(name, document, how) for name, document in documents() for how in ("read", "made")]
    said = python(READ, kept, "".join(f"{json.dumps(each)}\n" for each in asked))
    *answers, last = map(json.loads, said.splitlines())
    assert last == "without pydantic"
    assert len(answers) == len(asked) > 5000
    differing = [
        (each, answer)
        for each, answer in zip(asked, answers, strict=True)
        if answer != outcome(*each)
    ]
    assert differing == []
    assert {name for name, *_ in asked} == {model.__name__ for model in models.PERSISTED}


def test_the_key_covers_all_that_the_schemas_are_made_of(kept: Path) -> None:
    modules = set()

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            modules.add(module)
            return super().find_class(module, name)

    _, schemas = pickle.loads(file_of(kept).read_bytes()[4:])
    for schema in schemas.values():
        Unpickler(io.BytesIO(schema)).load()
    assert {"espnet3.specs.models", "espnet3.specs.items"} <= modules
    assert modules <= {f"espnet3.{name}".replace("/", ".") for name in kept_schemas._SOURCES}


def test_models_are_pickled_for_processes_with_pydantic_and_without(kept: Path) -> None:
    made = models.ErrorRecord(type="ValueError", message="3 is bad")
    said = python(PICKLE, kept, pickle.dumps(made).hex())
    found = pickle.loads(bytes.fromhex(said))
    assert found == made
    assert found.model_fields_set == {"type", "message"}


def test_schemas_of_models_that_were_edited_meanwhile_are_not_used(tmp_path: Path) -> None:
    edited = tmp_path / "edited.py"
    edited.write_text("")
    watched = f"kept_schemas._SOURCES = ({str(edited.with_suffix(''))!r},)\nkept_schemas.load()"
    keep = KEEP.replace("kept_schemas.load()", watched)
    edit = f"open({str(edited)!r}, 'w').write('#')\nkept_schemas.keep"
    load = LOAD.replace("kept_schemas.load()", watched)
    for code, usable in ((keep.replace("kept_schemas.keep", edit), False), (keep, True)):
        python(code, tmp_path / "bytecode", PYTHONDONTWRITEBYTECODE="")
        assert python(load, tmp_path / "bytecode") == f"{usable}\n"


@pytest.mark.parametrize("change", ["key", "truncated", "zeros", "foreign", "missing", "none"])
def test_schemas_that_do_not_fit_are_not_used(kept: Path, tmp_path: Path, change: str) -> None:
    folder = Path(shutil.copytree(kept, tmp_path / "bytecode"))
    file = file_of(folder)
    key, schemas = pickle.loads(file.read_bytes()[4:])
    match change:
        case "key":
            file.write_bytes(checked(pickle.dumps(([*key[:-1], (1, 1)], schemas))))
        case "truncated":
            file.write_bytes(file.read_bytes()[:-9])
        case "zeros":  # a power cut after the rename
            data = file.read_bytes()
            file.write_bytes(data[:-512] + bytes(512))
        case "foreign":
            file.write_bytes(checked(pickle.dumps(7)))
        case "missing":
            file.unlink()
    assert python(LOAD, folder) == f"{change == 'none'}\n"


@pytest.mark.parametrize("why", ["unwanted", "unwritable"])
def test_schemas_are_kept_only_where_bytecode_is(tmp_path: Path, why: str) -> None:
    folder = tmp_path / "bytecode"
    if why == "unwritable":
        folder.write_bytes(b"")
    python(KEEP, folder, PYTHONDONTWRITEBYTECODE="1" if why == "unwanted" else "")
    assert [*tmp_path.rglob("*.schemas*")] == []
