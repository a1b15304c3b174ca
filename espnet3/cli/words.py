"""Words of a command line that click cannot tell apart: ranks, spec files, settings, seconds."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

import click

from espnet3.specs.errors import UsageError

_RANGE = re.compile(r"([0-9]+)-([0-9]+)")
_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*=.*", re.DOTALL)


class Seconds(click.FloatRange):
    """A number of seconds. Click's own range lets NaN through, which is below no limit."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is no number of seconds.", param, ctx)
        return seconds


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
                f"{word}: is no rank, no range of ranks such as 20-25 and no spec file"
            )


def as_options(settings: Iterable[str]) -> dict[str, Any]:
    """Options of the parallel config from `key=value` words.

    Raises:
        ConfigError: one of them is no setting.
    """
    from espnet3.specs.yaml_values import parse_setting

    return dict(map(parse_setting, settings))
