"""README, docs and the examples' pages: blocks are of known kinds, links lead somewhere.

`tests/integration/test_documents.py` executes the blocks.
"""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from espnet3.errors import EspnetError
from tests.support.documents import (
    DOCUMENTS,
    LANGUAGES,
    ROOT,
    TEXT_BLOCKS,
    Block,
    Walkthrough,
    blocks,
)

GUARANTEES = (ROOT / "docs" / "guarantees.md").read_text()

every_document = pytest.mark.parametrize(
    "document",
    [*DOCUMENTS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"],
    ids=lambda path: str(path.relative_to(ROOT)),
)


@every_document
def test_every_block_is_of_a_kind_that_is_executed(document: Path) -> None:
    found = blocks(document)
    assert {block.language for block in found} <= {*LANGUAGES}
    texts = [block.place for block in found if block.language == "text"]
    assert len(texts) == TEXT_BLOCKS.get(str(document.relative_to(ROOT)), 0)


def test_documents_that_are_not_executed_have_no_blocks() -> None:
    for name in ("CONTRIBUTING.md", "CHANGELOG.md"):
        assert blocks(ROOT / name) == []


@every_document
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = document.parent / path if path else document
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_architecture_names_each_room_from_above_to_below() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text.partition("| room | promise |")[2].partition("\n\n")[0]
    cells = re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
    rooms = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    [layers] = [each["layers"] for each in rules["contracts"] if each["id"] == "layers"]
    assert rooms == [room for layer in layers for room in layer.split(" | ")]


@pytest.mark.parametrize(
    "module", ["", ".collect", ".errors", ".parallel", ".specs", ".status", ".submit"]
)
def test_the_reference_has_every_public_name(module: str) -> None:
    """By a directive for the name or its whole module, or in words beside the module's name."""
    pages = [page.read_text() for page in (ROOT / "docs/reference").glob("*.md")]
    shown = set(re.findall(r"^::: (\S+)$", "\n".join(pages), re.MULTILINE))
    package = importlib.import_module(f"espnet3{module}")
    for name in package.__all__:
        home = getattr(getattr(package, name), "__module__", "")
        where = {f"espnet3{module}.{name}", f"espnet3{module}", home} & shown
        in_words = [page for page in pages if f"`{name}`" in page and f"espnet3{module}" in page]
        assert where or in_words, f"espnet3{module}.{name}"


def test_every_page_of_docs_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    for page in sorted((ROOT / "docs").rglob("*.md")):
        name = page.relative_to(ROOT / "docs").as_posix()
        assert name in navigation or name.startswith("decisions/"), name


def test_every_guarantee_names_tests_that_exist() -> None:
    promises = GUARANTEES.partition("## What the storage")[0]
    rows = re.findall(r"^\| (?!promise|---)(.+) \|$", promises, re.MULTILINE)
    assert len(rows) > 15
    for row in rows:
        names = re.findall(r"`(tests/[\w/]*(?:\.py|/)|test_\w+\.py)`", row.rpartition("|")[2])
        assert names, row
        for name in names:
            [path] = [*ROOT.glob(name)] or [*ROOT.glob(f"tests/**/{name}")]
            files = [path] if path.is_file() else path.glob("*.py")
            found = [file for file in files if re.search("def test_|TestCase", file.read_text())]
            assert found, f"{name}: {row}"


def test_the_reader_of_documents_sees_all_fences(tmp_path: Path) -> None:
    document = tmp_path / "a.md"
    document.write_text("```python\na\n```\n- b\n  ```\n  c\n  ```\n~~~yaml\n```\n~~~\n")
    assert [(block.language, block.text) for block in blocks(document)] == [
        ("python", "a\n"), ("", "c\n"), ("yaml", "```\n"),
    ]  # fmt: skip


# --- the executor ---------------------------------------------------------------------------------


@pytest.fixture
def walkthrough(tmp_path: Path) -> Walkthrough:
    yours = ModuleType("yours")
    yours.answer = 42  # type: ignore[attr-defined]
    (tmp_path / "yours.py").write_text("answer = 42\n")
    return Walkthrough(tmp_path, "walked", yours, {"/shared": str(tmp_path)})


def test_blocks_share_names_and_a_folder(walkthrough: Walkthrough, tmp_path: Path) -> None:
    for language, text in [
        ("python", "# said.py\nprint(answer)\n"),
        ("python", "import asyncio\nx = await asyncio.sleep(0, answer)\nx  # 42\n"),
        ("python", "def double(y):\n    return 2 * y\n"),
        ("python", "assert double(x) == 84\nopen('/shared/a', 'w').close()\n"),
        ("console", "$ python said.py\n42\n$ ls \\\n  a\na\n$ make demo # not here\n"),
        ("console", "$ printf '1\\n2\\n3\\n'\n…\n3\n$ echo one two\none …\n"),
        ("yaml", "# conf.yaml\nparallel_cpu: {env: local}\n"),
        ("yaml", "env: slurm\noptions: {file: conf.yaml}\n"),
    ]:
        walkthrough.run(Block("here", language, text))
    assert (tmp_path / "a").exists()
    assert walkthrough.unused == set()
    assert (tmp_path / "walked.py").read_text().endswith("def double(y):\n    return 2 * y\n")


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("python", "assert answer == 41\n"),
        ("python", "answer  # 41\n"),
        ("python", "# said.py\nprint(\n"),
        ("yaml", "env: slrum\n"),
        ("yaml", "parallel_cpu: {n_wrokers: 2}\n"),
        ("yaml", "runner: {_target_: nowhere.Runner}\n"),
        ("console", "$ false\n"),
        ("console", "$ echo one\ntwo\n"),
        ("console", "echo one\n"),
        ("console", "$ make nothing\n"),
        ("mermaid", "a --> b\n"),
        ("json", '{"schema_version": 1}'),
        ("rust", "fn main() {}\n"),
        ("", "shape\n"),
    ],
)
def test_what_is_not_true_is_an_error(walkthrough: Walkthrough, language: str, text: str) -> None:
    with pytest.raises((AssertionError, AttributeError, SyntaxError, EspnetError)):
        walkthrough.run(Block("here", language, text))


def test_a_file_that_nothing_uses_is_noticed(walkthrough: Walkthrough) -> None:
    walkthrough.run(Block("here", "python", "# said.py\nprint(answer)\n"))
    assert walkthrough.unused == {"said.py"}
