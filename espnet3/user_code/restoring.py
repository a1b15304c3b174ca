"""From persisted arguments back to the values that they were; workers load it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from espnet3.specs.models import Argument, RestoredValue
from espnet3.user_code.references import find_class


class _Written(str):
    """An interpolation, as it was written; not a text that happens to look like one."""

    __slots__ = ()


def restored(argument: Argument) -> Any:
    r"""The value that an argument was made of.

    Raises:
        ClassError: a class is not there.
        LookupError, TypeError, ValueError: it is no longer what it was, or the file was edited.

    Example:
        >>> restored(Argument(value="AA==", restored=[RestoredValue(at=[], kind="bytes")]))
        b'\x00'
    """
    box = [_copied(argument.value) if argument.restored else argument.value]
    for note in argument.restored:
        holder: Any = box
        *way, last = [0, *note.at]
        for step in way:
            holder = holder[step]
        holder[last] = _WAYS[note.kind](holder[last], note)
    if argument.omegaconf and not any(
        n.kind == "omegaconf" and not n.at for n in argument.restored
    ):
        return _omegaconf(box[0], RestoredValue(at=[], kind="omegaconf"))
    return box[0]


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    return [_copied(part) for part in value] if isinstance(value, list) else value


def _of_its_class(value: Any, note: RestoredValue) -> Any:
    return find_class(note.cls)(value) if note.cls else value


def _enum(value: Any, note: RestoredValue) -> Any:
    return _class(note)[value]


def _bytes(value: Any, note: RestoredValue) -> bytes:
    import base64

    return base64.b64decode(value)


def _number(value: str, note: RestoredValue) -> float | int:
    return int(value) if value.lstrip("-").isdigit() else float(value)


def _tuple(value: Any, note: RestoredValue) -> Any:
    if note.cls is None:
        return tuple(value)
    cls = _class(note)
    return cls._make(value) if hasattr(cls, "_make") else cls(value)


def _pairs(value: Any, note: RestoredValue) -> dict[Any, Any]:
    return dict(value)


def _fields(value: Any, note: RestoredValue) -> Any:
    return _class(note)(**value)


def _function(value: Any, note: RestoredValue) -> Any:
    return _class(note)


def _interpolation(value: Any, note: RestoredValue) -> str:
    return _Written(note.text or "")


def _class(note: RestoredValue) -> Any:
    if note.cls is None:
        raise ValueError(f"no class is given for what is a {note.kind}")
    return find_class(note.cls)


def _omegaconf(value: Any, note: RestoredValue) -> Any:
    from omegaconf import OmegaConf, flag_override

    content = _escape(value)
    if note.cls is None:
        config = OmegaConf.create(content)
    else:
        config = OmegaConf.structured(_class(note))
        with flag_override(config, ["struct", "readonly"], False):
            for key, part in content.items():
                config[key] = part
    for flag, is_set in note.flags.items():
        config._set_flag(flag, is_set)
    return config


def _escape(value: Any) -> Any:
    r"""The value with `${` escaped: it was resolved once, so what is left of that is plain text.

    >>> _escape({"a": ["${b}", "c"]})
    {'a': ['\\${b}', 'c']}
    """
    if isinstance(value, _Written):
        return str(value)
    if type(value) is str:
        return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", value)
    if isinstance(value, list | tuple):
        return type(value)(map(_escape, value))
    if isinstance(value, dict):
        return {key: _escape(part) for key, part in value.items()}
    return value


_WAYS: dict[str, Callable[[Any, RestoredValue], Any]] = {
    "enum": _enum,
    "path": _of_its_class,
    "bytes": _bytes,
    "number": _number,
    "scalar": _of_its_class,
    "tuple": _tuple,
    "list": _of_its_class,
    "set": _of_its_class,
    "mapping": _of_its_class,
    "pairs": _pairs,
    "fields": _fields,
    "interpolation": _interpolation,
    "omegaconf": _omegaconf,
    "function": _function,
}
