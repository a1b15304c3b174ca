"""Runners with writers in local mode: the hooks, the folders, what a call goes on with."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from espnet3.config.model import ParallelConfig
from espnet3.errors import ItemsError, OutputError
from espnet3.parallel import (
    BaseRunner,
    EnvironmentProvider,
    concatenate_shard_files,
    set_parallel,
    writing,
)
from espnet3.parallel.shard_folder import keep, kept
from espnet3.storage.folder_lock import held
from espnet3.user_code.writers import has_writers, seen_as
from tests.support.helpers import parallel
from tests.support.runners import MENDED
from tests.support.writing_runners import Appending, Decode, Kinds, Statistics, Study, computed


@pytest.fixture(autouse=True)
def local_mode(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    set_parallel(None)
    yield
    set_parallel(None)


def tree(folder: Path) -> dict[str, bytes]:
    """All files of an output but for locks, by their path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("lock", ".lock")
    }


def in_shards(runner: BaseRunner, items: Any, n_shards: int) -> Any:
    """A call in this process, cut as with that many workers."""
    config = ParallelConfig(env="local", n_workers=n_shards)
    shards = writing._planned(runner._calls(items), config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "_planned", lambda calls, parallel: shards)
        return runner(items)


class Nothing(EnvironmentProvider):
    def build_env_local(self) -> dict[str, Any]:
        return dict(self.config)


class Noting(BaseRunner):
    """Notes each hook that is called, with the names of what it gets."""

    calls: ClassVar[list[Any]] = []

    @staticmethod
    def forward(idx: int, **env: Any) -> Any:
        Noting.calls.append(("forward", idx, sorted(env)))
        return Noting.made[idx]

    made: ClassVar[list[Any]] = [object(), Path("x"), [1, (2,)]]

    @classmethod
    def init_state(cls, *args: Any, **env: Any) -> dict[str, Any]:
        cls.calls.append(("init_state", cls, args, sorted(env)))
        return super().init_state(*args, **env)

    @staticmethod
    def open_writers(shard_dir: Path, **env: Any) -> dict[str, Any]:
        Noting.calls.append(("open_writers", shard_dir, env["shard_id"]))
        return {"a": 1}

    @classmethod
    def reduce_state(cls, state: dict[str, Any], result: Any, **env: Any) -> dict[str, Any]:
        cls.calls.append(("reduce_state", result))
        return super().reduce_state(state, result, **env)

    @staticmethod
    def write_record(
        writers: dict[str, Any], result: Any, state: dict[str, Any], **env: Any
    ) -> None:
        Noting.calls.append(("write_record", writers, result, env["beam"]))

    @classmethod
    def finalize_state(cls, state: dict[str, Any], **env: Any) -> dict[str, Any]:
        cls.calls.append(("finalize_state", env["beam"]))
        return super().finalize_state(state, **env)

    @staticmethod
    def close_writers(writers: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        Noting.calls.append(("close_writers", writers))
        return {"more": 2}

    @classmethod
    def is_shard_done(cls, shard_dir: Any) -> bool:
        return super().is_shard_done(shard_dir)

    def merge(self, shard_dirs: list[Path]) -> Any:
        """Its value is the call's."""
        Noting.calls.append(("merge", shard_dirs))
        return self


def test_hooks_are_called_through_the_class_in_order_with_results_as_they_are(
    tmp_path: Path,
) -> None:
    Noting.calls.clear()
    runner = Noting(Nothing({"beam": 5}), output_dir=tmp_path, shard_subdir="dev")
    assert runner(range(3)) is runner
    folder, more = tmp_path / "dev" / "split.0", ["output_dir", "shard_id", "shard_subdir"]
    assert Noting.calls[:2] == [
        ("init_state", Noting, (), sorted(["beam", *more])),
        ("open_writers", folder, 0),
    ]
    names = [call[0] for call in Noting.calls]
    assert names[2:] == [
        *("forward", "reduce_state", "write_record") * 3,
        *("finalize_state", "close_writers", "merge"),
    ]
    assert Noting.calls[2][2] == sorted(["beam", *more])
    for name in ("reduce_state", "write_record"):
        given = [
            call[1 if name == "reduce_state" else 2] for call in Noting.calls if call[0] == name
        ]
        assert [id(one) for one in given] == [id(one) for one in Noting.made]
    assert Noting.calls[-1] == ("merge", [folder])


def test_a_forward_that_names_all_it_takes_gets_no_more(tmp_path: Path) -> None:
    class Strict(BaseRunner):
        @staticmethod
        def forward(idx: int, beam: int, shard_id: int) -> Any:
            return idx, beam, shard_id

        def merge(self, shard_dirs: list[Path]) -> Any:
            return "merged"

    assert Strict(Nothing({"beam": 1}), output_dir=tmp_path)(range(2)) == "merged"


def test_positions_of_arguments_are_those_of_both_years(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="async_specs_dir"):
        of_2025 = Decode(Nothing({}), 4, True, "specs", tmp_path)
    assert (of_2025.async_mode, of_2025.async_result_dir) == (True, tmp_path)
    assert of_2025.output_dir is None
    of_2026 = Decode(Nothing({}), 4, tmp_path, "dev", False)
    assert not of_2026.async_mode
    assert (of_2026.output_dir, of_2026.shard_subdir, of_2026.resume) == (tmp_path, "dev", False)
    with pytest.raises(TypeError, match="by position"):
        Decode(Nothing({}), 4, tmp_path, "dev", False, 1)


def test_who_overrides_no_hook_has_no_writers() -> None:
    class Plain(BaseRunner):
        pass

    class Done(BaseRunner):
        @classmethod
        def is_shard_done(cls, shard_dir: Any) -> bool:
            return True

    assert [has_writers(each) for each in (Plain, Done, Decode, Statistics)] == [
        *(False, True, True, True)
    ]


def test_an_output_is_needed(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="output_dir: is missing, and Decode writes") as caught:
        Decode(Study({"folder": str(tmp_path)}))(range(2))
    assert isinstance(caught.value, RuntimeError)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file: cannot be written to"):
        Decode(Study({"folder": str(tmp_path)}), output_dir=tmp_path / "file")(range(2))
    assert not computed(tmp_path)


def test_the_layout_is_that_of_espnet3(tmp_path: Path) -> None:
    out = tmp_path / "out"
    runner = Decode(Study({"folder": str(tmp_path)}), None, out, "dev")
    assert in_shards(runner, range(5), 2) == {"encoded": 5, "hyp": 5, "score": 5}
    manifest = json.loads((out / "dev" / "manifest.json").read_text())
    fingerprint = manifest.pop("fingerprint")
    assert manifest == {
        "version": 1,
        "output_dir": str(out),
        "shard_subdir": "dev",
        "shards": [{"shard_id": 0, "items": [0, 1]}, {"shard_id": 1, "items": [2, 3, 4]}],
    }
    assert {"runner", "provider", "batch_size", "provider.config.folder"} <= fingerprint.keys()
    for shard in ("split.0", "split.1"):
        names = {path.name for path in (out / "dev" / shard).iterdir()}
        assert {"done", "lock", "hyp.scp", "field_keys.txt", "encoded"} == names - {
            *("score.scp", "encoded.scp")
        }
    lines = (out / "dev" / "encoded.scp").read_text().splitlines()
    assert [Path(line.split(" ", 1)[1]).exists() for line in lines] == [True] * 5
    assert "split.1" in lines[-1]


@pytest.mark.parametrize("n_shards", [2, 3, 7])
def test_merged_files_are_the_same_however_they_are_cut(tmp_path: Path, n_shards: int) -> None:
    merged = []
    for n in (1, n_shards):
        out = tmp_path / "out"
        in_shards(Decode(Study({"folder": str(tmp_path)}), output_dir=out), range(7), n)
        merged.append([(out / f"{name}.scp").read_bytes() for name in ("hyp", "score")])
        shutil.rmtree(out)
    assert merged[0] == merged[1]


def test_a_state_is_reduced_and_its_parts_are_merged(tmp_path: Path) -> None:
    runner = Statistics(Study({"folder": str(tmp_path)}), output_dir=tmp_path / "out")
    merged = in_shards(runner, range(10), 3)
    assert merged == {"sum": [45.0, 285.0], "count": 10}
    assert json.loads((tmp_path / "out" / "stats.json").read_text()) == merged


def test_what_json_cannot_hold_reaches_the_writers(tmp_path: Path) -> None:
    runner = Kinds(Study({"folder": str(tmp_path)}), output_dir=tmp_path / "out")
    found = runner(range(2))
    kinds = {"path": "PosixPath", "array": "ndarray", "both": "tuple"}
    assert found == [["a/0", kinds], ["a/1", kinds]]


def test_lists_of_batch_size_are_the_items(tmp_path: Path) -> None:
    runner = Decode(Study({"folder": str(tmp_path)}), 2, tmp_path / "out")
    assert in_shards(runner, range(5), 2)["hyp"] == 5
    shards = json.loads((tmp_path / "out" / "manifest.json").read_text())["shards"]
    assert [shard["items"] for shard in shards] == [[[0, 1]], [[2, 3], [4]]]


def test_a_call_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    def call() -> Any:
        provider = Study({"folder": str(tmp_path), "failing": [4]})
        return in_shards(Decode(provider, output_dir=tmp_path / "out"), range(6), 3)

    with pytest.raises(ValueError, match="item 4 is bad"):
        call()
    out = tmp_path / "out"
    assert [(out / f"split.{n}" / "done").exists() for n in range(3)] == [True, True, False]
    (out / "split.2" / "left over").touch()
    (tmp_path / MENDED).touch()
    assert call()["hyp"] == 6
    assert computed(tmp_path) == [0, 1, 2, 3, 4, 4, 5]
    assert not (out / "split.2" / "left over").exists()
    assert call()["hyp"] == 6
    assert len(computed(tmp_path)) == 7
    assert len((tmp_path / "built").read_text().splitlines()) == 2


def test_all_is_written_anew_without_resume(tmp_path: Path) -> None:
    study = Study({"folder": str(tmp_path)})
    in_shards(Decode(study, output_dir=tmp_path / "out"), range(6), 3)
    in_shards(Decode(study, output_dir=tmp_path / "out", resume=False), range(4), 2)
    assert computed(tmp_path) == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]
    assert not (tmp_path / "out" / "split.2").exists()
    in_shards(Decode(study, output_dir=tmp_path / "out"), range(4), 2)
    assert len(computed(tmp_path)) == 10


OTHERS: dict[str, tuple[Any, Any, int, str]] = {
    "config": ({"beam": 6}, range(6), 3, "provider.config.beam is another one"),
    "deep": ({"deep": {"a": (1, 2)}}, range(6), 3, "provider.config.deep.a is another one"),
    "key": ({"new": 1}, range(6), 3, "provider.config.new is another one"),
    "items": ({}, range(7), 3, "the number of items is 6 there and 7 here"),
    "other items": ({}, range(1, 7), 3, "the items of shard 0 differ"),
    "shards": ({}, range(6), 2, "the number of shards is 3 there and 2 here"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_plan_is_refused_before_anything_is_done(tmp_path: Path, case: str) -> None:
    changes, items, n_shards, words = OTHERS[case]
    config = {"folder": str(tmp_path), "beam": 5, "deep": {"a": [1, 2]}}
    out = tmp_path / "out"
    in_shards(Decode(Study(config), output_dir=out), range(6), 3)
    before = tree(tmp_path)
    with pytest.raises(OutputError) as caught:
        in_shards(Decode(Study({**config, **changes}), output_dir=out), items, n_shards)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert tree(tmp_path) == before


def test_another_class_batch_size_or_changed_provider_is_refused(tmp_path: Path) -> None:
    def study() -> Study:
        return Study({"folder": str(tmp_path)})

    out = tmp_path / "out"
    Decode(study(), output_dir=out)(range(6))

    class Other(Decode):
        pass

    changed = study()
    changed.beam = 3  # type: ignore[attr-defined]
    for runner, words in (
        (Other(study(), output_dir=out), "runner is"),
        (Decode(study(), 2, out), "batch_size is"),
        (Decode(changed, output_dir=out), "provider.beam is"),
    ):
        with pytest.raises(OutputError, match=words):
            runner(range(6))
    assert len(computed(tmp_path)) == 6


def test_the_same_plan_is_known_in_whatever_way_it_is_written(tmp_path: Path) -> None:
    from omegaconf import OmegaConf

    config = OmegaConf.create(
        {"folder": str(tmp_path), "twice": "${folder}", "inner": {"unset": "???"}}
    )
    for _ in range(2):
        Decode(Study(config.copy()), output_dir=tmp_path / "out")([*range(6)])
        Decode(Study(config=config.copy()), output_dir=tmp_path / "out")(iter(range(6)))
    assert len(computed(tmp_path)) == 6


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"version": 2}', '{"version": 1, "output_dir": "a", "shards": [7]}']
)
def test_a_manifest_that_is_none_is_one_line(tmp_path: Path, text: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.json").write_text(text)
    with pytest.raises(OutputError, match=r"manifest.json: is not the manifest") as caught:
        Decode(Study({"folder": str(tmp_path)}), output_dir=out)(range(6))
    assert "\n" not in str(caught.value)
    assert [path.name for path in out.iterdir()] == ["manifest.json"]


def test_what_a_run_writes_is_its_own(tmp_path: Path) -> None:
    out = tmp_path / "out"
    runner = Decode(Study({"folder": str(tmp_path)}), output_dir=out)
    runner(range(2))
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps({**manifest, "run": "/shared/run"}))
    for resume in (True, False):
        runner.resume = resume
        with pytest.raises(OutputError, match="belongs to the run in /shared/run"):
            runner(range(2))
    assert len(computed(tmp_path)) == 2


def test_shards_of_no_manifest_are_not_believed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    runner = Decode(Study({"folder": str(tmp_path)}), output_dir=out)
    runner(range(2))
    (out / "manifest.json").unlink()
    with pytest.raises(OutputError, match=r"no manifest.json"):
        runner(range(2))
    runner.resume = False
    runner(range(2))
    assert len(computed(tmp_path)) == 4


def test_a_manifest_of_espnet3_itself_is_gone_on_with(tmp_path: Path) -> None:
    out = tmp_path / "out"
    runner = Decode(Study({"folder": str(tmp_path)}), output_dir=out)
    runner(range(2))
    manifest = json.loads((out / "manifest.json").read_text())
    del manifest["fingerprint"]
    (out / "manifest.json").write_text(json.dumps(manifest))
    runner(range(2))
    assert len(computed(tmp_path)) == 2
    with pytest.raises(OutputError, match="number of items"):
        runner(range(3))


def test_a_subclass_says_what_is_done(tmp_path: Path) -> None:
    class Large(Decode):
        @classmethod
        def is_shard_done(cls, shard_dir: Any) -> bool:
            return super().is_shard_done(shard_dir) and (shard_dir / "hyp.scp").stat().st_size > 0

    class Never(Decode):
        @classmethod
        def is_shard_done(cls, shard_dir: Any) -> bool:
            return False

    runner = Large(Study({"folder": str(tmp_path)}), output_dir=tmp_path / "out")
    in_shards(runner, range(4), 2)
    (tmp_path / "out" / "split.1" / "hyp.scp").write_text("")
    in_shards(runner, range(4), 2)
    assert computed(tmp_path) == [0, 1, 2, 3, 2, 3]
    with pytest.raises(OutputError, match="is_shard_done says"):
        Never(Study({"folder": str(tmp_path)}), output_dir=tmp_path / "never")(range(2))


def test_no_items_are_merged_too(tmp_path: Path) -> None:
    runner = Decode(Study({"folder": str(tmp_path)}), output_dir=tmp_path / "out")
    assert runner([]) == {}
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["shards"] == []


def test_an_item_that_is_no_json_is_named(tmp_path: Path) -> None:
    runner = Decode(Study({"folder": str(tmp_path)}), output_dir=tmp_path / "out")
    with pytest.raises(ItemsError, match=r"items\[1\]"):
        runner([0, object()])
    assert not (tmp_path / "out").exists()


class Failing(BaseRunner):
    @staticmethod
    def forward(idx: int, **env: Any) -> Any:
        if idx == 1 and env["where"] == "forward":
            raise KeyboardInterrupt
        return idx

    @staticmethod
    def open_writers(shard_dir: Path, **env: Any) -> dict[str, Any]:
        if env["where"] == "open":
            raise LookupError("open")
        return {}

    @staticmethod
    def write_record(
        writers: dict[str, Any], result: Any, state: dict[str, Any], **env: Any
    ) -> None:
        if env["where"] == "write":
            raise LookupError("write")

    @staticmethod
    def close_writers(writers: dict[str, Any], *args: Any, **env: Any) -> None:
        if env["where"] == "close":
            raise LookupError("close")


@pytest.mark.parametrize("where", ["open", "forward", "write", "close"])
def test_what_a_hook_raises_is_raised_and_the_shard_is_not_done(tmp_path: Path, where: str) -> None:
    runner = Failing(Nothing({"where": where}), output_dir=tmp_path)
    with pytest.raises(KeyboardInterrupt if where == "forward" else LookupError) as caught:
        runner(range(3))
    assert not hasattr(caught.value, "__notes__")
    assert not (tmp_path / "split.0" / "done").exists()


class Forking(Appending):
    """Forks at an item; the child comes back, as if it were its parent, or raises."""

    @staticmethod
    def forward(idx: int, **env: Any) -> int:
        if env["where"] == "forward":
            Forking.fork(idx, env["how"])
        return idx

    @staticmethod
    def write_record(
        writers: dict[str, Any], result: Any, state: dict[str, Any], **env: Any
    ) -> None:
        Appending.write_record(writers, result, state, folder="", **env)
        if env["where"] == "write":
            Forking.fork(result, env["how"])

    @staticmethod
    def fork(idx: int, how: str) -> None:
        if idx != 1:
            return
        if (child := os.fork()) == 0:
            if how == "raise":
                raise SystemExit(0)
            return
        assert os.waitpid(child, 0)[1] == 0


class OpaqueForking(Forking):
    append_only = False


@pytest.mark.parametrize("runner", [Forking, OpaqueForking])
@pytest.mark.parametrize("where", ["forward", "write"])
@pytest.mark.parametrize("how", ["return", "raise"])
@pytest.mark.parametrize("n_workers", [0, 1])
def test_a_child_that_a_hook_forked_has_no_part_in_the_shard(
    tmp_path: Path, runner: type[Forking], where: str, how: str, n_workers: int
) -> None:
    if n_workers:
        set_parallel(parallel("local", n_workers=n_workers))
    found = runner(Nothing({"where": where, "how": how}), output_dir=tmp_path / "out")(range(4))
    assert found.splitlines() == [f"{i} half line" for i in range(4)]


class Leaving(BaseRunner):
    """Changes the working directory, and makes what it needs wherever it is then."""

    @staticmethod
    def forward(idx: int, **env: Any) -> int:
        if idx == 1:
            os.chdir(env["folder"])
        return idx

    @staticmethod
    def write_record(
        writers: dict[str, Any], result: Any, state: dict[str, Any], **env: Any
    ) -> None:
        Path(state["shard_dir"]).mkdir(parents=True, exist_ok=True)
        Path(state["shard_dir"], str(result)).touch()


def test_a_shard_is_not_done_where_its_folder_is_another_one_by_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    leaving = Leaving(Nothing({"folder": "elsewhere"}), output_dir="out")
    with pytest.raises(OutputError, match=r"out/split.0: is not where the shard was begun"):
        leaving(range(3))
    assert not [*tmp_path.rglob("done")]
    monkeypatch.chdir(tmp_path)
    leaving = Leaving(Nothing({"folder": "elsewhere"}), output_dir=tmp_path / "out2")
    leaving(range(3))
    assert {each.name for each in (tmp_path / "out2/split.0").iterdir()} > {"0", "1", "2", "done"}


def test_two_do_not_write_at_once(tmp_path: Path) -> None:
    out = tmp_path / "out"
    runner = Decode(Study({"folder": str(tmp_path)}), output_dir=out)
    out.mkdir()
    with open(out / ".lock", "w+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("process 7 on node3")
        lock.flush()
        with pytest.raises(OutputError, match="is being written by process 7 on node3"):
            runner(range(2))
        assert [path.name for path in out.iterdir()] == [".lock"]
    assert runner(range(2))["hyp"] == 2


@pytest.mark.parametrize("what", ["link", "pipe"])
def test_a_lock_that_is_no_file_is_not_written_to(tmp_path: Path, what: str) -> None:
    """Who may write to the folder could have made it lead to a file of whom they attack."""
    mine, out = tmp_path / "mine", tmp_path / "out"
    mine.write_text("precious")
    out.mkdir()
    if what == "link":
        (out / ".lock").symlink_to(mine)
    else:
        os.mkfifo(out / ".lock")
    with pytest.raises(OutputError, match=f"its lock is (a {what}|no file)"):
        Decode(Study({"folder": str(tmp_path)}), output_dir=out)(range(2))
    assert mine.read_text() == "precious"


def test_a_child_that_leaves_does_not_free_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    try:
        with held(lock):
            if (child := os.fork()) == 0:
                raise SystemExit
            assert os.waitpid(child, 0)[1] == 0
            with pytest.raises(OutputError, match="is being written by"), held(lock):
                pass
    except SystemExit:
        os._exit(0)


def test_what_has_the_number_of_a_lock_that_was_closed_stays_open(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with held(lock):
        [mine] = [fd for fd in range(200) if _leads_to(fd) == str(lock)]
        os.close(mine)
        other = os.open(tmp_path / "other", os.O_CREAT | os.O_RDWR)
        assert other == mine
    assert os.write(other, b"open") == 4
    os.close(other)


def _leads_to(descriptor: int) -> str | None:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except FileNotFoundError:
        return None


def test_a_folder_that_someone_writes_into_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "PATIENCE", 0.0)
    folder = tmp_path / "out" / "split.0"
    folder.mkdir(parents=True)
    (folder / "hyp.scp").write_text("theirs")
    runner = Decode(Study({"folder": str(tmp_path)}), output_dir=tmp_path / "out")
    with open(folder / "lock", "w+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="is being written by another process"):
            runner(range(2))
        assert (folder / "hyp.scp").read_text() == "theirs"
    assert runner(range(2))["hyp"] == 2


def test_a_link_in_a_shards_place_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "hyp.scp").write_text("a run's")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "split.0").symlink_to(elsewhere)
    Decode(Study({"folder": str(tmp_path)}), output_dir=tmp_path / "out")(range(2))
    assert [path.name for path in elsewhere.iterdir()] == ["hyp.scp"]
    assert not (tmp_path / "out" / "split.0").is_symlink()


ALL = "".join(f"{n} half line\n" for n in range(6))


def test_an_append_only_shard_goes_on_after_its_last_item(tmp_path: Path) -> None:
    runner = Appending(Study({"folder": str(tmp_path), "failing": [3]}), output_dir=tmp_path / "o")
    for _ in range(2):
        with pytest.raises(ValueError, match="item 3"):
            runner(range(6))
    (tmp_path / MENDED).touch()
    assert runner(range(6)) == ALL
    assert computed(tmp_path) == [0, 1, 2, 3, 3, 3, 4, 5]
    assert sorted(path.name for path in (tmp_path / "o" / "split.0").iterdir()) == [
        *("done", "lock", "text")
    ]


def test_a_torn_record_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written after the last checkpoint is not known to be whole."""
    monkeypatch.setattr(writing, "CHECKPOINT_EVERY", -1.0)  # after each item
    runner = Appending(Study({"folder": str(tmp_path), "tearing": 3}), output_dir=tmp_path / "o")
    with pytest.raises(OSError, match="full"):
        runner(range(6))
    assert (tmp_path / "o" / "split.0" / "text").read_text().endswith("3 half")
    (tmp_path / MENDED).touch()
    assert runner(range(6)) == ALL
    assert computed(tmp_path) == [0, 1, 2, 3, 3, 4, 5]


def test_where_what_was_kept_is_lost_all_is_computed(tmp_path: Path) -> None:
    runner = Appending(Study({"folder": str(tmp_path), "failing": [3]}), output_dir=tmp_path / "o")
    with pytest.raises(ValueError, match="item 3"):
        runner(range(6))
    (tmp_path / "o" / "split.0" / "text").write_text("0")
    (tmp_path / MENDED).touch()
    assert runner(range(6)) == ALL
    assert len(computed(tmp_path)) == 10


def test_a_link_that_was_kept_is_not_cut(tmp_path: Path) -> None:
    """An append-only writer may link to the user's own files."""
    mine, folder = tmp_path / "mine", tmp_path / "split.0"
    mine.write_text("short")
    folder.mkdir()
    (folder / "audio").symlink_to(mine)
    (folder / "text").write_text("kept")
    keep(folder, 3, {"_writers": {}})
    mine.write_text("grown meanwhile")
    (folder / "text").write_text("kept, and more")
    (folder / "new").write_text("")
    assert kept(folder) == 3
    assert mine.read_text() == "grown meanwhile"
    assert sorted(path.name for path in folder.iterdir()) == ["audio", "progress.json", "text"]
    assert (folder / "text").read_text() == "kept"


def test_what_cannot_be_flushed_is_not_kept(tmp_path: Path) -> None:
    """It may hold some of what it was given, which would be missed."""

    class Archive:
        def close(self) -> None:
            pass

    with (tmp_path / "text").open("w") as text:
        text.write("buffered")
        held = {"_writers": {"a": text}, "records": [1]}
        states: list[Any] = [{"_writers": w} for w in ({"a": text, "more": [Archive()]}, Archive())]
        for state in (*states, held, {"mine": text}, text):
            keep(tmp_path, 3, state)
            assert [path.name for path in tmp_path.iterdir()] == ["text"]
        keep(tmp_path, 3, {"_writers": {"more": [text, 7, None]}})
        assert (tmp_path / "text").read_text() == "buffered"
    assert kept(tmp_path) == 3


def test_a_writer_that_is_a_mapping_is_flushed(tmp_path: Path) -> None:
    """As an open HDF5 file is, whose values are not writers."""

    class Store(dict[str, Any]):
        def flush(self) -> None:
            (tmp_path / "store").write_text("flushed")

        def close(self) -> None:
            pass

    keep(tmp_path, 3, {"_writers": {"store": Store(a=1)}})
    assert (tmp_path / "store").read_text() == "flushed"
    assert kept(tmp_path) == 3


@pytest.mark.parametrize("text", ["", "{}", '{"position": 3, "sizes": {"../mine": 0}}'])
def test_notes_that_are_none_keep_nothing(tmp_path: Path, text: str) -> None:
    mine, folder = tmp_path / "mine", tmp_path / "split.0"
    mine.write_text("not a shard's")
    folder.mkdir()
    (folder / "text").write_text("kept")
    (folder / "progress.json").write_text(text)
    assert kept(folder) == 0
    assert not [*folder.iterdir()]
    assert mine.read_text() == "not a shard's"


def test_a_lock_ends_with_the_call_whatever_it_has_forked(tmp_path: Path) -> None:
    reading, writing_end = os.pipe()
    with held(tmp_path / "lock"):
        child = os.fork()
        if child == 0:  # lives on, with the lock's file open
            os.close(writing_end)
            os.read(reading, 1)
            os._exit(0)
    try:
        with held(tmp_path / "lock"):
            pass
    finally:
        os.close(writing_end)
        os.waitpid(child, 0)


def test_what_a_provider_makes_of_itself_is_no_other_plan(tmp_path: Path) -> None:
    class Caching(Study):
        def build_env_local(self) -> dict[str, Any]:
            self.cache = {"model": 1}
            return super().build_env_local()

    runner = Decode(Caching({"folder": str(tmp_path)}), output_dir=tmp_path / "out")
    for _ in range(2):
        assert runner(range(3))["hyp"] == 3
    assert len(computed(tmp_path)) == 3


def test_forward_may_be_a_class_method(tmp_path: Path) -> None:
    class Suffixed(BaseRunner):
        suffix = "!"

        @classmethod
        def forward(cls, idx: int, **env: Any) -> str:
            return f"{idx}{cls.suffix}"

        @staticmethod
        def close_writers(writers: dict[str, Any], state: Any = None, **env: Any) -> None:
            (Path(state["shard_dir"]) / "all").write_text(" ".join(state["records"]))

        def merge(self, shard_dirs: list[Path]) -> Any:
            return (shard_dirs[0] / "all").read_text()

    assert Suffixed(Nothing({}), output_dir=tmp_path)(range(3)) == "0! 1! 2!"


def test_names_are_where_espnet3_has_them() -> None:
    from espnet3 import parallel
    from espnet3.parallel import base_runner

    assert base_runner.concatenate_shard_files is parallel.concatenate_shard_files


def test_concatenating_leaves_what_is_no_text_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lengths of paths stand before them in such a file."""
    folder = tmp_path / "split.0"
    folder.mkdir()
    there = b"/run/written/0/7.npy"
    text, binary = there + b"\n", len(there).to_bytes(4, "little") + there
    (folder / "text").write_bytes(text)
    (folder / "binary").write_bytes(b" " * (1 << 20) + binary)
    monkeypatch.setitem(seen_as, str(folder), [("/run/written/0", str(folder))])
    for name in ("text", "binary"):
        assert concatenate_shard_files([folder], name, tmp_path / name)
    assert (tmp_path / "text").read_bytes() == f"{folder}/7.npy\n".encode()
    assert (tmp_path / "binary").read_bytes() == b" " * (1 << 20) + binary
