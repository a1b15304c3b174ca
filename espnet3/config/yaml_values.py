"""YAML as users mean it: a walltime such as 12:00:00 is text.

By YAML 1.1, which PyYAML and OmegaConf follow, `12:00:00` is the number 43200 (base 60), while
`04:00:00` is text; a scheduler would take that number for minutes. An account `0123` is 83, a
queue `1e3` is 1000.0 and one that is called `on` is true: options of jobs that are text are what
stands there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml  # type: ignore[import-untyped]

from espnet3.config.option_kinds import WRITTEN
from espnet3.errors import ConfigError
from espnet3.specs.plain import MAX_DEPTH
from espnet3.text import one_line

MAX_BYTES = 64 << 20
MAX_VALUES = 10_000_000
_BASE = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_OTHERS = (_INT, _FLOAT, "tag:yaml.org,2002:timestamp")
_BOOL, _TEXT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"
# Keys beside `options` in a parallel config, or in one of its overrides.
_NOT_OPTIONS = frozenset({"env", "n_workers", "ranks"})


class _Loader(_BASE):  # type: ignore[misc,valid-type]
    """The safe loader without base 60 and dates, with `1e-4` as a number and no double keys."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (a class variable of PyYAML)
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _OTHERS]
        for first, resolvers in _BASE.yaml_implicit_resolvers.items()
    }

    setting = ""  # the key of a `key=value` whose value is read

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None:
            for value in _of_options(node, self.setting):
                _keep_written(value)
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"duplicate key {key.value!r}", key.start_mark
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


def _pairs(node: Any, above: Sequence[Any] = ()) -> Iterator[tuple[str, Any]]:
    """The keys of a mapping that are scalars and their values, those of merged mappings too."""
    if any(node is one for one in above):
        return  # it is merged into itself, which is refused elsewhere
    for key, value in node.value:
        if key.tag == _MERGE:
            for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if isinstance(part, yaml.MappingNode):
                    yield from _pairs(part, [*above, node])
        elif isinstance(key, yaml.ScalarNode):
            yield key.value, value


def _of_options(root: Any, setting: str) -> Iterator[Any]:
    """The values of options that are text, wherever a parallel config stands in a document.

    Args:
        root: the document.
        setting: the dotted key that the document is the value of, or "".
    """
    steps = setting.split(".")
    if "options" in steps[:-1]:
        steps = steps[steps.index("options") + 1 :]
    if steps[0] in WRITTEN:
        yield root
    waiting, seen = [(root, steps[-1] == "options")], set[tuple[int, bool]]()
    while waiting:
        node, is_options = waiting.pop()
        if (id(node), is_options) in seen or isinstance(node, yaml.ScalarNode):
            continue
        seen.add((id(node), is_options))
        if isinstance(node, yaml.SequenceNode):
            waiting += [(part, False) for part in node.value]
            continue
        pairs = [*_pairs(node)]
        if is_options:
            yield from (value for name, value in pairs if name in WRITTEN)
        beside = not _NOT_OPTIONS.isdisjoint(name for name, _ in pairs)
        waiting += [(value, beside and name == "options") for name, value in pairs]


def _keep_written(node: Any) -> None:
    """Let a scalar, or those in a list or mapping, be text where YAML would make another of it."""
    if isinstance(node, yaml.ScalarNode):
        if node.tag in (_INT, _FLOAT, _BOOL) and _plain(node) != node.value:
            node.tag = _TEXT
    elif isinstance(node, yaml.SequenceNode):
        for part in node.value:
            if isinstance(part, yaml.ScalarNode):
                _keep_written(part)
    else:
        for _, part in _pairs(node):
            if isinstance(part, yaml.ScalarNode):
                _keep_written(part)


def _plain(node: Any) -> str | None:
    """How Python writes the value of a scalar; None where that is not a number."""
    if node.tag == _BOOL:
        return None
    try:
        value = yaml.safe_load(node.value)
    except (ValueError, yaml.YAMLError):
        return None
    return str(value) if isinstance(value, int | float) else None


def written(file: str, keys: Sequence[str], value: object) -> str | None:
    """What stands in a YAML file for a value that a reader by YAML 1.1 has made of it.

    Args:
        file: its path; one that is not there, or no YAML, has nothing.
        keys: where the value stands.
        value: what the reader has made of it.

    Returns:
        The text, or None where the file has no such value there.
    """
    try:
        with open(file, encoding="utf-8") as opened:
            text = opened.read(MAX_BYTES)
        _require_shallow(text)
        node = yaml.compose(text, Loader=_BASE)
        for key in keys:
            found = dict(_pairs(node)) if isinstance(node, yaml.MappingNode) else {}
            node = found.get(key)
        if not isinstance(node, yaml.ScalarNode) or yaml.safe_load(node.value) != value:
            return None
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return str(node.value)


def read_yaml(file: str) -> Any:
    """Parse a YAML file; a pipe will do.

    Raises:
        ConfigError: it is not YAML, or not even text.
        OSError: it cannot be read.
    """
    with open(file, "rb") as opened:
        data = opened.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ConfigError(file, f"has more than {MAX_BYTES} bytes, which no config has")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ConfigError(file, "is not UTF-8 text") from None
    return parse_yaml(text, file)


def parse_yaml(text: str, where: str, setting: str = "") -> Any:
    """Parse a YAML document.

    Args:
        text: the document.
        where: its name, for errors.
        setting: the dotted key whose value it is, where it is one.

    Raises:
        ConfigError: it is not YAML; says what and in which line.

    Example:
        >>> parse_yaml("{walltime: 12:00:00, lr: 1e-4, n: 3}", "example")
        {'walltime': '12:00:00', 'lr': 0.0001, 'n': 3}
    """
    try:
        _require_shallow(text)
        loader = _Loader(text)
        loader.setting = setting
        try:
            found = loader.get_single_data()
        finally:
            loader.dispose()
        _count(found, {})
        return found
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(where, f"is not YAML: {place}{one_line(problem)}") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        # An integer of more digits than Python reads, or an explicit tag (`!!int`, `!!bool`) on
        # what is none, for which PyYAML's constructors have no error of their own.
        reason = one_line(str(error)) if isinstance(error, ValueError) else "a tag on a wrong value"
        raise ConfigError(where, f"is not YAML: {reason}") from None


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
        ConfigError: it has no `=` or no key, or the value is not YAML.

    Example:
        >>> parse_setting("walltime=12:00:00"), parse_setting("cores=4")
        (('walltime', '12:00:00'), ('cores', 4))
        >>> parse_setting("account=0123"), parse_setting("parallel.options.queue=1e3")
        (('account', '0123'), ('parallel.options.queue', '1e3'))
    """
    key, equals, value = setting.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ConfigError("", f"{setting!r} is not a setting; write key=value")
    return key, parse_yaml(value, key, key)
