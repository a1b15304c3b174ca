"""What MkDocs asks while it builds the site: the repository's other pages, and links to them.

Pages link to files of the repository as its web page needs it (`../examples/librivox`). Here they
become pages or files of the site, and the links lead there; a folder shows its README, or a list.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
# Path in the repository -> path in the site's sources; whatever of it is a folder, with its files.
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "benchmarks/RESULTS.md": "benchmarks/RESULTS.md",
    "examples/librivox": "examples/librivox",
    "examples/espnet3": "examples/espnet3",
    "schemas": "schemas",
    "docs/decisions": "decisions",
}
SHOWN = {".json", ".md", ".py", ".tsv", ".yaml"}
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")

_places: dict[str, str] = {}  # path in the repository -> in the site's sources


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put every decision into the navigation."""
    for section in config.nav or []:
        if "Decisions" in section:
            pages = sorted(file.name for file in (ROOT / "docs/decisions").glob("*.md"))
            section["Decisions"] = ["decisions/index.md", *(f"decisions/{page}" for page in pages)]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what lies outside docs/, and an index to each folder that has no README."""
    _places.clear()
    _places.update({f"docs/{file.src_uri}": file.src_uri for file in files})
    for path, place in OUTSIDE.items():
        found = ROOT / path
        inside = sorted(file for file in found.glob("*") if file.suffix in SHOWN)
        for file in inside or [found]:
            uri = posixpath.join(place, file.name) if inside else place
            if uri not in files.src_uris:
                files.append(File.generated(config, uri, abs_src_path=str(file)))
            _places[file.relative_to(ROOT).as_posix()] = uri
        if inside:
            readme = posixpath.join(place, "README.md")
            index = posixpath.join(place, "index.md")
            if readme not in files.src_uris:
                files.append(File.generated(config, index, content=_index(path, inside)))
            _places[path] = readme if readme in files.src_uris else index
    return files


def _index(path: str, files: list[Path]) -> str:
    """A page that lists a folder's files, pages by their titles."""
    lines = [f"# {Path(path).name.capitalize()}\n"]
    for file in files:
        title = file.read_text().partition("\n")[0].removeprefix("# ")
        lines.append(f"- [{title if file.suffix == '.md' else file.name}]({file.name})")
    return "\n".join(lines)


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links within the repository into links within the site."""
    source = page.file.abs_src_path
    if source is None:
        return markdown
    folder = Path(source).relative_to(ROOT).parent.as_posix()

    def within_site(link: re.Match[str]) -> str:
        place = _places.get(posixpath.normpath(posixpath.join(folder, link[1])))
        if place is None:
            return link[0]  # to other sites; of the rest MkDocs says that it leads nowhere
        target = posixpath.relpath(place, posixpath.dirname(page.file.src_uri) or ".")
        return f"]({target}{link[2] or ''})"

    return LINK.sub(within_site, markdown)
