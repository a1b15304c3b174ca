"""Options for some shards (decision 0012): shards with the same options are submitted together."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from espnet3.config.model import Override, ParallelConfig, parse_parallel
from espnet3.errors import ConfigError, UsageError
from espnet3.specs.items import plan_items
from espnet3.submit.launcher import Launcher
from espnet3.submit.submission import PlannedSubmission, array_size

# What may be changed for some shards, or by a resume, besides the scheduler's options.
_BY_AN_OVERRIDE = frozenset(
    {
        "n_workers",
        "shards_per_job",
        "job_array",
        "max_array_size",
        "max_errors",
        "submit_timeout",
        "usage",
    }
)
# By a resume alone, since a submission has it for all of its shards (decision 0015).
_BY_A_RESUME = _BY_AN_OVERRIDE | {"on_error"}
# From here on it is a mistype; the options of schedulers that come nearest have two thirds.
_SAME_WORD = 0.8

MakeLauncher = Callable[[ParallelConfig], Launcher]


class Group(NamedTuple):
    """Shards that get the same options.

    Attributes:
        config: with their options.
        launcher: made for it.
        ranks: the shards; None for all that no other group has.
        shares: whether `n_workers` is that of all groups together.
    """

    config: ParallelConfig
    launcher: Launcher
    ranks: frozenset[int] | None = None
    shares: bool = True


class Groups:
    """The shards of a run, by their options.

    All launchers are made now, so that wrong options are found before anything is written.

    Args:
        config: the parallel config.
        world_size: how many shards the run has.
        launcher: made for the config as it is.
        make: makes another one.

    Raises:
        ConfigError: an override names a rank that the run does not have, or a wrong option.
    """

    def __init__(
        self, config: ParallelConfig, world_size: int, launcher: Launcher, make: MakeLauncher
    ) -> None:
        self.config = config
        self.make = make
        self._groups = [Group(config, launcher)]
        for options, ranks in _by_options(config.overrides, world_size):
            try:
                own = overridden(config, options)
                self._groups.append(
                    Group(own, make(own), frozenset(ranks), "n_workers" not in options)
                )
            except UsageError as error:
                raise ConfigError("parallel.overrides", f"rank {min(ranks)}: {error}") from None

    async def planned(self, chosen: Sequence[int]) -> list[PlannedSubmission]:
        """What each of the submissions gets by which some shards are submitted.

        Args:
            chosen: the shards, in order; not empty.

        Raises:
            ConfigError: the scheduler cannot run them as the config wants it.
            SchedulerUnavailable: it does not tell how many tasks an array may have.
        """
        found = [(group, ranks) for group in self._groups if (ranks := self._own(group, chosen))]
        tasks = [-(-len(ranks) // group.config.shards_per_job) for group, ranks in found]
        sharing = [n for n, (group, _) in zip(tasks, found, strict=True) if group.shares]
        made, shared = [], 0
        for n, (group, ranks) in zip(tasks, found, strict=True):
            config, launcher = group.config, group.launcher
            if group.shares and len(sharing) > 1:
                # Differences of rounded sums, so that the parts are all of it together.
                before, shared = shared, shared + n
                ends = [config.n_workers * at // sum(sharing) for at in (before, shared)]
                config = config.model_copy(update={"n_workers": max(1, ends[1] - ends[0])})
                launcher = self.make(config)
            await launcher.require_reachable()
            size = await array_size(config, launcher)
            launcher.shape_jobs(n, size)  # refused, if at all, before anything is written
            made.append(PlannedSubmission(config, launcher, plan_items(ranks), size))
        return made

    def _own(self, group: Group, chosen: Sequence[int]) -> Sequence[int]:
        if group.ranks is not None:
            return [rank for rank in chosen if rank in group.ranks]
        named = frozenset[int]().union(*(other.ranks or () for other in self._groups))
        return [rank for rank in chosen if rank not in named] if named else chosen


def _by_options(
    overrides: Iterable[Override], world_size: int
) -> list[tuple[dict[str, Any], set[int]]]:
    """Each set of options with the ranks that get it."""
    changes: dict[int, dict[str, Any]] = {}
    for position, override in enumerate(overrides):
        for first, last in override.spans():
            if last >= world_size:
                raise ConfigError(
                    f"parallel.overrides.{position}.ranks",
                    f"rank {last}: the run has shards 0 to {world_size - 1}",
                )
            for rank in range(first, last + 1):
                changes.setdefault(rank, {}).update(override.options)
    found: list[tuple[dict[str, Any], set[int]]] = []
    for rank, options in sorted(changes.items()):
        own = next((ranks for known, ranks in found if known == options), None)
        if own is None:
            found.append((options, {rank}))
        else:
            own.add(rank)
    return found


def overridden(
    config: ParallelConfig, changes: Mapping[str, Any], can: frozenset[str] = _BY_AN_OVERRIDE
) -> ParallelConfig:
    """The config with other options, or with other values of the keys beside them.

    Args:
        config: the config.
        changes: what is different.
        can: the keys beside the options that can be changed.

    Raises:
        UsageError: a key cannot be changed so.
    """
    # `env: local` would pass these over in silence, and no scheduler has such an option.
    for name in changes:
        if name in can:
            continue
        if name in ParallelConfig.model_fields:
            how = "by a resume" if can is _BY_A_RESUME else "for some shards"
            raise UsageError(
                f"{name}: cannot be changed {how}; beside the scheduler's options these can: "
                + ", ".join(sorted(can))
            )
        if near := difflib.get_close_matches(name, can, n=1, cutoff=_SAME_WORD):
            raise UsageError(f"{name}: unknown key; did you mean {near[0]}?")
    beside = {name: value for name, value in changes.items() if name in can}
    options = {name: value for name, value in changes.items() if name not in can}
    if beside.get("on_error") == "stop":
        beside.setdefault("max_errors", None)  # which is of recorded errors alone
    return parse_parallel(
        {**config.model_dump(), **beside, "options": {**config.options, **options}}
    )


def set_for_all(config: ParallelConfig, changes: Mapping[str, Any]) -> ParallelConfig:
    """The config with other options for all shards, those that an override names too."""
    left = []
    for override in config.overrides:
        options = {name: v for name, v in override.options.items() if name not in changes}
        if options:
            left.append(Override(ranks=override.ranks, options=options))
    return overridden(config.model_copy(update={"overrides": left}), changes, _BY_A_RESUME)
