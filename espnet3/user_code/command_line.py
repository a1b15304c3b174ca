"""Whether the user's source files read the command line where a worker may run them."""

from __future__ import annotations

import ast
import contextlib
import re
import tokenize
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

_READERS = frozenset({
    "CLI", "Fire", "HfArgumentParser", "LightningCLI", "argv", "auto_cli", "docopt", "from_cli",
    "orig_argv", "parse_args", "parse_args_into_dataclasses", "parse_intermixed_args",
    "parse_known_args", "parse_known_intermixed_args", "tyro",
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
        with (
            contextlib.suppress(OSError, UnicodeDecodeError, SyntaxError),  # no text, or gone
            tokenize.open(file) as stream,  # in the encoding that it names itself
        ):
            texts[file] = stream.read()
    if not any(map(_MENTION.search, texts.values())):
        return None
    reached: list[_Code] = []
    functions: dict[str, list[_Code]] = {}
    for file, text in texts.items():
        try:
            module = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
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


def _take(module: ast.Module, top: _Code, functions: dict[str, list[_Code]]) -> None:
    """Add the names in a module to its code's, but for functions, which are codes of their own.

    What is in a function is part of it, but for its decorators and defaults: those run before.
    Source may nest deeper than functions may call each other.
    """
    left: list[tuple[ast.AST, _Code, bool]] = [(module, top, False)]
    while left:
        node, code, is_inside = left.pop()
        if isinstance(node, _Function) and not is_inside and not node.name.startswith("__"):
            own = _Code(code.file)
            functions.setdefault(node.name, []).append(own)
            before = [
                *node.decorator_list,
                *node.args.defaults,
                *filter(None, node.args.kw_defaults),
            ]
            left += [(each, code, False) for each in before]
            left += [(each, own, True) for each in node.body]
            continue
        if isinstance(node, ast.Name):
            code.names.add(node.id)
        elif isinstance(node, ast.Attribute):
            code.names.add(node.attr)
        elif isinstance(node, ast.alias) and node.asname is not None:
            code.names.add(node.name)
        is_inside = is_inside or isinstance(node, _Function)
        left += [(child, code, is_inside) for child in _children(node)]


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
