"""What we hand to condor_submit, and what the stand-in makes of it, read by HTCondor itself.

Its Python bindings have the parser of condor_submit, which makes the jobs' ads without a server.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from espnet3.submit import dry_run
from tests.support.helpers import parallel
from tests.support.runners import Clock, Square
from tests.support.stand_ins import htcondor_submit

pytestmark = pytest.mark.skipif(
    find_spec("htcondor") is None, reason="HTCondor's Python bindings are for Linux only"
)

# In a process of its own: importing it warns, and loads much.
READER = """
import htcondor, json, sys
submit = htcondor.Submit(sys.stdin.read())
ads = [{k: ad[k] if isinstance(ad[k], (str, int, float)) else f"/Expr({ad[k]})/" for k in ad}
       for ad in submit.jobs(clusterid=123)]
print(json.dumps(ads, default=str))
"""
ONE = "executable = /bin/true\n"


def read(text: str) -> list[dict[str, Any]]:
    """The ads that HTCondor makes of a description.

    Raises:
        ValueError: it refuses it.
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READER],
        input=text, env={**os.environ, "CONDOR_CONFIG": "/dev/null"},
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        raise ValueError(done.stderr)
    ads: list[dict[str, Any]] = json.loads(done.stdout)
    return ads


def words(ad: dict[str, Any]) -> list[str]:
    """The arguments of a job: in an ad they have the new syntax, without the outer quotes."""
    doubled = ad["Arguments"].replace('"', '""')
    return htcondor_submit._words(f'"{doubled}"', "arguments")


def test_the_submission_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "condor_submit").write_text("#!/bin/sh\n")
    (tmp_path / "condor_submit").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    folder = tmp_path / 'it\'s "$(ProcId)" $INT(x) 100%é $$(Memory) [x]*?#;&|\\'
    prologue = ["export A=$(hostname) # a comment", "case x in\nx)\techo\\\n;; esac"]
    options = {
        "cores": 2, "memory": "1GB", "disk": "2GB", "walltime": "01:00:00",
        "job_script_prologue": prologue,
        "job_extra_directives": {"request_gpus": 1, "periodic_remove": "NumJobStarts > 3"},
    }  # fmt: skip
    runner = Square(Clock({"folder": str(tmp_path)}))
    config = parallel("htcondor", n_shards=4, n_workers=2, max_array_size=4, options=options)
    [shown] = asyncio.run(dry_run(runner, range(4), run_dir=folder / "run", parallel=config))

    assert shown.command[:3] == ["condor_submit", "-terse", "-append"]
    description = shown.script.replace("\nQueue", f"\n{shown.command[3]}\nQueue")
    ads = read(description)
    assert [ad["ProcId"] for ad in ads] == [0, 1, 2, 3]
    found = htcondor_submit.read(description, [], {})
    assert found.warnings == []
    assert found.max_materialize == 2
    for ad, arguments in zip(ads, found.arguments, strict=True):
        assert ad["Cmd"] == "/bin/sh"
        assert words(ad) == [word.replace("{job}", "123") for word in arguments]
        assert f"ESPNET3_HTCONDOR_JOB=123.{ad['ProcId']}" in ad["Arguments"]
        assert ad["EspnetJob"] == ad["JobBatchName"]
        assert ad["RequestGPUs"] == 1
        assert "(NumJobStarts > 3) || " in ad["PeriodicRemove"]
        assert "> 3600)" in ad["PeriodicRemove"]
    # What the shell makes of it has the log and the prologue as they were meant.
    script = words(ads[1])[1].replace("eval", "printf %s", 1)
    program = subprocess.run(
        ["/bin/sh", "-c", script, *words(ads[1])[2:]], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    [begin] = [line for line in program if line.startswith("exec >>")]
    log = subprocess.run(
        ["/bin/sh", "-c", f"printf %s {begin.removeprefix('exec >>').removesuffix(' 2>&1')}"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert log == f"{folder}/run/logs/0001-0.1.log"
    assert shlex.split(program[-1])[-4] == str(folder / "run")
    assert program[2:6] == [
        "export A=$(hostname) # a comment",
        "case x in",
        "x)\techo\\",
        ";; esac",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "arguments = x\n",
        f"{ONE}just words\n",
        f"{ONE}universe = nonesuch\n",
        f"{ONE}requirements = (((\n",
        f"{ONE}requirements = Memory > \n",
        f"{ONE}+Name = hello world\n",
        f"{ONE}request_memory = lots of\n",
        f"{ONE}request_gpus = -\n",
        f"{ONE}periodic_remove = foo bar\n",
        f"{ONE}periodic_hold = f(1,2\n",
        f'{ONE}arguments = "-c \'a b"\n',
        f'{ONE}arguments = "a"b"\n',
        f'{ONE}environment = "A=1 B"\n',
    ],
)
def test_the_stand_in_refuses_what_htcondor_refuses(text: str) -> None:
    with pytest.raises(ValueError, match=r"htcondor\.HTCondor"):
        read(f"{text}queue\n")
    with pytest.raises(htcondor_submit.Refused):
        htcondor_submit.read(f"{text}queue\n", [], {})


@pytest.mark.parametrize(
    "text",
    [
        'arguments = "a ""b"" \'c  d\' \'it\'\'s\' \'\'"\n',
        "arguments = a b  c\n",
        "x = $(y:two)\narguments = $(x) $(nothing) $(X)$(Process) $(DOLLAR)(x)\n",
        'x = "q"\narguments = $F(x) \\\n  more\n',
        "requirements = (Memory > 3) && Arch =?= \"X\" || !regexp(\"a\", Name) ? 1 : -2\n",
        "rank = {1, 2}[0] + kflops * 2.5\nperiodic_remove = time() - QDate > 3 * 60\n",
        "+Mine = \"a \\\"b\\\"\"\nMY.Other = ifThenElse(Mine =!= undefined, 1, 0)\n",
    ],
)  # fmt: skip
def test_the_stand_in_accepts_what_htcondor_accepts(text: str) -> None:
    [ad] = read(f"{ONE}{text}queue\n")
    [found] = htcondor_submit.read(f"{ONE}{text}queue\n", [], {}).arguments
    assert found == (words(ad) if "Arguments" in ad else ad.get("Args", "").split())
