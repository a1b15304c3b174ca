"""Which files are the user's own, and whether they are as they were."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from espnet3.specs.models import (
    Argument,
    Assignment,
    ClassReference,
    CodeRecord,
    ProviderSpec,
    RestoredValue,
    RunSpec,
    SourceFile,
    now,
)
from espnet3.specs.nested import ProcessIdentity, ProcessState
from espnet3.user_code.sources import (
    Source,
    differing,
    loaded_sources,
    named,
    outermost,
    with_code_at,
)

ME = ProcessIdentity(host="here", pid=1, started=0.0, user="me")


def run_spec(sys_path: list[str], script: str | None = None, **keys: object) -> RunSpec:
    """A run whose classes are in a script, or in this module."""
    module = "__main__" if script else __name__
    here = ClassReference(module=module, qualname="Runner", file=script)
    fields = {
        "run_id": "0" * 12, "created": now(), "fingerprint": "sha256:" + "0" * 64, "runner": here,
        "provider": ProviderSpec(cls=here), "n_inputs": 1, "items_digest": "", "world_size": 1,
        "python": "python", "working_directory": "/", "sys_path": sys_path,
        "environment_variables": {}, "versions": {}, "git_commit": None, "parallel": {},
    }  # fmt: skip
    return RunSpec(**{**fields, **keys})  # type: ignore[arg-type]


def record_of(folder: Path, *names: str, roots: list[str] | None = None) -> CodeRecord:
    """A record of files as they are now."""
    files = []
    for name in names:
        data = (folder / name).read_bytes()
        checksum = "sha256:" + hashlib.sha256(data).hexdigest()
        files.append(SourceFile(root=0, name=name, sha256=checksum, size=len(data)))
    found = roots or [str(folder)]
    return CodeRecord(
        number=1, created=now(), by=ME, roots=found, import_path=found, files=files
    )  # fmt: skip


@pytest.fixture
def importable(tmp_path: Path) -> Iterator[Path]:
    """A folder on the import path; what is imported from it is forgotten."""
    before, path = {*sys.modules}, sys.path[:]
    sys.path.insert(0, str(tmp_path))
    importlib.invalidate_caches()
    yield tmp_path
    sys.path[:] = path
    for name in {*sys.modules} - before:
        del sys.modules[name]


def write(folder: Path, name: str, text: str = "") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def found_in(folder: Path, run: RunSpec) -> set[tuple[str, str]]:
    """What is found below a folder: its import root, relative to the folder, and its name."""
    sources = loaded_sources(run)
    assert all(os.path.isfile(source.path) for source in sources)
    return {
        (os.path.relpath(root, folder), name)
        for root, name in sources
        if Source(root, name).path.startswith(f"{folder}/")
    }


def test_modules_are_found_by_the_folder_above_their_packages(importable: Path) -> None:
    write(importable, "own_pack/__init__.py", "from .inner import net")
    write(importable, "own_pack/inner/net.py")
    write(importable, "own_pack/inner/not_imported.py")
    write(importable, "own_spaces/part.py")  # of a namespace package
    write(importable, "own_single.py")
    for name in ("own_pack", "own_spaces.part", "own_single"):
        importlib.import_module(name)
    assert found_in(importable, run_spec([])) == {
        (".", "own_pack/__init__.py"),
        (".", "own_pack/inner/net.py"),
        (".", "own_spaces/part.py"),
        (".", "own_single.py"),
    }


def test_what_is_installed_is_not_the_users(importable: Path) -> None:
    site = importable / "lib/site-packages"
    write(site, "own_installed.py")
    sys.path.insert(0, str(site))
    importlib.import_module("own_installed")
    assert found_in(importable, run_spec([])) == set()
    parts = {part for source in loaded_sources(run_spec([])) for part in source.path.split("/")}
    assert "site-packages" not in parts
    assert not any("/espnet3/specs/" in source.path for source in loaded_sources(run_spec([])))
    assert any(source.path == __file__ for source in loaded_sources(run_spec([])))


def test_a_link_is_found_by_the_name_that_is_imported(importable: Path) -> None:
    write(importable, "elsewhere/real.py", "VALUE = 1")
    (importable / "own_linked.py").symlink_to("elsewhere/real.py")
    importlib.import_module("own_linked")
    assert found_in(importable, run_spec([])) == {(".", "own_linked.py")}
    record = record_of(importable, "own_linked.py")
    write(importable, "elsewhere/real.py", "VALUE = 2")
    assert [file.name for file in differing(record)] == ["own_linked.py"]


def test_what_is_loaded_by_its_path_is_found_in_its_folder(importable: Path) -> None:
    file = write(importable, "some/where/net.py")
    spec = importlib.util.spec_from_file_location("own.given.name", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["own.given.name"] = module
    spec.loader.exec_module(module)
    assert found_in(importable, run_spec([])) == {("some/where", "net.py")}


def test_of_a_zip_archive_the_archive_is_found(importable: Path) -> None:
    with zipfile.ZipFile(importable / "app.zip", "w") as archive:
        archive.writestr("own_zipped/__init__.py", "")
        archive.writestr("own_zipped/net.py", "")
    sys.path.insert(0, str(importable / "app.zip"))
    importlib.import_module("own_zipped.net")
    assert found_in(importable, run_spec([])) == {(".", "app.zip")}


def test_what_has_gone_or_imports_itself_later_disturbs_nobody(importable: Path) -> None:
    class Lazy:
        def __getattr__(self, name: str) -> object:
            raise AssertionError("it was asked for")

    write(importable, "own_gone.py")
    importlib.import_module("own_gone")
    (importable / "own_gone.py").unlink()
    sys.modules["own_lazy"] = Lazy()  # type: ignore[assignment]
    assert found_in(importable, run_spec([])) == set()


def test_a_script_counts_where_a_class_is_from_it(importable: Path) -> None:
    script = write(importable, "go")
    assert found_in(importable, run_spec([], str(script))) == {(".", "go")}
    only_submits = ProcessState(
        argv=[], main=ClassReference(module="__main__", qualname="", file=str(script))
    )
    assert found_in(importable, run_spec([], process=only_submits)) == set()


def test_what_differs_is_named(tmp_path: Path) -> None:
    names = [f"{letter}.py" for letter in "abcde"]
    for name in names:
        write(tmp_path, name, "x = 1")
    record = record_of(tmp_path, *names)
    os.utime(tmp_path / "a.py", (1, 1))
    assert differing(record) == []
    write(tmp_path, "a.py", "x = 2")
    write(tmp_path, "b.py", "x = 1  # longer")
    (tmp_path / "c.py").unlink()
    (tmp_path / "d.py").unlink()
    (tmp_path / "d.py").mkdir()
    changed = differing(record)
    assert [file.name for file in changed] == ["a.py", "b.py", "c.py", "d.py"]
    assert named(record, changed[:1]) == "a.py"
    assert named(record, changed) == "a.py, b.py, c.py (gone) and 1 more"
    os.mkfifo(tmp_path / "c.py")  # which nobody waits for
    assert len(differing(record)) == 4


def test_folders_in_others_are_left_out() -> None:
    assert outermost(["/", "/a"]) == ["/"]
    assert outermost(["/a/b/", "/a/bc", "/a/b/c"]) == ["/a/b", "/a/bc"]


def test_a_run_is_moved_to_the_copies(tmp_path: Path) -> None:
    write(tmp_path, "go.py")
    write(tmp_path, "src/pack/net.py")
    record = record_of(tmp_path, "go.py", "src/pack/net.py")
    record = record.model_copy(update={"import_path": [str(tmp_path), f"{tmp_path}/src"]})
    script = f"{tmp_path}/go.py"
    cls = ClassReference(module="__main__", qualname="Kind", file=script)
    value = Argument(
        value={"file": script}, restored=[RestoredValue(at=[], kind="fields", cls=cls)]
    )
    process = ProcessState(argv=[script], main=cls, environment={"SCRIPT": script})
    run = run_spec(
        ["/lib", str(tmp_path), f"{tmp_path}/data"], script, process=process,
        assignments=[Assignment(target=cls, name="kind", value=value)],
    )  # fmt: skip
    moved = with_code_at(run, record, ["/run/code/0001/0"])
    assert moved.sys_path == [
        "/lib",
        "/run/code/0001/0",
        f"{tmp_path}/data",
        "/run/code/0001/0/src",  # an editable install, which is on nobody's sys.path
        str(tmp_path),  # for what was not copied
        f"{tmp_path}/src",
    ]
    there = "/run/code/0001/0/go.py"
    assert {reference.file for reference in moved.references()} == {there}
    assert moved.assignments[0].value.value == {"file": script}
    assert moved.process is not None
    assert (moved.process.argv, moved.process.environment) == ([script], {"SCRIPT": script})
    assert moved.fingerprint == run.fingerprint


@pytest.mark.parametrize("name", ["../a.py", "/etc/a.py", "a//b.py", "a/./b.py", "", "a\0.py"])
def test_a_record_names_no_file_outside_of_its_roots(name: str) -> None:
    file = {"root": 0, "name": name, "sha256": "sha256:" + "0" * 64, "size": 0}
    with pytest.raises(ValueError, match="does not lie in a folder of roots"):
        CodeRecord(
            number=1, created=now(), by=ME, roots=["/p"], import_path=[],
            files=[SourceFile(**file)],  # type: ignore[arg-type]
        )  # fmt: skip
