"""What an instance was constructed with, and what it holds beside what it held then."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from espnet3.user_code.fingerprints import Fingerprint, fingerprint


class Record:
    """What is known of an instance.

    Attributes:
        arguments: those of its constructor, copied.
        held: what its attributes were when that ended; None for what had been deleted in the
            instance that this one is a copy of.
        own_work: names of attributes that its own work has changed since, in local mode.
    """

    def __init__(self, arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
        self.arguments = arguments
        self.held: dict[str, Fingerprint | None] | None = None
        self.own_work: set[str] = set()

    def look(self, instance: Any, *, but_for: Iterable[str] = ()) -> None:
        """Note what an instance holds now, if that is the first time."""
        if self.held is None:
            now, left_out = attributes_of(instance), {*but_for}
            self.held = {
                name: fingerprint(value, within=instance)
                for name, value in now
                if name not in left_out
            }


class Recorded:
    """Has a place for a record that is not part of `vars(instance)`, which is the user's alone."""

    __slots__ = ("_espnet3",)


def remember(instance: Any, record: Record) -> None:
    """Keep a record in its instance, past the `__setattr__` of its class."""
    Recorded._espnet3.__set__(instance, record)  # type: ignore[attr-defined]


def record_of(instance: Any) -> Record | None:
    """What is known of an instance; None where `RemembersArguments` did not make it."""
    if not isinstance(instance, Recorded):
        return None
    try:
        record: Record = Recorded._espnet3.__get__(instance)  # type: ignore[attr-defined]
    except AttributeError:
        return None
    return record


def attributes_of(instance: Any) -> Iterator[tuple[str, Any]]:
    """What an instance holds in its `__dict__` and its slots, but for cached properties."""
    kind = type(instance)
    for name, value in [*getattr(instance, "__dict__", {}).items()]:
        if not _is_cached_property(kind, name):
            yield name, value
    for base in kind.__mro__:
        if base is Recorded:
            continue
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


def _is_cached_property(kind: type[Any], name: str) -> bool:
    """Whether a class computes an attribute when it is first asked for, as a worker's does."""
    found = next((vars(base)[name] for base in kind.__mro__ if name in vars(base)), None)
    return isinstance(found, functools.cached_property) or "cached" in type(found).__name__.lower()


def changed_attributes(instance: Any) -> tuple[dict[str, Any], list[str]]:
    """What was changed in an instance since its construction.

    An instance that no constructor made (a copy that the class makes in a way of its own) has
    changed in all.

    Returns:
        The attributes that are new or differ, as they are now; the names of those that are gone.
    """
    record = record_of(instance)
    held = (None if record is None else record.held) or {}
    now = dict(attributes_of(instance))
    changed = {
        name: value
        for name, value in now.items()
        if (look := held.get(name)) is None or not look.same(value, within=instance)
    }
    return changed, [name for name in held if name not in now]


@contextmanager
def its_own_changes(instance: Any) -> Iterator[None]:
    """While the instance does its work: what that changes, it changes in a worker too."""
    record = record_of(instance)
    if record is None or record.held is None:
        yield
        return
    held, (changed, gone) = record.held, changed_attributes(instance)
    try:
        yield
    finally:
        now = dict(attributes_of(instance))
        for name in {*held, *now} - {*changed, *gone}:
            look = fingerprint(now[name], within=instance) if name in now else None
            if look is None:
                del held[name]
            elif look != held.get(name):
                held[name] = look
                record.own_work.add(name)


# --- copies ---------------------------------------------------------------------------------------


class _State:
    """What copies and pickles of an instance are made of: its own state, and what is known of it.

    A copy looks at what it holds anew, but for what had been changed in its original.
    """

    def __init__(self, state: Any, record: Record, changed: list[str], gone: list[str]) -> None:
        self.state, self.arguments = state, record.arguments
        self.changed, self.gone = changed, gone

    def end(self, instance: Any) -> None:
        """Note what is known of a copy that holds all."""
        record = Record(self.arguments)
        record.look(instance, but_for=self.changed)
        record.held = {**dict.fromkeys(self.gone), **(record.held or {})}
        remember(instance, record)


def reduced(instance: Any, made: Any) -> Any:
    """What `__reduce_ex__` returned, with what is known of the instance."""
    record = record_of(instance)
    if record is None or not isinstance(made, tuple) or len(made) not in (3, 4, 5):
        return made  # copies are made in a way of the class's own
    call, args, state, *more = made
    changed, gone = changed_attributes(instance)
    own = state[0] if isinstance(state, tuple) and len(state) == 2 else state
    if isinstance(own, dict):  # which `__getstate__` may have made otherwise
        now = getattr(instance, "__dict__", {})
        others = [name for name, value in own.items() if now.get(name, own) is not value]
    else:
        others = []
    return call, args, _State(state, record, [*changed, *others], gone), *more


def own_state(state: Any) -> Any:
    """What `object.__getstate__` returned, without the place of the record."""
    if not isinstance(state, tuple):
        return state
    plain, slots = state
    slots = {name: value for name, value in slots.items() if name not in Recorded.__slots__}
    return (plain, slots) if slots else plain


def set_state(instance: Any, state: Any) -> None:
    """As an instance without a `__setstate__` gets its state."""
    plain, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
    if plain:
        vars(instance).update({sys.intern(name): value for name, value in plain.items()})
    for name, value in (slots or {}).items():
        setattr(instance, name, value)


@contextmanager
def its_state(instance: Any, state: Any) -> Iterator[Any]:
    """Unwrap the state of a copy, and look at the copy when that was set."""
    if not isinstance(state, _State):
        yield state
        return
    yield state.state
    state.end(instance)
