"""Class attributes of providers and runners, as they are at the call.

Classes of modules are imported on a worker, and have there what their source says. What the caller
has changed since then is sent along.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

from espnet3.parallel.pickles import dumps, loads
from espnet3.user_code.variables import Holder, is_changed, used_variables

Attributes = Mapping[str, bytes]


class State(NamedTuple):
    """Attributes of a class or module; `whole` where those that are missing were deleted."""

    owner: type[Any] | ModuleType
    attributes: Attributes
    whole: bool


ClassStates = tuple[State, ...]
_MISSING = object()  # its pickle is that of no attribute
_applied: dict[type[Any] | ModuleType, Attributes] = {}
_ever_changed: set[tuple[str, str, str]] = set()


def class_states(cls: type[Any]) -> ClassStates:
    """The data of a class and of its bases, and the changed data that its code uses, pickled.

    Classes of the script travel with all they have anyway. Methods, and what cannot be pickled, are
    what a worker imports.

    Example:
        >>> from tests.support.sync_runners import Counted
        >>> [sorted(state.attributes) for state in class_states(Counted)]
        [['pickled']]
    """
    bases = (base for base in cls.__mro__ if not _is_ours(base.__module__))
    found = ((base, _attributes(base)) for base in bases)
    whole = (State(base, attributes, True) for base, attributes in found if attributes)
    return (*whole, *_used_states(cls))


def _used_states(cls: type[Any]) -> ClassStates:
    """Variables of imported modules and other classes that code may read and the caller changed.

    Those of the script travel with its functions.
    """
    states: dict[type[Any] | ModuleType, dict[str, bytes]] = {}
    for variable in used_variables([cls], exact=True):
        owner, name, value = variable
        if isinstance(owner, Holder):  # it is sent whole
            owner, name, value = owner.module, owner.name, owner.held
        if variable.key[0] == "__main__" or owner in cls.__mro__:
            continue
        if isinstance(value, ModuleType):
            continue
        if isinstance(owner, type) and hasattr(type(value), "__get__"):
            continue
        if is_changed(variable):
            _ever_changed.add(variable.key)
        if variable.key in _ever_changed:  # also where it is as it was before
            pickled = _pickled(value)
            if pickled is not None:
                states.setdefault(owner, {})[name] = pickled
    return tuple(State(owner, attributes, False) for owner, attributes in states.items())


def _is_ours(module: str) -> bool:
    return module in ("__main__", "builtins", "abc") or module.partition(".")[0] == "espnet3"


def _attributes(cls: type[Any]) -> dict[str, bytes]:
    found = {}
    for name, value in vars(cls).items():
        special = name.startswith("__") and name.endswith("__")
        if not special and not hasattr(type(value), "__get__"):
            pickled = _pickled(value)
            if pickled is not None:
                found[name] = pickled
    return found


def _pickled(value: Any) -> bytes | None:
    try:
        return dumps(value)
    except Exception:  # noqa: BLE001 (pickling runs the user's code)
        return None


def apply(states: ClassStates) -> None:
    """On a worker: give classes the attributes that they have in the caller's process.

    Each is set once: what `forward` makes of it stays, until the caller changes it again.
    """
    for cls, attributes, whole in states:
        before = _applied.get(cls, {})
        if before == (attributes if whole else {**before, **attributes}):
            continue
        for name, value in attributes.items():
            if value != before.get(name) and value != _pickled(vars(cls).get(name, _MISSING)):
                setattr(cls, name, loads(value))
        if not whole:  # provider and runner name some of its variables each
            _applied[cls] = {**before, **attributes}
            continue
        for name in (before.keys() - attributes.keys()) & vars(cls).keys():
            delattr(cls, name)
        _applied[cls] = attributes


class Setup:
    """Builds a provider's environment after classes got the attributes that the caller's have."""

    def __init__(self, setup_fn: Callable[[], dict[str, Any]], states: ClassStates) -> None:
        self._setup_fn, self._states = setup_fn, states

    def __call__(self) -> dict[str, Any]:
        apply(self._states)
        return self._setup_fn()


class CallWithEnvironment:
    """Calls `forward` with all of the environment, as local mode does.

    Args:
        forward: the runner's.
        states: those of the runner's classes; a worker applies them when it unpickles this.
    """

    def __init__(self, forward: Callable[..., Any], states: ClassStates) -> None:
        self.forward, self._states = forward, states

    def __reduce__(self) -> tuple[Any, ...]:
        return _applied_call, (self.forward, self._states)

    def __call__(self, item: Any, /, **env: Any) -> Any:  # whatever names the environment has
        return self.forward(item, **env)


def _applied_call(forward: Callable[..., Any], states: ClassStates) -> CallWithEnvironment:
    apply(states)
    return CallWithEnvironment(forward, states)
