"""The shards of a run that is there already, by their options."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from espnet3.config.model import ParallelConfig, parse_parallel
from espnet3.specs.models import RunSpec, Submission
from espnet3.status.observation import Observation
from espnet3.submit.launcher import Launcher
from espnet3.submit.launcher_choice import make_launcher
from espnet3.submit.overrides import Groups
from espnet3.user_code.import_path import extended_import_path
from espnet3.user_code.main_module import importing_as, main_of
from espnet3.user_code.references import find_class


def last_config(seen: Observation) -> ParallelConfig:
    """The parallel config of the last submission; that of the plan where there is none."""
    return config_like(seen, seen.last or seen.run)


def config_like(seen: Observation, given: Submission | RunSpec) -> ParallelConfig:
    """The parallel config that one of a run's records has, believing whom the directory is."""
    return parse_parallel(given.parallel).model_copy(update={"trust": seen.directory.trust})


def groups_of(config: ParallelConfig, run: RunSpec) -> Groups:
    """The shards by their options; the runner's class is imported for its hook."""
    if config.env in ("local", "local_gpu", "ssh"):
        runner: type[Any] = object
    else:
        with import_path_of(run):
            runner = find_class(run.runner)

    def make(changed: ParallelConfig) -> Launcher:
        with import_path_of(run):  # the hook may import something, too
            return make_launcher(changed, runner)

    return Groups(config, run.world_size, make(config), make)


@contextlib.contextmanager
def import_path_of(run: RunSpec) -> Iterator[None]:
    """The submitter's import path and command line, for a while."""
    main = main_of(run)
    own = None if run.process is None else run.process.argv
    argv = own if main is None else main.argv
    with extended_import_path(last=run.sys_path), importing_as(argv):
        yield


def errors_from_of(seen: Observation, chosen: Iterable[int]) -> int:
    """From which submission on recorded errors count: as earlier submissions of the shards say.

    So a resume of an interrupted `items="failed"` goes on with it.
    """
    ranks, bound = set(chosen), 0
    for submission, _ in seen.submissions:
        errors_from = submission.errors_from_submission
        if errors_from > bound and not ranks.isdisjoint(submission.ranks.plain()):
            bound = errors_from
    return bound
