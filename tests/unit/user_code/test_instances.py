"""What is known of a provider: out of its user's sight, in its copies too."""

from __future__ import annotations

import collections
import copy
import functools
import gc
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import pytest

from espnet3.parallel import EnvironmentProvider, InferenceProvider
from espnet3.user_code.instances import changed_attributes

T = TypeVar("T")


class Plain(EnvironmentProvider):
    def __init__(self, config: Any, *, size: int = 1) -> None:
        super().__init__(config)
        self.size = size
        self.extra = {"a": [size]}


class Slotted(Plain):
    __slots__ = ("__hidden", "shown")

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.shown = [1]
        self.__hidden = 1


class WithLock(Plain):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.lock: Any = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        state.pop("lock", None)
        return state


class Refilled(WithLock):
    def __setstate__(self, state: dict[str, Any]) -> None:
        assert state.keys() <= {"config", "extra", "size"}
        vars(self).update(state)
        self.lock = threading.Lock()


class ByTuple(Plain):
    def __getstate__(self) -> Any:
        return self.config, self.size, self.extra

    def __setstate__(self, state: Any) -> None:
        self.config, self.size, self.extra = state


class Backwards(Plain):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.builder = Builder(self)


class Builder:
    def __init__(self, provider: Any) -> None:
        self.provider = provider


class Inherits:
    def __setstate__(self, state: Any) -> None:
        vars(self).update(state)


class Mixed(Plain, Inherits):
    pass


CLASSES = [Plain, Slotted, WithLock, Refilled, ByTuple, Backwards, Mixed]
COPIES = [copy.copy, copy.deepcopy]
COPIES += [lambda p, n=n: pickle.loads(pickle.dumps(p, n)) for n in range(6)]  # type: ignore[misc]


@pytest.mark.parametrize("cls", CLASSES)
def test_nothing_of_ours_is_seen(cls: type[Any]) -> None:
    provider = cls({"beam": 1})
    own = {"config", "size", "extra", "lock", "builder"}
    for each in (provider, *(again(provider) for again in COPIES if cls is not WithLock)):
        assert {"config", "size", "extra"} <= vars(each).keys() <= own
        assert each.constructor_arguments == (({"beam": 1},), {})
        assert "_espnet3" not in repr(each.__getstate__())


@pytest.mark.parametrize("again", COPIES)
@pytest.mark.parametrize("cls", CLASSES)
def test_a_copy_knows_what_its_original_does(cls: Any, again: Callable[[Any], Any]) -> None:
    provider = cls({"beam": 1})
    copied = again(provider)
    assert changed_attributes(copied) == ({}, [])
    copied.config = {"beam": 2}
    assert [*changed_attributes(copied)[0]] == ["config"]
    assert changed_attributes(provider) == ({}, [])
    provider.extra["a"].append(2)
    assert [*changed_attributes(again(provider))[0]] == ["extra"]
    assert [*changed_attributes(again(again(provider)))[0]] == ["extra"]
    if cls is not ByTuple:
        del provider.size
        assert changed_attributes(again(again(provider)))[1] == ["size"]


def test_a_provider_that_something_in_it_refers_to_is_freed() -> None:
    gone = weakref.ref(Backwards({}))
    gc.collect()
    assert gone() is None


def test_cached_properties_are_no_attributes() -> None:
    class Caching(EnvironmentProvider):
        @functools.cached_property
        def dataset(self) -> Any:
            return object()

    provider = Caching({})
    assert provider.dataset is provider.dataset
    assert changed_attributes(provider) == ({}, [])


def test_a_second_call_of_the_constructor_is_a_change() -> None:
    provider = Plain({})
    provider.__init__({}, size=2)  # type: ignore[misc]
    assert [*changed_attributes(provider)[0]] == ["size", "extra"]


def test_classes_of_other_bases() -> None:
    class Many(Generic[T], InferenceProvider, collections.UserDict[str, T]):
        def __init__(self, config: Any) -> None:
            collections.UserDict.__init__(self)
            InferenceProvider.__init__(self, config)

    assert changed_attributes(Many({})) == ({}, [])
