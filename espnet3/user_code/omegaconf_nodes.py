"""What OmegaConf containers hold, seen without what they do when they are asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

FLAGS = ("struct", "readonly")


def is_mapping(config: Any) -> bool:
    """Whether a container is a DictConfig."""
    return hasattr(config, "items_ex")


def node_of(config: Any, key: Any) -> Any:
    """The node at a key or position, whatever it holds."""
    if is_mapping(config):
        return config._get_node(key, validate_access=False, validate_key=False)
    return config._get_node(key, validate_access=False)


def nodes(config: Any) -> Iterator[tuple[Any, Any]]:
    """All keys or positions of a container, and its nodes."""
    content = config.__dict__["_content"]
    yield from content.items() if is_mapping(config) else enumerate(content)


def structure(config: Any) -> type[Any] | None:
    """The dataclass (or attrs class) that a structured config is made of."""
    kind = config._metadata.object_type
    return (
        kind if hasattr(kind, "__dataclass_fields__") or hasattr(kind, "__attrs_attrs__") else None
    )


def own_flags(config: Any) -> dict[str, bool]:
    """The flags that are set on a container itself."""
    flags = config._metadata.flags or {}
    return {flag: flags[flag] for flag in FLAGS if flags.get(flag) is not None}


def looked_up(config: Any, key: Any) -> tuple[bool, Any]:
    """What is found at a key as users find it; and whether anything is."""
    from omegaconf.errors import OmegaConfBaseException

    try:
        return True, config[key]
    except (OmegaConfBaseException, RecursionError):
        return False, None


def same_configs(one: Any, other: Any, same: Callable[[Any, Any], bool], *, resolved: bool) -> bool:
    """Whether two OmegaConf containers are the same."""
    if not hasattr(one, "_get_node"):
        return bool(one == other)
    if structure(one) is not structure(other):
        return False
    if resolved and any(bool(one._get_flag(f)) != bool(other._get_flag(f)) for f in FLAGS):
        return False
    if not resolved and own_flags(one) != own_flags(other):
        return False
    if not isinstance(one.__dict__["_content"], dict | list | tuple):
        return bool(one.__dict__["_content"] == other.__dict__["_content"])
    if not isinstance(other.__dict__["_content"], dict | list | tuple):
        return False
    keys = [key for key, _ in nodes(one)]
    if not same(keys, [key for key, _ in nodes(other)]):
        return False
    return all(_same_nodes(one, other, key, same, resolved) for key in keys)


def _same_nodes(one: Any, other: Any, key: Any, same: Any, resolved: bool) -> bool:
    a, b = node_of(one, key), node_of(other, key)
    if a._is_missing() or b._is_missing():
        return bool(a._is_missing() and b._is_missing())
    if a._is_interpolation() or b._is_interpolation():
        if resolved:
            (found, x), (there, y) = looked_up(one, key), looked_up(other, key)
            return found == there and bool(same(x, y))
        return bool(a._is_interpolation() and b._is_interpolation() and a._value() == b._value())
    if hasattr(a, "_get_node"):
        return bool(same(a, b))
    return bool(same(a._value(), b._value()))
