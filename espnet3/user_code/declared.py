"""What a module's source says of its variables: read, not run."""

from __future__ import annotations

import ast
import functools
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


class Declared:
    """The names that a module binds, and where.

    `bindings` counts those that an import makes. `in_main` are bound where the module is the script
    alone (`if __name__ == "__main__":`). `by_functions` are variables and attributes that functions
    of the module set.
    """

    def __init__(self, tree: ast.Module) -> None:
        self.bindings: Counter[str] = Counter()
        self.literals: dict[str, Any] = {}
        self.in_main: set[str] = set()
        self.by_functions: set[str] = set()
        self.attributes: set[str] = set()  # that statements of an import set, of whatever
        self.undecorated: set[str] = set()
        self.is_open = False  # names come from where they cannot be seen
        for statement in tree.body:
            if _is_main_guard(statement):
                self.in_main.update(_bound(statement.body))  # type: ignore[attr-defined]
                self._import(statement.orelse)  # type: ignore[attr-defined]
            else:
                self._import([statement])
        for node in ast.walk(tree):
            if isinstance(node, _FUNCTIONS):
                self._function(node)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                self.is_open |= node.func.id in ("exec", "globals", "setattr")
        self._classes(tree.body, "")

    def _import(self, statements: list[ast.stmt]) -> None:
        names = [*_bound(statements)]
        self.bindings.update(names)
        self.is_open |= "*" in names
        for statement in statements:
            for node in _outside_functions(statement):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                    self.attributes.add(node.attr)
            target, value = _assigned(statement)
            if target is not None and value is not None:
                try:
                    self.literals[target] = ast.literal_eval(value)
                except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                    continue

    def literal(self, name: str) -> tuple[bool, Any]:
        """Whether an import gives a variable one value that the source shows; and that."""
        if self.bindings[name] != 1 or name not in self.literals or name in self.attributes:
            return False, None
        return True, self.literals[name]

    def _function(self, function: ast.AST) -> None:
        for node in ast.walk(function):
            if isinstance(node, ast.Global):
                self.by_functions.update(node.names)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                self.by_functions.add(node.attr)

    def _classes(self, body: list[ast.stmt], within: str) -> None:
        for statement in body:
            if isinstance(statement, ast.ClassDef):
                if not statement.decorator_list:
                    self.undecorated.add(within + statement.name)
                self._classes(statement.body, f"{within}{statement.name}.")


def declared(file: str | None) -> Declared | None:
    """What a source file says; None where there is none, or it cannot be read."""
    if file is None or not file.endswith(".py"):
        return None
    try:
        return _parsed(file, os.stat(file).st_mtime_ns)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None


@functools.lru_cache(maxsize=256)
def _parsed(file: str, changed: int) -> Declared:
    with open(file, "rb") as source:
        return Declared(ast.parse(source.read()))


def _is_main_guard(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and any(
        isinstance(node, ast.Name) and node.id == "__name__" for node in ast.walk(statement.test)
    )


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (*_FUNCTIONS, ast.ClassDef)):
            yield from _outside_functions(child)


def _bound(statements: Iterable[ast.stmt]) -> Iterator[str]:
    """The names that statements bind, as often as they do; `*` for all of another module."""
    for statement in statements:
        if isinstance(statement, (*_FUNCTIONS, ast.ClassDef)):
            yield statement.name
            continue
        if isinstance(statement, ast.AnnAssign) and statement.value is None:
            continue  # `args: Namespace` binds nothing
        for node in _outside_functions(statement):
            if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                yield node.id
            elif isinstance(node, ast.Import | ast.ImportFrom):
                for alias in node.names:
                    yield alias.asname or alias.name.partition(".")[0]
            elif isinstance(node, ast.ExceptHandler) and node.name:
                yield node.name
            elif isinstance(node, ast.If | ast.For | ast.While | ast.With | ast.Try):
                for child in ast.iter_child_nodes(node):
                    if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                        yield child.name


def _assigned(statement: ast.stmt) -> tuple[str | None, ast.expr | None]:
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target: ast.expr = statement.targets[0]
    elif isinstance(statement, ast.AnnAssign):
        target = statement.target
    else:
        return None, None
    return (target.id if isinstance(target, ast.Name) else None), statement.value
