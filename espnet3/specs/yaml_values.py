"""YAML as users mean it: a walltime such as 12:00:00 is text.

By YAML 1.1, which PyYAML and OmegaConf follow, `12:00:00` is the number 43200 (base 60), while
`04:00:00` is text; a scheduler would take that number for minutes.
"""

from __future__ import annotations

import re
from typing import Any

import yaml  # type: ignore[import-untyped]

from espnet3.specs.errors import ConfigError, one_line
from espnet3.specs.plain import MAX_DEPTH

MAX_BYTES = 64 << 20
MAX_VALUES = 10_000_000
_BASE = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_OTHERS = (_INT, _FLOAT, "tag:yaml.org,2002:timestamp")


class _Loader(_BASE):  # type: ignore[misc,valid-type]
    """The safe loader without base 60 and dates, with `1e-4` as a number and no double keys."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (a class variable of PyYAML)
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _OTHERS]
        for first, resolvers in _BASE.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} stands twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    _INT,
    re.compile(r"^[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]+|0|[1-9][0-9_]*)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(
        r"^[-+]?(?:(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
        r"|[0-9][0-9_]*[eE][-+]?[0-9]+|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def read_yaml(file: str) -> Any:
    """Parse a YAML file; a pipe will do.

    Raises:
        ConfigError: it is no YAML, or not even text.
        OSError: it cannot be read.
    """
    with open(file, "rb") as opened:
        data = opened.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ConfigError(file, f"has more than {MAX_BYTES} bytes, which no config has")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ConfigError(file, "is no UTF-8 text") from None
    return parse_yaml(text, file)


def parse_yaml(text: str, where: str) -> Any:
    """Parse a YAML document.

    Args:
        text: the document.
        where: its name, for errors.

    Raises:
        ConfigError: it is no YAML; says what and in which line.

    Example:
        >>> parse_yaml("{walltime: 12:00:00, lr: 1e-4, n: 3}", "example")
        {'walltime': '12:00:00', 'lr': 0.0001, 'n': 3}
    """
    try:
        _require_shallow(text)
        found = yaml.load(text, Loader=_Loader)  # noqa: S506 (made from the safe loader)
        _count(found, {})
        return found
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(where, f"is no YAML: {place}{one_line(problem)}") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        # An integer of more digits than Python reads, or an explicit tag (`!!int`, `!!bool`) on
        # what is none, for which PyYAML's constructors have no error of their own.
        reason = one_line(str(error)) if isinstance(error, ValueError) else "a tag on a wrong value"
        raise ConfigError(where, f"is no YAML: {reason}") from None


def _require_shallow(text: str) -> None:
    """Refuse deep nesting before PyYAML's composer recurses into it and ends the process.

    Raises:
        ValueError: it is nested too deeply.
    """
    depth = 0
    for event in yaml.parse(text, Loader=_BASE):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(
                f"line {event.start_mark.line + 1}: is nested deeper than {MAX_DEPTH} levels"
            )


def _count(value: Any, counted: dict[int, int]) -> int:
    """How many values there are once aliases are written out, as OmegaConf does.

    Raises:
        ValueError: they are too many, or one holds itself.
    """
    if not isinstance(value, list | dict):
        return 1
    known = counted.get(id(value))
    if known == 0:
        raise ValueError("an alias stands inside of what it stands for")
    if known is None:
        counted[id(value)] = 0
        parts = value.values() if isinstance(value, dict) else value
        known = counted[id(value)] = 1 + sum(_count(part, counted) for part in parts)
    if known > MAX_VALUES:
        raise ValueError(f"its aliases stand for more than {MAX_VALUES} values")
    return known


def parse_setting(setting: str) -> tuple[str, Any]:
    """Split `key=value`; the value is YAML.

    Raises:
        ConfigError: it has no `=` or no key, or the value is no YAML.

    Example:
        >>> parse_setting("walltime=12:00:00"), parse_setting("cores=4")
        (('walltime', '12:00:00'), ('cores', 4))
    """
    key, equals, value = setting.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ConfigError("", f"{setting!r} is no setting; write key=value")
    return key, parse_yaml(value, key)
