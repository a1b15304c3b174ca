"""The code in README and docs runs, block by block, on a real Slurm where it says so.

Readers' folders hold `examples/librivox`, with recordings cut to less than a second, and a
recogniser that considers few words at a time, since the same five are recognised many times here;
`test_demo.py` has both whole.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest

from espnet3 import Run, _jobqueue  # imported before we set one of its defaults
from espnet3.parallel import set_parallel
from espnet3.schedulers import dialects
from espnet3.user_code import variables
from tests.support import documents_yours
from tests.support.documents import DOCUMENTS, NEEDS, ROOT, Walkthrough, blocks
from tests.support.slurm_cluster import SlurmCluster

SECONDS = 0.7
FEW_WORDS = {"Decoder(": "Decoder(maxhmmpf=300, "}  # a fifth of the time, and it still finds some
SLURM = [
    "README.md",
    "docs/cookbook/software.md",
    "docs/customising.md",
    "docs/from-espnet3.md",
    "docs/guide.md",
    "examples/espnet3/README.md",
    "examples/librivox/README.md",
]
# A run of the README's size takes a cluster.
SMALLER = {
    "100_000": "40",
    '"n_shards": 400': '"n_shards": 4',
    "submitted 400 shards": "submitted 4 shards",
    "400 of 400": "4 of 4",
}
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def gpu_cluster(slurm_packages: None) -> Iterator[SlurmCluster]:
    """A cluster on which the documents' options (queue gpu, 8 cores, 32 GB, a GPU) fit."""
    temporary = tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True)
    with temporary as folder, SlurmCluster(folder, cpus=64, memory_mb=512_000, gpus=8) as cluster:
        yield cluster


@pytest.fixture
def slurm(gpu_cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    """That cluster, as a login node sees it: what a site has in its jobqueue.yaml included."""
    for name, value in gpu_cluster.env.items():
        monkeypatch.setenv(name, value)
    with dask.config.set({"jobqueue.slurm.interface": "lo"}):
        yield gpu_cluster
        set_parallel(None)
    gpu_cluster.reset()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A reader's folder; also the current one, and on the import path as a script's would be."""
    here = tmp_path / "here"
    ignored = shutil.ignore_patterns("runs", "espnet3_runs", "__pycache__")
    shutil.copytree(ROOT / "examples/librivox", here, ignore=ignored)
    for file in here.glob("data/*.wav"):
        with wave.open(str(file)) as audio:
            parameters, frames = audio.getparams(), audio.readframes(int(SECONDS * 16000))
        with wave.open(str(file), "wb") as audio:
            audio.setparams(parameters)
            audio.writeframes(frames)
    consider_few_words(here / "recognise.py")
    shutil.copy(documents_yours.__file__, here / "yours.py")
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(str(here))
    before = set(sys.modules)
    yield here
    set_parallel(None)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(f"{here}/"):
            del sys.modules[name]
            for key in [key for key in variables._first if key[0] == name]:
                del variables._first[key]  # another reader's module may have this name


def walk(document: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Execute all blocks of a document."""
    import yours  # type: ignore[import-not-found]  # in the reader's folder

    name = str(document.relative_to(ROOT))
    for package in NEEDS.get(name, ()):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed; `make cookbook` does that")
    shared = folder / "shared"
    shared.mkdir()
    module = "_".join([*Path(name).parts[1:-1], document.stem]).lower().replace("-", "_")
    if module == "adding_a_batch_system":  # where a reader's new files and names are to be found
        monkeypatch.setattr(dialects, "__path__", [*dialects.__path__, str(folder)])
        monkeypatch.setattr(_jobqueue, "CLUSTERS", {**_jobqueue.CLUSTERS})
    replacements = {"/shared": str(shared), **SMALLER, **FEW_WORDS}
    if name == "docs/cookbook/hugging-face.md":
        replacements |= whisper(folder)
    elif name == "docs/cookbook/notebook.md":
        write_notebook(folder / "notebook.ipynb", document)
    elif name == "docs/cookbook/software.md":
        containers(folder, monkeypatch)
    elif name == "examples/espnet3/README.md":  # beside the other example, whose data it reads
        shutil.copytree(folder / "data", folder.parent / "librivox" / "data")
        shutil.copytree(document.parent, folder, dirs_exist_ok=True)
        consider_few_words(folder / "src/inference.py")
    walkthrough = Walkthrough(folder, module, yours, replacements)
    monkeypatch.setitem(sys.modules, module, walkthrough.module)
    for block in blocks(document):
        began = time.monotonic()
        walkthrough.run(block)
        print(f"{block.place}: {block.language}, {time.monotonic() - began:.1f} s")
    assert walkthrough.unused == set(), "files that no later block uses"


def consider_few_words(file: Path) -> None:
    """Have a file's recogniser be quick."""
    text = file.read_text()
    for old, new in FEW_WORDS.items():
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)


def whisper(folder: Path) -> dict[str, str]:
    """What stands for a large model: a tiny one, saved to a folder."""
    model = folder / "whisper"
    command = [sys.executable, "-m", "tests.support.tiny_whisper", str(model)]
    subprocess.run(command, cwd=ROOT, check=True)
    return {"openai/whisper-large-v3": str(model)}


def write_notebook(file: Path, document: Path) -> None:
    """The page's Python blocks as the cells of a notebook."""
    cells: list[dict[str, object]] = [
        {
            "cell_type": "code",
            "id": str(number),
            "source": block.text,
            "metadata": {},
            "outputs": [],
            "execution_count": None,
        }
        for number, block in enumerate(blocks(document))
        if block.language == "python"
    ]
    whole = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}
    file.write_text(json.dumps(whole))


def containers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An `apptainer` that has no image, and runs the command behind its name."""
    program = folder / "bin" / "apptainer"
    program.parent.mkdir()
    script = 'while [ "${1%.sif}" = "$1" ]; do shift; done; shift; exec "$@"'
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    own = os.path.dirname(sys.executable)
    monkeypatch.setenv("PATH", f"{program.parent}:{own}:{os.environ['PATH']}")


@pytest.mark.parametrize("name", SLURM)
def test_every_block_runs_on_slurm(
    name: str, folder: Path, slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk(ROOT / name, folder, monkeypatch)
    if name == "docs/customising.md":
        check_hooks(folder, slurm)


@pytest.mark.parametrize(
    "document",
    [each for each in DOCUMENTS if str(each.relative_to(ROOT)) not in SLURM and blocks(each)],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_every_block_runs(document: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walk(document, folder, monkeypatch)


def check_hooks(folder: Path, slurm: SlurmCluster) -> None:
    """What the hooks of customising.md change is what Slurm gets, and the jobs do their work."""
    from commented import Commented  # type: ignore[import-not-found]  # the document's
    from omegaconf import OmegaConf
    from own_prologue import OwnPrologue  # type: ignore[import-not-found]
    from recognise import LibriVox  # type: ignore[import-not-found]
    from with_variables import WithVariables  # type: ignore[import-not-found]

    options = {"cores": 1, "memory": "1GB", "job_script_prologue": ["true here"]}
    set_parallel({"env": "slurm", "options": options, "async_mode": True})
    provider = LibriVox(OmegaConf.load("decode.yaml").config)
    scripts = {}
    runs: list[Run] = []
    for runner in (Commented, WithVariables, OwnPrologue):
        run = runner(provider)([1])
        runs.append(run)
        submission = json.loads(Path(run.run_dir, "submissions/0001.json").read_bytes())
        scripts[runner] = submission["script"]
    comment = slurm.run("squeue", "--noheader", "--states=all", "--format=%k").stdout
    assert comment.splitlines().count("nightly decode") == 1
    assert "true here" in scripts[Commented]
    assert "true here\nexport OMP_NUM_THREADS=4\n" in scripts[WithVariables]
    assert "true here" not in scripts[OwnPrologue]
    assert "module load cuda\nulimit -c 0\n" in scripts[OwnPrologue]
    for run in runs:
        assert run.wait(timeout=300, interval=0.2).done, run.status()
