"""Time limits as people and schedulers write them, in seconds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pydantic import JsonValue

_UNITS = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0}
Unit = Literal["seconds", "minutes", "hours"]


def clock_seconds(
    walltime: object, *, lone: Unit, pair: Literal["hours:minutes", "minutes:seconds"] | None = None
) -> float | None:
    """Days and hours, minutes, seconds such as `30`, `02:00:00` or `1-12:00:00`, in seconds.

    Args:
        walltime: the text, or a number.
        lone: what a number alone counts.
        pair: what two numbers are; `minutes:seconds` where unset.

    Returns:
        The seconds, or None where it is no such time.

    Example:
        >>> clock_seconds("02:00:00", lone="minutes"), clock_seconds("1-12", lone="minutes")
        (7200.0, 129600.0)
        >>> clock_seconds("90:30", lone="minutes"), clock_seconds(7200, lone="seconds")
        (5430.0, 7200.0)
        >>> clock_seconds("2:30", lone="minutes", pair="hours:minutes")
        9000.0
    """
    found = re.fullmatch(r"(?:([0-9]+)-)?([0-9]+(?::[0-9]+){0,2})", str(walltime))
    if found is None:
        return None
    days = float(found[1] or 0)
    fields = [float(field) for field in found[2].split(":")]
    if found[1] or len(fields) == 3:
        hours, minutes, seconds = [*fields, 0.0, 0.0][:3]
    elif len(fields) == 1:
        return fields[0] * _UNITS[lone]
    elif pair == "hours:minutes":
        hours, minutes, seconds = *fields, 0.0
    else:
        hours, minutes, seconds = 0.0, *fields
    return days * 86400 + hours * 3600 + minutes * 60 + seconds


def hours_minutes_seconds(seconds: float) -> str:
    """A time limit for schedulers that know no days.

    Example:
        >>> hours_minutes_seconds(129600)
        '36:00:00'
    """
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def in_hours(
    options: Mapping[str, JsonValue], seconds: float | None, pattern: str = "-"
) -> dict[str, JsonValue]:
    """The options with a walltime that a scheduler without days takes.

    Args:
        options: those of dask-jobqueue.
        seconds: what their walltime counts; None where it is not a time.
        pattern: found in a walltime that the scheduler would not take as it stands.

    Example:
        >>> in_hours({"walltime": "1-12", "cores": 1}, 129600)
        {'walltime': '36:00:00', 'cores': 1}
        >>> in_hours({"walltime": "2:00"}, 120)
        {'walltime': '2:00'}
    """
    if seconds is None or not re.search(pattern, str(options.get("walltime"))):
        return dict(options)
    return {**options, "walltime": hours_minutes_seconds(seconds)}
