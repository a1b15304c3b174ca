"""Small pieces: a module that one can read through, a function that one sees as a whole."""

from __future__ import annotations

import ast
from pathlib import Path

import espnet3

MODULE, FUNCTION = 400, 60  # lines at most


def test_no_module_and_no_function_outgrows_its_reader() -> None:
    root = Path(espnet3.__file__).parent
    long = []
    for file in sorted(root.rglob("*.py")):
        text = file.read_text()
        lines = text.count("\n")
        if lines > MODULE:
            long.append(f"{file.relative_to(root)}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > FUNCTION:
                    long.append(f"{file.relative_to(root)}: {node.name}: {lines} lines")
    assert not long
