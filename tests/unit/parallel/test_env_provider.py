"""ESPnet3 renamed `make_worker_setup_fn` to `build_worker_setup_fn`; subclasses define either."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from espnet3.parallel import EnvironmentProvider, InferenceProvider

SetupFn = Callable[[], dict[str, Any]]


class Old(EnvironmentProvider):
    def make_worker_setup_fn(self) -> SetupFn:
        return lambda: {"from": "old"}


class New(EnvironmentProvider):
    def build_worker_setup_fn(self) -> SetupFn:
        return lambda: {"from": "new"}


class NewAboveOld(Old):
    def build_worker_setup_fn(self) -> SetupFn:
        return lambda: {**super(NewAboveOld, self).build_worker_setup_fn()(), "above": "new"}


class OldAboveNew(New):
    def make_worker_setup_fn(self) -> SetupFn:
        return lambda: {**super(OldAboveNew, self).make_worker_setup_fn()(), "above": "old"}


class Mixin:
    def build_worker_setup_fn(self) -> SetupFn:
        return lambda: {"from": "mixin"}


class Mixed(Mixin, EnvironmentProvider):
    pass


class Inferring(InferenceProvider):
    def build_worker_setup_fn(self) -> SetupFn:
        return lambda: {"from": "inferring"}


class Base(EnvironmentProvider):
    def build_env_local(self) -> dict[str, Any]:
        return {"from": "base"}

    def build_worker_setup_fn(self) -> SetupFn:
        return super().build_worker_setup_fn()


@pytest.mark.parametrize(
    ("provider", "env"),
    [
        (Old, {"from": "old"}),
        (New, {"from": "new"}),
        (NewAboveOld, {"from": "old", "above": "new"}),
        (OldAboveNew, {"from": "new", "above": "old"}),
        (Mixed, {"from": "mixin"}),
        (Inferring, {"from": "inferring"}),
        (Base, {"from": "base"}),
    ],
)
def test_both_names_mean_the_one_that_was_defined(
    provider: type[EnvironmentProvider], env: dict[str, Any]
) -> None:
    assert provider({}).make_worker_setup_fn()() == env
    assert provider({}).build_worker_setup_fn()() == env


def test_neither_defined_means_the_local_environment() -> None:
    class Plain(EnvironmentProvider):
        def build_env_local(self) -> dict[str, Any]:
            return {"a": self.config}

    assert Plain(1).build_worker_setup_fn()() == {"a": 1}
