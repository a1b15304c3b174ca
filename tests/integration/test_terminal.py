"""What a terminal obeys never reaches it from a directory or from user code, by no command."""

from __future__ import annotations

import json
import os
import re
import subprocess
import warnings
from pathlib import Path
from typing import Any

import pytest

from espnet3.doctor.diagnosis import Finding
from espnet3.errors import EspnetError, IncompleteRun
from espnet3.run import Run
from espnet3.specs import layout
from espnet3.text import visible, visible_json, visible_line
from tests.support.cli_project import COMMAND, Project
from tests.support.commands import said
from tests.support.scripts import PROVIDER_OF_NOTHING
from tests.support.terminals import read_all

# The title, the clipboard, a cleared screen; C1; backspaces; text that is turned around.
EVIL = "\x1b]0;owned\x07\x1b]52;c;eA==\x1b\\\x1b[2J\x9b2J\x08\x08\u202e\u2066x\ry\u2028\x7f"
SHOWN = r"\x1b]0;owned\x07\x1b]52;c;eA==\x1b\\x1b[2J\x9b2J\x08\x08\u202e\u2066x\ry\u2028\x7f"
OBEYED = re.compile("[\x00-\x07\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e"
                    "\u2028\u2029\u2066-\u2069]")  # fmt: skip
# What rich and click themselves send: colours, a cursor that is hidden, moved up, lines erased.
OURS = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\r?\x1b\[[0-9]*[AK]")

MODULE = (
    PROVIDER_OF_NOTHING
    + """\
class Runner(BaseRunner):
    @staticmethod
    def forward(idx):
        print(EVIL)
        if idx:
            raise ValueError(EVIL)
        return EVIL


EVIL = %a
"""
)
CONFIG = {
    "provider": {"_target_": "evil_decode.Provider"},
    "runner": {"_target_": "evil_decode.Runner"},
    "items": 3,
    "run_dir": f"runs/{EVIL}/run",
    "n_shards": 3,
    "parallel": {"env": "local", "n_workers": 3},
}


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A run of which shard 0 is done, in a folder and with records that hold sequences."""
    project = Project(tmp_path_factory.mktemp("evil"), "local")
    conf = project.folder / "conf dir"
    (conf / "evil_decode.py").write_text(MODULE % EVIL)
    (conf / "evil.yaml").write_text(json.dumps(CONFIG))
    project.config, project.run_dir = "conf dir/evil.yaml", f"runs/{EVIL}/run"
    project("submit", project.config)
    project.watch(code=1)
    run_dir = project.folder / project.run_dir
    [failed] = run_dir.glob("attempts/000001.*.failed.json")
    change(failed, cause=f"because of {EVIL}", host=EVIL)
    return project


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def on_a_terminal(project: Project, *words: str) -> str:
    """All that a terminal gets from a command."""
    reading, writing = os.openpty()
    environ = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "500"}
    process = project.start(*words, stdin=writing, stdout=writing, stderr=writing, env=environ)
    os.close(writing)
    shown = read_all(reading)
    process.wait(timeout=60)
    return shown


def require_harmless(text: str) -> None:
    left = OURS.sub("", text)
    found = OBEYED.search(left) or re.search("\x1b|\r(?!\n)", left)
    assert found is None, (left[max(0, found.start() - 40) :][:80], left)


CASES = {
    "status": (["status"], "because of"),
    "watch": (["watch"], "because of"),
    "collect": (["collect"], "because of"),
    "partial": (["collect", "--partial"], "result"),
    "logs": (["logs", "2"], "ValueError"),
    "no such shard": (["logs", "7"], "shards 0 to 2"),
    "names of logs": (["logs", "2", "--path"], "logs/0001-0.2.log"),
    "json": (["status", "--json"], "because of"),
    "run-shard": (["run-shard", "2"], "ValueError"),
    "resume": (["resume", "9"], "shards 0 to 2"),
    "usage": (["status", f"--{EVIL}"], "No such option"),
}


@pytest.mark.parametrize("name", CASES)
def test_no_command_passes_it_on(evil: Project, name: str) -> None:
    [command, *rest], expected = CASES[name]
    words = [command, evil.run_dir, *rest]
    shown = on_a_terminal(evil, *words)
    if name != "run-shard":  # whose standard output is that of `forward`
        require_harmless(shown.replace("\r\n", "\n"))
    assert expected in shown
    assert "owned" in shown
    piped = evil.start(*words)
    out, err = piped.communicate(timeout=60)
    require_harmless(err)
    if name not in ("run-shard", "partial"):  # a program gets the bytes of the results
        require_harmless(out)


def test_logs_pass_it_on_where_that_is_wanted(evil: Project) -> None:
    [log] = Run(evil.folder / evil.run_dir).logs(0)
    data = Path(log).read_bytes()
    assert EVIL.encode() in data
    passed = subprocess.run(
        [*COMMAND, "logs", evil.run_dir, "0", "--raw"],
        cwd=evil.folder, capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    assert passed.stdout == data
    spec = f"{evil.run_dir}/shards/000000.json"
    assert evil("logs", spec).stdout == visible(data.decode())
    assert "leave out --path" in evil("logs", spec, "--raw", "--path", code=2).stderr


def test_a_long_log_of_any_bytes_is_shown_as_a_whole(evil: Project) -> None:
    [log] = Run(evil.folder / evil.run_dir).logs(1)
    text = "é\r\n" * 40_000 + "10%\r20%\r" + "\r" * 70_000
    Path(log).write_bytes(text.encode() + b"\xff\x9b2J")
    shown = said("logs", str(evil.folder / evil.run_dir), "1").out
    assert shown == "é\n" * 40_000 + r"10%\r20%\r" + r"\r" * 70_000 + r"\xff\x9b2J"


def test_errors_and_warnings_of_python_are_harmless_too(evil: Project) -> None:
    run = Run(evil.folder / evil.run_dir)
    with pytest.raises(IncompleteRun) as caught:
        run.collect()
    require_harmless(str(caught.value))
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert run.collect(partial=True) == [EVIL]  # what was computed is data
    require_harmless(str(heard[0].message))
    written = evil.folder / "out.jsonl"
    evil("collect", evil.run_dir, "--partial", "-o", str(written))
    assert json.loads(written.read_text())["result"] == EVIL
    require_harmless(str(run))
    # What is recorded is whole, and what programs get says the same.
    status = json.loads(evil("status", evil.run_dir, "--json", code=1).stdout)
    assert status["run_dir"] == run.run_dir
    assert EVIL in status["shards"][1]["cause"]


def test_a_submission_and_a_dry_run(evil: Project) -> None:
    dry = evil("submit", evil.config, "--dry-run").stdout
    require_harmless(dry)
    assert SHOWN in dry
    for words in ([], ["items=4"], [f"config.{EVIL}.x=1"], ["items=4", "--json"]):
        done = evil.start("submit", evil.config, *words)
        for text in done.communicate(timeout=60):
            require_harmless(text)
    evil.watch(code=1)


def test_findings_of_the_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    from espnet3.cli import show

    show.finding(Finding("node", EVIL, fine=False))
    assert capsys.readouterr().out == f"node\tPROBLEM: {SHOWN}\n"


def test_what_is_made_visible() -> None:
    assert visible(EVIL) == SHOWN
    assert visible(visible(EVIL)) == SHOWN
    plain = "añ 日本語 ‍ \u200d\ttab\nline\r\nend"
    assert visible(plain) == plain
    assert visible_line(" two\r\n\tlines ") == "two lines"
    assert str(EspnetError(EVIL)) == SHOWN
    document = json.dumps({EVIL: [EVIL]}, ensure_ascii=False)
    require_harmless(visible_json(document))
    assert json.loads(visible_json(document)) == {EVIL: [EVIL]}


def test_no_output_goes_past_the_one_place() -> None:
    """What the command prints for people goes through `say`, or is made by `visible`."""
    folder = Path(layout.__file__).parents[1] / "cli"
    found = [
        f"{path.name}: {line.strip()}"
        for path in folder.glob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"click\.(echo|secho)\(|(?<!console\.)\bprint\(|\.write\(", line)
    ]
    assert sorted(found) == [
        "following.py: self._printer.write(block)",  # a `LogPrinter`, as below
        "joining.py: file.write(data)",  # for workers, and not for people
        "look_commands.py: sys.stdout.buffer.write(document)",  # a report, which is no text
        "record_output.py: out.write(visible_json(line.decode()).encode() if obeyed else line)",
        "record_output.py: printer.write(block)",
        "record_output.py: sys.stdout.buffer.write(block)",  # with --raw
        "record_output.py: sys.stdout.buffer.write(encoded)",  # of visible text
        "run_here.py: target.write(visible_json(line.decode()).encode() if on_screen else line)",
        "run_rows.py: click.echo(line)",  # of visible cells, in colours
        "show.py: click.echo(json_text(document, indented=on_terminal()))",
        "show.py: click.echo(name_there + visible_line(line))",
        "show.py: click.echo(visible(text), err=err)",
        "status_lines.py: click.echo(show.json_text(document))",
    ]
