"""What is written for ESPnet3, of 2025 or 2026, runs alike in all three modes."""

from __future__ import annotations

import asyncio
import importlib
import json
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from espnet3 import AsyncRun, Run
from espnet3.cli import run as command
from espnet3.errors import ConfigError, MissingExtra
from espnet3.parallel import (
    get_client,
    get_parallel_config,
    parallel_for,
    parallel_map,
    set_parallel,
)
from espnet3.parallel import parallel as low
from espnet3.parallel.clusters import EXTRAS
from espnet3.runner.base_runner import BaseRunner
from tests.support.espnet3_plugins import WithMore, plugin_env, with_more
from tests.support.espnet3_style import (
    ByClass,
    Decode,
    Scaled,
    SetupOnly,
    Shifted,
    Where,
    World,
)
from tests.support.sync_runners import make_env

LOCAL = {"env": "local", "n_workers": 2, "preflight": False}
ONE = {**LOCAL, "n_workers": 1}
Mode = Callable[[BaseRunner, Any], Any]


@pytest.fixture(params=["local", "synchronous", "detached"], scope="module")
def name_of_mode(request: pytest.FixtureRequest) -> Iterator[str]:
    """One mode after the other, so that the synchronous one starts its workers once."""
    yield request.param
    set_parallel(None)


@pytest.fixture(autouse=True)
def nothing_set(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "mode" not in request.fixturenames:
        set_parallel(None)


@pytest.fixture
def mode(name_of_mode: str, tmp_path: Path) -> Mode:
    """Runs a runner in one of the modes, and gives the results."""

    def run(runner: BaseRunner, items: Any) -> Any:
        set_parallel(None if name_of_mode == "local" else LOCAL)
        if name_of_mode != "detached":
            return runner(items)
        runner.run_dir = tmp_path / "run"
        submitted = runner.submit(items)
        submitted.wait(120, 0.1)
        return submitted.collect()

    return run


def test_the_old_names_are_the_same_classes() -> None:
    for module, name in [
        ("base_runner", "BaseRunner"),
        ("env_provider", "EnvironmentProvider"),
        ("inference_provider", "InferenceProvider"),
    ]:
        old = importlib.import_module(f"espnet3.runner.{module}")
        assert getattr(old, name) is getattr(
            importlib.import_module(f"espnet3.parallel.{module}"), name
        )
        assert name in old.__all__


def test_a_provider_that_defines_build_worker_setup_fn_alone(mode: Mode) -> None:
    assert mode(ByClass(SetupOnly({"scale": 2})), range(3)) == [
        ["ByClass", 0], ["ByClass", 2], ["ByClass", 4],
    ]  # fmt: skip


def test_a_class_method_forward_has_its_own_class(mode: Mode) -> None:
    assert mode(Shifted(SetupOnly({"scale": 2})), range(2)) == [
        ["Shifted", 1000], ["Shifted", 1002],
    ]  # fmt: skip


def test_params_by_position_and_values_that_nobody_uses(mode: Mode) -> None:
    config = OmegaConf.create({"step": 3, "exp_dir": "???", "stats": "${exp_dir}/stats"})
    assert mode(Decode(Scaled(config, {"beam": 5})), range(2)) == [[0, [5], 5], [3, [5], 5]]


def test_a_missing_value_that_is_used_is_an_error(mode: Mode) -> None:
    config = OmegaConf.create({"step": "???"})
    with pytest.raises(Exception, match=r"(?i)missing mandatory value: step"):
        mode(Decode(Scaled(config, {"beam": 5})), range(2))


def test_a_config_file_may_lack_what_nobody_uses(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    text = f"""
        provider: {{_target_: {Scaled.__module__}.Scaled, params: {{beam: 5}}}}
        runner: {{_target_: {Decode.__module__}.Decode}}
        items: 2
        run_dir: {tmp_path}/run
        config:
          step: 3
          exp_dir: ???
          stats:
            - ${{config.exp_dir}}/stats
        parallel: {json.dumps(LOCAL)}
    """
    file.write_text(textwrap.dedent(text))
    assert command(["submit", str(file)]) == 0
    run = Run(tmp_path / "run")
    run.wait(120, 0.1)
    assert run.collect() == [[0, [5], 5], [3, [5], 5]]


# --- detached -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "at_first"),
    [({}, "00112233"), ({"shards_per_job": 2}, "00002222"), ({"schedule": "dynamic"}, None)],
)
def test_a_worker_knows_its_world(
    tmp_path: Path, how: dict[str, Any], at_first: str | None
) -> None:
    """While the environment is built, the rank is that of the task's first shard."""
    set_parallel({**LOCAL, "n_shards": 4, **how})
    run = Where(World({}), run_dir=tmp_path / "run", async_mode=True)(range(8))
    run.wait(120, 0.1)
    results = run.collect()
    assert [rank for rank, *_ in results] == list("00112233")
    assert {(size, size_at_first) for _, size, _, size_at_first in results} == {("4", "4")}
    built = "".join(rank for *_, rank, _ in results)
    assert built == at_first or (at_first is None and set(built) <= {"0", "1"})


def test_one_item_in_the_foreground_knows_its_world(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    set_parallel({**LOCAL, "n_shards": 4})
    run = Where(World({}), run_dir=tmp_path / "run", async_mode=True)(range(8))
    run.wait(120, 0.1)
    capfd.readouterr()
    assert command(["run-shard", str(tmp_path / "run"), "2", "--item", "5"]) == 0
    assert json.loads(capfd.readouterr().out)["result"] == ["2", "4", "2", "4"]


@pytest.mark.parametrize("schedule", ["static", "dynamic"])
def test_a_run_gives_its_jobs_and_specs(tmp_path: Path, schedule: str) -> None:
    set_parallel({**LOCAL, "n_shards": 4, "schedule": schedule})
    runner = Where(World({}), run_dir=tmp_path / "run", async_mode=True)
    assert runner.async_specs_dir == tmp_path / "run"
    run = runner(range(8))
    assert runner.async_specs_dir == tmp_path / "run/shards"
    found = list(run)
    assert [set(job) for job in found] == [{"job_id", "spec", "result"}] * 4
    assert sorted(runner.async_specs_dir.iterdir()) == [Path(job["spec"]) for job in found]
    assert {job["job_id"] for job in found} == set(run.submitted.job_ids)
    assert {job["result"] for job in found} == {f"{tmp_path}/run/results"}

    async def awaited() -> list[Any]:
        return [job async for job in AsyncRun(run.run_dir)]

    assert asyncio.run(awaited()) == found
    run.wait(120, 0.1)


# --- configs, clients, errors ---------------------------------------------------------------------


def test_the_config_is_read_as_a_dict_config_is() -> None:
    set_parallel({"env": "slurm", "n_workers": 3, "options": {"queue": "gpu", "a": {"b": 1}}})
    config = get_parallel_config()
    assert config is not None
    assert config.get("n_workers") == int(config.get("n_workers", 1)) == 3
    assert config["env"] == getattr(config, "env", "local") == "slurm"
    assert config.get("nothing", 7) == 7
    assert config.get("nothing") is None
    assert "env" in config
    assert "nothing" not in config
    assert dict(config)["options"] == {"queue": "gpu", "a": {"b": 1}}
    options: Any = config.options
    assert (options.queue, options["queue"], options.get("queue")) == ("gpu",) * 3
    assert options.a.b == 1
    assert not hasattr(options, "nothing")
    with pytest.raises(KeyError):
        config["nothing"]


def test_options_stay_attributes_in_copies_and_by_default() -> None:
    set_parallel(LOCAL)
    config = get_parallel_config()
    assert config is not None
    assert not hasattr(config.options, "queue")
    set_parallel({**config, "env": "slurm", "options": {"queue": "gpu"}})
    again: Any = get_parallel_config()
    assert again.model_copy(deep=True).options.queue == "gpu"


def test_loops_use_the_client_around_them() -> None:
    with get_client(ONE, setup_fn=make_env) as client:
        assert parallel_map(plugin_env, [1]) == [["offset", "name"]]
        assert [*parallel_for(plugin_env, [1, 2])] == [["offset", "name"]] * 2
        with get_client(ONE) as inner:
            assert parallel_map(str, [1, 2]) == ["1", "2"]
            assert inner.status == "running"
        assert client.status == "running"
        assert parallel_map(plugin_env, [1]) == [["offset", "name"]]
    with pytest.raises(ConfigError, match="set_parallel"):  # as before
        parallel_map(str, [1])


def test_a_subclass_calls_the_setup_of_the_plugin() -> None:
    with get_client(ONE) as client:
        client.register_worker_plugin(WithMore(make_env), name="env")
        assert parallel_map(with_more, [1, 2], client=client) == [106, 107]


def test_errors_are_those_that_espnet3_raises_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="must be an integer from 1"):
        Where(World({}), batch_size=0)
    with pytest.raises(ValueError, match="is not an env that espnet3 knows"):
        set_parallel({"env": "cloud"})
    monkeypatch.setitem(EXTRAS, "kube", ("no_such_module", "kube"))
    for kind in (RuntimeError, ImportError, ValueError, ConfigError):
        with pytest.raises(kind, match=r"needs no_such_module .* pip install 'espnet3\[kube\]'"):
            low.build_client({"env": "kube"})
    with pytest.raises(MissingExtra) as caught:
        low.build_client({"env": "kube"})
    assert caught.value.field == "parallel.env"
