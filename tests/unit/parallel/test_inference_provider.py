"""InferenceProvider: dataset, model and params, from a dict or an OmegaConf config."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from espnet3.parallel import BaseRunner, InferenceProvider

SEEN: list[Any] = []


class Speech(InferenceProvider):
    @staticmethod
    def build_dataset(config: Any) -> Any:
        SEEN.append(config)
        return [f"utterance {i}" for i in range(config["n"])]

    @staticmethod
    def build_model(config: Any) -> Any:
        return ("model", config["n"], config.get("beam"))


class Decode(BaseRunner):
    @staticmethod
    def forward(idx: Any, *, dataset: Any, model: Any, **env: Any) -> Any:
        return dataset[idx], model[2], sorted(env)


@pytest.fixture(params=[dict, OmegaConf.create], ids=["dict", "omegaconf"])
def config(request: pytest.FixtureRequest) -> Any:
    SEEN.clear()
    return request.param({"n": 2})


def test_dataset_and_model_are_built_from_the_config(config: Any) -> None:
    env = Speech(config).build_env_local()
    assert env == {"dataset": ["utterance 0", "utterance 1"], "model": ("model", 2, None)}
    assert [config] == SEEN
    assert type(SEEN[0]) is type(config)


def test_params_are_in_the_environment_and_in_the_config(config: Any) -> None:
    provider = Speech(config, params={"beam": 5, "names": ["a"]})
    env = provider.build_env_local()
    assert {name: env[name] for name in ("beam", "names")} == {"beam": 5, "names": ["a"]}
    assert env["model"] == ("model", 2, 5)
    assert provider.config["beam"] == 5
    assert list(provider.config["names"]) == ["a"]
    assert provider.params == {"beam": 5, "names": ["a"]}


def test_two_providers_share_a_config(config: Any) -> None:
    first = Speech(config, params={"beam": 5})
    second = Speech(config, params={"beam": 6})
    assert "beam" not in config
    assert (first.config["beam"], second.config["beam"]) == (5, 6)


def test_a_struct_config_takes_params() -> None:
    config = OmegaConf.create({"n": 2})
    OmegaConf.set_struct(config, True)
    assert Speech(config, params={"beam": 5}).config["beam"] == 5


def test_the_environment_reaches_forward(config: Any) -> None:
    results = Decode(Speech(config, params={"beam": 5}))(range(2))
    assert results == [("utterance 0", 5, ["beam"]), ("utterance 1", 5, ["beam"])]
    assert len(SEEN) == 1


def test_local_and_worker_environment_are_the_same(config: Any) -> None:
    provider = Speech(config, params={"beam": 5})
    assert provider.make_worker_setup_fn()() == provider.build_env_local()


def test_the_setup_function_does_not_hold_the_provider(config: Any) -> None:
    provider = Speech(config)
    setup, alive = provider.make_worker_setup_fn(), weakref.ref(provider)
    del provider
    gc.collect()
    assert alive() is None
    assert sorted(setup()) == ["dataset", "model"]


def test_params_given_later_do_not_change_it(config: Any) -> None:
    params = {"beam": 5}
    provider = Speech(config, params=params)
    params["beam"] = 6
    assert provider.build_env_local()["beam"] == 5


def test_a_config_with_interpolations_follows_the_params() -> None:
    config = OmegaConf.create({"n": "${count}", "count": 1})
    assert isinstance(config, DictConfig)
    assert len(Speech(config, params={"count": 3}).build_env_local()["dataset"]) == 3


def test_what_is_not_defined_is_named() -> None:
    with pytest.raises(NotImplementedError, match=r"define a static build_dataset\(config\)"):
        InferenceProvider({}).build_env_local()

    class OnlyData(InferenceProvider):
        @staticmethod
        def build_dataset(config: Any) -> Any:
            return []

    with pytest.raises(NotImplementedError, match=r"define a static build_model\(config\)"):
        OnlyData({}).build_env_local()
