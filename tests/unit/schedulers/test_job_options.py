"""Options of dask-jobqueue in wrong shapes are refused in a line that shows the right one."""

from __future__ import annotations

from typing import Any

import pytest

from espnet3._jobqueue import CLUSTERS, Job
from espnet3.config.option_kinds import COUNTS, SWITCHES, WRITTEN
from espnet3.errors import ConfigError
from espnet3.schedulers import get_dialect
from espnet3.schedulers.job_options import check_options, with_new_names
from espnet3.submit.jobqueue import _parameters

LISTED = [env for env in CLUSTERS if get_dialect(env).directive]


def checked(env: str, options: dict[str, Any], *, detached: bool = True) -> None:
    """Nothing, or the error."""
    check_options(get_dialect(env), options, lambda name: f"at.{name}", detached=detached)


def refused(env: str, name: str, value: Any, *, detached: bool = True) -> str:
    """What is said of an option, behind its place."""
    with pytest.raises(ConfigError) as told:
        checked(env, {name: value}, detached=detached)
    words = str(told.value)
    assert words.startswith(f"at.{name}: ")
    assert "\n" not in words
    return words.removeprefix(f"at.{name}: ")


@pytest.mark.parametrize("env", CLUSTERS)
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("job_script_prologue", "export A=1", 'a list of shell lines, not text; write ["export A'),
        ("job_script_prologue", {"A": 1}, 'is a list of shell lines, got {"A": 1}'),
        ("job_script_prologue", [{"A": 1}], 'each text, and has {"A": 1}; put it in quotes'),
        ("env_extra", "a", 'is a list of shell lines, not text; write ["a"]'),
        ("job_directives_skip", "--mem", 'a list of directives, not text; write ["--mem"]'),
        ("header_skip", "--mem", 'a list of directives, not text; write ["--mem"]'),
        ("worker_extra_args", "--x", 'is a list of words, not text; write ["--x"]'),
        ("submit_command_extra", "-v", 'is a list of words, not text; write ["-v"]'),
        ("queue", 1000.0, "is text, got 1000.0; put what you mean in quotes"),
        ("queue", True, "is text, got true; put what you mean in quotes"),
        ("queue", ["a", "b"], 'is text, not a list; write "a,b"'),
        ("walltime", 1.5, "is text, got 1.5"),
        ("python", ["python"], 'is text, not a list; write "python"'),
        ("job_name", {"a": 1}, 'is text, got {"a": 1}'),
        ("memory", True, "must be a size such as 4GB, got true"),
        ("disk", ["1GB"], "must be a size such as 4GB"),
        ("job_cpu", "4", 'must be a number from 1, got "4"'),
        ("ncpus", 0, "must be a number from 1, got 0"),
        ("use_stdin", "false", 'must be true or false, got "false"'),
        ("shebang", "/bin/bash", 'must begin with #!, got "/bin/bash"; write "#!/bin/bash"'),
        ("job_script_prologue", "export HF_TOKEN=abcdef", 'write ["export HF_TOKEN=***'),
    ],
)
def test_wrong_shapes(env: str, name: str, value: Any, words: str) -> None:
    assert words in refused(env, name, value)
    assert words in refused(env, name, value, detached=False)


@pytest.mark.parametrize("env", LISTED)
def test_directives_that_are_comments_or_no_options(env: str) -> None:
    own = get_dialect(env).directive
    for name in ("job_extra_directives", "job_extra"):
        for given in (f"{own} --x=y", f"{own}   --x=y", "#--x=y", "# --x=y"):
            assert 'write "--x=y"' in refused(env, name, [given])
        assert 'not text; write ["--x=y"]' in refused(env, name, "--x=y")
        assert 'one begins with -, such as "--x=y"' in refused(env, name, ["x=y"])
        assert "which no shell could read" in refused(env, name, ["--x='y"])
    for given in ("", " ", "-", own, f"{own} -", "#"):
        assert "is in every directive" in refused(env, "job_directives_skip", [given])
    checked(env, {"job_directives_skip": ["--mem"], "job_extra_directives": ["--x=y", "-q 'a b'"]})


@pytest.mark.parametrize(
    ("env", "name", "logs", "array", "stay"),
    [
        ("slurm", "-J mine|-Jmine|--job-name=mine|--exclusive -J x",
         "-o x|--output=/dev/null|-e x|--error x|--open-mode=truncate",
         "-a 0-3|--array=0-3|--array 0-3|hetjob", "-W|--wait|--test-only"),
        ("pbs", "-N mine|-Nmine", "-o /x|-e /x|-j oe|-koed", "-J 0-3|-t 0-3",
         "-I|-W block=true|-Wblock=true|-W depend=afterany:1,block=true"),
        ("moab", "-N mine", "-o /x|-j oe", "-t x.[0-3]", "-I|-K"),
        ("sge", "-N mine", "-o /x|-e /x|-j n", "-t 1-3|-tc 2", "-sync y|-verify"),
        ("lsf", "-J mine|-J x[1-3]", "-o /x|-oo x|-eo x", "", "-I|-Is|-K"),
        ("oar", "-n mine|--name=mine", "-O x|--stdout=x|-E x", "--array 3|--array-param-file x",
         "-I|--scanscript|-S"),
    ],
)  # fmt: skip
def test_directives_that_espnet3_decides(
    env: str, name: str, logs: str, array: str, stay: str
) -> None:
    def said(directive: str, *, detached: bool) -> str:
        return refused(env, "job_extra_directives", [directive], detached=detached)

    for kind, given in (("option job_name", name), ("option log_directory", logs)):
        for directive in given.split("|"):
            assert kind in said(directive, detached=True)
            # A worker of Dask's may have any name and logs.
            checked(env, {"job_extra_directives": [directive]}, detached=False)
    for kind, given in (("n_shards and n_workers", array), ("submit the job and end", stay)):
        for directive in filter(None, given.split("|")):
            assert kind in said(directive, detached=True)
            assert kind in said(directive, detached=False)


@pytest.mark.parametrize(
    ("env", "directives"),
    [
        ("slurm", ["--gres=gpu:1", "--account=x", "--wait-all-nodes=1", "--exclusive", "-w node2",
                   "--nice=7", "--dependency=afterok:1", "--comment='a  b'", "--no-requeue"]),
        ("pbs", ["-l select=1:ngpus=1", "-A x", "-W depend=afterok:1", "-r y", "-q a"]),
        ("moab", ["-l nodes=1", "-A x", "-W x=y"]),
        ("sge", ["-l gpu=1", "-pe smp 4", "-r y", "-ar 1", "-hold_jid 3"]),
        ("lsf", ['-gpu "num=1"', '-R "select[mem>1]"', "-outdir /x", "-Jd text", "-n 4"]),
        ("oar", ["-p \"gpu_model = 'A100'\"", "--checkpoint 60", "-t besteffort", "--notify mail"]),
    ],
)  # fmt: skip
def test_directives_that_are_a_users_own(env: str, directives: list[str]) -> None:
    checked(env, {"job_extra_directives": directives})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("request_gpus = 1", "for example `{request_gpus: 1}`"),
        (["request_gpus = 1", "a=b"], "for example `{request_gpus: 1, a: b}`"),
        ([], "for example `{request_gpus: 1}`"),
        ({"Arguments": "x"}, 'has "Arguments", which is espnet3\'s own'),
        ({"a": [1]}, 'has no single value for "a", got [1]'),
    ],
)
def test_htcondors_directives_are_a_mapping(value: Any, words: str) -> None:
    for name in ("job_extra_directives", "job_extra"):
        assert words in refused("htcondor", name, value)
    assert "none of the commands MY." in refused("htcondor", "job_directives_skip", ["--mem"])
    checked("htcondor", {"job_extra_directives": {"getenv": True, "+A": 1.5, "b": "c"}})
    checked("htcondor", {"job_directives_skip": ["RequestDisk"]})


def test_old_names() -> None:
    """`env_extra` was dropped wherever espnet3 has lines of its own in the prologue."""
    assert with_new_names({"env_extra": ["a"], "job_script_prologue": ["b"]}) == {
        "job_script_prologue": ["b"]
    }
    assert with_new_names({"job_extra": ["-A x"], "header_skip": ["-t"], "extra": ["--z"]}) == {
        "job_extra_directives": ["-A x"],
        "job_directives_skip": ["-t"],
        "worker_extra_args": ["--z"],
    }


@pytest.mark.parametrize("env", CLUSTERS)
def test_every_option_of_a_job_class_is_of_a_kind(env: str) -> None:
    """One that is in no set of `config/job_options.py` would reach the scheduler unchecked."""
    checked_elsewhere = {"cores", "processes"}
    of_dask_workers = {"death_timeout", "security"}
    options = _parameters(CLUSTERS[env].job_cls) | get_dialect(env).own_options
    assert options - (WRITTEN | COUNTS | SWITCHES) == checked_elsewhere | of_dask_workers


def test_what_a_job_class_hands_on_is_not_an_option() -> None:
    class Own(Job):
        def __init__(self, scheduler: Any = None, mine: str = "", **rest: Any) -> None:
            """Never called."""

    assert {"mine", "cores"} <= _parameters(Own)
    assert "rest" not in _parameters(Own)
