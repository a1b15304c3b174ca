"""What an instance holds, beside what it held when it was constructed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from espnet3.user_code.alike import alike, seen

_HELD = "_held"  # in the instance, so that its copies have it too
_OWN = ("constructor_arguments", _HELD)


class _Record(dict[str, Any]):
    """What was held; pickled with an instance but for what cannot be.

    That is what the instance's own `__getstate__` leaves out, such as a lock.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> _Record:
        return _Record({name: copy.deepcopy(value, memo) for name, value in self.items()})

    def __reduce__(self) -> tuple[Any, ...]:
        return _Record, ({name: value for name, value in self.items() if _can_be_pickled(value)},)


def _can_be_pickled(value: Any) -> bool:
    import pickle

    try:
        pickle.dumps(value)
    except Exception:  # noqa: BLE001 (pickling runs the user's code)
        return False
    return True


def look_at_instance(instance: Any) -> None:
    """Note what an instance holds at the end of its construction."""
    object.__setattr__(instance, _HELD, _Record(_now(instance)))


def attributes_of(instance: Any) -> Iterator[tuple[str, Any]]:
    """What an instance holds, in its `__dict__` and its slots."""
    for name, value in getattr(instance, "__dict__", {}).items():
        if name not in _OWN:
            yield name, value
    for base in type(instance).__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name in ("__dict__", "__weakref__"):
                continue
            private = name.startswith("__") and not name.endswith("__")
            mangled = f"_{base.__name__.lstrip('_')}{name}" if private else name
            try:
                yield mangled, object.__getattribute__(instance, mangled)
            except AttributeError:  # it is not set
                continue


def _now(instance: Any) -> dict[str, Any]:
    """What an instance holds now, to be compared later."""
    held: dict[str, Any] = seen(dict(attributes_of(instance)))
    return held


def changed_attributes(instance: Any) -> tuple[dict[str, Any], list[str]]:
    """What was changed in an instance since its construction.

    An instance that no constructor made (a copy that the class makes in a way of its own) has
    changed in all.

    Returns:
        The attributes that are new or differ, as they are now; the names of those that are gone.
    """
    now = dict(attributes_of(instance))
    held = getattr(instance, _HELD, {})
    changed = {
        name: value
        for name, value in now.items()
        if name not in held or not alike(held[name], value)
    }
    return changed, [name for name in held if name not in now]


@contextmanager
def its_own_changes(instance: Any) -> Iterator[None]:
    """While the instance does its work: what that changes, it changes in a worker too."""
    before = _now(instance)
    changed, gone = changed_attributes(instance)
    try:
        yield
    finally:
        after = _now(instance)
        held = getattr(instance, _HELD, {})
        now = dict(attributes_of(instance))
        for name in {*after, *before} - {*changed, *gone}:
            if name in after and not (name in before and alike(before[name], now[name])):
                held[name] = after[name]
            elif name not in after:
                held.pop(name, None)
