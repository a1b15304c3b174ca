"""Blocks of whole lines, from streams of any size; and what writers have written."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet3.errors import DamagedResult
from espnet3.run_dir import verification
from espnet3.run_dir.verification import find_damage_in_written, verify_written
from espnet3.specs import layout
from espnet3.specs.models import Receipt, ResultPart, Written, WrittenFile, now
from espnet3.storage.base import Store

ATTEMPT = "0001-0123456789ab"
NONE = f"sha256:{hashlib.sha256().hexdigest()}"


@given(st.binary(max_size=60), st.integers(1, 9), st.integers(0, 70))
def test_blocks_end_where_lines_end(data: bytes, most: int, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verification, "IN_MEMORY", most)
        blocks = [*verification.line_blocks(io.BytesIO(data), size, "x")]
    assert b"".join(blocks) == data[:size]
    assert all(block.endswith(b"\n") for block in blocks[:-1])


@pytest.fixture
def receipt(store: Store) -> Receipt:
    """The receipt of a shard that has three files."""
    folder = Path(store.locate(layout.written(3, ATTEMPT)))
    files = []
    for path, data in (("hyp.scp", b"a b\n" * 1000), ("deep/0.npy", b"\0" * 9), ("done", b"")):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
        checksum = f"sha256:{hashlib.sha256(data).hexdigest()}"
        files.append(WrittenFile(path=path, bytes=len(data), checksum=checksum))
    part = ResultPart(
        file=f"000003.{ATTEMPT}.0.jsonl", first=0, records=1, bytes=1, checksum=NONE
    )  # fmt: skip
    return Receipt(
        rank=3, attempt=ATTEMPT, fingerprint=NONE, records=1, errors=0, salvaged=0, parts=[part],
        host="node", created=now(), written=Written(folder=str(folder), files=files),
    )  # fmt: skip


def test_what_is_as_it_was_written_is_verified(store: Store, receipt: Receipt) -> None:
    verify_written(store, receipt)
    verify_written(store, receipt.model_copy(update={"written": None}))
    assert find_damage_in_written(store, receipt) == {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:-1], "has 3999 bytes, but the receipt vouches for 4000"),
        (lambda data: data + b"x", "has more bytes, but the receipt vouches for 4000"),
        (lambda data: b"A" + data[1:], "has changed since its receipt was written"),
        (None, "is missing"),
    ],
    ids=["shorter", "longer", "other", "missing"],
)
def test_what_is_not_is_named(
    store: Store, receipt: Receipt, change: Callable[[bytes], bytes] | None, words: str
) -> None:
    file = Path(store.locate(layout.written(3, ATTEMPT)), "hyp.scp")
    data = file.read_bytes()
    file.unlink()
    if change is not None:
        file.write_bytes(change(data))
    with pytest.raises(DamagedResult, match=words) as caught:
        verify_written(store, receipt)
    assert str(file) in str(caught.value)
    assert find_damage_in_written(store, receipt) == {"hyp.scp": words}
