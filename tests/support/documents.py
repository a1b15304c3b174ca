"""Executes the code blocks of a document, in order, in one namespace and one folder.

What a block may be, by the language of its fence:

* ``python``: executed. With a first line ``# NAME.py`` it is a file, which a later block has to
  import or run. An expression with a literal as its comment (``run.counts()  # {'done': 5}``) has
  to have that value. ``await`` is fine.
* ``yaml``: validated as what it is, a CONFIG.yaml by the command's own loader, sections named
  ``parallel…`` or a bare section as parallel configs. ``# NAME.yaml`` makes it a file.
* ``console``: the lines after ``$`` run in a shell and must succeed; lines below are what they
  print, where ``…`` stands for anything. A comment ``# the next day`` waits for all runs to end.
  Of ``make TARGET`` only the target is looked up.
* ``json``: has to fit one of the schemas.
* ``mermaid``: a drawing, no code.
* ``text``: no code. `TEXT_BLOCKS` limits them.

Anything else is an error, so that no block is skipped unnoticed.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple

import jsonschema
from omegaconf import OmegaConf

from espnet3 import Run
from espnet3.cli.config_file import import_path, load_request
from espnet3.config.model import as_parallel_config, parse_parallel
from espnet3.config.yaml_values import parse_yaml

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
LANGUAGES = ("python", "yaml", "console", "json", "mermaid", "text")
# The shape of a run directory; what a status says at one moment of many; what is named below.
TEXT_BLOCKS = {
    "docs/format.md": 1,
    "docs/finishing.md": 1,
    "docs/from-espnet3.md": 1,  # installs
    "docs/guide.md": 1,
    "docs/cookbook/espnet2.md": 1,  # needs a download and gigabytes
    "docs/cookbook/gpus.md": 1,  # a job of whole nodes
}
# What is too large to be installed for each `make test`; `make cookbook` does.
NEEDS = {
    "docs/cookbook/hugging-face.md": ("torch", "transformers"),
    "docs/cookbook/lhotse.md": ("lhotse",),
}
ANYTHING = "…"
PATIENCE = 300  # seconds that a command may take, on a host that does much else


class Block(NamedTuple):
    """A fenced block of a document."""

    place: str
    language: str
    text: str


def blocks(document: Path) -> list[Block]:
    """All fenced blocks of a document, those without a language included."""
    found: list[Block] = []
    fence: re.Match[str] | None = None
    lines: list[str] = []
    for number, line in enumerate(document.read_text().splitlines(), 1):
        if fence is None:
            fence = re.match(r"( *)(```+|~~~+) *(.*)$", line)
            lines = []
            place = f"{document.name}:{number}"
        elif line.strip() == fence[2]:
            text = "".join(f"{each.removeprefix(fence[1])}\n" for each in lines)
            found.append(Block(place, fence[3], text))
            fence = None
        else:
            lines.append(line)
    assert fence is None, f"{place}: this block has no end"
    return found


class Walkthrough:
    """One document's namespace and folder.

    Args:
        folder: where the document's reader stands; the current folder.
        module: the module that its definitions are in, so that workers can import them: in the
            folder a file of that name grows with every block.
        yours: names that the text leaves to its readers, in a module `yours` in the folder.
        replacements: text in the blocks -> what stands for it here.
    """

    def __init__(
        self, folder: Path, module: str, yours: ModuleType, replacements: Mapping[str, str]
    ) -> None:
        self.folder = folder
        self.replacements = replacements
        self.yours = {name: value for name, value in vars(yours).items() if name[0] != "_"}
        self.module = ModuleType(module)
        self.file = folder / f"{module}.py"
        self.module.__file__ = str(self.file)
        self.names = vars(self.module)
        self.names.update(self.yours)
        self.file.write_text("from yours import *\n")
        self.unused: set[str] = set()  # files that no later block has used so far

    def run(self, block: Block) -> None:
        """Execute a block; an AssertionError or the block's own exception says what is wrong."""
        text = block.text
        for old, new in self.replacements.items():
            text = text.replace(old, new)
        self.unused -= {name for name in self.unused if _mentions(text, name)}
        getattr(self, f"_{block.language}")(text, block.place)

    # Python

    def _python(self, text: str, place: str) -> None:
        if name := _file_name(text, "py"):
            compile(text, place, "exec")
            used = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
            missing = sorted(used & self.yours.keys() - _defined(ast.parse(text)))
            header = f"from yours import {', '.join(missing)}\n" if missing else ""
            self._write(name, header + text)
            return
        tree = ast.parse(text)
        definitions = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
        with self.file.open("a") as file:
            file.writelines(
                f"{ast.unparse(part)}\n" for part in tree.body if isinstance(part, definitions)
            )
        comments = _values_in_comments(text)
        for part in tree.body:
            if isinstance(part, ast.Expr) and part.end_lineno in comments:
                expected = comments[part.end_lineno]
                call = ast.Call(ast.Name("_must_be", ast.Load()), [part.value, expected], [])
                part.value = ast.fix_missing_locations(ast.copy_location(call, part.value))
        self.names["_must_be"] = _must_be
        code = compile(tree, place, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        assert isinstance(code, CodeType)
        if code.co_flags & inspect.CO_COROUTINE:
            asyncio.run(eval(code, self.names))
        else:
            exec(code, self.names)

    # YAML and JSON

    def _yaml(self, text: str, place: str) -> None:
        content: Any = parse_yaml(text, place)
        name = _file_name(text, "yaml")
        self._write(name or "CONFIG.yaml", text)
        file = str(self.folder / (name or "CONFIG.yaml"))
        if "runner" in content:
            with import_path(file):
                load_request(file)
        elif all(key.startswith("parallel") for key in content):
            for section in content:
                parse_parallel(content[section], section)
                as_parallel_config(OmegaConf.load(file)[section])
        else:
            parse_parallel(content)
        if name is None:
            self.unused.discard("CONFIG.yaml")

    def _json(self, text: str, place: str) -> None:
        document = json.loads(text)
        schemas = [json.loads(file.read_bytes()) for file in (ROOT / "schemas").glob("*.json")]
        assert any(jsonschema.Draft202012Validator(s).is_valid(document) for s in schemas), place

    def _text(self, text: str, place: str) -> None:
        """No code."""

    def _mermaid(self, text: str, place: str) -> None:
        assert text.startswith("flowchart "), f"{place}: what does it draw?"

    # The shell

    def _console(self, text: str, place: str) -> None:
        text = text.replace("\\\n", "")
        commands = re.split(r"^\$ ", text, flags=re.MULTILINE)
        assert commands.pop(0) == "", f"{place}: the first line has no $"
        for command in commands:
            line, _, expected = command.partition("\n")
            if target := re.match(r"make (\S+)", line):
                rule = re.compile(rf"^{target[1]}:", re.MULTILINE)
                assert rule.search((ROOT / "Makefile").read_text()), f"{place}: {line}"
                continue
            if "# the next day" in line:
                for file in self.folder.rglob("run.json"):
                    Run(file.parent).wait(timeout=PATIENCE, interval=0.2)
            printed = self._shell(line, place)
            if expected:
                assert re.fullmatch(_pattern(expected), printed), f"{place}: {line}\n{printed}"

    def _shell(self, line: str, place: str) -> str:
        """What a command prints, on both streams as on a terminal."""
        path = f"{shlex.quote(os.path.dirname(sys.executable))}:$PATH"
        done = subprocess.run(
            ["bash", "-c", f"PATH={path}; {line}"],
            cwd=self.folder,
            env=os.environ | {"COLUMNS": "120", "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, f"{place}: {line}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        self.unused.add(name)


def _file_name(text: str, ending: str) -> str | None:
    """The file that a block says it is."""
    found = re.match(rf"# (\w+\.{ending})\n", text)
    return found[1] if found else None


def _mentions(text: str, file: str) -> bool:
    stem, _, ending = file.partition(".")
    words = rf"\b{stem}\b" if ending == "py" else rf"\b{re.escape(file)}\b"
    return re.search(words, text) is not None


def _defined(tree: ast.AST) -> set[str]:
    """The names of functions and classes that a file defines or imports itself."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name)
    return names


def _values_in_comments(text: str) -> dict[int, ast.expr]:
    """Line number -> the literal that is the comment at its end."""
    found: dict[int, ast.expr] = {}
    for number, line in enumerate(text.splitlines(), 1):
        code, _, comment = line.partition("  # ")
        if code.strip() and comment:
            with contextlib.suppress(SyntaxError, ValueError):
                ast.literal_eval(comment.strip())
                found[number] = ast.parse(comment.strip(), mode="eval").body
    return found


def _must_be(value: Any, expected: Any) -> None:
    assert value == expected


def _pattern(expected: str) -> str:
    """A regular expression for what a command should print; a line of … alone is any lines."""
    pattern = ""
    for line in expected.splitlines():
        words = ".*".join(map(re.escape, line.split(ANYTHING)))
        pattern += r"(?:.*\n)*" if line == ANYTHING else rf"{words}\n"
    return pattern
