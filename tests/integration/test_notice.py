"""The user's command at the end of a run: whatever it does, it is run once."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from espnet3.finish.notice import notify, run_command
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.processes import this_process
from espnet3.specs import layout
from espnet3.specs.finishing import Finished
from espnet3.specs.models import ProcessIdentity, now
from tests.support.helpers import ROOT, wait_for

FOLDER = "/"


def ran(command: str, timeout: float = 60) -> tuple[int, str]:
    return asyncio.run(run_command(command, os.environ, "/nowhere", timeout))


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]
    except OSError:
        return False


def test_what_it_starts_in_the_background_goes_on(tmp_path: Path) -> None:
    """Nobody waits for it, nor for the output that it holds open."""
    code, output = ran(f"sleep 600 & echo $! > {tmp_path}/pid; echo told")
    pid = int((tmp_path / "pid").read_text())
    try:
        assert (code, output) == (0, "told\n")
        assert is_alive(pid)
    finally:
        os.kill(pid, 9)


def test_all_of_it_is_killed_where_it_takes_too_long(tmp_path: Path) -> None:
    command = f"echo begun; sleep 600 & echo $! > {tmp_path}/pid; wait"
    code, output = ran(command, timeout=2)
    assert (code, output) == (124, "did not end within 2 s\nbegun\n")
    pid = int((tmp_path / "pid").read_text())
    wait_for(lambda: not is_alive(pid), "its child is alive")


def test_it_reads_nothing_and_may_print_much() -> None:
    assert ran("cat; read x; echo $?") == (0, "1\n")
    code, output = ran(f'{sys.executable} -c \'print("x" * 3_000_000 + "end")\'')
    assert (code, output[-4:], len(output)) == (0, "end\n", 1 << 16)


def test_one_that_cannot_be_started() -> None:
    code, output = ran("true\0")
    assert code == 127
    assert output.startswith("cannot be started: ")


def an_end(by: ProcessIdentity, cause: str = "cancelled") -> Finished:
    return Finished(
        number=1, finisher=1, created=now(), by=by, outcome="stopped", cause=cause, n_shards=2,
        n_done=0,
    )  # fmt: skip


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    (tmp_path / "run").mkdir()
    return RunDirectory.open(tmp_path / "run")


def test_words_that_no_environment_could_hold(directory: RunDirectory, tmp_path: Path) -> None:
    """An exception's message may hold anything."""
    end = an_end(this_process(), "ValueError: a\0b\x1b]0;title\x07\nc")
    command = f'printf %s "$ESPNET3_WORDS" > {tmp_path}/told; pwd > {tmp_path}/folder'
    asyncio.run(notify(directory, end, command, 1, FOLDER))
    assert (tmp_path / "folder").read_text() == "/\n"
    told = (tmp_path / "told").read_text()
    assert told == r"stopped: 0 of 2 shards done; ValueError: a\x00b\x1b]0;title\x07 c"


HOLDS = """
import sys
from espnet3.run_dir.processes import this_process
print(this_process().model_dump_json(), flush=True)
sys.stdin.read()
"""


def test_a_finisher_waits_for_the_one_that_decided(directory: RunDirectory, tmp_path: Path) -> None:
    """Both see the end; only where the other one dies before its note it is run once more."""
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdin is not None
    assert other.stdout is not None
    end = an_end(ProcessIdentity.model_validate_json(other.stdout.readline()))
    command = f"echo told >> {tmp_path}/told"

    async def both() -> None:
        second = asyncio.create_task(notify(directory, end, command, 2, FOLDER))
        done, _ = await asyncio.wait([second], timeout=2)
        assert not done
        assert not (tmp_path / "told").exists()
        await notify(directory, end, command, 1, FOLDER)
        await second

    asyncio.run(both())
    assert (tmp_path / "told").read_text() == "told\n"
    Path(directory.root, layout.notified(1)).unlink()
    other.communicate()
    asyncio.run(notify(directory, end, command, 2, FOLDER))
    assert (tmp_path / "told").read_text() == "told\ntold\n"


WORDS = "stopped: ValueError: \"a\" $HOME `id` \\ 'b'"


@pytest.mark.parametrize("outcome", ["done", "stopped"])
def test_the_recipes_of_the_page(tmp_path: Path, outcome: str) -> None:
    """As `/bin/sh` reads them, and with words that quote an exception."""
    page = (ROOT / "docs" / "finishing.md").read_text()
    found = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(finish:.*?)```", page, re.S)]
    mail, slack, following = (one["finish"]["notify"] for one in found)
    for name in ("mail", "curl", "espnet3"):
        program = tmp_path / name
        program.write_text(
            f'#!/bin/sh\necho "$@" > {tmp_path}/{name}.words\ncat > {tmp_path}/{name}.in\n'
        )
        program.chmod(0o755)
    environ = {
        "PATH": f"{tmp_path}:{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
        "HOME": str(tmp_path), "ESPNET3_WORDS": WORDS, "ESPNET3_OUTCOME": outcome,
        "ESPNET3_RUN_DIR": "/shared/a run",
    }  # fmt: skip

    def run(command: str) -> None:
        assert asyncio.run(run_command(command, environ, str(tmp_path))) == (0, "")

    run(mail)
    assert (tmp_path / "mail.in").read_text() == f"{WORDS}\n"
    assert f"-s {outcome}: /shared/a run" in (tmp_path / "mail.words").read_text()
    run(slack)
    assert json.loads((tmp_path / "curl.in").read_text()) == {"text": WORDS}
    (tmp_path / "project").mkdir()
    run(following.replace("/home/ada/project", str(tmp_path / "project")))
    submitted = tmp_path / "espnet3.words"
    assert submitted.exists() == (outcome == "done")
