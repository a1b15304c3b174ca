"""What is persisted of a runner with writers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from espnet3.errors import ConfigError, OutputError
from espnet3.parallel import BaseRunner, EnvironmentProvider
from espnet3.submit.writers import describe_writers, usual_run_dir
from espnet3.user_code.restoring import restored
from espnet3.user_code.writers import SET_BY_BASE, has_writers


class Nothing(EnvironmentProvider):
    def build_env_local(self) -> dict[str, Any]:
        return {}


class Plain(BaseRunner):
    @staticmethod
    def forward(idx: int, **env: Any) -> int:
        return idx


class Mixin:
    @staticmethod
    def open_writers(shard_dir: Path, **env: Any) -> dict[str, Any]:
        return {}


class Writing(Mixin, Plain):
    append_only = True

    def __init__(self, provider: Any, key: Any, **more: Any) -> None:
        super().__init__(provider, **more)
        self.key = key


def test_who_has_writers() -> None:
    assert not has_writers(Plain)
    assert has_writers(Writing)
    assert describe_writers(Plain(Nothing({}))) is None
    assert usual_run_dir(Plain(Nothing({}), output_dir="out")) is None


def test_what_the_base_sets_is_known() -> None:
    assert vars(Plain(Nothing({}))).keys() == SET_BY_BASE


def test_the_runners_own_attributes_are_kept() -> None:
    runner = Writing(Nothing({}), {"utt": (1, Path("x"))}, output_dir="out", shard_subdir="a/b")
    found = describe_writers(runner)
    assert found is not None
    assert (found.output_dir, found.shard_subdir, found.append_only) == ("out", "a/b", True)
    assert {n: restored(v) for n, v in found.attributes.items()} == {"key": runner.key}
    assert usual_run_dir(runner) == "out/a/b/espnet3_run"


def test_what_cannot_be_kept_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^runner\.key\.0: "):
        describe_writers(Writing(Nothing({}), [object()], output_dir="out"))
    with pytest.raises(OutputError, match=r"^output_dir: is missing, and Writing writes"):
        describe_writers(Writing(Nothing({}), 1))
    with pytest.raises(ConfigError, match=r"runner\.output_dir"):
        describe_writers(Writing(Nothing({}), 1, output_dir="a\udcff"))
