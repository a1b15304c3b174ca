"""Exit codes and messages of the commands, where no run is needed."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import click
import pytest

from espnet3 import AsyncRun
from espnet3.cli.app import app, run
from espnet3.cli.sections import Command, Section

COMMANDS = [
    "run",
    "submit",
    "list",
    "status",
    "watch",
    "collect",
    "report",
    "resume",
    "finish",
    "cancel",
    "remove",
    "logs",
    "run-shard",
]
COMMANDS += ["work", "doctor"]


def test_the_help_has_each_command_once_in_the_section_that_it_declares(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert [*app.commands] == COMMANDS
    homeless = [name for name, each in app.commands.items() if _section(each) is None]
    assert homeless == [], "declare it: @click.command(cls=Command, section=Section.LOOK)"
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    _, *parts = re.split(f"^({'|'.join(each.value for each in Section)}):$", out, flags=re.M)
    assert parts[::2] == [section.value for section in Section]  # none is empty
    for section, part in zip(Section, parts[1::2], strict=True):
        table = part.partition("\n\n")[0]
        declared = [n for n, each in app.commands.items() if _section(each) is section]
        assert re.findall(r"^  (\S+)", table, re.M) == declared
    assert "..." not in "".join(parts)  # no sentence is cut
    assert "\n    espnet3 watch RUN_DIR  " in out


def _section(command: click.Command) -> Section | None:
    return command.section if isinstance(command, Command) else None


@pytest.mark.parametrize("name", COMMANDS)
def test_a_shell_can_complete_every_argument(name: str) -> None:
    command = app.commands[name]
    context = click.Context(command)
    for each in command.params:
        if isinstance(each, click.Argument) and each.metavar != "[KEY=VALUE]...":
            found = each.shell_complete(context, "")
            assert found, f"{each.name}: say type=FILE, or another of espnet3.cli.completion"


@pytest.mark.parametrize("name", [name for name in COMMANDS if hasattr(AsyncRun, name)])
def test_a_command_takes_the_keywords_of_its_method_with_their_defaults(name: str) -> None:
    method, command = getattr(AsyncRun, name), app.commands[name]
    keywords = {
        each.name: each.default
        for each in inspect.signature(method).parameters.values()
        if each.kind is each.KEYWORD_ONLY and each.name != "options"  # which is --set
    }
    given = command.make_context(name, ["r"]).params
    assert {keyword: given[keyword] for keyword in keywords} == keywords
    for option in command.params:
        if option.name in keywords and isinstance(option.type, click.Choice):
            hint = get_type_hints(method)[option.name]
            parts = (hint, *get_args(hint))
            words = [word for part in parts for word in get_args(part) if isinstance(word, str)]
            assert [*option.type.choices] == words


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert "Usage: espnet3 " in out
    assert "None" not in out


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["frobnicate"],
        ["status"],
        ["status", "--frob", "r"],
        ["logs", "r", "x"],
        ["watch", "r", "--interval", "0"],
        ["watch", "r", "--interval", "nan"],
        ["watch", "r", "--interval", "inf"],
        ["collect", "r", "--patience", "nan"],
        ["doctor", "--timeout", "nan"],
        ["logs", "r", "0", "--json", "--path"],
        ["collect", "r", "--errors", "ignore"],
        ["collect", "r", "--json"],
        ["report"],
    ],
)
def test_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Usage: espnet3" in err


@pytest.mark.parametrize(
    "words",
    [
        ["status", "nowhere"],
        ["status", "nowhere", "--json"],
        ["watch", "nowhere"],
        ["collect", "nowhere"],
        ["collect", "nowhere", "-o", "x"],
        ["resume", "nowhere"],
        ["resume", "nowhere", "5-3"],
        ["resume", "nowhere", "a=1"],
        ["resume", "nowhere", "--set", "a"],
        ["cancel", "nowhere"],
        ["logs", "nowhere", "0"],
        ["status", "nosuch://bucket/run"],
        ["status", ""],
    ],
)
def test_no_run_directory(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("espnet3: ")
    assert err.count("\n") == 1
    assert not [*tmp_path.iterdir()]


def test_a_damaged_run_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text("{")
    assert run(["status", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"espnet3: {tmp_path}/run.json: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["collect", "resume"])
def test_the_environment_says_how_long_commands_wait(name: str) -> None:
    code = (
        "from espnet3.cli.app import app\n"
        f"print(app.commands[{name!r}].make_context({name!r}, ['r']).params['patience'])"
    )
    environ = {**os.environ, "ESPNET3_PATIENCE": "7"}
    said = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert float(said.stdout) == 7
