"""Whether the user's source files read the command line where a worker may run them."""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

_READERS = frozenset({
    "CLI", "Fire", "argv", "auto_cli", "docopt", "from_cli", "orig_argv", "parse_args",
    "parse_intermixed_args", "parse_known_args", "parse_known_intermixed_args",
})  # fmt: skip
_MENTION = re.compile(rf"\b(?:{'|'.join(sorted(_READERS))})\b")
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(slots=True)
class _Code:
    """A function, or what a module and its classes run when it is imported."""

    file: str
    names: set[str] = field(default_factory=set)


def reader_of_argv(files: Iterable[str], called: Collection[str]) -> str | None:
    """The first of some source files that reads `sys.argv`, itself or by a parser of arguments.

    It is told by names: a function counts that is mentioned in what counts, wherever it is, and so
    do modules, classes and special methods. What is below `if __name__ == "__main__"` does not,
    since no worker runs it, nor does what is mentioned only there.

    Args:
        files: the user's, which workers load.
        called: names of methods that are called by us, such as `forward`.

    Returns:
        None where none does. One that cannot be parsed counts where it mentions such a name.
    """
    texts = {}
    for file in files:
        with contextlib.suppress(OSError, UnicodeDecodeError):  # it is no text, or gone
            texts[file] = Path(file).read_text(encoding="utf-8")
    if not any(map(_MENTION.search, texts.values())):
        return None
    reached: list[_Code] = []
    functions: dict[str, list[_Code]] = {}
    for file, text in texts.items():
        try:
            module = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError):
            reached.append(_Code(file, {*_MENTION.findall(text)}))
            continue
        reached.append(top := _Code(file))
        _take(module, top, functions)
    return _first_reader(reached, functions, called)


def _first_reader(
    reached: list[_Code], functions: dict[str, list[_Code]], called: Collection[str]
) -> str | None:
    for name in called:
        reached += functions.pop(name, [])
    while reached:
        code = reached.pop()
        if not _READERS.isdisjoint(code.names):
            return code.file
        for name in code.names & functions.keys():
            reached += functions.pop(name)
    return None


def _take(node: ast.AST, code: _Code, functions: dict[str, list[_Code]] | None) -> None:
    """Add the names in a node to a code's, but for functions, which are codes of their own.

    Args:
        node: what is looked into.
        code: to which it belongs.
        functions: where functions are added; those in a function are part of it (None).
    """
    for child in _children(node):
        if isinstance(child, _Function) and functions is not None:
            is_special = child.name.startswith("__")
            own = code if is_special else _Code(code.file)
            if not is_special:
                functions.setdefault(child.name, []).append(own)
            _take(child, own, None)
            continue
        if isinstance(child, ast.Name):
            code.names.add(child.id)
        elif isinstance(child, ast.Attribute):
            code.names.add(child.attr)
        elif isinstance(child, ast.alias) and child.asname is not None:
            code.names.add(child.name)
        _take(child, code, functions)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """What is in a node, but for what only the main module runs."""
    if isinstance(node, ast.If) and _is_main_guard(node.test):
        yield from node.orelse
    else:
        yield from ast.iter_child_nodes(node)


def _is_main_guard(test: ast.expr) -> bool:
    if not (isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Eq)):
        return False
    sides = (test.left, test.comparators[0])
    return any(isinstance(side, ast.Name) and side.id == "__name__" for side in sides)
