"""Tab in a real bash, on a terminal, after the line that the documents name."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PATIENCE = 60
PROMPT = "ready> "
SETUP = """
PS1='{prompt}'
PATH={path}:$PATH
bind 'set bell-style none'
bind 'set enable-bracketed-paste off'
bind 'set page-completions off'
bind 'set show-all-if-ambiguous on'
eval "$(_ESPNET3_COMPLETE=bash_source espnet3)"
"""


class Bash:
    """An interactive bash on a terminal of its own."""

    def __init__(self, folder: Path) -> None:
        setup = folder.parent / "bashrc"
        path = os.path.dirname(sys.executable)
        setup.write_text(SETUP.format(prompt=PROMPT, path=path))
        self.terminal, inner = pty.openpty()
        termios.tcsetwinsize(inner, (50, 300))
        environ = {**os.environ, "TERM": "dumb", "INPUTRC": "/dev/null"}
        self.process = subprocess.Popen(
            ["bash", "--rcfile", str(setup), "-i"],
            cwd=folder, env=environ, stdin=inner, stdout=inner, stderr=inner,
            start_new_session=True,
        )  # fmt: skip
        os.close(inner)
        self.read_to(PROMPT)

    def read_to(self, end: str) -> str:
        """What it writes, up to these words."""
        seen, deadline = "", time.monotonic() + PATIENCE
        while end not in seen:
            ready, _, _ = select.select([self.terminal], [], [], deadline - time.monotonic())
            assert ready, seen
            seen += os.read(self.terminal, 4096).decode()
        return seen

    def after_tab(self, line: str) -> list[str]:
        """The words of the line once Tab was typed, and what was listed below."""
        # Ctrl-X Ctrl-V makes bash print its version: by then the completion is over.
        os.write(self.terminal, f"{line}\t\x18\x16".encode())
        seen = self.read_to("GNU bash, version")
        return re.sub(r"\x07|\r", "", seen).split("GNU bash")[0].replace(PROMPT, "").split()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)


@pytest.fixture
def bash(tmp_path: Path) -> Iterator[Bash]:
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    folder = tmp_path / "here"
    for run in ("runs/decode-1", "runs/decode-2", "espnet3_runs/usual", "single"):
        (folder / run).mkdir(parents=True)
        (folder / run / "run.json").write_text("{}")
    (folder / "other").mkdir()
    (folder / "other" / "a b").mkdir()
    (folder / "decode.yaml").write_text("")
    bash = Bash(folder)
    yield bash
    bash.close()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("espnet3 sub", {"submit"}),
        ("espnet3 status --wor", {"--workers"}),
        ("espnet3 collect --errors k", {"keep"}),
        ("espnet3 status si", {"single"}),
        ("espnet3 status runs/decode-1", {"runs/decode-1"}),
        ("espnet3 status ", {"espnet3_runs/usual", "single"}),
        ("espnet3 logs runs/", {"runs/decode-1", "runs/decode-2"}),
        ("espnet3 list ru", {"runs/"}),
        ("espnet3 status oth", {"other/"}),
        ("espnet3 status other/a", {"other/a\\", "b/"}),
        ("espnet3 submit dec", {"decode.yaml"}),
        ("espnet3 collect single -o dec", {"decode.yaml"}),
        ("espnet3 resume single deco", {"decode.yaml"}),
    ],
)
def test_tab(bash: Bash, line: str, words: set[str]) -> None:
    seen = bash.after_tab(line)
    assert words <= {*seen}, seen
    assert "other/" in words or "other/" not in seen
