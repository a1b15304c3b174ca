"""A checksum is SHA-256, however much there is and however it comes."""

from __future__ import annotations

import errno
import hashlib
import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet3.checksums import Checksum, checksum

PIECES = st.lists(st.sampled_from([0, 1, 7, 1 << 15, 1 << 16, (1 << 16) + 1]), max_size=6)


def expected(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@given(PIECES)
def test_of_pieces(sizes: list[int]) -> None:
    found, whole = Checksum(), b""
    for number, size in enumerate(sizes):
        piece = bytes([number]) * size
        found.update(memoryview(piece) if number % 2 else piece)
        whole += piece
        # It can be asked at any time, and goes on.
        assert str(found) == expected(whole)
    assert (str(found), checksum(whole)) == (expected(whole), expected(whole))


@given(PIECES)
def test_of_pieces_that_is_asked_once(sizes: list[int]) -> None:
    found = Checksum()
    for size in sizes:
        found.update(bytes(size))
    assert str(found) == expected(bytes(sum(sizes)))
    assert found.digest() == hashlib.sha256(bytes(sum(sizes))).digest()


def test_what_changes_behind_a_view_does_not_count() -> None:
    data, found = bytearray(b"before"), Checksum()
    found.update(memoryview(data))
    data[:] = b"after!"
    assert str(found) == expected(b"before")


@pytest.mark.parametrize("missing", [{"_sha2", "_sha256"}, {"_hashlib"}])
@pytest.mark.parametrize("error", [ImportError("no"), OSError(errno.EMFILE, "too many")])
def test_without_one_of_its_modules(
    monkeypatch: pytest.MonkeyPatch, missing: set[str], error: Exception
) -> None:
    """Some Pythons are built without one; and at the limit of open files none can be loaded."""
    real: Callable[[str], Any] = importlib.import_module

    def refusing(name: str) -> Any:
        if name in missing:
            raise error
        return real(name)

    monkeypatch.setattr(importlib, "import_module", refusing)
    for size in (3, 1 << 17):
        assert checksum(bytes(size)) == expected(bytes(size))


@pytest.mark.parametrize("size", [3, 1 << 17])
def test_a_module_of_the_users_that_is_called_as_pythons_own_is_not_asked(
    tmp_path: Path, size: int
) -> None:
    (tmp_path / "hashlib.py").write_text("def sha256(data=b''):\n    raise SystemExit('wrong')\n")
    code = (
        "import sys\nfrom espnet3.checksums import checksum\n"
        f"sys.path.insert(0, sys.argv[1])\nprint(checksum(bytes({size})))\n"
    )
    command = [sys.executable, "-P", "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == expected(bytes(size))
