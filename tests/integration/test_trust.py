"""Whose files are believed: real owners and modes, links, and every entry that imports."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from espnet3.collect.merge import Collected
from espnet3.config.current import chosen_policy
from espnet3.errors import ConfigError, Untrusted
from espnet3.finish.finisher import finish
from espnet3.parallel import BaseRunner, EnvironmentProvider, set_parallel
from espnet3.run import Run, submit_run
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.trust import Trust, require_own, require_scripts, require_trusted
from espnet3.specs import layout
from espnet3.specs.finishing import Finisher
from espnet3.specs.models import RunSpec, decode
from espnet3.storage.opening import open_store
from tests.support.commands import said
from tests.support.helpers import submission, wait_for

STRANGER, GROUP = 54321, 54322  # nobody on this host, and a group of nobody
FOLDERS = [folder for folder in layout.FOLDERS if folder != layout.LOGS]
# Users that every Debian has; each has a group of its own, of the same number.
MATE, LISTED, GUEST = 7, 2, 8  # lp, bin, mail
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


class Provider(EnvironmentProvider):
    def build_env_local(self) -> dict[str, Any]:
        return {}


class Runner(BaseRunner):
    @staticmethod
    def forward(idx: Any, **env: Any) -> Any:
        return idx


MODULE = """
import os, pathlib
pathlib.Path(__file__).with_name("imported").touch()
from espnet3.parallel import BaseRunner, EnvironmentProvider

class Provider(EnvironmentProvider):
    def build_env_local(self):
        return {}

class Runner(BaseRunner):
    @staticmethod
    def forward(idx, **env):
        return idx
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run with pickled results, whose module notes that it was imported."""
    folder = tmp_path_factory.mktemp("trust")
    (folder / "noted_module.py").write_text(MODULE)
    sys.path.insert(0, str(folder))
    import noted_module  # type: ignore[import-not-found]

    runner = noted_module.Runner(noted_module.Provider({}))
    config = {"n_workers": 2, "results": "pickle", "preflight": False}
    run = submit_run(runner, range(4), run_dir=folder / "run", parallel=config)
    assert run.wait(60, 0.1).done
    # `resume` imports the runner where the run goes to a scheduler.
    yield folder / "run"
    sys.path.remove(str(folder))
    del sys.modules["noted_module"]


@pytest.fixture
def run_dir(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def refused_by(run_dir: Path, policy: Trust | None = None) -> str | None:
    """The path that is refused, relative where it is in the directory; None where all is well."""
    shards = [layout.shard(rank) for rank in range(2)]
    try:
        require_trusted(open_store(run_dir), policy, [*shards, layout.submission(1)])
    except Untrusted as refusal:
        error = refusal
    else:
        return None
    assert str(error).startswith(f"{error.path} is not to be trusted: ")
    assert "\n" not in str(error)
    assert any(word in error.problem for word in ("chmod", "copy it", "name its", "cannot be"))
    inside = Path(error.path).is_relative_to(run_dir)
    return os.path.relpath(error.path, run_dir) if inside else error.path


# --- the rule -------------------------------------------------------------------------------------

BELIEVED = [".", *FOLDERS, "run.json", "shards/000001.json", "submissions/0001.json"]


@pytest.mark.parametrize("path", BELIEVED)
def test_what_everyone_may_write_is_refused(run_dir: Path, path: str) -> None:
    assert refused_by(run_dir) is None
    for policy in (None, "owner", "group"):
        for sticky in (0, stat.S_ISVTX):
            (run_dir / path).chmod(0o777 | sticky)
            assert refused_by(run_dir, policy) == path


@pytest.mark.parametrize("path", BELIEVED)
def test_what_the_group_may_write_is_refused_to_owners_only(run_dir: Path, path: str) -> None:
    (run_dir / path).chmod(0o775)
    assert refused_by(run_dir) is None
    assert refused_by(run_dir, "group") is None
    assert refused_by(run_dir, "owner") == path


@as_root
@pytest.mark.parametrize("path", BELIEVED)
def test_what_somebody_else_owns_is_refused(run_dir: Path, path: str) -> None:
    os.chown(run_dir / path, STRANGER, -1)
    assert refused_by(run_dir) == path
    assert refused_by(run_dir, "owner") == path
    # Its group is root's own, as a stranger's files in a setgid folder of root's group have it.
    assert refused_by(run_dir, "group") == path
    os.chown(run_dir / path, STRANGER, GROUP)
    assert refused_by(run_dir, "group") == path


def test_a_folder_on_the_way_may_be_for_everyone_only_if_it_is_sticky(
    run_dir: Path, tmp_path: Path
) -> None:
    tmp_path.chmod(0o1777)
    assert refused_by(run_dir) is None
    assert refused_by(run_dir, "owner") is None
    tmp_path.chmod(0o777)
    assert refused_by(run_dir) == str(tmp_path)
    with pytest.raises(Untrusted, match=rf"run `chmod o-w {tmp_path}`"):
        require_trusted(open_store(run_dir), None)
    tmp_path.chmod(0o775)
    assert refused_by(run_dir, "owner") is None


def test_links_are_followed_as_the_kernel_does(run_dir: Path, tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "link").symlink_to("../../run")
    (tmp_path / "again").symlink_to(deep / "link")
    assert refused_by(tmp_path / "again") is None
    (run_dir / "shards").rename(deep / "shards")
    (run_dir / "shards").symlink_to(deep / "shards")
    assert refused_by(tmp_path / "again") is None
    deep.chmod(0o777)  # holds a link that everyone may replace
    assert refused_by(tmp_path / "again") == str(deep)
    assert refused_by(run_dir) == str(deep)  # by way of shards
    deep.chmod(0o755)
    (deep / "shards").chmod(0o777)
    assert refused_by(run_dir) == str(deep / "shards")
    (deep / "shards").chmod(0o755)
    (tmp_path / "round").symlink_to("round")
    assert refused_by(tmp_path / "round") == "."


@as_root
def test_somebody_elses_link_in_a_temporary_folder_is_refused(
    run_dir: Path, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    link = shared / "run"
    link.symlink_to(run_dir)
    assert refused_by(link) is None
    os.chown(link, STRANGER, STRANGER, follow_symlinks=False)
    assert refused_by(link) == "."
    (run_dir / "run.json").rename(shared / "run.json")
    (run_dir / "run.json").symlink_to(shared / "run.json")
    assert refused_by(run_dir) is None
    os.chown(shared / "run.json", STRANGER, STRANGER)
    assert refused_by(run_dir) == str(shared / "run.json")


AS_ANOTHER = """
import sys
sys.path.insert(0, sys.argv[1])
from espnet3.errors import Untrusted
from espnet3.storage.opening import open_store
from espnet3.run_dir.trust import require_trusted
for policy in (None, "owner", "group"):
    for folder in sys.argv[2:]:
        try:
            require_trusted(open_store(folder), policy)
            print("accepted")
        except Untrusted as error:
            print(error)
"""


@as_root
def test_as_another_user(tmp_path: Path) -> None:
    """Own directories, root's, and those of others: of no group of mine, and of one of mine.

    In a setgid folder for everyone all that is made gets the folder's group, a stranger's files
    too: their owner is in that group or is not, and that counts.
    """
    shared = tmp_path / "shared"
    shared.mkdir()
    os.chown(shared, 0, MATE)
    shared.chmod(0o3777)
    here = {"own": STRANGER, "root": 0, "mate": MATE, "listed": LISTED, "guest": GUEST}
    with reachable(shared):
        for name, user in here.items():
            made = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups",
                    "mkdir", str(shared / name)]  # fmt: skip
            subprocess.run(made, check=True, timeout=60)
            assert (shared / name).stat().st_gid == MATE
        (tmp_path / "other").mkdir()
        os.chown(tmp_path / "other", MATE, GUEST)
        folders = [*(shared / name for name in here), tmp_path / "other"]
        done = subprocess.run(
            [*with_group_file(tmp_path), "setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}",
             f"--groups={MATE}", sys.executable, "-B", "-c", AS_ANOTHER,
             str(Path(__file__).parents[2]), *map(str, folders)],
            cwd="/", capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    if "Permission denied" in done.stderr or "No module named" in done.stderr:
        pytest.skip(f"another user cannot read this interpreter or checkout: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    usual, strict, group = lines[:6], lines[6:12], lines[12:]
    foreign = "is not to be trusted: belongs to"
    for answers in (usual, strict):
        assert answers[:2] == ["accepted", "accepted"]
        for folder, answer in zip(folders[2:], answers[2:], strict=True):
            assert answer.startswith(f"{folder} {foreign}")
    assert "--trust group" in usual[2]
    assert group[:4] == ["accepted"] * 4
    assert group[4].startswith(f"{shared}/guest {foreign} ")
    assert "who is not a member of its group; copy it" in group[4]
    assert "none of your groups" in group[5]


@contextlib.contextmanager
def reachable(folder: Path) -> Iterator[None]:
    """A folder that other users can enter, below pytest's own that they cannot."""
    above = [path for path in folder.parents if path.stat().st_mode & 1 == 0]
    modes = [path.stat().st_mode for path in above]
    try:
        for path in above:
            path.chmod(path.stat().st_mode | 0o11)
        yield
    finally:
        for path, mode in zip(above, modes, strict=True):
            path.chmod(mode)


def with_group_file(folder: Path) -> list[str]:
    """Words before a command that let it see LISTED in the group MATE, and nobody else see that."""
    name, group = pwd.getpwuid(LISTED).pw_name, grp.getgrgid(MATE).gr_name
    lines = Path("/etc/group").read_text().splitlines()
    changed = [f"{line},{name}" if line.startswith(f"{group}:") else line for line in lines]
    (folder / "group").write_text("\n".join(changed).replace(":,", ":") + "\n")
    script = 'mount --bind "$0" /etc/group && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, str(folder / "group")]


def test_a_policy_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="trust: 'everyone' is none of owner, group"):
        chosen_policy("everyone")  # type: ignore[arg-type]
    assert chosen_policy(None) is None
    set_parallel({"trust": "owner"})
    try:
        assert chosen_policy(None) == "owner"
        assert chosen_policy("group") == "group"
    finally:
        set_parallel(None)


def test_object_stores_have_neither_owners_nor_modes() -> None:
    class Elsewhere:
        root = "s3://bucket/run"

    require_trusted(Elsewhere(), "owner", ["run.json"])  # type: ignore[arg-type]


def test_it_costs_a_handful_of_looks(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Any] = []
    real = os.lstat

    def look(path: Any) -> os.stat_result:
        looks.append(path)
        return real(path)

    monkeypatch.setattr(os, "lstat", look)
    require_trusted(open_store(run_dir), None, [layout.submission(1)])
    made_later = 7  # folders: of withdrawals, claims, workers, finishers, waves, code and writers
    assert len(looks) <= len(run_dir.parts) + len(FOLDERS) + made_later + 2


# --- scripts --------------------------------------------------------------------------------------


def test_a_script_that_others_may_write_is_refused(run_dir: Path, tmp_path: Path) -> None:
    script = tmp_path / "scripts" / "decode.py"
    script.parent.mkdir()
    script.write_text("")
    raw = json.loads((run_dir / "run.json").read_text())
    raw["runner"]["file"] = str(script)
    run = decode(RunSpec, json.dumps(raw).encode(), "run.json")
    require_scripts(run, None)
    script.chmod(0o666)
    with pytest.raises(Untrusted, match=rf"{script} .*it is world-writable.*chmod o-w"):
        require_scripts(run, None)
    script.chmod(0o644)
    script.parent.chmod(0o777)
    with pytest.raises(Untrusted, match=rf"{script.parent} .*anyone could replace what is in it"):
        require_scripts(run, None)
    script.parent.chmod(0o1777)
    require_scripts(run, None)
    if os.geteuid() == 0:
        os.chown(script, STRANGER, STRANGER)
        with pytest.raises(Untrusted, match=rf"{script} .*belongs to user {STRANGER}"):
            require_scripts(run, None)
        script.parent.chmod(0o755)  # a colleague's script, which the submitter has run
        require_scripts(run, None)
    script.unlink()
    require_scripts(run, None)  # who imports it will say that it is missing


# --- every entry that imports or unpickles --------------------------------------------------------


class Answer(NamedTuple):
    code: int
    line: str


def _module(module: str, *arguments: str) -> Callable[[Path, list[str]], Answer]:
    def ask(run_dir: Path, trust: list[str]) -> Answer:
        words = [word.format(run=run_dir) for word in arguments]
        done = subprocess.run(
            [sys.executable, "-P", "-m", f"espnet3.worker{module}", *trust, *words],
            cwd="/", capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr
        return Answer(done.returncode, done.stderr.strip())

    return ask


def _cli(*arguments: str) -> Callable[[Path, list[str]], Answer]:
    def ask(run_dir: Path, trust: list[str]) -> Answer:
        words = [word.format(run=run_dir) for word in arguments]
        code, _, err = said(words[0], *trust, *words[1:])
        return Answer(code, err.strip())

    return ask


ENTRIES: dict[str, Callable[[Path, list[str]], Answer]] = {
    "worker": _module("", "{run}", "0001", "--task", "0"),
    "supervisor": _module(".supervisor", "{run}", "0001", "--run-id", "0" * 12, "--job", "x"),
    "run-shard": _module(".run_shard", "{run}/shards/000000.json"),
    "resume": _cli("resume", "{run}"),
    "cancel": _cli("cancel", "{run}"),
    "collect": _cli("collect", "{run}", "-o", "{run}.jsonl", "--patience", "0"),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_refuses_before_it_imports(
    run_dir: Path, entry: str, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = finished.parent / "imported"
    if entry != "collect":
        (run_dir / "receipts/000000.json").unlink()
    run_dir.chmod(0o777)
    marker.unlink(missing_ok=True)
    monkeypatch.delitem(sys.modules, "noted_module")
    found = ENTRIES[entry](run_dir, [])
    assert found.code == 2, found
    assert len(found.line.splitlines()) == 1
    assert f"{run_dir} is not to be trusted: it is world-writable; run `chmod o-w" in found.line
    run_dir.chmod(0o775)
    found = ENTRIES[entry](run_dir, ["--trust", "owner"])
    assert found.code == 2, found
    assert "it is group-writable, which `trust: owner` refuses; run `chmod g-w" in found.line
    assert not marker.exists()
    assert not Path(f"{run_dir}.jsonl").exists()
    # The directory's own word makes it stricter, never looser.
    for file in (run_dir / "run.json", run_dir / "submissions/0001.json"):
        raw = json.loads(file.read_text())
        raw["parallel"]["trust"] = "owner"
        file.write_text(json.dumps(raw))
    if entry != "supervisor":  # it imports nothing, and its workers ask again
        for trust in ([], ["--trust", "group"]):
            assert "which `trust: owner` refuses" in ENTRIES[entry](run_dir, trust).line


@as_root
@pytest.mark.parametrize("entry", ENTRIES)
def test_the_directory_cannot_make_itself_believed(run_dir: Path, entry: str) -> None:
    (run_dir / "receipts/000000.json").unlink()
    for file in (run_dir / "run.json", run_dir / "submissions/0001.json"):
        raw = json.loads(file.read_text())
        raw["parallel"]["trust"] = "group"
        file.write_text(json.dumps(raw))
    os.chown(run_dir, STRANGER, 0)
    found = ENTRIES[entry](run_dir, [])
    if entry == "collect":  # nothing is unpickled as long as the run is incomplete
        assert found.code == 1
    else:
        assert found.code == 2
        assert f"{run_dir} is not to be trusted: belongs to user {STRANGER}" in found.line
        found = ENTRIES[entry](run_dir, ["--trust", "group"])  # its group is root's, and he is not
        assert found.code == 2
        assert "who is not a member of its group" in found.line
    if entry in ("worker", "run-shard"):
        os.chown(run_dir, MATE, MATE)
        before = os.getgroups()
        os.setgroups([*before, MATE])
        try:
            assert ENTRIES[entry](run_dir, ["--trust", "group"]).code == 0
        finally:
            os.setgroups(before)


def test_a_pickled_result_that_others_may_write_is_not_opened(run_dir: Path) -> None:
    [file] = (run_dir / "results").glob("000001.*")
    file.chmod(0o666)
    for ask in (Run(run_dir).collect, lambda: list(Run(run_dir).stream())):
        with pytest.raises(
            Untrusted, match=f"{file.name} is not to be trusted: it is world-writable"
        ):
            ask()
    file.chmod(0o664)
    assert Run(run_dir).collect() == [0, 1, 2, 3]
    assert Run(run_dir, trust="group").collect() == [0, 1, 2, 3]
    with pytest.raises(Untrusted, match="which `trust: owner` refuses"):
        Run(run_dir, trust="owner").collect()


def test_results_of_json_are_for_everyone_to_collect(tmp_path: Path) -> None:
    """Nothing runs because of them."""
    run = submit_run(Runner(Provider({})), range(4), run_dir=tmp_path / "run",
                     parallel={"preflight": False})  # fmt: skip
    assert run.wait(60, 0.1).done
    (tmp_path / "run").chmod(0o777)
    assert run.collect() == [0, 1, 2, 3]


@as_root
@pytest.mark.parametrize("folder", [layout.SUBMISSIONS, layout.WAVES, layout.FINISHERS])
def test_a_finisher_runs_nothing_that_others_have_put_beside_it(
    tmp_path: Path, folder: str
) -> None:
    """In folders that the group may write anybody of it can put another notify, or a script."""
    config = {"preflight": False, "finish": {"notify": f"touch {tmp_path}/told"}}
    run = submit_run(Runner(Provider({})), range(4), run_dir=tmp_path / "run", parallel=config)
    assert run.wait(60, 0.1).done
    wait_for(Path(run.run_dir, layout.notified(1)).exists, "nobody was told")
    told = tmp_path / "told"
    told.unlink()
    Path(run.run_dir, layout.finished(1)).unlink()
    Path(run.run_dir, layout.notified(1)).unlink()
    file = Path(run.run_dir, folder, "0002.json")
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(Path(run.run_dir, layout.submission(1)).read_bytes())
    os.chown(file, STRANGER, GROUP)
    directory = RunDirectory.open(run.run_dir)
    finisher = directory.read(Finisher, layout.finisher(1))
    with pytest.raises(Untrusted, match=f"{file} is not to be trusted: belongs to user"):
        asyncio.run(finish(directory, directory.run(), finisher))
    assert not told.exists()


def test_a_submission_into_such_a_folder_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "everyones"
    folder.mkdir()
    folder.chmod(0o777)
    runner = Runner(Provider({}))
    said = rf"{folder} is not to be trusted: (it is world-writable|anyone could replace)"
    for place in (folder, folder / "run", folder / "far" / "run"):
        with pytest.raises(Untrusted, match=said):
            submit_run(runner, range(4), run_dir=place)
    assert not [*folder.iterdir()]
    folder.chmod(0o2775)
    with pytest.raises(Untrusted, match="`trust: owner`"):
        submit_run(runner, range(4), run_dir=folder, parallel={"trust": "owner"})
    assert not [*folder.iterdir()]


def test_the_policy_travels_on_the_command_line(tmp_path: Path) -> None:
    config = {"trust": "owner", "preflight": False}
    before = os.umask(0o022)
    try:
        run = submit_run(Runner(Provider({})), range(4), run_dir=tmp_path / "run", parallel=config)
        assert run.wait(60, 0.1).done
    finally:
        os.umask(before)
    assert run.trust == "owner"
    assert submission(run).worker_command[-2:] == ["--trust", "owner"]
    assert submission(run).submit_command[-4:-2] == ["--trust", "owner"]
    assert run.collect() == [0, 1, 2, 3]
    (tmp_path / "run/receipts/000000.json").unlink()
    (tmp_path / "run").chmod(0o775)
    with pytest.raises(Untrusted):
        submit_run(Runner(Provider({})), range(4), run_dir=tmp_path / "run")  # by run.json's word


# --- modes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077])
def test_what_is_made_follows_the_umask_and_is_never_for_everyone_to_write(
    tmp_path: Path, umask: int
) -> None:
    before = os.umask(umask)
    try:
        run_dir = tmp_path / "far" / "below" / "run"
        run = submit_run(Runner(Provider({})), range(4), run_dir=run_dir,
                         parallel={"n_workers": 2, "preflight": False})  # fmt: skip
        assert run.wait(60, 0.1).done
        written = run.collect(tmp_path / "all.jsonl")
        assert isinstance(written, Collected)
    finally:
        os.umask(before)
    made = [tmp_path / "far", *(tmp_path / "far").rglob("*"), tmp_path / "all.jsonl"]
    assert {path.name for path in made} >= {"run", "run.json", "logs", "0001-0.0.log", "all.jsonl"}
    for path in made:
        allowed = 0o775 if path.is_dir() else 0o664
        assert stat.S_IMODE(path.stat().st_mode) == allowed & ~umask, path
    require_own(str(run_dir), None)
    assert refused_by(run_dir) is None


@as_root
def test_a_setgid_folder_for_everyone_does_not_hand_a_run_to_its_group(tmp_path: Path) -> None:
    """With a umask of 002 all members of the scratch folder's group could write the specs."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    os.chown(scratch, 0, GROUP)
    before = os.umask(0o002)
    try:
        for mode, group in ((0o3777, os.getegid()), (0o2775, GROUP)):
            scratch.chmod(mode)
            run_dir = scratch / f"{mode:o}" / "run"
            run = submit_run(Runner(Provider({})), range(4), run_dir=run_dir,
                             parallel={"preflight": False})  # fmt: skip
            assert run.wait(60, 0.1).done
            made = [run_dir.parent, *run_dir.parent.rglob("*")]
            assert {path.stat().st_gid for path in made} == {group}
            assert run_dir.stat().st_mode & stat.S_IWGRP
    finally:
        os.umask(before)


# --- pickles --------------------------------------------------------------------------------------


class Touch:
    """Unpickling it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def test_nothing_is_unpickled_unless_the_run_says_so(tmp_path: Path) -> None:
    """Pickled lines in results with a receipt of their own, and in every other file."""
    import hashlib

    from espnet3.run_dir import result_lines

    mark = tmp_path / "unpickled"
    run = submit_run(Runner(Provider({})), range(4), run_dir=tmp_path / "run",
                     parallel={"preflight": False})  # fmt: skip
    assert run.wait(60, 0.1).done
    folder = tmp_path / "run"
    [file] = (folder / "results").iterdir()
    lines = b"".join(result_lines.encode_pickle(i, Touch(mark)) for i in range(4))
    file.write_bytes(lines)
    receipt = folder / "receipts/000000.json"
    raw = json.loads(receipt.read_text())
    raw["parts"][0] |= {
        "bytes": len(lines), "checksum": f"sha256:{hashlib.sha256(lines).hexdigest()}"
    }  # fmt: skip
    receipt.write_text(json.dumps(raw))
    for words in (
        ["collect", str(folder), "--patience", "0"],
        ["collect", str(folder), "-o", str(tmp_path / "out"), "--patience", "0"],
        ["status", str(folder)],
        ["resume", str(folder)],
    ):
        said(*words)
        assert not mark.exists(), words
    for ask in (run.collect, lambda: list(run.stream())):
        with pytest.raises(Exception, match="a pickled result, but the run says"):
            ask()
    receipt.unlink()  # salvage goes over the lines, and takes them for what they are
    _module("", "{run}", "0001", "--task", "0")(folder, [])
    assert not mark.exists()
    planted = result_lines.encode_pickle(0, Touch(mark))
    for path in (p for p in folder.rglob("*.json")):
        kept = path.read_bytes()
        path.write_bytes(planted)
        for words in (["status"], ["collect", "--patience", "0"], ["resume"], ["cancel"]):
            said(words[0], str(folder), *words[1:])
        path.write_bytes(kept)
    _module("", "{run}", "0001", "--task", "0")(folder, [])
    assert not mark.exists()
    run_json = folder / "run.json"
    run_json.write_text(run_json.read_text().replace('"results":"json"', '"results":"pickle"'))
    receipt.write_text(json.dumps(raw))
    file.write_bytes(lines)
    Run(folder).collect(patience=0)
    assert mark.exists()  # or the test would show nothing
