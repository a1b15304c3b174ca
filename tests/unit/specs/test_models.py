"""Every persisted model: there and back, and what damaged files say."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import hypothesis
import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from espnet3.errors import FormatError, InvalidFile, NewerFormat
from espnet3.specs.items import ItemList, ItemRange
from espnet3.specs.models import (
    Argument,
    AttemptRecord,
    ErrorRecord,
    PersistedModel,
    Receipt,
    RunSpec,
    ShardSpec,
    Submission,
    decode,
    encode,
    now,
)
from espnet3.specs.schema import ALL
from tests.support.helpers import LONG
from tests.support.strategies import models

SCHEMAS = Path(__file__).parents[3] / "schemas"
DIGEST = "sha256:" + "0" * 64
FILE = "run/some.json"

every_model = pytest.mark.parametrize("model", ALL, ids=lambda model: model.title)
thorough = settings(
    deadline=None,
    max_examples=30 if LONG else 12,
    suppress_health_check=[HealthCheck.too_slow],
)


@every_model
@thorough
@given(data=st.data())
def test_encode_and_decode_are_inverse(model: type[PersistedModel], data: st.DataObject) -> None:
    instance = data.draw(models(model))
    encoded = encode(instance)
    assert encoded.endswith(b"}\n")
    assert encoded.count(b"\n") == 1
    assert decode(model, encoded, FILE) == instance
    assert encode(decode(model, encoded, FILE)) == encoded


@every_model
@thorough
@given(data=st.data())
def test_the_schema_accepts_what_is_written(
    model: type[PersistedModel], data: st.DataObject
) -> None:
    file = SCHEMAS / f"{model.title}.v{model.version}.json"
    schema = json.loads(file.read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    written = json.loads(encode(data.draw(models(model))))
    validator.validate(written)
    assert not validator.is_valid({**written, "unknown": 1})
    assert not validator.is_valid({**written, "schema_version": model.version + 1})


@every_model
@settings(deadline=None, max_examples=5, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_file_cut_anywhere_is_an_error_of_one_line(
    model: type[PersistedModel], data: st.DataObject
) -> None:
    encoded = encode(data.draw(models(model))).rstrip(b"\n")
    for length in range(len(encoded)):
        with pytest.raises(FormatError) as caught:
            decode(model, encoded[:length], FILE)
        message = str(caught.value)
        assert message.startswith(f"{FILE}: ")
        assert "truncated or damaged" in message
        assert "\n" not in message
        assert caught.value.file == FILE


@every_model
@thorough
@given(data=st.data())
def test_any_bytes_are_read_or_refused(model: type[PersistedModel], data: st.DataObject) -> None:
    damaged = bytearray(encode(data.draw(models(model))))
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    for contents in (bytes(damaged), data.draw(st.binary(max_size=50))):
        # A digit may have become another digit, so no error is fine too.
        with contextlib.suppress(FormatError):
            decode(model, contents, FILE)


@every_model
@settings(deadline=None, max_examples=5, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_unknown_fields_wrong_types_and_missing_fields_are_named(
    model: type[PersistedModel], data: st.DataObject
) -> None:
    written: dict[str, Any] = json.loads(encode(data.draw(models(model))))
    with pytest.raises(InvalidFile, match="field colour: unknown field") as unknown:
        decode(model, json.dumps({**written, "colour": 1}).encode(), FILE)
    assert (unknown.value.file, unknown.value.field) == (FILE, "colour")
    with pytest.raises(InvalidFile) as two_lines:
        decode(model, json.dumps({**written, "a\nb": 1}).encode(), FILE)
    assert "\n" not in str(two_lines.value)
    for name, field in model.model_fields.items():
        if field.is_required():
            without = {key: value for key, value in written.items() if key != name}
            with pytest.raises(InvalidFile, match=f"field {name}: is missing"):
                decode(model, json.dumps(without).encode(), FILE)
        if name != "item":  # any JSON value
            with pytest.raises(InvalidFile, match=f"field {name}") as wrong:
                decode(model, json.dumps({**written, name: [{"x": {}}]}).encode(), FILE)
            assert wrong.value.field.partition(".")[0] == name


@every_model
@pytest.mark.parametrize("version", [6, 99, 10**30])
@pytest.mark.parametrize("form", ['{{"schema_version": {}}}', '{{"new":1,"schema_version":{},"x'])
def test_a_newer_version_says_upgrade(model: type[PersistedModel], version: int, form: str) -> None:
    with pytest.raises(NewerFormat, match="upgrade espnet3") as caught:
        decode(model, form.format(version).encode(), FILE)
    assert caught.value.found >= 4
    assert (caught.value.file, caught.value.supported) == (FILE, model.version)


def test_a_version_longer_than_python_reads() -> None:
    with pytest.raises(NewerFormat):
        decode(ShardSpec, b'{"schema_version": ' + b"9" * 5000 + b"}", FILE)


@every_model
@pytest.mark.parametrize("version", [0, -1, "1", None, True, 1.5])
def test_no_version_of_ours_is_an_invalid_file(
    model: type[PersistedModel], version: object
) -> None:
    with pytest.raises(InvalidFile):
        decode(model, json.dumps({"schema_version": version}).encode(), FILE)


@pytest.mark.parametrize("contents", [b"", b"\n", b"null", b"[]", b"\xff\xfe", b"\0" * 40, b"{}"])
@every_model
def test_what_is_no_model_at_all(model: type[PersistedModel], contents: bytes) -> None:
    with pytest.raises(InvalidFile) as caught:
        decode(model, contents, FILE)
    assert "\n" not in str(caught.value)


@every_model
def test_numbers_are_no_texts_and_texts_no_numbers(model: type[PersistedModel]) -> None:
    for name, field in model.model_fields.items():
        if field.annotation in (int, str):
            wrong: object = "1" if field.annotation is int else 1
            with pytest.raises(ValidationError) as caught:
                model.model_validate_json(json.dumps({name: wrong}))
            assert name in {error["loc"][0] for error in caught.value.errors()}


class TestReceipt:
    def receipt(self, **changed: Any) -> dict[str, Any]:
        part = {
            "file": "000042.0001-0123456789ab.0.jsonl",
            "first": 0,
            "records": 3,
            "bytes": 30,
            "checksum": DIGEST,
        }
        whole = {
            "schema_version": 1,
            "rank": 42,
            "attempt": "0001-0123456789ab",
            "fingerprint": DIGEST,
            "records": 3,
            "errors": 0,
            "salvaged": 0,
            "parts": [part],
            "host": "node1",
            "created": "2026-01-01T00:00:00Z",
        }
        part.update({key: value for key, value in changed.items() if key in part})
        whole.update({key: value for key, value in changed.items() if key not in part})
        return whole

    def refused(self, receipt: dict[str, Any]) -> str:
        with pytest.raises(InvalidFile) as caught:
            decode(Receipt, json.dumps(receipt).encode(), FILE)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_a_file_without_a_version_is_refused(self) -> None:
        receipt = self.receipt()
        del receipt["schema_version"]
        assert "schema_version: is missing" in self.refused(receipt)

    def test_the_sample_is_valid(self) -> None:
        assert decode(Receipt, json.dumps(self.receipt()).encode(), FILE).records == 3

    @pytest.mark.parametrize(
        "file",
        [
            "../000042.0001-0123456789ab.0.jsonl",
            "/000042.0001-0123456789ab.0.jsonl",
            "/etc/passwd",
            "../../x",
            "x/000042.0001-0123456789ab.0.jsonl",
            "000042.0001-0123456789ab.0.jsonl\n",
            "000042.0001-0123456789ab.0.jsonl/..",
            "000042.0001-0123456789ab/../0.jsonl",
            "s3://bucket/000042.0001-0123456789ab.0.jsonl",
            "",
        ],
    )
    def test_paths_out_of_the_results_are_refused(self, file: str) -> None:
        assert "field parts.0.file" in self.refused(self.receipt(file=file))

    @pytest.mark.parametrize(
        "attempt", ["../x", "0001-0123456789ab/..", "1-0123456789ab", "", "0001"]
    )
    def test_attempts_that_are_none(self, attempt: str) -> None:
        assert "field attempt" in self.refused(self.receipt(attempt=attempt))

    def test_parts_of_another_shard(self) -> None:
        words = self.refused(self.receipt(file="000043.0001-0123456789ab.0.jsonl"))
        assert "000043" in words

    def test_parts_that_do_not_follow(self) -> None:
        assert "does not follow at position 0" in self.refused(self.receipt(first=1))

    def test_parts_that_hold_less_than_they_should(self) -> None:
        receipt = self.receipt()
        receipt["records"] = 4
        assert "hold 3 records, not 4" in self.refused(receipt)

    def test_a_receipt_without_parts(self) -> None:
        receipt = self.receipt()
        receipt["parts"] = []
        assert "field parts" in self.refused(receipt)

    @pytest.mark.parametrize("checksum", ["", "sha256:", "md5:" + "0" * 64, "sha256:" + "G" * 64])
    def test_checksums_that_are_none(self, checksum: str) -> None:
        assert "checksum" in self.refused(self.receipt(checksum=checksum))


class TestSubmission:
    @settings(deadline=None)
    @given(models(Submission))
    def test_every_rank_of_a_static_one_has_one_task(self, submission: Submission) -> None:
        hypothesis.assume(submission.schedule == "static")
        ranks = [rank for t in range(submission.n_tasks) for rank in submission.ranks_of(t)]
        assert ranks == list(submission.ranks)
        assert submission.ranks_of(submission.n_tasks) == []
        places = list(submission.places())
        assert [rank for rank, _, _ in places] == ranks
        for rank, task, job in places:
            assert rank in submission.ranks_of(task)
            assert 0 <= task - job.first_task < job.n_tasks
            found = submission.place_of(rank)
            assert found == (task, job) or ranks.count(rank) > 1
        assert submission.place_of(max(ranks) + 1) is None

    @settings(deadline=None)
    @given(models(Submission))
    def test_every_task_of_a_dynamic_one_may_claim_every_rank(self, submission: Submission) -> None:
        hypothesis.assume(submission.schedule == "dynamic")
        ranks = list(submission.ranks)
        assert submission.n_tasks == min(submission.n_workers, len(ranks))
        for task in range(min(3, submission.n_tasks)):
            assert submission.ranks_of(task) == ranks
        assert submission.ranks_of(submission.n_tasks) == []
        assert all(submission.place_of(rank) is None for rank in submission.ranks_of(0))

    @pytest.mark.parametrize(
        "ranks",
        [
            ItemRange(start=-1, stop=3),
            ItemList(values=[1, -1]),
            ItemList(values=[1, "2"]),
            ItemList(values=[True]),
            ItemList(values=[1.0]),
        ],
    )
    @settings(deadline=None, max_examples=1, suppress_health_check=list(HealthCheck))
    @given(submission=models(Submission))
    def test_ranks_that_are_none(self, ranks: ItemRange | ItemList, submission: Submission) -> None:
        written = {**json.loads(encode(submission)), "ranks": ranks.model_dump()}
        with pytest.raises(InvalidFile, match="every rank is an integer from 0"):
            decode(Submission, json.dumps(written).encode(), FILE)


class TestWhatJsonCannotHold:
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), [{"a": [-float("inf")]}]])
    def test_arguments_are_never_changed_to_null(self, value: Any) -> None:
        with pytest.raises(ValidationError, match="is not JSON"):
            Argument(value=value)

    @settings(deadline=None, max_examples=1, suppress_health_check=list(HealthCheck))
    @given(run=models(RunSpec))
    @pytest.mark.parametrize("seconds", [float("inf"), float("nan"), 0.0, -1.0])
    def test_a_checkpoint_that_never_comes(self, run: RunSpec, seconds: float) -> None:
        fields = {name: getattr(run, name) for name in RunSpec.model_fields}
        with pytest.raises(ValidationError):
            RunSpec(**{**fields, "checkpoint_every": seconds})

    def test_foreign_file_names_in_errors_are_escaped(self) -> None:
        foreign = b"caf\xe9.wav".decode("utf-8", "surrogateescape")
        record = AttemptRecord(
            event="failed",
            rank=0,
            attempt="0001-0123456789ab",
            task=None,
            job_id=None,
            host="node1",
            pid=1,
            time=now(),
            cause=foreign,
            error=ErrorRecord(type="OSError", message=foreign, traceback=foreign),
        )
        assert decode(AttemptRecord, encode(record), FILE) == record
        assert record.error is not None
        assert record.error.message == record.cause == "caf\\udce9.wav"


def test_now_knows_its_time_zone() -> None:
    assert now().tzinfo is not None
