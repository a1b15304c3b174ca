"""What a submit command gets of the environment: a user's own variables, and nothing of a job's."""

from __future__ import annotations

import pytest

from espnet3.schedulers import get_dialect, known_schedulers

SYSTEMS: list[tuple[str, list[str], list[str], list[str]]] = [
    ("slurm", ["SBATCH_QOS", "SLURM_HINT"], ["SBATCH_WAIT", "SBATCH_ARRAY_INX"],
     ["SLURM_JOB_ID", "SLURM_NNODES", "SBATCH_MEM_BIND", "PMI_RANK"]),
    ("pbs", ["PBS_ACCOUNT", "PBS_TEST"], ["PBS_DPREFIX"], ["PBS_JOBID", "PBS_O_HOME"]),
    ("sge", ["SGE_LONG_QNAMES", "QUEUE", "JOB_ID"], [], ["SGE_TASK_ID", "NSLOTS"]),
    ("lsf", ["LSB_JOB_REPORT_MAIL", "LSF_X"], ["BSUB_QUIET", "BSUB_CHK_RESREQ"],
     ["LSB_JOBID", "LSB_HOSTS", "LS_SUBCWD"]),
    ("moab", ["MOAB_X", "PBS_ACCOUNT", "SBATCH_QOS"], ["PBS_DPREFIX", "SBATCH_WAIT"],
     ["MOAB_JOBID", "PBS_JOBID", "SLURM_JOB_ID"]),
    ("oar", ["OAR_JOB_KEY_FILE", "OAR_X"], [], ["OAR_JOB_ID", "OAR_NODEFILE"]),
    ("htcondor", ["_CONDOR_SCHEDD_HOST", "BATCH_SYSTEM"], [],
     ["_CONDOR_SCRATCH_DIR", "_CONDOR_SLOT"]),
]  # fmt: skip


def test_every_batch_system_is_here() -> None:
    assert {env for env, *_ in SYSTEMS} == {*known_schedulers()} - {"local", "local_gpu", "ssh"}


@pytest.mark.parametrize(("env", "own", "unfit", "job"), SYSTEMS)
def test_outside_a_job_and_within(
    env: str, own: list[str], unfit: list[str], job: list[str]
) -> None:
    dialect = get_dialect(env)
    outside = dict.fromkeys(["HOME", *own], "x")
    assert dialect.submit_environ({**outside, **dict.fromkeys(unfit, "x")}) == outside
    for mark in dialect.within:  # each tells by itself
        within = {**dict.fromkeys([*job, *unfit, mark], "x"), "HOME": "x"}
        assert dialect.submit_environ(within) == {"HOME": "x"}
    kept = dict.fromkeys(dialect.kept, "x")
    assert dialect.submit_environ({**kept, **dict.fromkeys(job, "x")}) == kept
