"""Variables of the user's classes and modules: what they were at the import, and what they are now.

`forward` may read variables that the script set (`BEAM = args.beam`, `Decode.beam = 20`). Which
ones it reads, or what it calls, is seen in the compiled code; what they were, by a look at them
when the class was made, and in the source.
"""

from __future__ import annotations

import enum
import functools
import logging
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from espnet3.user_code.equality import alike
from espnet3.user_code.fingerprints import Fingerprint, fingerprint
from espnet3.user_code.import_path import is_users_file

_MOST = 2_000  # functions and classes that are looked at
_TABLE = 1_000  # entries of a container in which functions are looked for
_WRAPPERS = (staticmethod, classmethod, property, functools.cached_property)
_NOT_DATA = (ModuleType, FunctionType, BuiltinFunctionType, type, logging.Logger, *_WRAPPERS)
_DATA = (str, int, float, bytes, type(None), tuple, list, dict, set, enum.Enum, PurePath)


class Holder(NamedTuple):
    """An object, or a function, that a variable of a module holds, and that has attributes."""

    module: ModuleType
    name: str
    held: Any


class Variable(NamedTuple):
    """A variable of a module or class, or an attribute of what one holds, with its value."""

    owner: Any
    name: str
    value: Any

    @property
    def key(self) -> tuple[str, str, str]:
        if isinstance(self.owner, type):
            return self.owner.__module__, self.owner.__qualname__, self.name
        if isinstance(self.owner, Holder):
            return self.owner.module.__name__, self.owner.name, self.name
        return self.owner.__name__, "", self.name

    def __str__(self) -> str:
        return ".".join(filter(None, self.key))


_first: dict[tuple[str, str, str], Any] = {}  # at the import
_final: set[tuple[str, str, str]] = set()  # of modules that were imported by then
_worked: dict[tuple[str, str, str], Any] = {}  # after local mode; what it changes is its own


def look_at(cls: type[Any]) -> None:
    """Note what a new class of the user's finds."""
    for name, value in vars(cls).items():
        _first[Variable(cls, name, value).key] = _kept(value)
    for variable in used_variables([cls]):
        if variable.key not in _first:
            _first[variable.key] = _kept(variable.value)
            if _is_imported(variable.owner):
                _final.add(variable.key)
    module = sys.modules.get(cls.__module__)
    if module is None or not is_users(cls.__module__):
        return
    for name, value in [*vars(module).items()]:  # what functions further below may read
        key = Variable(module, name, value).key
        if isinstance(value, _DATA) and name[:2] != "__" and key not in _first:
            _first[key] = _kept(value)


def _is_imported(owner: Any) -> bool:
    """Whether a module's import has ended, so that no later statement of it binds its names."""
    spec = getattr(owner, "__spec__", None)
    return spec is not None and not getattr(spec, "_initializing", False)


def _kept(value: Any) -> Any:
    """A variable's value, to be compared later."""
    if value is None or isinstance(value, (str, int, float, bytes, Fingerprint, *_NOT_DATA)):
        return value
    field = type(value).__name__ == "Field"  # of a dataclass, with the default in it
    return value if field else fingerprint(value, opened=False)


def _same(before: Any, now: Any) -> bool:
    """Whether a value is what was kept, or what the source says."""
    if isinstance(before, Fingerprint) or isinstance(now, Fingerprint):
        return bool(_kept(before) == _kept(now))
    return alike(before, now)


def _kind(kept: Any) -> type[Any]:
    return kept.kind if isinstance(kept, Fingerprint) else type(kept)


@contextmanager
def its_own_work(classes: Iterable[type[Any]]) -> Iterator[None]:
    """While classes do their work: what that changes (a cache, say), it changes in a worker too."""
    classes = [*classes]
    before = {v.key: v._replace(value=_kept(v.value)) for v in used_variables(classes)}
    try:
        yield
    finally:
        for variable in used_variables(classes):
            earlier = before.get(variable.key)
            if earlier is not None and _same(earlier.value, variable.value):
                continue
            if earlier is None or not is_changed(earlier):
                _worked[variable.key] = _kept(variable.value)


def used_variables(classes: Iterable[type[Any]], *, exact: bool = False) -> Iterator[Variable]:
    """Variables of the user's that code of classes, and what that calls, may read.

    Args:
        classes: runner and provider.
        exact: leave out the globals whose names are used for attributes only, which takes longer.
    """
    todo: list[Any] = [*classes]
    met: set[int] = set()
    given: set[tuple[str, str, str]] = set()
    while todo and len(met) < _MOST:
        part = todo.pop()
        if id(part) in met:
            continue
        met.add(id(part))
        found = _of_class(part) if isinstance(part, type) else _of_function(part, exact)
        for variable in found:
            inner = _code_in(variable.value)
            todo += inner
            if variable.owner is not None and variable.key not in given:
                given.add(variable.key)
                yield variable


def _of_class(cls: type[Any]) -> Iterator[Variable]:
    for base in cls.__mro__:
        if is_users(base.__module__):
            for name, value in [*vars(base).items()]:
                # `__module__` stands for the class itself: it was seen, whatever is in it.
                special = name[:2] == name[-2:] == "__" and name != "__module__"
                yield Variable(None if special else base, name, value)


def _of_function(function: FunctionType, exact: bool) -> Iterator[Variable]:
    known = function.__globals__
    module = sys.modules.get(known.get("__name__", ""))
    for cell in function.__closure__ or ():
        try:
            yield Variable(None, "", cell.cell_contents)
        except ValueError:  # it is empty yet
            continue
    if module is None or vars(module) is not known:
        return
    for name in _names(function.__code__, exact):
        if name not in known or name.startswith("__"):
            continue
        yield Variable(module, name, known[name])
        yield from _attributes(module, name, known[name], function.__code__)
    for found in _imported_in(function.__code__, module, exact):
        yield from _attributes(module, found.__name__, found, function.__code__)


def _attributes(module: ModuleType, name: str, value: Any, code: CodeType) -> Iterator[Variable]:
    """Attributes of what a variable holds, if code names them: of a module, object or function."""
    todo, met = [value], set()
    while todo:
        part = todo.pop()
        inside = isinstance(part, ModuleType) and is_users(part.__name__)
        own = not inside and _has_attributes(part)
        if not (inside or own) or id(part) in met:
            continue
        met.add(id(part))
        for attribute in sorted(set(_names(code, False)) & vars(part).keys()):
            if not attribute.startswith("__"):
                holder = part if inside else Holder(module, name, part)
                yield Variable(holder, attribute, vars(part)[attribute])
                if inside and isinstance(vars(part)[attribute], ModuleType):
                    todo.append(vars(part)[attribute])  # `package.settings.BEAM`


def _has_attributes(value: Any) -> bool:
    """Whether it is a function, or an object of a class of the user's, that holds something."""
    kind = type(value)
    if isinstance(value, type | ModuleType) or not (
        kind is FunctionType or is_users(kind.__module__)
    ):
        return False
    return type(getattr(value, "__dict__", None)) is dict and not hasattr(kind, "_espnet3")


def _imported_in(code: CodeType, module: ModuleType, exact: bool) -> Iterator[ModuleType]:
    """The user's modules that code imports when it runs: `from settings import BEAM`."""
    package = vars(module).get("__package__") or ""
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _imported_in(inner, module, exact)
    for name in code.co_names:
        for full in (name, f"{package}.{name}"):
            found = sys.modules.get(full)
            if not isinstance(found, ModuleType) or found is module or not is_users(full):
                continue
            if not exact or name in _opcodes(code, "IMPORT_NAME"):
                yield found


def _names(code: CodeType, exact: bool) -> Iterator[str]:
    if exact:
        yield from _opcodes(code, "LOAD_GLOBAL", "LOAD_NAME")
    else:
        yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner, exact)


def _opcodes(code: CodeType, *names: str) -> list[str]:
    """What instructions of some kinds name."""
    import dis

    return [step.argval for step in dis.get_instructions(code) if step.opname in names]


def _code_in(value: Any) -> list[Any]:
    """The user's functions and classes that a value is or wraps."""
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    elif isinstance(value, property):
        return [f for f in (value.fget, value.fset) if isinstance(f, FunctionType)]
    elif isinstance(value, functools.cached_property):
        value = value.func
    if isinstance(value, dict | list | tuple) and len(value) <= _TABLE:  # `{"beam": beam_search}`
        parts = value.values() if isinstance(value, dict) else value
        return [p for p in parts if isinstance(p, FunctionType | type) and is_users(p.__module__)]
    if isinstance(value, functools.partial):
        value = value.func
    elif not isinstance(value, FunctionType | type) and is_users(type(value).__module__):
        value = type(value)  # an object's methods
    value = getattr(value, "__wrapped__", value) if callable(value) else value
    if isinstance(value, FunctionType | type) and is_users(value.__module__):
        return [value]
    return []


def is_users(module: str | None) -> bool:
    """Whether a module is the user's own: neither espnet3, nor installed, nor Python's."""
    if module == "__main__":
        return True
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    return isinstance(file, str) and is_users_file(file)


class _Before(NamedTuple):
    """What a new import would make of a variable, as far as that is known."""

    known: bool
    is_there: bool = True
    value: Any = None


def _before(variable: Variable) -> _Before:
    key, name = variable.key, variable.name
    if key in _worked:
        return _Before(True, True, _worked[key])
    first = _Before(key in _first, True, _first.get(key))
    if isinstance(variable.owner, type):
        if type(first.value).__name__ == "Field":  # of a dataclass, which puts its default there
            return first._replace(value=first.value.default)
        return first if first.known else _Before(_was_seen(variable.owner), False)
    if isinstance(variable.owner, Holder):
        return first
    from espnet3.user_code.declared import declared

    found = declared(getattr(variable.owner, "__file__", None))
    if found is None:
        return first
    times = found.bindings[name]
    if times == 0:
        return _Before(name in found.in_main or not found.is_open, False)
    if times > 1:
        set_later = name in found.in_main or name in found.by_functions
        return first._replace(known=first.known and (set_later or key in _final))
    shown, literal = found.literal(name)
    if shown and not (first.known and isinstance(literal, dict | list | set)):
        return _Before(True, True, literal)
    return first  # what an import may have filled


def _was_seen(cls: type[Any]) -> bool:
    return (cls.__module__, cls.__qualname__, "__module__") in _first


def is_changed(variable: Variable) -> bool:
    """Whether a variable is demonstrably not what a new import would make it."""
    before = _before(variable)
    return before.known and not (before.is_there and _same(before.value, variable.value))


def must_be_refused(variable: Variable) -> bool:
    """Whether a changed variable that cannot be persisted was set by the script, and nothing else.

    Not caches, handles and registries, which the module or class fills by itself.
    """
    from espnet3.user_code.declared import declared

    owner, name, value = variable
    before = _before(variable)
    if isinstance(owner, Holder):
        return False  # an object's own affair
    if isinstance(value, dict | list | set | deque) and _kind(before.value) is type(value):
        return False
    of_class = isinstance(owner, type)
    if of_class and not before.is_there and not _code_in(value):  # of a metaclass, say
        return False
    classes = owner.__mro__ if of_class else ()
    names = {cls.__module__ for cls in classes if is_users(cls.__module__)} or {owner.__name__}
    for module in names:
        found = declared(getattr(sys.modules.get(module), "__file__", None))
        if found is None or found.is_open or name in found.by_functions:
            return False
        if of_class:
            decorated = owner.__module__ == module and owner.__qualname__ not in found.undecorated
            if decorated or name in found.attributes:
                return False
    code = FunctionType | type
    if before.is_there and isinstance(before.value, code) and isinstance(value, code):
        return True  # another function or class than the import's (`search = beam_search`)
    if before.is_there and isinstance(value, BuiltinFunctionType):
        return True  # of an object, as `print` is found by its name
    return of_class or not isinstance(value, _NOT_DATA)
