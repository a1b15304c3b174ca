"""ESPnet and this package in one environment, however each was installed (decision 0030)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.espnet_like import ROOT, Environment, espnet_like, our_wheel

pytestmark = pytest.mark.slow

OURS = ["espnet3", "espnet3.parallel.base_runner", "espnet3.cli.app"]
THEIRS = [
    "espnet3.systems.base.x",
    "espnet3.components.y",
    "espnet3.parallel.only_theirs",
    "espnet3.cli.main",
]
DETACHED = """
import sys
{first}
from espnet3.parallel import set_parallel
from espnet3.systems.base.x import Sizes, Squares

if __name__ == "__main__":
    set_parallel({{"env": "local", "n_workers": 2, "snapshot": {snapshot}}})
    local = Squares(Sizes({{}}))
    run = Squares(Sizes({{}}), async_mode=True, run_dir="run")(range(4))
    run.wait(100, 0.1)
    print(run.collect())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return our_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    return espnet_like(tmp_path / "espnet")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Environment:
    env = Environment(tmp_path_factory.mktemp("ours") / "env")
    env.install(wheel)
    return env


@pytest.fixture
def env(tmp_path: Path, ours: Environment) -> Environment:
    return ours.copy(tmp_path / "env")


def check(env: Environment, theirs: Path, *, first: str = "", snapshot: bool = False) -> None:
    """Ours is ours, the rest theirs, here and in a detached worker."""
    if not first:
        found = env.origins([*OURS, *THEIRS])
        assert not found[""]
        for module in OURS:
            assert Path(found[module]).is_relative_to(env.site), module
        for module in THEIRS:
            assert Path(found[module]).resolve().is_relative_to(theirs), module
    (env.folder / "detached.py").write_text(DETACHED.format(first=first, snapshot=snapshot))
    out, complaints = env.run("python", "detached.py")
    [*results] = eval(out)
    assert [square for square, _ in results] == [0, 1, 4, 9]
    where = theirs if not snapshot else env.folder / "run/code"
    assert all(Path(file).resolve().is_relative_to(where) for _, file in results), results
    assert "Warning" not in complaints


MODES = ["lenient", "compat", "strict"]


@pytest.mark.parametrize("mode", MODES)
def test_pip_install_e(env: Environment, theirs: Path, mode: str) -> None:
    env.install("--config-settings", f"editable_mode={mode}", "-e", theirs)
    check(env, theirs)


def test_pip_install_e_of_a_src_folder(env: Environment, tmp_path: Path) -> None:
    theirs = espnet_like(tmp_path / "espnet", inner="src")
    env.install("-e", theirs)
    check(env, theirs)


def test_both_by_pip_install_e(tmp_path: Path, theirs: Path) -> None:
    env = Environment(tmp_path / "env")
    env.install("-e", ROOT)
    env.install("-e", theirs)
    found = env.origins([*OURS, *THEIRS])
    assert all(Path(found[module]).is_relative_to(ROOT) for module in OURS)
    assert all(Path(found[module]).is_relative_to(theirs) for module in THEIRS)


def test_a_path_file(env: Environment, theirs: Path) -> None:
    (env.site / "espnet.pth").write_text(f"{theirs}\n")
    check(env, theirs)


def test_their_folder_behind_ours_on_pythonpath(env: Environment, theirs: Path) -> None:
    env.variables["PYTHONPATH"] = f"{env.site}:{theirs}"
    check(env, theirs)


def test_their_folder_is_appended_to_the_path_by_the_script(env: Environment, theirs: Path) -> None:
    check(env, theirs, first=f"sys.path.append({str(theirs)!r})")


@pytest.mark.parametrize("way", ["path file", "pip install -e"])
def test_a_snapshot_has_their_modules(env: Environment, theirs: Path, way: str) -> None:
    if way == "path file":
        (env.site / "espnet.pth").write_text(f"{theirs}\n")
    else:
        env.install("-e", theirs)
    check(env, theirs, snapshot=True)


def test_their_package_without_an_init_file(env: Environment, theirs: Path) -> None:
    (theirs / "espnet3/__init__.py").unlink()
    env.variables["PYTHONPATH"] = str(theirs)  # a namespace never hides a package
    check(env, theirs)


def test_the_doctor_says_where_it_is(env: Environment, theirs: Path) -> None:
    env.install("-e", theirs)
    out, _ = env.run("espnet3-run", "doctor", "parallel.env=local")
    assert f"ESPnet\t{theirs}/espnet3, found beside this package\n" in out


def test_their_command_and_ours(env: Environment, theirs: Path) -> None:
    """Where theirs has taken the name, ours has another one, and each does its own."""
    env.install("-e", theirs)
    (env.folder / "bin/espnet3").write_text(
        f"#!{env.folder}/bin/python\nfrom espnet3.cli.main import main\nmain()\n"
    )
    assert env.run("espnet3")[0] == "their command\n"
    for words in (["espnet3-run"], ["python", "-m", "espnet3"]):
        assert env.run(*words, "--version")[0].startswith("espnet3, version")


def test_without_espnet_its_modules_are_missing_as_usual(env: Environment) -> None:
    out, _ = env.run(
        "python", "-c", "try: import espnet3.systems\nexcept ModuleNotFoundError as e: print(e)"
    )
    assert out == "No module named 'espnet3.systems'\n"


# --- what cannot work -----------------------------------------------------------------------------


def test_their_folder_first_on_pythonpath_is_said_by_the_command(
    env: Environment, theirs: Path
) -> None:
    env.variables["PYTHONPATH"] = str(theirs)
    for command in ("espnet3", "espnet3-run"):
        out, complaints = env.run(command, "--version")  # it is ours all the same
        assert out.startswith("espnet3, version")
        [line] = complaints.splitlines()
        assert f"{theirs}/espnet3 before this package, {env.site}/espnet3" in line
    out, _ = env.run("espnet3-run", "doctor", "parallel.env=local", ok=False)
    assert f"ESPnet\tPROBLEM: {theirs}/espnet3 is found before {env.site}/espnet3" in out


def test_a_wheel_over_ours_is_said_by_the_command(env: Environment, theirs: Path) -> None:
    env.install(theirs)
    _, complaints = env.run("espnet3-run", "doctor", ok=False)
    [line] = complaints.splitlines()
    assert f"ESPnet was installed over this package, in {env.site}/espnet3" in line


def test_our_wheel_over_theirs_is_warned_of(tmp_path: Path, theirs: Path, wheel: Path) -> None:
    env = Environment(tmp_path / "env")
    env.install(theirs)
    env.install(wheel)
    found = env.origins(["espnet3", "espnet3.systems.base.x"])
    assert f"UserWarning: {env.site}/espnet3 holds ESPnet's files and this package's" in found[""]
    out, _ = env.run("espnet3-run", "doctor", "parallel.env=local", ok=False)
    assert f"ESPnet\tPROBLEM: {env.site}/espnet3 holds ESPnet's files" in out
