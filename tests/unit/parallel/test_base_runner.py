"""Local mode, the constructor, and the check of `forward`."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet3.errors import ClassError, ConfigError
from espnet3.parallel import BaseRunner, EnvironmentProvider, set_parallel
from espnet3.user_code.references import require_static_forward


class Counting(EnvironmentProvider):
    built = 0

    def build_env_local(self) -> dict[str, Any]:
        type(self).built += 1
        return dict(self.config)


class Scale(BaseRunner):
    @staticmethod
    def forward(idx: Any, *, factor: int = 1, **env: Any) -> Any:
        return [i * factor for i in idx] if isinstance(idx, list) else idx * factor


class Inherits(Scale):
    pass


@pytest.fixture(autouse=True)
def local_mode() -> Iterator[None]:
    set_parallel(None)
    Counting.built = 0
    yield
    set_parallel(None)


def test_results_come_in_order_and_the_environment_is_built_once() -> None:
    assert Scale(Counting({"factor": 3}))(range(5)) == [0, 3, 6, 9, 12]
    assert Counting.built == 1
    assert Inherits(Counting({"factor": 2}))([3, 1, 2]) == [6, 2, 4]


@pytest.mark.parametrize(
    "items", [[2, 5], (2, 5), iter([2, 5]), {2: "a", 5: "b"}, (i for i in (2, 5)), range(2, 6, 3)]
)
def test_any_iterable_will_do(items: Any) -> None:
    assert Scale(Counting({}))(items) == [2, 5]


def test_batches_of_what_cannot_be_sliced() -> None:
    runner = Scale(Counting({}), batch_size=2)
    assert runner(deque([1, 2, 3])) == [[1, 2], [3]]
    assert runner({1: "a", 2: "b", 3: "c"}) == [[1, 2], [3]]


def test_items_need_not_be_json_in_local_mode() -> None:
    thing = object()

    class Same(BaseRunner):
        @staticmethod
        def forward(idx: Any, **env: Any) -> Any:
            return idx

    assert Same(Counting({}))([thing, {1}]) == [thing, {1}]


def test_no_items_give_no_results() -> None:
    assert Scale(Counting({}))([]) == []


@given(st.lists(st.integers(), max_size=20), st.integers(1, 25))
def test_batches_are_lists_of_that_many_items(items: list[int], batch_size: int) -> None:
    class Batches(BaseRunner):
        @staticmethod
        def forward(idx: Any, **env: Any) -> Any:
            return idx

    batches = Batches(Counting({}), batch_size=batch_size)(iter(items))
    assert isinstance(batches, list)
    assert all(type(batch) is list for batch in batches)
    assert [i for batch in batches for i in batch] == items
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert all(1 <= len(batch) <= batch_size for batch in batches)


def test_what_forward_raises_reaches_the_caller() -> None:
    class Fails(BaseRunner):
        @staticmethod
        def forward(idx: Any, **env: Any) -> Any:
            raise ZeroDivisionError("as it is")

    with pytest.raises(ZeroDivisionError, match="as it is"):
        Fails(Counting({}))(range(3))


def test_forward_has_to_be_defined_and_static() -> None:
    with pytest.raises(NotImplementedError, match="define a static forward"):
        BaseRunner(Counting({}))(range(1))

    class Method(BaseRunner):
        def forward(self, idx: Any, **env: Any) -> Any:  # type: ignore[override]
            return idx

    with pytest.raises(ClassError, match="must be a @staticmethod"):
        Method(Counting({}))(range(1))
    with pytest.raises(ClassError, match="must be a @staticmethod"):
        require_static_forward(object)
    require_static_forward(Inherits)
    assert Counting.built == 1  # only for the first: the check comes before the model is loaded


@pytest.mark.parametrize("batch_size", [0, -1, True, 2.0, "2"])
def test_a_wrong_batch_size_is_refused(batch_size: Any) -> None:
    with pytest.raises(ConfigError, match="batch_size: must be an integer from 1") as caught:
        Scale(Counting({}), batch_size=batch_size)
    assert caught.value.field == "batch_size"


def test_the_folders_of_espnet3_are_accepted(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"async_specs_dir='./_async_specs' has no effect"):
        runner = Scale(
            Counting({}), async_specs_dir="./_async_specs", async_result_dir=str(tmp_path / "runs")
        )
    submitted = [runner.submit(range(3)) for _ in range(2)]
    assert len({run.run_dir for run in submitted}) == 2
    for run in submitted:
        assert Path(run.run_dir).parent == tmp_path / "runs"
        run.wait(timeout=60, interval=0.1)
        assert run.collect() == [0, 1, 2]


def test_a_provider_remembers_its_arguments_also_when_it_is_pickled() -> None:
    class Free(EnvironmentProvider):
        def __init__(self, a: int, *rest: int, b: int = 0) -> None:  # no call of the base class
            self.a = a

    assert Free(1, 2, b=3).constructor_arguments == ((1, 2), {"b": 3})
    assert Free(1).constructor_arguments == ((1,), {})
    again = pickle.loads(pickle.dumps(Counting({"x": 1})))
    assert again.constructor_arguments == (({"x": 1},), {})
    assert again.config == {"x": 1}


def test_a_provider_without_an_environment_says_so() -> None:
    with pytest.raises(NotImplementedError, match="EnvironmentProvider must define build_env"):
        EnvironmentProvider({}).build_env_local()
    assert Counting({"a": 1}).make_worker_setup_fn()() == {"a": 1}
