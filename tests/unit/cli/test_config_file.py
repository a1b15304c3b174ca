"""CONFIG.yaml: what it may say, and one helpful line for what it may not."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from espnet3.cli.app import run
from espnet3.cli.config_file import Request, import_path, load_request, read_config

MODULE = """
from espnet3.parallel import BaseRunner, InferenceProvider

class Provider(InferenceProvider):
    class Inner(InferenceProvider):
        pass

class Broken(InferenceProvider):
    def __init__(self, config):
        raise KeyError("nothing\\nhere")

class Runner(BaseRunner):
    @staticmethod
    def forward(idx, **env):
        return idx

def even(n, *, first=0):
    return range(first, 2 * n, 2)

NUMBER = 3
"""
CONFIG = """
provider: {_target_: cli_test_decode.Provider, params: {beam: "${config.beam}"}}
runner: {_target_: cli_test_decode.Runner, batch_size: 4}
items: 100
run_dir: /shared/${config.name}
n_shards: 5
config: {name: first, beam: 10, again: "${run_dir}", walltime: 12:00:00, list: [1]}
parallel: {env: local, n_workers: "${n_shards}", options: {walltime: 12:00:00}}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A config file beside its module, seen from the folder above."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "cli_test_decode.py").write_text(MODULE)
    (folder / "cli_test_broken.py").write_text("import json\n\n1 / 0\n")
    (folder / "cli_test_needs.py").write_text("import cli_test_absent.part\n")
    (folder / "cli_test_package").mkdir()
    (folder / "cli_test_package" / "__init__.py").touch()
    (folder / "cli_test_package" / "needs.py").write_text("import cli_test_absent.part\n")
    (folder / "c.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    yield "a folder/c.yaml"
    for name in [name for name in sys.modules if name.startswith("cli_test_")]:
        del sys.modules[name]


def load(file: str, *overrides: str) -> Request:
    before = sys.path[:]
    with import_path(file):
        request = load_request(file, overrides)
    assert sys.path == before
    return request


def test_everything(file: str) -> None:
    request = load(file)
    assert type(request.runner).__qualname__ == "Runner"
    assert request.runner.batch_size == 4
    [config], kwargs = request.runner.provider.constructor_arguments
    assert isinstance(config, DictConfig)
    assert config.again == "/shared/first"
    assert config.walltime == "12:00:00"
    assert kwargs == {"params": {"beam": 10}}
    assert request.items == range(100)
    assert request.run_dir == "/shared/first"
    assert request.n_shards == 5
    assert request.parallel.n_workers == 5
    assert request.parallel.options == {"walltime": "12:00:00"}


def test_the_little_that_is_needed(tmp_path: Path, file: str) -> None:
    small = tmp_path / "a folder" / "small.yaml"
    small.write_text(
        "provider: {_target_: cli_test_decode.Provider.Inner}\n"
        "runner: {_target_: cli_test_decode.Runner}\n"
        "items: [a, {b: 1}]\n"
    )
    request = load(str(small))
    assert request.runner.provider.config == {}
    assert request[1:4] == (["a", {"b": 1}], None, None)
    assert request.parallel.env == "local"


def test_overrides_win_and_are_seen_by_interpolations(file: str) -> None:
    request = load(
        file,
        "config.name=a=b",
        "n_shards=7",
        "parallel.options.walltime=24:00:00",
        "config.new.x=1",
    )
    assert request.run_dir == "/shared/a=b"
    assert request.parallel.n_workers == 7
    assert request.parallel.options["walltime"] == "24:00:00"
    assert request.runner.provider.config.new.x == 1


def test_an_override_replaces_the_value_whatever_was_there(file: str) -> None:
    text = Path(file).read_text().replace("items: 100", "items: {start: 1, stop: 4}")
    Path(file).write_text(text)
    assert load(file, "items=[a]").items == ["a"]
    assert load(file, "items={_target_: cli_test_decode.even, n: 3}").items == range(0, 6, 2)
    replaced = load(file, "parallel={env: local, n_workers: 3}", "parallel.options.queue=gpu")
    assert (replaced.parallel.n_workers, replaced.parallel.options) == (3, {"queue": "gpu"})
    assert load(file, "config.list.0=7").runner.provider.config.list == [7]


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ("3", range(3)),
        ("[1, 5]", [1, 5]),
        ("{stop: 10}", range(10)),
        ("{start: 2, stop: 10, step: 3}", range(2, 10, 3)),
        ("{_target_: cli_test_decode.even, n: 3, first: 2}", range(2, 6, 2)),
        ("{_target_: cli_test_decode.even, n: '${n_shards}'}", range(0, 10, 2)),
    ],
)
def test_items(file: str, items: str, expected: Any) -> None:
    # Not merged with what the file has.
    text = Path(file).read_text().replace("items: 100", f"items: {items}")
    Path(file).write_text(text)
    assert load(file).items == expected


def test_modules_are_found_here_first_then_beside_the_file(file: str) -> None:
    with import_path(file):
        assert sys.path[:2] == [os.getcwd(), os.path.abspath("a folder")]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("runer.x=1", "runer: unknown key in a folder/c.yaml; did you mean runner?"),
        ("items=null", "items: is missing in a folder/c.yaml"),
        ("runner=null", "runner: is missing in a folder/c.yaml"),
        ("runner=3", "runner: must be a mapping, got 3"),
        ("runner._target_=null", "runner._target_: None is not an import path such as module.Name"),
        ("runner._target_=a:B", "runner._target_: 'a:B' is not an import path such as module.Name"),
        (
            "runner._target_=cli_test_decode.Provider",
            "runner._target_: cli_test_decode.Provider is not a runner; name a subclass of "
            "BaseRunner",
        ),
        (
            "provider._target_=cli_test_decode.Runner",
            "provider._target_: cli_test_decode.Runner is not a provider; name a subclass of "
            "EnvironmentProvider",
        ),
        (
            "runner._target_=Runner",
            "runner._target_: 'Runner' names no module; write module.Runner",
        ),
        (
            "runner._target_=cli_test_decode.Runer",
            "runner._target_: cli_test_decode has no Runer; did you mean Runner?",
        ),
        (
            "runner._target_=cli_test_decod.Runner",
            "runner._target_: there is no module cli_test_decod in this folder, beside the config "
            "file, or installed",
        ),
        (
            "runner._target_=cli_test_decode.even",
            "runner._target_: cli_test_decode.even is not a runner; name a subclass of BaseRunner",
        ),
        ("runner._target_=cli_test_broken.Runner", "ZeroDivisionError: division by zero ("),
        ("runner._target_=cli_test_needs.Runner", "No module named 'cli_test_absent' ("),
        (
            "runner._target_=cli_test_package.needs.Runner",
            "cli_test_package.needs: cannot be imported: ModuleNotFoundError: No module named ",
        ),
        ("runner.batchsize=3", "takes no such argument; did you mean batch_size?"),
        ("runner.batch_size=0", "runner.batch_size: must be an integer from 1, got 0"),
        ("runner.run_dir=x", "runner.run_dir: belongs to the top level of the file"),
        ("provider.parms=3", "takes no such argument; did you mean params?"),
        ("provider={_target_: cli_test_decode.Broken, params: {}}", "takes no such argument"),
        ("items._target_=cli_test_decode.NUMBER", "items"),
        ("items=no-number", "items: must be a number, a list, "),
        ("items=true", "items: must be a number, a list, "),
        ("items=0", "items: must be an integer from 1, got 0"),
        ("items={stop: 3, stp: 1}", "items.stp: unknown key; did you mean stop?"),
        ("items={start: 3}", "items.stop: is missing"),
        ("items={stop: 3, step: 0}", "items.step: must not be 0"),
        ("items={stop: 3.5}", "items.stop: must be an integer, got 3.5"),
        ("items={_target_: cli_test_decode.even}", "missing a required argument: 'n'"),
        (
            "items={_target_: cli_test_decode.even, m: 1}",
            "takes no such argument; valid are first, n",
        ),
        ("items={_target_: cli_test_decode.even, n: x}", "raised TypeError: "),
        ("run_dir=5", "run_dir: must be a path or URL, got 5"),
        ("n_shards=0", "n_shards: must be an integer from 1, got 0"),
        ("parallel.n_worker=1", "parallel.n_worker: unknown key; did you mean n_workers?"),
        ("parallel.env=slrum", "parallel.env: 'slrum' is not an env that espnet3 knows"),
        ("parallel=3", "parallel: must be a mapping, got 3"),
        ("config.list.x=1", "config.list.x: 'x' is not a position in a list"),
        ("config.list.9=1", "config.list[9]: list index out of range"),
        ("config.beam2=${nothing}", "config.beam2: Interpolation key 'nothing' not found"),
        ("parallel.options.account=???", "parallel.options.account: is missing: it is ???"),
        ("config.name=${", "config.name: "),
        ("config=[1", "config: is not YAML: "),
        ("nonsense", "'nonsense' is not a setting; write key=value"),
    ],
)
def test_one_line_and_exit_code_2(
    file: str, override: str, line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["submit", file, override, "--dry-run"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("espnet3: ")
    assert err.count("\n") == 1
    assert line in err


@pytest.mark.parametrize("value", ["3", "text", "[1]"])
def test_a_config_that_is_no_mapping(
    file: str, value: str, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["provider={_target_: cli_test_decode.Provider}", "run_dir=x", f"config={value}"]
    assert run(["submit", file, *words, "--dry-run"]) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("espnet3: config: must be a mapping, got ")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (None, "no.yaml: No such file or directory"),
        ("", "no.yaml: must be a mapping with the keys provider, runner, items"),
        ("- 1", "no.yaml: must be a mapping"),
        ("a: [", "no.yaml: is not YAML: line "),
        ("\udcff", "no.yaml: is not UTF-8 text"),
    ],
)
def test_no_config_file(
    file: str, text: str | None, line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        Path("no.yaml").write_bytes(text.encode(errors="surrogateescape"))
    assert run(["submit", "no.yaml"]) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"espnet3: {line}")


def test_a_constructor_that_raises_is_named_with_its_place(
    file: str, capfd: pytest.CaptureFixture[str]
) -> None:
    text = CONFIG.replace('Provider, params: {beam: "${config.beam}"}', "Broken")
    Path(file).write_text(text)
    assert run(["submit", file]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert "cli_test_decode.Broken: raised KeyError: " in err
    assert "cli_test_decode.py, line 10)" in err


def test_read_config_is_plain(file: str) -> None:
    assert type(read_config(file)["config"]) is dict
