"""Classes as import paths: written here, found again in another process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from espnet3.errors import ClassError
from espnet3.specs.models import ClassReference
from espnet3.user_code.references import find_class, refer_to

REPOSITORY = Path(__file__).parents[3]
SCRIPT = """\
import sys
from espnet3.user_code.references import refer_to

class Runner:
    class Inner:
        pass

if __name__ == "__main__":
    print(refer_to(Runner.Inner).model_dump_json())
"""
FINDER = """\
import sys
from espnet3.specs.models import ClassReference
from espnet3.user_code.references import find_class, refer_to
reference = ClassReference.model_validate_json(sys.argv[1])
found = find_class(reference)
assert found is find_class(reference)
assert refer_to(found) == reference, refer_to(found)
print(found.__qualname__)
"""


class Outer:
    class Inner:
        pass


def run(*command: str, cwd: Path = REPOSITORY) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("cls", [Outer, Outer.Inner, ClassReference, dict])
def test_a_class_of_a_module_is_found_again(cls: type) -> None:
    reference = refer_to(cls)
    assert reference.file is None
    assert find_class(reference) is cls
    assert str(reference) == f"{cls.__module__}:{cls.__qualname__}"


def test_a_class_of_the_submitted_script_is_found_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "it's a script.py").write_text(SCRIPT)
    written = run("it's a script.py", cwd=tmp_path)
    assert json.loads(written) == {
        "module": "__main__",
        "qualname": "Runner.Inner",
        "file": str(tmp_path / "it's a script.py"),
    }
    assert run("-c", FINDER, written) == "Runner.Inner"


def test_a_class_of_a_module_run_as_a_script_is_found_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "decode.py").write_text(SCRIPT)
    written = run("-m", "package.decode", cwd=tmp_path)
    assert json.loads(written) == {
        "module": "package.decode",
        "qualname": "Runner.Inner",
        "file": None,
    }


def test_the_script_itself_is_not_loaded_twice(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from espnet3.user_code.references import find_class, refer_to\n"
        "class Runner: pass\n"
        "assert find_class(refer_to(Runner)) is Runner\n"
    )
    run(str(script))


@pytest.mark.parametrize("thing", [Outer(), 3, "module:Class", None, refer_to])
def test_what_is_no_class(thing: Any) -> None:
    with pytest.raises(ClassError, match="is not a class") as caught:
        refer_to(thing)
    assert "\n" not in str(caught.value)


def test_a_local_class() -> None:
    class Local:
        pass

    with pytest.raises(ClassError, match="inside a function; move it") as caught:
        refer_to(Local)
    assert caught.value.name.endswith("Local")


def test_a_class_of_a_prompt() -> None:
    code = (
        "from espnet3.errors import ClassError\n"
        "from espnet3.user_code.references import refer_to\n"
        "class Runner: pass\n"
        "try: refer_to(Runner)\n"
        "except ClassError as error: print(error)\n"
    )
    assert run("-c", code).startswith(
        "__main__.Runner: is defined on the command line (python -c); move it to a module"
    )


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("class Other: pass", "AttributeError"),
        ("import no_such_module_anywhere", "No module named 'no_such_module_anywhere'"),
        ("raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
        ("def broken(:", "SyntaxError"),
    ],
)
def test_why_a_class_is_not_found(tmp_path: Path, source: str, words: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(source)
    reference = ClassReference(module="__main__", qualname="Runner", file=str(script))
    with pytest.raises(ClassError, match="cannot be imported") as caught:
        find_class(reference)
    assert words in str(caught.value)
    assert f"{script}:Runner" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    "reference",
    [
        ClassReference(module="no.such.module", qualname="X"),
        ClassReference(module="json", qualname="NoSuchClass"),
        ClassReference(module="__main__", qualname="X", file="/no/such/script.py"),
        ClassReference(module="__main__", qualname="X", file="/etc/hostname"),
        ClassReference(module="", qualname="X"),
    ],
)
def test_what_cannot_be_found(reference: ClassReference) -> None:
    with pytest.raises(ClassError, match="cannot be imported") as caught:
        find_class(reference)
    assert caught.value.name == str(reference)


def test_a_script_that_fails_may_be_mended_and_loaded_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    reference = ClassReference(module="__main__", qualname="Runner", file=str(script))
    script.write_text("raise RuntimeError")
    with pytest.raises(ClassError):
        find_class(reference)
    script.write_text("class Runner: mended = True")
    assert find_class(reference).mended
