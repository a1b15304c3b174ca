"""Runners with writers on real Dask workers: the same files as in local mode, whatever dies."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from espnet3.errors import OutputError, WorkersKilled
from espnet3.parallel import BaseRunner, set_parallel
from tests.support.helpers import ROOT, wait_for
from tests.support.runners import GATE, MENDED
from tests.support.writing_runners import (
    Appending,
    Decode,
    Kinds,
    Statistics,
    Study,
    computed,
)

ITEMS = range(20)


@pytest.fixture(scope="module", autouse=True)
def _closed() -> Iterator[None]:
    yield
    set_parallel(None)


def use(n_workers: int, **more: Any) -> None:
    set_parallel({"env": "local", "n_workers": n_workers, **more})


def merged(out: Path) -> dict[str, bytes]:
    """The merged files; the path of the arrays' folders as the same one."""
    files = {path.name: path.read_bytes() for path in out.glob("*.scp")}
    return {name: re.sub(rb"split\.\d+", b"split", text) for name, text in files.items()}


@pytest.mark.parametrize("n_workers", [1, 2, 3])
def test_merged_files_are_those_of_local_mode(tmp_path: Path, n_workers: int) -> None:
    found = []
    for workers in (0, n_workers):
        set_parallel(None) if workers == 0 else use(workers)
        for batch_size in (None, 3):
            out = tmp_path / "out"
            runner = Decode(Study({"folder": str(tmp_path)}), batch_size, out, "dev")
            assert runner(ITEMS) == {"encoded": 20, "hyp": 20, "score": 20}
            found.append(merged(out / "dev"))
            assert len([*(out / "dev").glob("split.*/done")]) == max(workers, 1)
            os.rename(out, tmp_path / f"of {workers} by {batch_size}")
    assert all(each == found[0] for each in found)


def test_states_and_results_of_any_kind(tmp_path: Path) -> None:
    use(2)
    study = Study({"folder": str(tmp_path)})
    statistics = Statistics(study, output_dir=tmp_path / "statistics")
    assert statistics(range(10)) == {"sum": [45.0, 285.0], "count": 10}
    kinds = Kinds(study, output_dir=tmp_path / "kinds")(range(3))
    assert [path for path, _ in kinds] == ["a/0", "a/1", "a/2"]
    assert kinds[0][1] == {"path": "PosixPath", "array": "ndarray", "both": "tuple"}


def test_what_is_raised_names_the_item_and_the_rest_is_gone_on_with(tmp_path: Path) -> None:
    use(2, n_shards=5)

    def call() -> Any:
        return Decode(
            Study({"folder": str(tmp_path), "failing": [18]}), output_dir=tmp_path / "out"
        )(ITEMS)

    with pytest.raises(ValueError, match="item 18 is bad") as caught:
        call()
    notes = "\n".join(caught.value.__notes__)
    assert "while computing item 18" in notes
    assert "of shard 4" in notes
    assert "remote traceback" in notes
    assert not (tmp_path / "out" / "split.4" / "done").exists()
    done = {int(path.parent.name[6:]) for path in (tmp_path / "out").glob("split.*/done")}
    (tmp_path / MENDED).touch()
    before = Counter(computed(tmp_path))
    assert call()["hyp"] == 20
    again = Counter(computed(tmp_path)) - before
    assert {item // 4 for item in again} == {0, 1, 2, 3, 4} - done
    assert set(again.values()) == {1}


def test_where_one_shard_fails_the_others_end(tmp_path: Path) -> None:
    """A worker that wrote on would hold its shard when the call is repeated."""
    use(2)
    study = Study({"folder": str(tmp_path), "gated": [2], "failing_behind": [2, 15]})
    runner = Decode(study, output_dir=tmp_path / "out")
    with pytest.raises(ValueError, match="item 15"):
        runner(ITEMS)
    assert 2 in computed(tmp_path)
    (tmp_path / GATE).touch()
    assert runner(ITEMS)["hyp"] == 20
    assert Counter(computed(tmp_path))[2] == 2


def test_a_shard_whose_worker_dies_is_computed_again_from_the_start(tmp_path: Path) -> None:
    use(2)
    runner = Decode(Study({"folder": str(tmp_path), "killing": [7]}), output_dir=tmp_path / "out")
    with pytest.raises(WorkersKilled, match="of shard 0 killed every worker"):
        runner(ITEMS)
    (tmp_path / MENDED).touch()
    assert runner(ITEMS)["hyp"] == 20
    lines = (tmp_path / "out" / "hyp.scp").read_text().splitlines()
    assert [line.split()[0] for line in lines] == [f"utt{n:03d}" for n in ITEMS]


def test_a_worker_that_dies_once_costs_no_more_than_its_shard(tmp_path: Path) -> None:
    use(2)
    runner = Decode(Study({"folder": str(tmp_path), "dying": [7]}), output_dir=tmp_path / "out")
    assert runner(ITEMS)["hyp"] == 20
    lines = (tmp_path / "out" / "hyp.scp").read_text().splitlines()
    assert [line.split()[0] for line in lines] == [f"utt{n:03d}" for n in ITEMS]
    assert max(Counter(computed(tmp_path))[item] for item in range(8)) == 2


def test_another_plan_is_refused_without_workers(tmp_path: Path) -> None:
    use(2)
    study = Study({"folder": str(tmp_path)})
    Decode(study, output_dir=tmp_path / "out")(ITEMS)
    use(3)
    with pytest.raises(OutputError, match="number of shards is 2 there and 3 here"):
        Decode(study, output_dir=tmp_path / "out")(ITEMS)
    set_parallel(None)
    with pytest.raises(OutputError, match="number of shards is 2 there and 1 here"):
        Decode(study, output_dir=tmp_path / "out")(ITEMS)
    assert len(computed(tmp_path)) == 20


def test_an_append_only_shard_goes_on_in_a_worker(tmp_path: Path) -> None:
    use(1)
    provider = Study({"folder": str(tmp_path), "failing": [3]})
    runner = Appending(provider, output_dir=tmp_path / "out")
    with pytest.raises(ValueError, match="item 3"):
        runner(range(6))
    (tmp_path / MENDED).touch()
    assert runner(range(6)) == "".join(f"{n} half line\n" for n in range(6))
    assert computed(tmp_path) == [0, 1, 2, 3, 3, 4, 5]


def test_a_worker_that_dies_costs_an_append_only_shard_one_item(tmp_path: Path) -> None:
    use(1, checkpoint_every=1e-9)  # after each item
    provider = Study({"folder": str(tmp_path), "dying": [0, 3, 5]})
    runner = Appending(provider, output_dir=tmp_path / "out")
    assert runner(range(6)) == "".join(f"{n} half line\n" for n in range(6))
    assert computed(tmp_path) == [0, 0, 1, 2, 3, 3, 4, 5, 5]


class Nest(BaseRunner):
    """Decodes with another runner, which writes below the item's own folder."""

    @staticmethod
    def forward(idx: int, *, folder: str, **env: Any) -> Any:
        return Decode(Study({"folder": folder}), output_dir=f"{folder}/{idx}")(range(4))["hyp"]


def test_a_call_within_a_task_is_computed_there(tmp_path: Path) -> None:
    set_parallel({"env": "local", "n_workers": 2, "options": {"processes": False}})
    assert Nest(Study({"folder": str(tmp_path)}))(range(2)) == [4, 4]
    assert len([*tmp_path.glob("*/split.*/done")]) == 4


SCRIPT = """
import sys
from pathlib import Path
from espnet3.parallel import (
    BaseRunner, EnvironmentProvider, concatenate_shard_files, set_parallel,
)

class Given(EnvironmentProvider):
    def build_env_local(self):
        return dict(self.config)

class Lines(BaseRunner):
    suffix = "!"

    @staticmethod
    def forward(idx, **env):
        return Path(str(idx * env["scale"]))

    @staticmethod
    def open_writers(shard_dir, **env):
        return {"out": open(shard_dir / "out", "w")}

    @staticmethod
    def write_record(writers, result, state, **env):
        writers["out"].write(f"{result.name}{Lines.suffix}\\n")

    @classmethod
    def finalize_state(cls, state, **env):
        return super().finalize_state(state, **env)

    def merge(self, shard_dirs):
        concatenate_shard_files(shard_dirs, "out", self.output_dir / "out")
        return len(shard_dirs)

if __name__ == "__main__":
    Lines.suffix = "?"
    n_workers = int(sys.argv[1])
    set_parallel({"env": "local", "n_workers": n_workers} if n_workers else None)
    print(Lines(Given({"scale": 3}), output_dir=sys.argv[2])(range(9)))
"""


def test_classes_of_a_script(tmp_path: Path) -> None:
    (tmp_path / "decode.py").write_text(SCRIPT)
    texts = []
    for n_workers in (0, 2):
        out = str(tmp_path / f"out{n_workers}")
        command = [sys.executable, "decode.py", str(n_workers), out]
        for _ in range(2):  # the second one has nothing to do
            ran = subprocess.run(
                command,
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                check=False,
            )
            assert ran.stdout == f"{n_workers or 1}\n", ran.stderr
        texts.append(Path(out, "out").read_text())
    assert texts[0] == "".join(f"{n * 3}?\n" for n in range(9))
    assert texts[0] == texts[1]
    made = json.loads((tmp_path / "out2" / "manifest.json").read_text())["fingerprint"]
    assert made["runner"] == "decode.py:Lines"


INTERRUPTED = """
import sys
from espnet3.parallel import set_parallel
from tests.support.writing_runners import Decode, Study

if __name__ == "__main__":
    n_workers, folder = int(sys.argv[1]), sys.argv[2]
    set_parallel({"env": "local", "n_workers": n_workers} if n_workers else None)
    study = Study({"folder": folder, "gated": [5, 15]})
    print(Decode(study, output_dir=folder + "/out")(range(20))["hyp"])
"""


@pytest.mark.parametrize("n_workers", [0, 2])
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_call_leaves_no_done_and_no_lock(
    tmp_path: Path, n_workers: int, end: signal.Signals
) -> None:
    (tmp_path / "script.py").write_text(INTERRUPTED)
    command = [sys.executable, "script.py", str(n_workers), str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_for(lambda: 5 in computed(tmp_path), "the gate")
    assert not [*tmp_path.glob("out/split.*/done")]
    process.send_signal(end)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not [*tmp_path.glob("out/split.*/done")]
    (tmp_path / GATE).touch()
    again = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, check=False)
    assert again.stdout == b"20\n", again.stderr.decode()
    lines = (tmp_path / "out" / "hyp.scp").read_text().splitlines()
    assert [line.split()[0] for line in lines] == [f"utt{n:03d}" for n in range(20)]
