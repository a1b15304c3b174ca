"""`espnet3.parallel.parallel`: clients, environments and parallel loops, on real Dask clusters."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster
from omegaconf import OmegaConf
from pydantic import JsonValue

from espnet3._jobqueue import CLUSTERS
from espnet3.config.model import ParallelConfig
from espnet3.errors import ConfigError, NoWorkers, SubmissionRefused, WorkersKilled
from espnet3.parallel import parallel as low
from espnet3.parallel import set_parallel
from espnet3.parallel.clusters import make_cluster
from espnet3.parallel.dask_tasks import _take
from espnet3.parallel.parallel import (
    DictReturnWorkerPlugin,
    get_client,
    make_client,
    parallel_for,
    parallel_map,
    wrap_func_with_worker_env,
)
from tests.support.helpers import ROOT, python, wait_for
from tests.support.sync_runners import (
    Counted,
    add_all,
    add_offset,
    bad_env,
    counting,
    fail_at_seven,
    kill_at_seven,
    make_env,
    names,
    size_of,
    slow_first,
)

LOCAL = {"env": "local", "n_workers": 2}
IMPATIENT = {"scheduler_kwargs": {"allowed_failures": 0}}


@pytest.fixture(scope="module")
def shared() -> Iterator[Any]:
    with get_client(LOCAL) as client:
        yield client


@pytest.fixture
def client(shared: Any) -> Iterator[Any]:
    """A client whose workers have no environment."""
    yield shared
    if "env" in shared.run(names_of_plugins).popitem()[1]:
        shared.unregister_worker_plugin("env")


def names_of_plugins(dask_worker: Any) -> list[str]:
    return list(dask_worker.plugins)


def double(item: int) -> int:
    return 2 * item


# --- the guide ------------------------------------------------------------------------------------


def test_the_example_of_the_guide() -> None:
    cfg = OmegaConf.create({"parallel_cpu": {"env": "local", "n_workers": 2}})
    processed = []
    with get_client(cfg.parallel_cpu) as client:
        cluster: Any = client.cluster
        plugin = DictReturnWorkerPlugin(setup_fn=make_env)
        client.register_worker_plugin(plugin, name="env")
        for item in parallel_for(add_offset, range(10), client=client):
            processed.append(item)
    assert sorted(processed) == [*range(100, 110)]
    assert client.status == "closed"
    assert cluster.status.name == "closed"


def test_the_names_of_2026() -> None:
    assert low.build_client is low.make_client
    assert low.build_local_gpu_cluster is low.make_local_gpu_cluster
    assert set(low.__all__) <= set(dir(low))


def test_without_a_client_one_is_made_from_what_was_set() -> None:
    set_parallel(LOCAL)
    try:
        assert parallel_map(add_offset, range(5), setup_fn=make_env) == [*range(100, 105)]
        assert sorted(parallel_for(add_offset, [1, 2], setup_fn=make_env)) == [101, 102]
    finally:
        set_parallel(None)
    with pytest.raises(ConfigError, match="set_parallel"):
        parallel_map(double, [1])


def test_a_client_that_dask_made_does_as_well() -> None:
    with (
        LocalCluster(n_workers=1, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        assert parallel_map(add_offset, range(3), client=client, setup_fn=make_env) == [
            100, 101, 102,
        ]  # fmt: skip


# --- loops ----------------------------------------------------------------------------------------


def test_parallel_map_keeps_the_order(client: Any) -> None:
    assert parallel_map(double, range(5000), client=client) == [*range(0, 10_000, 2)]
    assert parallel_map(double, iter([3, 1, 2]), client=client) == [6, 2, 4]
    assert parallel_map(double, [], client=client) == []


def test_parallel_for_gives_what_is_completed(client: Any) -> None:
    results = [*parallel_for(slow_first, range(40), client=client)]
    assert sorted(results) == [*range(40)]
    assert results[-1] == 0  # nothing waits behind it, in its worker's queue


def test_parallel_for_has_a_bounded_number_under_way(client: Any) -> None:
    taken: list[int] = []
    results = parallel_for(double, counting(taken), client=client)
    assert len({*itertools.islice(results, 3)}) == 3
    assert len(taken) < 10_000
    results.close()  # type: ignore[attr-defined]
    after = len(taken)
    assert parallel_map(double, [1], client=client) == [2]
    assert len(taken) == after


def test_a_slow_source_holds_nothing_back() -> None:
    def numbers() -> Iterator[int]:
        for number in itertools.count():
            time.sleep(0.03)  # as one that reads from a network
            yield number

    assert 1 <= len(_take(numbers(), 20_000)) < 20
    assert _take(iter(range(9)), 5) == [*range(5)]


def test_an_element_that_cannot_be_sent(client: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TypeError, match="'generator' object\nwhile sending the items from <gen"):
        parallel_map(double, [(int(digit) for digit in "12")], client=client)
    assert "Traceback" not in capfd.readouterr().err
    assert parallel_map(double, [1], client=client) == [2]


def test_large_arguments_travel_once(client: Any) -> None:
    Counted.pickled = 0
    assert parallel_map(size_of, range(200), client=client, large=Counted()) == [1_000_000] * 200
    assert Counted.pickled == 1
    assert not [
        name for names in client.run(names_of_plugins).values() for name in names if "call" in name
    ]


def test_large_results_do_not_all_pass_through_memory_at_once() -> None:
    """50 results of 8 MB, 400 MB in all; the driver never holds more than a few of them."""
    code = """
import resource
from espnet3.parallel.parallel import get_client, parallel_for
from tests.support.sync_runners import eight_megabytes

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux

if __name__ == "__main__":
    with get_client({"env": "local", "n_workers": 2}) as client:
        before = peak()
        sizes = [len(result) for result in parallel_for(eight_megabytes, range(50), client=client)]
        print(len(sizes), sum(sizes) / 2**20, peak() - before)
"""
    done = python("-c", code, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    n_results, received, grown = map(float, done.stdout.split())
    assert (n_results, received) == (50, 400)
    assert grown < 200


def test_functions_without_a_signature(client: Any) -> None:
    assert parallel_map(int, ["1", "2"], client=client, setup_fn=make_env) == [1, 2]
    assert parallel_map(pow, [1, 2, 3], client=client, exp=2) == [1, 4, 9]


def test_an_error_names_the_element(client: Any) -> None:
    with pytest.raises(KeyError) as caught:
        parallel_map(fail_at_seven, range(20), client=client)
    assert caught.value.__notes__[0].startswith("while computing item 7 on tcp://")
    assert "fail_at_seven" in caught.value.__notes__[1]


def test_an_innocent_neighbour_is_not_blamed() -> None:
    """Dask gives up every task of a worker that died; only one of them is to blame."""
    with (
        get_client({**LOCAL, "n_workers": 1, "options": IMPATIENT}) as client,
        pytest.raises(WorkersKilled, match=r"^item 7 killed"),
    ):
        parallel_map(kill_at_seven, range(9), client=client)


def test_workers_that_go_and_are_not_replaced_are_missed() -> None:
    with get_client({**LOCAL, "n_workers": 1, "start_timeout": 2}) as client:
        results = parallel_for(double, itertools.count(), client=client)
        assert next(results) == 0
        cluster: Any = client.cluster
        cluster.scale(0)
        with pytest.raises(NoWorkers, match="no worker came within 2 s"):
            for _ in results:
                pass


def test_results_that_were_lost_with_the_last_worker_are_missed() -> None:
    """Dask knows them to be finished, and would wait for ever for somebody to compute them anew."""
    with get_client({**LOCAL, "n_workers": 1, "start_timeout": 2}) as client:
        results = parallel_for(double, itertools.count(), client=client)
        for number, _ in enumerate(results):
            if number % 1000 == 0 and any(client.processing().values()):
                break  # a batch is under way beside the one that was fetched
        wait_for(lambda: not any(client.processing().values()), "it is not computed")
        cluster: Any = client.cluster
        cluster.scale(0)
        wait_for(lambda: not client.nthreads(), "the worker does not go")
        with pytest.raises(NoWorkers, match="no worker came within 2 s"):
            for _ in results:
                pass


# --- environments ---------------------------------------------------------------------------------


def test_functions_get_the_entries_that_they_name(client: Any) -> None:
    assert parallel_map(names, [0], client=client, setup_fn=make_env) == [["name", "offset"]]
    assert parallel_map(add_all, [1], client=client, more=1000) == [1101]
    assert parallel_map(double, [1], client=client) == [2]


def test_a_conflict_is_an_error_at_submission(client: Any) -> None:
    taken: list[int] = []
    with pytest.raises(ValueError, match="offset: both in the worker's environment and passed"):
        parallel_for(add_all, counting(taken), client=client, setup_fn=make_env, offset=1)
    with pytest.raises(ValueError, match="offset: both"):
        parallel_map(add_all, [1], client=client, offset=1)
    assert taken == []


def test_wrapped_functions_go_through_dask_s_own_calls(client: Any) -> None:
    client.register_plugin(DictReturnWorkerPlugin(make_env), name="env")
    wrapped = wrap_func_with_worker_env(add_all)
    assert client.submit(wrapped, 5).result() == 105
    assert client.gather(client.map(wrapped, [1, 2], more=10)) == [111, 112]
    with pytest.raises(ValueError, match="offset: both"):
        client.submit(wrapped, 5, offset=1).result()


def test_an_environment_has_to_be_a_dict(client: Any) -> None:
    with pytest.raises(ValueError, match="setup_fn must return a dict, got int"):
        parallel_map(double, [1], client=client, setup_fn=bad_env)


# --- every env ------------------------------------------------------------------------------------

JOB: dict[str, JsonValue] = {"cores": 2, "memory": "3GB", "log_directory": None}
BATCH: dict[str, tuple[dict[str, JsonValue], str]] = {
    "slurm": ({"account": "speech", "walltime": "02:00:00"}, "#SBATCH -A speech"),
    "pbs": ({"account": "speech"}, "#PBS -A speech"),
    "sge": ({"project": "speech"}, "#$ -P speech"),
    "lsf": ({"project": "speech", "ncpus": 2, "mem": 10**9}, '#BSUB -P "speech"'),
    "htcondor": ({"disk": "1GB"}, "RequestDisk"),
    "moab": ({"account": "speech"}, "#PBS -A speech"),
    "oar": (
        {"project": "speech", "memory_per_core_property_name": "memcore"},
        "#OAR --project speech",
    ),
}


def test_every_batch_system_has_options_here() -> None:
    assert {*BATCH} == {*CLUSTERS}


@pytest.mark.parametrize("env", BATCH)
def test_options_reach_the_batch_system(
    env: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No scheduler is there: its submit command is missing, which is said at once."""
    monkeypatch.setenv("PATH", str(tmp_path))
    options, line = BATCH[env]
    config = ParallelConfig(env=env, options={**JOB, **options})  # type: ignore[arg-type]
    with make_cluster(config) as cluster:
        assert line in cluster.job_script()
    with pytest.raises(SubmissionRefused, match=r"No such file|not found|Command: bsub"):
        make_client(config)


@pytest.mark.parametrize(
    ("env", "module", "extra"),
    [
        ("local_gpu", "dask_cuda", "gpu"),
        ("kube", "dask_kubernetes.operator", "kube"),
        ("ssh", "asyncssh", "ssh"),
    ],
)
def test_a_missing_package_is_named(
    env: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with pytest.raises(ConfigError, match=rf"pip install 'espnet3\[{extra}\]'"):
        make_client({"env": env, "options": {"hosts": ["localhost"] * 2} if env == "ssh" else {}})


class StandInCUDACluster(LocalCluster):
    """A stand-in for dask_cuda.LocalCUDACluster, which asks the GPU's driver when it is made.

    Takes, of the keyword arguments that dask-cuda documents, those below, and no others.
    """

    def __init__(
        self,
        *,
        n_workers: int,
        threads_per_worker: int = 1,
        CUDA_VISIBLE_DEVICES: list[int] | None = None,  # noqa: N803 (its name there)
        device_memory_limit: float | str = 0.8,
        rmm_pool_size: str | None = None,
    ) -> None:
        self.given = (CUDA_VISIBLE_DEVICES, device_memory_limit, rmm_pool_size)
        super().__init__(
            n_workers=n_workers, threads_per_worker=threads_per_worker, dashboard_address=":0"
        )


def test_options_reach_the_gpu_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    standin = types.ModuleType("dask_cuda")
    standin.LocalCUDACluster = StandInCUDACluster  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dask_cuda", standin)
    options = {"CUDA_VISIBLE_DEVICES": [1, 0], "device_memory_limit": "8GB"}
    with get_client({"env": "local_gpu", "n_workers": 2, "options": options}) as client:
        assert parallel_map(double, range(5), client=client) == [*range(0, 10, 2)]
        cluster: Any = client.cluster
        assert len(cluster.workers) == 2
    assert cluster.given == ([1, 0], "8GB", None)
    with pytest.raises(ConfigError, match=r"memory: .*did you mean device_memory_limit\?"):
        make_client({"env": "local_gpu", "options": {"device_memory": 1}})


class NVMLError(Exception):
    """A stand-in for that of nvidia-ml-py, which dask-cuda lets through."""

    __module__ = "pynvml"


def test_a_host_without_a_gpu_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def cluster(**options: Any) -> Any:
        raise NVMLError("NVML Shared Library Not Found")

    standin = types.ModuleType("dask_cuda")
    standin.LocalCUDACluster = cluster  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dask_cuda", standin)
    with pytest.raises(ConfigError) as caught:
        make_client({"env": "local_gpu"})
    assert str(caught.value) == (
        "parallel.env: 'local_gpu' needs a GPU and its driver on this host: NVML Shared Library "
        "Not Found"
    )


def test_kubernetes_without_a_cluster() -> None:
    """The real dask-kubernetes; in its own process, at whose end it says more."""
    code = (
        "from espnet3.parallel.parallel import make_client\n"
        "make_client({'env': 'kube', 'n_workers': 2, 'options': {'name': 'speech'}})"
    )
    nowhere = {"KUBECONFIG": "/nowhere", "KUBERNETES_SERVICE_HOST": ""}
    done = python("-c", code, env=nowhere)
    assert done.returncode == 1
    assert "espnet3.errors.ConfigError: parallel.options: Unable to find valid" in done.stderr


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"env": "ssh"}, "parallel.options.hosts: is missing"),
        ({"env": "slurm", "options": {"memory": "1GB"}}, "parallel.options: .*cores"),
        ({"env": "local", "options": {"no_such": 1}}, r"options\.no_such: .*no such option"),
        (
            {"env": "local", "options": {"thread_per_worker": 2}},
            r"parallel\.options\.thread_per_worker: LocalCluster has no such option; did you mean "
            r"threads_per_worker\?$",
        ),
        (
            {"env": "slurm", "options": {"cores": 1, "memory": "1GB", "que": "gpu"}},
            r"parallel\.options\.que: SLURMCluster has no such option; did you mean queue\?$",
        ),
        (
            {"env": "lsf", "options": {"cores": 1, "memory": "1GB", "wall_time": "1:00"}},
            r"wall_time: LSFCluster has no such option; did you mean walltime\?$",
        ),
        (
            {"env": "ssh", "options": {"hosts": ["a", "b"], "worker_option": {}}},
            r"worker_option: SSHCluster has no such option; did you mean worker_options\?$",
        ),
    ],
)
def test_wrong_options(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make_client(config)


def test_in_a_notebook() -> None:
    """Where an event loop runs in this thread."""

    async def cell() -> list[int]:
        with get_client({**LOCAL, "n_workers": 1}) as client:
            return parallel_map(double, [1, 2], client=client)

    assert asyncio.run(cell()) == [2, 4]
