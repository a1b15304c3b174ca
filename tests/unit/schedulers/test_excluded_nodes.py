"""How each dialect keeps a job away from nodes, beside what its user's options say."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any

import pytest

from espnet3.schedulers import get_dialect
from espnet3.schedulers.commands import Answer
from espnet3.schedulers.dialect import JobRequest
from espnet3.schedulers.dialects.pbs import Torque
from espnet3.schedulers.excluded_nodes import option_values, short_names, with_directive
from espnet3.specs.models import PlannedJob
from tests.support.asking import Commands, system

JOB = PlannedJob(name="esp_array", first_task=0, n_tasks=1, log="l")
# One of them is a domain's, and the last ones would be something else to a scheduler.
NODES = ["n1", "n2.site", "x' or '1'='1", "--all", "a b", "", "n3)|(*", "n1"]
CONDOR = (
    "#!/usr/bin/env condor_submit\n\n{}batch_name = espnet3\n\nArguments = \"-c 'exec python'\"\n"
    "Executable = /bin/sh\n\nQueue\n"
)


def amended(env: str, script: str, nodes: list[str] = NODES) -> list[str]:
    """The lines that are in the script only because of the nodes."""
    dialect = get_dialect(env)
    plain = JobRequest(JOB, "/logs", options={"disk": "1GB"})
    without = dialect.request(plain).amend(script).splitlines()
    found = dialect.request(plain._replace(without_nodes=nodes)).amend(script).splitlines()
    assert [line for line in found if line in without] == without
    return [line for line in found if line not in without]


@pytest.mark.parametrize(
    ("env", "own", "line"),
    [
        ("slurm", "#SBATCH -n 1", "#SBATCH --exclude=n1,n2.site"),
        ("slurm", "#SBATCH --exclude=b[1-3]", "#SBATCH --exclude=b[1-3],n1,n2.site"),
        ("slurm", "#SBATCH -n 1 -x a\n#SBATCH -xb --exclusive", "#SBATCH --exclude=b,n1,n2.site"),
        ("sge", "#$ -l h_vmem=8G", "#$ -l hostname=!(n1|n1.*|n2|n2.*)"),
        (
            "sge",
            "#$ -l h=a\n#$ -l gpu=1,h='b*|c*',h_rt=60",
            "#$ -l hostname=(b*|c*)&!(n1|n1.*|n2|n2.*)",
        ),
        (
            "oar",
            "#OAR -l /nodes=1",
            """#OAR -p 'network_address not in ('"'"'n1'"'"','"'"'n2'"'"') and network_address """
            """not like '"'"'n1.%'"'"' and network_address not like '"'"'n2.%'"'"''""",
        ),
        (
            "lsf",
            "#BSUB -n 1",
            "#BSUB -R \"select[hname!='n1' && hname!='n2.site' && hname!='n2']\"",
        ),
        (
            "lsf",
            '#BSUB -R "select[mem>4] span[hosts=1]"',
            "#BSUB -R \"select[hname!='n1' && hname!='n2.site' && hname!='n2']\"",
        ),
        ("moab", "#PBS -l walltime=1", "#PBS -l excludenodes=n1:n2.site"),
        ("moab", "#PBS -l mem=1,excludenodes=a:b", "#PBS -l excludenodes=a:b:n1:n2.site"),
    ],
)  # fmt: skip
def test_by_a_directive_behind_the_others(env: str, own: str, line: str) -> None:
    script = f"#!/usr/bin/env bash\n\n{own}\n\nexport A=b\nexec python\n"
    assert amended(env, script) == [line]
    request = JobRequest(JOB, "/logs", without_nodes=NODES)
    assert f"{own}\n{line}\n\nexport" in get_dialect(env).request(request).amend(script)


def test_properties_of_oars_user_count_as_well() -> None:
    script = "#!/bin/sh\n#OAR -p \"gpu = 'A' or gpu = 'B'\"\n#OAR -p 'mem>=1 or gpu=2'\ntrue\n"
    nodes = ["a_1", "10.0.0.7"]
    request = JobRequest(JOB, "/logs", without_nodes=nodes)
    oar = get_dialect("oar")
    amended = oar.request(request).amend(script)
    words = oar.submit_call(["oarsub"], "/script", amended, {}).words
    assert words[-3:-1] == [
        "-p",
        "(mem>=1 or gpu=2) and network_address not in ('a_1','10.0.0.7') "
        "and network_address not like '10.0.0.7.%'",
    ]


@pytest.mark.parametrize(
    ("env", "line"),
    [
        ("slurm", "#SBATCH --exclude=/home/me/bad.txt"),
        ("lsf", '#BSUB -R "1*{select[a]}+2*{select[b]}"'),
    ],
)
def test_what_the_users_own_words_leave_no_room_for(env: str, line: str) -> None:
    """They could only be replaced."""
    assert amended(env, f"#!/bin/sh\n{line}\ntrue\n") == []


@pytest.mark.parametrize("env", ["slurm", "sge", "oar", "lsf", "moab", "htcondor"])
def test_no_node_changes_nothing(env: str) -> None:
    assert get_dialect(env).can_exclude
    script = CONDOR.format("") if env == "htcondor" else "#!/bin/sh\n#SBATCH -x a\ntrue\n"
    assert amended(env, script, []) == amended(env, script, ["-x", "a'b"]) == []


def test_what_cannot_keep_away_from_nodes() -> None:
    assert not get_dialect("pbs").can_exclude
    assert not Torque().can_exclude


@pytest.mark.parametrize(
    ("own", "expected"),
    [("", ""), ("Requirements = Memory > 3 || HasX\n", "(Memory > 3 || HasX) && ")],
)
def test_requirements_of_htcondor(own: str, expected: str) -> None:
    [line] = amended("htcondor", CONDOR.format(own))
    assert line == f'requirements = {expected}!regexp("^(n1|n2)([.]|$)", TARGET.Machine, "i")'


@pytest.mark.skipif(find_spec("classad") is None, reason="its bindings are for Linux only")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("machine", "fits"),
    [
        ("n1", False), ("N1.site.org", False), ("n2.other", False), ("n10", True), ("n", True),
        ("an1", True), ("a.n1", True),
    ],
)  # fmt: skip
def test_requirements_as_htcondor_evaluates_them(machine: str, fits: bool) -> None:
    classad: Any = importlib.import_module("classad")  # it tells nothing of its types

    [line] = amended("htcondor", CONDOR.format(""))
    job: Any = classad.ClassAd({"requirements": classad.ExprTree(line.partition(" = ")[2])})
    # Whether the requirements of the other one are met.
    assert classad.ClassAd({"Machine": machine}).matches(job) is fits


# What Slurm calls a node need not be its host's name, and what it does not know it refuses.


@pytest.mark.parametrize(
    ("hosts", "nodes"),
    [
        (["a"], ["a"]), (["a.site.org"], ["a"]), (["vm"], ["node1", "node2"]),
        (["node2"], ["node2"]), (["b"], ["b.site"]), (["unknown"], []), (["a", "node1"],
        ["a", "node1"]), (["$(x)"], []),
    ],
)  # fmt: skip
async def test_names_of_slurms_nodes(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, hosts: list[str], nodes: list[str]
) -> None:
    monkeypatch.delenv("SLURM_CLUSTERS", raising=False)
    commands.say(
        "sinfo", "CLUSTER: c\na|a\na|a\nnode1|vm\nnode2|vm\nb.site|b\nDue to maintenance\n"
    )
    assert await system("slurm").node_names(hosts) == nodes


async def test_names_of_a_slurm_that_the_environment_chooses(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_CLUSTERS", "big")
    commands.say("sinfo", "a|a\n")
    assert await system("slurm").node_names(["a"]) == ["a"]
    assert commands.lines() == ["sinfo --clusters=big --noheader --Node --format=%N|%n"]


async def test_names_of_other_schedulers_nodes(commands: Commands) -> None:
    assert await system("sge").node_names(["a", "b.site", "-x"]) == ["a", "b.site"]
    commands.answer("qstat", lambda words, environ: Answer(0, "pbs_version = 23.06", ""))
    assert await system("pbs").node_names(["a"]) == ()


# The script


def test_words_that_no_shell_could_read() -> None:
    assert option_values("#$ -l h='a\n#$ -l", "#$", "-l") == ["h='a", ""]
    assert option_values("echo\n#SBATCH -x a # -x b\n", "#SBATCH", "-x") == ["a"]


def test_a_script_without_directives() -> None:
    assert with_directive("#!/bin/sh\ntrue\n", "#PBS", "-l a") == "#!/bin/sh\n#PBS -l a\ntrue\n"
    # What follows a command is no directive to sbatch.
    late = "#!/bin/sh\n# a comment\ntrue\n#PBS -q b\n"
    assert with_directive(late, "#PBS", "-l a").startswith("#!/bin/sh\n#PBS -l a\n# a comment")


def test_domains_are_cut_off_and_addresses_are_not() -> None:
    names = ["a.b.c", "a", "n-1.x", "1a.b", "10.1.2.3", "9"]
    assert short_names(names) == ["a", "n-1", "1a", "10.1.2.3", "9"]
