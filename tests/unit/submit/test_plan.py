"""The plan: shards that make up the items, a fingerprint for what matters, jobs within limits."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from espnet3.config.model import parse_parallel
from espnet3.errors import PlanMismatch
from espnet3.parallel import BaseRunner, EnvironmentProvider
from espnet3.specs.codec import encode
from espnet3.specs.items import batched, plan_items
from espnet3.specs.models import RunSpec
from espnet3.submit.plan import (
    JobShape,
    Plan,
    SubmitterProcess,
    describe_provider,
    plan_run,
    require_same_plan,
    shape_jobs,
)

HERE = SubmitterProcess("python", "/here", ["/here"], {"A": "1"}, {"python": "3"}, None)
ELSEWHERE = SubmitterProcess("python3", "/there", [], {}, {"python": "4"}, "abc")


class Provider(EnvironmentProvider):
    def __init__(self, config: Any, *, beam: int = 1) -> None:
        super().__init__(config)


class OtherProvider(Provider):
    pass


class Runner(BaseRunner):
    @staticmethod
    def forward(idx: Any, **env: Any) -> Any:
        return idx


class OtherRunner(Runner):
    pass


def plan(
    items: Any = range(10),
    *,
    runner: type[BaseRunner] = Runner,
    provider: Any = None,
    batch_size: int | None = None,
    n_shards: int | None = None,
    surroundings: SubmitterProcess = HERE,
    **parallel: Any,
) -> Plan:
    provider = Provider({"beam": 5}) if provider is None else provider
    return plan_run(
        runner(provider, batch_size=batch_size),
        plan_items(items),
        parse_parallel(parallel),
        surroundings,
        n_shards=n_shards,
    )


ITEMS = st.builds(
    lambda start, n, step: range(start, start + n * step, step),
    st.integers(-50, 50),
    st.integers(1, 200),
    st.integers(1, 9),
) | st.lists(st.sampled_from(["a", "b", 1, 2, None, [0]]), min_size=1, max_size=200)


@given(ITEMS, st.integers(1, 300), st.none() | st.integers(1, 60))
def test_the_shards_make_up_the_items(items: Any, n_shards: int, batch_size: int | None) -> None:
    made = plan(items, n_shards=n_shards, batch_size=batch_size)
    shards = list(made.shards("/run/run.json"))
    calls = list(batched(plan_items(items), batch_size))
    assert [item for shard in shards for item in shard.items] == list(items)
    # Batches are not cut by shards: forward sees the same lists as in local mode.
    assert [c for shard in shards for c in batched(shard.items, batch_size)] == calls
    assert len(shards) == made.run.world_size == min(n_shards, len(calls))
    assert [shard.rank for shard in shards] == list(range(len(shards)))
    assert {shard.world_size for shard in shards} == {len(shards)}
    assert {shard.fingerprint for shard in shards} == {made.run.fingerprint}
    sizes = [len(list(batched(shard.items, batch_size))) for shard in shards]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("n_shards", "parallel", "world_size"),
    [
        (3, {"n_shards": 4, "n_workers": 5}, 3),
        (None, {"n_shards": 4, "n_workers": 5}, 4),
        (None, {"n_workers": 5}, 5),
        (None, {}, 1),
        (99, {}, 10),
    ],
)
def test_the_number_of_shards(n_shards: int | None, parallel: Any, world_size: int) -> None:
    runner, items = Runner(Provider({})), plan_items(range(10))
    made = plan_run(runner, items, parse_parallel(parallel), HERE, n_shards=n_shards)
    assert made.run.world_size == world_size


def test_a_huge_range_is_planned_without_listing_it() -> None:
    made = plan(range(10**15), n_shards=3)
    assert [len(shard.items) for shard in made.shards("run.json")] == [
        333333333333333,
        333333333333333,
        333333333333334,
    ]


SAME: list[dict[str, Any]] = [
    {},
    {"items": list(range(10))},
    {"n_shards": 1},
    {"n_workers": 1, "n_shards": 1},
    {"surroundings": ELSEWHERE},
    {"env": "slurm", "options": {"cores": 1, "memory": "1GB"}},
    {"checkpoint_every": 5},
    {"shards_per_job": 3, "job_array": False, "max_array_size": 7, "preflight": False},
    {"async_mode": True, "environment_variables": ["HOME"]},
]
DIFFERENT: list[tuple[dict[str, Any], str]] = [
    ({"runner": OtherRunner}, "runner.qualname"),
    ({"provider": OtherProvider({"beam": 5})}, "provider.cls.qualname"),
    ({"provider": Provider({"beam": 8})}, "provider.args.0.value.beam"),
    ({"provider": Provider({})}, "provider.args.0.value.beam"),
    ({"provider": Provider({"beam": 5, "ctc": 0.3})}, "provider.args.0.value.ctc"),
    ({"provider": Provider({"beam": 5.0})}, ""),
    ({"provider": Provider({"beam": 5}, beam=2)}, "provider.kwargs.beam"),
    ({"provider": Provider(config={"beam": 5})}, "provider.args"),
    ({"provider": Provider(OmegaConf.create({"beam": 5}))}, "provider.args.0.omegaconf"),
    ({"items": range(11)}, "n_inputs"),
    ({"items": range(1, 11)}, "items_digest"),
    ({"items": [*range(9), "9"]}, "items_digest"),
    ({"batch_size": 1}, "batch_size"),
    ({"n_shards": 2}, "world_size"),
    ({"n_workers": 2}, "world_size"),
    ({"results": "pickle"}, "results"),
    ({"on_error": "record"}, "on_error"),
]


@pytest.mark.parametrize("change", SAME)
def test_what_does_not_change_the_results_does_not_change_the_plan(change: Any) -> None:
    one, other = plan().run, plan(**change).run
    assert one.fingerprint == other.fingerprint
    assert one.run_id != other.run_id
    require_same_plan("/run", one, other)


@pytest.mark.parametrize(("change", "field"), DIFFERENT)
def test_what_changes_the_results_changes_the_plan(change: Any, field: str) -> None:
    one, other = plan().run, plan(**change).run
    assert one.fingerprint != other.fingerprint
    with pytest.raises(PlanMismatch) as caught:
        require_same_plan("/run", one, other)
    if field:
        assert caught.value.field == field
    assert caught.value.run_dir == "/run"
    assert "\n" not in str(caught.value)
    assert "choose another run_dir" in str(caught.value)


@pytest.mark.parametrize("make", [dict, OmegaConf.create])
@pytest.mark.parametrize("other", [None, {"env": "slurm", "options": {"memory": "${more}"}}])
def test_where_to_compute_is_no_part_of_the_plan(make: Any, other: Any) -> None:
    """As in the one YAML of a recipe, of which the provider gets all."""
    local: Any = {"env": "local", "n_workers": 1}
    one = plan(provider=Provider(make({"more": "9GB", "parallel": local}))).run
    here = plan(provider=Provider(make({"more": "9GB", "parallel": other}))).run
    require_same_plan("/run", one, here)
    kept: Any = one.provider.args[0].value
    assert kept["parallel"] == local  # which a worker gets as it was
    # A run of before that was known, whose fingerprint has it.
    require_same_plan("/run", one.model_copy(update={"fingerprint": f"sha256:{0:064}"}), here)
    sentences = plan(provider=Provider(make({"more": "9GB", "parallel": "sentences"}))).run
    with pytest.raises(PlanMismatch, match="parallel is"):
        require_same_plan("/run", one, sentences)


def test_all_plans_that_differ_have_fingerprints_of_their_own() -> None:
    changes = [{}, *(change for change, _ in DIFFERENT if change != {"n_workers": 2})]
    prints = [plan(**change).run.fingerprint for change in changes]
    assert len(set(prints)) == len(prints)


def test_the_plan_covers_every_field_that_the_fingerprint_does() -> None:
    others = {
        "schema_version", "run_id", "created", "fingerprint", "checkpoint_every", "parallel",
        "process", "writers",
        *SubmitterProcess._fields,
    }  # fmt: skip
    assert set(RunSpec.PLAN_FIELDS) == set(RunSpec.model_fields) - others


def test_long_values_are_cut_in_the_message() -> None:
    one = plan(provider=Provider({"text": "a" * 5000})).run
    other = plan(provider=Provider({"text": "b" * 5000})).run
    with pytest.raises(PlanMismatch) as caught:
        require_same_plan("/run", one, other)
    assert len(str(caught.value)) < 500


def test_arguments_are_described_as_they_were_given() -> None:
    config = OmegaConf.create({"a": {"b": "${c}"}, "c": 3})
    spec = describe_provider(Provider(config, beam=4))
    assert spec.args[0].value == {"a": {"b": 3}, "c": 3}
    assert spec.args[0].omegaconf
    assert spec.kwargs["beam"].value == 4
    assert not spec.kwargs["beam"].omegaconf
    # A part of a config is resolved where it hangs.
    assert describe_provider(Provider(config.a)).args[0].value == {"b": 3}


# --- jobs ---------------------------------------------------------------------------------------


def check_shapes(jobs: list[JobShape], n_tasks: int, n_workers: int, largest: int) -> None:
    """All tasks once, sizes within the limit, never more running than there are workers."""
    position = 0
    for job in jobs:
        assert job.first_task == position
        assert 1 <= job.n_tasks <= largest
        assert job.throttle is None or 1 <= job.throttle < job.n_tasks
        position += job.n_tasks
    assert position == n_tasks
    # Jobs that wait for each other form chains; one job of each chain can run at a time.
    widest: dict[int, int] = {}
    chain: dict[int, int] = {}
    for j, job in enumerate(jobs):
        assert job.after is None or 0 <= job.after < j
        chain[j] = j if job.after is None else chain[job.after]
        width = job.n_tasks if job.throttle is None else job.throttle
        widest[chain[j]] = max(widest.get(chain[j], 0), width)
    assert sum(widest.values()) <= n_workers
    waited_for = [job.after for job in jobs if job.after is not None]
    assert len(waited_for) == len(set(waited_for))


@given(st.integers(1, 5000), st.integers(1, 600), st.integers(1, 1500))
def test_arrays_keep_to_every_limit(n_tasks: int, n_workers: int, largest: int) -> None:
    jobs = list(shape_jobs(n_tasks, n_workers, job_array=True, max_array_size=largest))
    check_shapes(jobs, n_tasks, n_workers, largest)
    assert len(jobs) == math.ceil(n_tasks / largest)
    # While the first jobs run, hardly a worker is idle: jobs differ by one task.
    first = [job for job in jobs if job.after is None]
    running = sum(job.throttle or job.n_tasks for job in first)
    assert running > n_workers - len(first) or all(job.throttle is None for job in first)


@given(st.integers(1, 500), st.integers(1, 600), st.integers(1, 1500))
def test_single_jobs_keep_to_every_limit(n_tasks: int, n_workers: int, largest: int) -> None:
    jobs = list(shape_jobs(n_tasks, n_workers, job_array=False, max_array_size=largest))
    check_shapes(jobs, n_tasks, n_workers, 1)
    assert len(jobs) == n_tasks
    assert sum(job.after is None for job in jobs) == min(n_tasks, n_workers)


def test_sizes_of_arrays_differ_by_one_at_most() -> None:
    for n_tasks, largest in itertools.product(range(1, 60), range(1, 20)):
        jobs = shape_jobs(n_tasks, 7, job_array=True, max_array_size=largest)
        sizes = {job.n_tasks for job in jobs}
        assert max(sizes) - min(sizes) <= 1


def _largest_spec(items: Any) -> int:
    return max(len(encode(spec)) for spec in plan(items, n_shards=2).shards("/run/run.json"))


def test_a_spec_of_a_range_is_small_and_one_of_a_list_holds_its_values_once() -> None:
    few, many = _largest_spec(range(10**3)), _largest_spec(range(10**9))
    assert many - few <= 2 * len("000000")  # the digits of start and stop
    few, many = (_largest_spec(["utterance"] * n) for n in (2_000, 20_000))
    assert many - few == 9_000 * len('"utterance",')
