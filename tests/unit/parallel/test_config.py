"""`set_parallel` validates at once, and keeps a copy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from espnet3.errors import ConfigError
from espnet3.parallel import ParallelConfig, get_parallel_config, set_parallel


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    set_parallel(None)


def current() -> ParallelConfig:
    config = get_parallel_config()
    assert config is not None
    return config


def test_nothing_is_set_at_first_and_none_goes_back_to_it() -> None:
    assert get_parallel_config() is None
    set_parallel({"n_workers": 2})
    assert current().n_workers == 2
    set_parallel(None)
    assert get_parallel_config() is None


@pytest.mark.parametrize("make", [dict, OmegaConf.create, lambda raw: ParallelConfig(**raw)])
def test_all_forms_of_a_config_mean_the_same(make: Any) -> None:
    raw = {"env": "slurm", "n_workers": 3, "options": {"cores": 1, "memory": "1GB"}}
    set_parallel(make(raw))
    assert current() == ParallelConfig(**raw)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [dict, OmegaConf.create, lambda raw: ParallelConfig(**raw)])
def test_later_changes_of_what_was_given_do_not_reach_it(make: Any) -> None:
    given = make({"env": "slurm", "options": {"job_extra_directives": ["-A x"]}})
    set_parallel(given)
    options: Any = given.options if isinstance(given, ParallelConfig) else given["options"]
    options["job_extra_directives"].append("-A y")
    options["memory"] = "1GB"
    assert current().options == {"job_extra_directives": ["-A x"]}


def test_interpolations_are_resolved_where_they_hang() -> None:
    config = OmegaConf.create({"n": 4, "parallel": {"n_workers": "${n}", "options": {"a": "${n}"}}})
    set_parallel(config.parallel)
    assert (current().n_workers, current().options) == (4, {"a": 4})


def test_nulls_of_a_yaml_file_mean_the_default() -> None:
    set_parallel({"n_workers": None, "options": None, "n_shards": None, "max_array_size": None})
    assert current() == ParallelConfig()


def test_a_wrong_config_changes_nothing() -> None:
    set_parallel({"n_workers": 2})
    for wrong in (
        {"n_worker": 3},
        {"n_workers": 0},
        {"env": "x"},
        7,
        OmegaConf.create({"env": "???"}),
    ):
        with pytest.raises(ConfigError) as caught:
            set_parallel(wrong)
        assert "\n" not in str(caught.value)
        assert caught.value.field.startswith("parallel")
    assert current().n_workers == 2


def test_the_config_cannot_be_edited() -> None:
    set_parallel({"n_workers": 2})
    with pytest.raises(ValueError, match="frozen"):
        current().n_workers = 3  # type: ignore[misc]


def test_a_path_to_a_yaml_file(tmp_path: Path) -> None:
    file = tmp_path / "parallel.yaml"
    file.write_text(
        "env: slurm\nn_workers: 4\noptions: {walltime: 12:00:00, cores: '${n_workers}'}"
    )
    for path in (file, str(file)):
        set_parallel(path)
        assert current().options == {"walltime": "12:00:00", "cores": 4}
        set_parallel(None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "No such file"),
        (b"\xff\xfe", "not UTF-8"),
        (b"env: [", "is not YAML"),
        (b"- env", "expected a mapping"),
        (b"env: slurm\nn_worker: 2", "did you mean n_workers?"),
        (b"env: ${x}", "cannot be resolved"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: bytes | None, says: str) -> None:
    file = tmp_path / "parallel.yaml"
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(ConfigError) as caught:
        set_parallel(file)
    assert says in str(caught.value).replace("; ", " ")
    assert get_parallel_config() is None
