"""What a shell completes: files, folders, and run directories before others."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_RUN = "run.json"
_USUAL = "espnet3_runs"
_MOST = 1000  # entries of a folder that are looked at


class _Path(click.ParamType):  # type: ignore[type-arg]  # click 8.1 knows none
    """A path or URL, taken as it is; a shell completes files and folders."""

    name = "path"
    kind = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type=self.kind)]


class _Folder(_Path):
    """The same for folders."""

    kind = "dir"


class _RunDirectory(_Path):
    """The same for run directories: those that are found, else any folder."""

    kind = "dir"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        found = run_directories(incomplete)
        return [CompletionItem(path) for path in found] or super().shell_complete(
            ctx, param, incomplete
        )


FILE, FOLDER, RUN_DIRECTORY = _Path(), _Folder(), _RunDirectory()


def run_directories(incomplete: str) -> list[str]:
    """The run directories whose path begins so; without a word, those in espnet3_runs, too."""
    if "://" in incomplete:
        return []
    found = _in(*os.path.split(incomplete))
    if not incomplete:
        found += _in(_USUAL, "")
    return found


def _in(folder: str, start: str) -> list[str]:
    found: list[str] = []
    try:
        with os.scandir(os.path.expanduser(folder) or ".") as entries:
            for _, entry in zip(range(_MOST), entries, strict=False):
                if entry.name.startswith(start) and os.path.isfile(f"{entry.path}/{_RUN}"):
                    found.append(os.path.join(folder, entry.name))
    except OSError:
        return []
    return sorted(found)
