"""Words of a command line that click cannot tell apart: ranks, spec files, settings, seconds."""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click

from espnet3.errors import UsageError

_RANGE = re.compile(r"([0-9]+)-([0-9]+)")
_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*=.*", re.DOTALL)


class Seconds(click.FloatRange):
    """A number of seconds. Click's own range lets NaN through, which is below no limit."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            is_number = math.isfinite(float(value))
        except ValueError:
            is_number = False
        if not is_number:
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        return super().convert(value, param, ctx)


class Duration(click.ParamType[float]):
    """A time such as `90m`, `1h`, `1h30m`, `45s`, `01:30:00`, or a number of seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, float):
            return value
        text = str(value).strip()
        units = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", text)
        clock = re.fullmatch(r"(\d+):([0-5]?\d):([0-5]?\d)", text)
        if clock:
            days, parts = 0, [int(part) for part in clock.groups()]
        elif text and units:
            days, *parts = [int(part or 0) for part in units.groups()]
        else:
            self.fail(f"{value!r} is not a time such as 90m, 1h or 01:30:00.", param, ctx)
        hours, minutes, seconds = parts
        total = float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
        if total <= 0:
            self.fail(f"{value!r} is no time at all.", param, ctx)
        return total


def split_settings(words: Iterable[str], settings: Iterable[str]) -> tuple[list[str], list[str]]:
    """Tell ranks from settings: after one `--set`, further `key=value` words are settings too.

    Returns:
        The words that are none, and all settings.

    Raises:
        UsageError: there are settings, but no `--set`.

    Example:
        >>> split_settings(["3", "cores=2"], ["memory=8GB"])
        (['3'], ['memory=8GB', 'cores=2'])
    """
    given, rest = [*settings], []
    for word in words:
        if _SETTING.fullmatch(word) and not os.path.exists(word):
            if not given:
                raise UsageError(f"{word}: to change an option write --set {word}")
            given.append(word)
        else:
            rest.append(word)
    return rest, given


def ranks_and_files(words: Iterable[str]) -> Iterator[int | str]:
    """Ranks, with ranges such as `20-25` written out, and paths of spec files.

    Raises:
        UsageError: a word is none of these.

    Example:
        >>> [*ranks_and_files(["3", "20-22"])]
        [3, 20, 21, 22]
    """
    for word in words:
        between = _RANGE.fullmatch(word)
        if word.isdecimal():
            yield int(word)
        elif between:
            first, last = map(int, between.groups())
            if last < first:
                raise UsageError(f"{word}: ends before it begins; write {last}-{first}")
            yield from range(first, last + 1)
        elif "://" in word or os.path.isfile(word):
            yield word
        else:
            raise UsageError(
                f"{word}: is not a rank, a range of ranks such as 20-25, or a spec file"
            )


def shard_of(words: Sequence[str]) -> tuple[str, int]:
    """Run directory and rank of a shard, from `RUN_DIR RANK` or the path of its spec.

    Raises:
        UsageError: there is no such spec; click's own where the words are neither.
    """
    run_dir, rank = _run_and_rank(words)
    if rank is not None:
        return run_dir, rank
    from espnet3.worker.run_shard import find_run

    spec, store = find_run(run_dir)
    return store.root, spec.rank


def spec_of(words: Sequence[str]) -> str:
    """The path of a shard's spec, from `RUN_DIR RANK` or from that path.

    Raises:
        UsageError: the run has no such shard; click's own where the words are neither.
    """
    run_dir, rank = _run_and_rank(words)
    if rank is None:
        return run_dir
    from espnet3.run_dir.directory import RunDirectory
    from espnet3.specs import layout

    directory = RunDirectory.open(run_dir)
    directory.run().require_rank(rank, directory.root)
    return directory.store.locate(layout.shard(rank))


def _run_and_rank(words: Sequence[str]) -> tuple[str, int | None]:
    """Run directory and rank; one word alone, a spec's path, has no rank."""
    if len(words) == 2 and words[1].isascii() and words[1].isdecimal() and len(words[1]) < 10:
        if os.path.isfile(words[0]):
            raise click.UsageError(
                f"{shlex.join(words)}: give RUN_DIR RANK, or the path of a spec alone"
            )
        return words[0], int(words[1])
    if len(words) == 1:
        word = words[0]
        if "://" in word or not os.path.isdir(word):
            return word, None
        raise click.UsageError(
            f"{word}: which shard? add its rank, as in `{shlex.join([word, '0'])}`"
        )
    raise click.UsageError(
        f"{shlex.join(words)}: give RUN_DIR RANK, or the path of a spec such as "
        "RUN_DIR/shards/000000.json"
    )


def as_options(settings: Iterable[str]) -> dict[str, Any]:
    """Options of the parallel config from `key=value` words.

    Raises:
        ConfigError: one of them is not a setting.
    """
    from espnet3.config.yaml_values import parse_setting

    return dict(map(parse_setting, settings))
