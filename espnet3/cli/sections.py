"""What `espnet3 --help` sorts commands by; each command declares its section."""

from __future__ import annotations

from enum import Enum
from typing import Any

import click


class Section(Enum):
    """The sections, in the order of the help; the value is the heading."""

    SUBMIT = "Submit and stop"
    LOOK = "Look"
    RESULTS = "Results"
    HERE = "Compute here"
    AROUND = "Around runs"


class Command(click.Command):
    """A command that says where it belongs: `@click.command(cls=Command, section=Section.LOOK)`."""

    def __init__(self, *args: Any, section: Section, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class SectionedGroup(click.Group):
    """A group whose help has a table for each section, commands in the order of their addition."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        limit = formatter.width - 6 - max(map(len, self.commands))
        for section in Section:
            rows = [
                (name, command.get_short_help_str(limit))
                for name, command in self.commands.items()
                if isinstance(command, Command) and command.section is section
            ]
            if rows:
                with formatter.section(section.value):
                    formatter.write_dl(rows, col_max=max(map(len, self.commands)))
