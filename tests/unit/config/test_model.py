"""The `parallel` section: what is accepted, and how mistakes are named."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet3.config.model import ENVS, ParallelConfig, parse_parallel
from espnet3.errors import ConfigError
from tests.support.strategies import JSON, TEXT, models


@given(models(ParallelConfig), st.sampled_from(ENVS))
def test_what_was_parsed_parses_again(config: ParallelConfig, env: str) -> None:
    config = config.model_copy(update={"env": env})
    assert parse_parallel(config.model_dump()) == config
    assert ParallelConfig.model_validate_json(config.model_dump_json()) == config


def test_defaults() -> None:
    config = parse_parallel({})
    assert config == ParallelConfig()
    assert (config.env, config.n_workers, config.async_mode) == ("local", 1, False)


@given(st.dictionaries(TEXT, JSON, max_size=4))
def test_options_are_kept_unchanged(options: dict[str, Any]) -> None:
    assert parse_parallel({"env": "slurm", "options": options}).options == options


def test_empty_values_of_yaml_are_defaults() -> None:
    empty = dict.fromkeys(ParallelConfig.model_fields)
    assert parse_parallel({**empty, "env": "local"}) == ParallelConfig()


def test_whole_seconds_are_seconds() -> None:
    assert parse_parallel({"checkpoint_every": 5}).checkpoint_every == 5.0


@pytest.mark.parametrize(
    ("raw", "field", "words"),
    [
        ({"n_worker": 2}, "parallel.n_worker", "did you mean n_workers?"),
        ({"zzz": 2}, "parallel.zzz", "valid are "),
        ({3: 2}, "parallel.3", "unknown key"),
        ({"finish": {"colect": "a"}}, "parallel.finish.colect", "key; did you mean collect?"),
        (
            {"overrides": [{"ranks": "1", "options": {"a": 1}, "rank": 1}]},
            "parallel.overrides.0.rank",
            "did you mean ranks?",
        ),
        ({"env": "slrum"}, "parallel.env", "'slrum'"),
        ({"env": ["slurm"]}, "parallel.env", "did you mean slurm?"),
        ({"env": None}, "parallel.env", "None"),
        ({"env": "SLURM"}, "parallel.env", "did you mean slurm?"),
        ({"N_workers": 2}, "parallel.N_workers", "did you mean n_workers?"),
        ({"on_error": "recrod"}, "parallel.on_error", "got 'recrod'; did you mean record?"),
        ({"results": "Pickle"}, "parallel.results", "got 'Pickle'; did you mean pickle?"),
        ({"trust": "groups"}, "parallel.trust", "got 'groups'; did you mean group?"),
        ({"n_workers": "4"}, "parallel.n_workers", "got '4'"),
        ({"n_workers": 0}, "parallel.n_workers", "got 0"),
        ({"n_workers": True}, "parallel.n_workers", "got True"),
        ({"n_workers": 1.5}, "parallel.n_workers", "got 1.5"),
        ({"n_shards": 0}, "parallel.n_shards", "got 0"),
        ({"shards_per_job": -1}, "parallel.shards_per_job", "got -1"),
        ({"max_array_size": 0}, "parallel.max_array_size", "got 0"),
        ({"job_array": "yes"}, "parallel.job_array", "got 'yes'"),
        ({"checkpoint_every": 0}, "parallel.checkpoint_every", "got 0"),
        ({"checkpoint_every": float("inf")}, "parallel.checkpoint_every", "got inf"),
        ({"checkpoint_every": float("nan")}, "parallel.checkpoint_every", "got nan"),
        ({"lease": 20}, "parallel.heartbeat", "half of the lease at most, got 30.0"),
        ({"lease": 20, "heartbeat": 11}, "parallel.heartbeat", "half of the lease at most"),
        ({"lease": 0}, "parallel.lease", "got 0"),
        ({"heartbeat": float("inf")}, "parallel.heartbeat", "got inf"),
        ({"schedule": "dynamc"}, "parallel.schedule", "did you mean dynamic?"),
        ({"on_error": "continue"}, "parallel.on_error", "got 'continue'"),
        ({"results": "yaml"}, "parallel.results", "got 'yaml'"),
        ({"options": ["a"]}, "parallel.options", "got ['a']"),
        ({"options": {"a": float("nan")}}, "parallel.options.a", "nan is not JSON"),
        ({"options": {"a": [{"b": -float("inf")}]}}, "parallel.options.a", "-inf is not JSON"),
        ({"options": {1: 2}}, "parallel.options.1", "valid string"),
        ({"environment_variables": "HOME"}, "parallel.environment_variables", "got 'HOME'"),
        ({"environment_variables": [1]}, "parallel.environment_variables.0", "got 1"),
    ],
)
def test_mistakes_are_named(raw: dict[Any, Any], field: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_parallel(raw)
    message = str(caught.value)
    assert message.startswith(f"{field}")
    assert caught.value.field.startswith(field)
    assert words in message
    assert "\n" not in message


def test_objects_in_options_are_named() -> None:
    with pytest.raises(ConfigError, match=r"^parallel\.options\.a"):
        parse_parallel({"options": {"a": object()}})


def test_the_section_may_have_another_name() -> None:
    with pytest.raises(ConfigError, match=r"^parallel_gpu\.n_worker: "):
        parse_parallel({"n_worker": 1}, where="parallel_gpu")


def test_a_word_beside_true_and_false_is_named() -> None:
    with pytest.raises(ConfigError) as raised:
        parse_parallel({"preflight": "bild"})
    message = str(raised.value)
    assert message.startswith("parallel.preflight: ")
    assert "'build'" in message
    assert message.endswith("got 'bild'; did you mean build?")
