"""`manifest.json`: what is read, what is compared, and what a difference is called."""

from __future__ import annotations

import enum
import shutil
from pathlib import Path
from typing import Any

import pytest

from espnet3.errors import OutputError
from espnet3.parallel import EnvironmentProvider
from espnet3.user_code.manifest import (
    Manifest,
    ManifestShard,
    difference,
    made_from,
    read_manifest,
    require_same,
    write_manifest,
)
from tests.support.writing_runners import Decode, Study

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "manifests"
SHARDS = [
    ManifestShard(shard_id=0, items=[0, 1]),
    ManifestShard(shard_id=1, items=[[2, 3], "utt4"]),
]


class Beam(enum.Enum):
    WIDE = 10


def manifest(**more: Any) -> Manifest:
    return Manifest(output_dir="exp/decode", shard_subdir="test_clean", shards=SHARDS, **more)


def made(**config: Any) -> dict[str, str]:
    return made_from(Decode(Study(config)))


@pytest.mark.parametrize("name", ["espnet3", "first", "merged"])
def test_manifests_once_written_are_read(tmp_path: Path, name: str) -> None:
    """And what was made of the same plan is the same: a fingerprint holds for ever."""
    shutil.copy(FIXTURES / f"{name}.json", tmp_path / "manifest.json")
    found = read_manifest(tmp_path)
    assert found is not None
    more: dict[str, Any] = {"fingerprint": made(folder="/shared", size=(1, None))}
    here = manifest(**more, run=None if name == "espnet3" else "/shared/decode")
    require_same(tmp_path, found, here)
    assert found.shards == SHARDS


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    one = manifest(fingerprint=made(folder="a"), run="s3://bucket/run", merged="sha256:5")
    write_manifest(tmp_path / "new" / "folder", one)
    assert read_manifest(tmp_path / "new" / "folder") == one
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["manifest.json"]
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_manifest(tmp_path / "file", one)
    assert read_manifest(tmp_path / "file") is None


def test_a_folder_in_its_place_is_said(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(OutputError, match=r"manifest.json: cannot be read"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("one", "other", "name"),
    [
        ({"a": 1}, {"a": 2}, "a"),
        ({"a": 1}, {"a": True}, "a"),
        ({"a": 1}, {"a": 1.0}, "a"),
        ({"a": [1]}, {"a": (1,)}, "a"),
        ({"a": "x"}, {"a": Path("x")}, "a"),
        ({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": None}}}, "a.b.c"),
        ({"a": {"b": 1}}, {"a": {}}, "a"),
        ({"a": Beam.WIDE}, {"a": "WIDE"}, "a"),
        ({"a": object(), "b": 1}, {"a": object(), "b": 2}, "b"),
        ({"a": object()}, {"a": ValueError()}, "a"),
        ({"b": 1}, {"a": None, "b": 1}, "a"),
    ],
)
def test_what_differs_is_named(one: Any, other: Any, name: str) -> None:
    for old, new in ((one, other), (other, one)):
        found = difference(manifest(fingerprint=made(**old)), manifest(fingerprint=made(**new)))
        assert found is not None
        assert found.startswith(f"provider.config.{name}")
    for each in (one, other):
        same = manifest(fingerprint=made(**each))
        assert difference(same, manifest(fingerprint=made(**each))) is None


def test_no_value_is_in_the_file(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest(fingerprint=made(token="hf_0123456789", deep={"key": "k3y"})))
    text = (tmp_path / "manifest.json").read_text()
    assert "hf_0123456789" not in text
    assert "k3y" not in text


def test_arguments_are_named_however_they_were_given() -> None:
    class Three(EnvironmentProvider):
        def __init__(self, config: Any, beam: int, **more: Any) -> None:
            super().__init__(config)

    one = made_from(Decode(Three({}, 5, size=3)))
    other = made_from(Decode(Three(beam=5, config={}, size=3)))
    assert one == other
    assert {"provider.config", "provider.beam", "provider.more.size"} <= one.keys()


def test_whose_the_shards_are(tmp_path: Path) -> None:
    here, there = manifest(), manifest(run="/shared/run")
    with pytest.raises(OutputError, match="belongs to the run in /shared/run"):
        require_same(tmp_path, there, here)
    with pytest.raises(OutputError, match="written in local or synchronous mode"):
        require_same(tmp_path, here, there)
    require_same(tmp_path, there, there)


def test_where_to_compute_does_not_count() -> None:
    """As in the one YAML of a recipe, of which the provider gets all; also with what is no JSON."""
    slurm = {"env": "slurm", "options": {"memory": "8GB"}}
    for more in ({}, {"vocoder": object()}):
        one = made(beam=5, **more)
        assert made(beam=5, parallel=None, **more) == one
        assert made(beam=5, parallel=slurm, **more) == one
        assert made(beam=5, parallel="sentences", **more) != one
        assert made(beam=5, model={"parallel": slurm}, **more) != one
