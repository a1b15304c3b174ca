"""What the submitter's process held at the call, a worker has too, or the call is refused."""

from __future__ import annotations

import contextlib
import copy
import math
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from espnet3.config.model import parse_parallel
from espnet3.errors import ClassError, ConfigError, PlanMismatch
from espnet3.parallel import set_parallel
from espnet3.run import submit_run
from espnet3.specs.codec import encode
from espnet3.specs.items import plan_items
from espnet3.submit.plan import SubmitterProcess, plan_run, require_same_plan
from tests.support import holding
from tests.support.helpers import LONG, ROOT, ended, parallel, python
from tests.support.holding import Holder, Options, Search, Show, Tool

HERE = SubmitterProcess(sys.executable, str(ROOT), [str(ROOT)], {}, {}, None)
AS_IMPORTED = [
    (owner, name, copy.deepcopy(vars(owner)[name]))
    for owner, name in [
        (holding, "BEAM"), (holding, "SETTINGS"), (holding, "_model"), (holding, "_cache"),
        (holding, "_objects"), (Holder, "beam"), (holding.Mixin, "mixed"), (Options, "width"),
        (Show, "width"),
    ]
]  # fmt: skip


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    yield
    restore()


def restore() -> None:
    """Have classes and modules as they were imported."""
    for owner, name, value in AS_IMPORTED:
        if name in ("SETTINGS", "_cache", "_objects"):
            vars(owner)[name].clear()
            vars(owner)[name].update(copy.deepcopy(value))
        else:
            setattr(owner, name, value)


def planned(runner: Any) -> Any:
    return plan_run(runner, plan_items([0]), parse_parallel({}), HERE).run


@pytest.fixture(scope="module")
def rebuilt() -> Iterator[Callable[[Any], str]]:
    """What a worker makes of a run; each in a clean process."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.rebuilding"],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        to, back = process.stdin, process.stdout

        def rebuild(run: Any) -> str:
            to.write(encode(run).replace(b"\n", b"") + b"\n")
            to.flush()
            return back.readline().decode().rstrip("\n")

        yield rebuild
        to.close()


# --- any changes ----------------------------------------------------------------------------------

VALUES: Any = st.sampled_from(
    [20, 2.5, True, "text", None, Search.BEAM, Path("x"), (1, 2), {1: (2,)}, b"x", math.nan, [[]]]
)  # fmt: skip
UNSTORABLE = st.builds(Tool) | st.just([].append) | st.builds(object)
CONFIGS = st.sampled_from([{"beam": 1, "deep": {"a": [1]}}, {"beam": Search.GREEDY, "deep": {}}])


def _set_config(provider: Any, value: Any) -> None:
    if isinstance(provider.config, DictConfig) and isinstance(value, float | dict | tuple):
        value = 7
    provider.config["beam"] = value


def _set_deep(provider: Any, value: Any) -> None:
    provider.config["deep"]["new"] = 8 if isinstance(provider.config, DictConfig) else value


CHANGES: list[tuple[str, Callable[[Any, Any], Any]]] = [
    ("config", _set_config),
    ("config", _set_deep),
    ("config", lambda p, value: setattr(p, "config", {"other": value})),
    ("params", lambda p, value: p.params.update(lm=value)),
    ("extra", lambda p, value: p.extra["a"].append(value)),
    ("extra", lambda p, value: setattr(p, "extra", value)),
    ("new", lambda p, value: setattr(p, "new", value)),
    ("beam", lambda p, value: setattr(Holder, "beam", value)),
    ("mixed", lambda p, value: setattr(holding.Mixin, "mixed", value)),
    ("width", lambda p, value: setattr(Show, "width", value)),
    ("width", lambda p, value: setattr(Options, "width", value)),
    ("BEAM", lambda p, value: setattr(holding, "BEAM", value)),
    ("SETTINGS", lambda p, value: holding.SETTINGS.update(beam=value)),
    ("SETTINGS", lambda p, value: holding.SETTINGS["deep"].append(value)),  # type: ignore[attr-defined]
]


DIRECT: Any = {"deadline": None, "suppress_health_check": list(HealthCheck)}
ANY_CHANGES: Any = {
    "config": CONFIGS,
    "omegaconf": st.booleans(),
    "params": st.none() | st.just({"lm": 0.1}),
    "changes": st.lists(st.tuples(st.sampled_from(CHANGES), VALUES), max_size=4),
    "tried_before": st.booleans(),
}


def changed_runner(
    config: Any, omegaconf: bool, params: Any, changes: Any, tried_before: bool
) -> Show:
    """A runner whose provider, classes and modules were changed after the construction."""
    restore()
    given_config = copy.deepcopy(config)
    provider = Holder(OmegaConf.create(given_config) if omegaconf else given_config, params=params)
    if tried_before:
        locally(Show(provider))
    for (_, change), value in changes:
        with contextlib.suppress(LookupError, TypeError, AttributeError):  # what it was is gone
            change(provider, value)
    return Show(provider)


def locally(runner: Show) -> Any:
    """What local mode gives, whatever is configured."""
    return runner._run_here([0], False)


@settings(max_examples=60 if LONG else 30, **DIRECT)
@given(**ANY_CHANGES)
def test_any_changes_are_taken_over(rebuilt: Any, **changes: Any) -> None:
    runner = changed_runner(**changes)
    run = planned(runner)
    assert [rebuilt(run)] == locally(runner)


@pytest.fixture
def workers() -> Iterator[None]:
    """Those of the synchronous mode."""
    set_parallel({"env": "local", "n_workers": 1})
    yield
    set_parallel(None)


@settings(max_examples=40 if LONG else 20, **DIRECT)
@given(**ANY_CHANGES)
def test_the_synchronous_mode_sees_any_changes(workers: None, **changes: Any) -> None:
    runner = changed_runner(**changes)
    assert runner([0]) == locally(runner)


@settings(max_examples=30, **DIRECT)
@given(
    change=st.sampled_from(
        [c for c in CHANGES if c[0] not in ("config", "SETTINGS")] + [CHANGES[2]]
    ),
    value=UNSTORABLE,
)
def test_what_a_worker_cannot_have_is_refused_by_its_name(change: Any, value: Any) -> None:
    restore()
    provider = Holder({"beam": 1, "deep": {}})
    change[1](provider, value)
    with pytest.raises((ConfigError, ClassError), match=rf"\b{change[0]}\b.* was changed after"):
        planned(Show(provider))


def test_a_detached_run_gives_what_local_mode_gives(tmp_path: Path) -> None:
    provider = Holder(OmegaConf.create({"beam": Search.GREEDY}), params={"lm": 0.1})
    provider.config["beam"], provider.params["lm"] = Search.BEAM, (1,)
    Holder.beam, Options.width, holding.BEAM = 20, 21, 22
    holding.SETTINGS["beam"] = 23
    run = submit_run(Show(provider), [0], run_dir=tmp_path / "run", parallel=parallel("local"))
    assert ended(run).collect() == Show(provider)([0])
    with pytest.raises(PlanMismatch, match=r"assignments\.tests\.support\.holding\.BEAM"):
        holding.BEAM = 24
        submit_run(Show(provider), [0], run_dir=tmp_path / "run", parallel=parallel("local"))


# --- the provider ---------------------------------------------------------------------------------


def test_what_the_caller_changes_reaches_what_local_mode_sees(rebuilt: Any) -> None:
    config = {"beam": 1}
    shared, owned = Holder(config), Holder(config, params={"lm": 1})
    config["beam"] = 20
    for provider, beam in ((shared, 20), (owned, 1)):
        assert f"'beam': {beam}" in rebuilt(planned(Show(provider)))
        assert [rebuilt(planned(Show(provider)))] == Show(provider)([0])


def test_an_unchanged_provider_needs_nothing_new() -> None:
    provider = Holder({"beam": 1, "deep": {}}, params={"lm": 0.1})
    Show(provider)([0])  # which loads, caches and adds an attribute
    run = planned(Show(provider))
    assert (run.provider.attributes, run.assignments) == ({}, [])


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))]
)
def test_a_copy_is_as_its_original(rebuilt: Any, again: Any) -> None:
    assert planned(Show(again(Holder({"beam": 1})))).provider.attributes == {}
    provider = Holder({"beam": 1})
    vars(provider)["new"] = 20
    assert [rebuilt(planned(Show(again(provider))))] == Show(provider)([0])


def test_an_attribute_that_is_gone_or_an_object_that_changed_is_named() -> None:
    provider = Holder({})
    provider.tool.size = 20
    with pytest.raises(ConfigError, match=r"^provider\.tool: was changed after"):
        planned(Show(provider))
    provider = Holder({})
    del provider.extra
    with pytest.raises(ConfigError, match=r"^provider\.extra: was deleted"):
        planned(Show(provider))


def test_methods_that_were_replaced_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Holder, "build_model", staticmethod(lambda config: 20))
    with pytest.raises(ClassError, match=r"^tests\.support\.holding\.Holder\.build_model: was"):
        planned(Show(Holder({})))
    monkeypatch.undo()
    runner = Show(Holder({}))
    runner.forward = lambda idx, **env: 1  # type: ignore[method-assign,assignment]
    with pytest.raises(ClassError, match="has a forward of its own"):
        planned(runner)


def test_another_state_is_another_plan() -> None:
    one = planned(Show(Holder({})))
    provider = Holder({})
    vars(provider)["new"] = 1
    with pytest.raises(PlanMismatch) as caught:
        require_same_plan("/run", one, planned(Show(provider)))
    assert caught.value.field == "provider.attributes"
    Holder.beam = 20
    with pytest.raises(PlanMismatch) as caught:
        require_same_plan("/run", one, planned(Show(Holder({}))))
    assert caught.value.field == "assignments.tests.support.holding.Holder.beam"


# --- a script -------------------------------------------------------------------------------------

SCRIPT = """
import argparse, dataclasses, logging, sys, time
import settings
from espnet3.parallel import BaseRunner, EnvironmentProvider

START = time.time()
BEAM = 1
TWICE = 1
TWICE = time.time()
CONFIG = {"beam": 1}
REGISTRY = {}
_lazy = None

def register(function):
    REGISTRY[function.__name__] = function
    return function

@register
def scaled(x):
    return x * FACTOR

def lazy():
    global _lazy
    if _lazy is None:
        _lazy = object()
    return 1

class Slotted(EnvironmentProvider):
    __slots__ = ("size", "__hidden")
    def __init__(self, *args, size=1, **kwargs):
        super().__init__(kwargs)
        kwargs["mutated"] = args
        self.size = size
        self.__hidden = 1
    def hide(self, value):
        self.__hidden = value
    def build_env_local(self):
        return {"held": [self.size, self.__hidden, sorted(self.config)]}

@dataclasses.dataclass(frozen=True)
class Data(EnvironmentProvider):
    size: int = 1
    names: list = dataclasses.field(default_factory=list)
    @property
    def shown(self):
        return [self.size, self.names]
    def build_env_local(self):
        return {"held": self.shown}

class Strict(EnvironmentProvider):
    def __setattr__(self, name, value):
        object.__setattr__(self, name, [value, len(name)])
    def build_env_local(self):
        return {"held": self.config}

class Show(BaseRunner):
    @staticmethod
    def forward(idx, *, held):
        log = globals().get("log") or logging.getLogger()
        seen = [held, BEAM, CONFIG["beam"], scaled(2), settings.BEAM, args.beam, (lambda: inner)()]
        assert START and TWICE and REGISTRY and lazy()
        return seen

FACTOR = 2

if __name__ == "__main__":
    args = argparse.Namespace(beam=30)
    inner = {"a": 1}
    run = Show  # used nowhere
    log = logging.getLogger("mine")
    lazy()
    BEAM = CONFIG["beam"] = FACTOR = settings.BEAM = 20
    slotted = Slotted(1, 2, size=3, more=4)
    slotted.hide(5)
    slotted.size = 6
    data = Data(names=["a"])
    data.names.append("b")
    strict = Strict(1)
    strict.config = 9
    for number, provider in enumerate((slotted, data, strict)):
        local = Show(provider)([0])
        run_ = Show(provider, async_mode=True, run_dir=f"{sys.argv[1]}/{number}")([0])
        run_.wait(timeout=100, interval=0.1)
        assert run_.collect() == local, (run_.collect(), local)
    print("alike")
"""


def test_a_script_that_changes_what_its_classes_use(tmp_path: Path) -> None:
    (tmp_path / "settings.py").write_text("BEAM = 1\n")
    (tmp_path / "script.py").write_text(SCRIPT)
    done = python(str(tmp_path / "script.py"), str(tmp_path / "runs"), cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("alike\n", 0), done.stderr


REACHED = """
import os, sys
import package.settings, settings
from espnet3.parallel import BaseRunner, EnvironmentProvider

class Options:
    def __init__(self):
        self.beam = 1
        self.tool = object()

class Provider(EnvironmentProvider):
    def build_env_local(self):
        return {}

def score():
    return score.beam

score.beam = 1
options = Options()
SCALE = float(os.environ.get("SCALE", "1"))
fold, measure = str.upper, repr

class Show(BaseRunner):
    @staticmethod
    def forward(idx):
        from other import BEAM
        return [BEAM, package.settings.BEAM, settings.options.beam, options.beam, score(), helper(),
                fold("Ab"), measure("Ab")]

def helper():
    return SCALE

def main():
    global SCALE, fold, measure
    fold, measure = str.lower, len
    SCALE, options.beam, score.beam, package.settings.BEAM = 2.5, 20, 21, 22
    options.tool = object()
    settings.options.beam = 23
    import other
    other.BEAM = 24
    run = Show(Provider({}), async_mode=True, run_dir=sys.argv[1])([1])
    run.wait(timeout=100, interval=0.1)
    print(*run.collect()[0], run.collect() == Show(Provider({}))([1]))

if __name__ == "__main__":
    main()
"""


def test_what_code_reaches_by_other_ways_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    for name in ("other.py", "package/__init__.py", "package/settings.py"):
        (tmp_path / name).write_text("BEAM = 1\n")
    (tmp_path / "settings.py").write_text("import types\noptions = types.SimpleNamespace(beam=1)\n")
    (tmp_path / "script.py").write_text(REACHED)
    done = python(str(tmp_path / "script.py"), str(tmp_path / "run"), cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("24 22 23 20 21 2.5 ab 2 True\n", 0), done.stderr


ELSEWHERE = """
import itertools, sys
from omegaconf import OmegaConf
from espnet3.parallel import BaseRunner, EnvironmentProvider

N = itertools.count(1)

class Decoder:
    def __init__(self, config):
        self._config = config

class Provider(EnvironmentProvider):
    def __init__(self, config):
        super().__init__(config)
        self.n, self.decoder, self.same = next(N), Decoder(config), [1, "a"]
    def build_env_local(self):
        return {"n": self.n, "decoder": self.decoder}
    def build_worker_setup_fn(self):
        return self.build_env_local

class Show(BaseRunner):
    @staticmethod
    def forward(idx, n, decoder):
        return [n, decoder._config.beam]

if __name__ == "__main__":
    config = OmegaConf.create({"beam": 5})
    first, provider = Provider(config), Provider(config)
    provider.config.beam = 20
    run = Show(provider, async_mode=True, run_dir=sys.argv[1])([0])
    run.wait(timeout=100, interval=0.1)
    print(run.collect())
"""


def test_what_a_constructor_has_from_elsewhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(ELSEWHERE)
    done = python(str(tmp_path / "script.py"), str(tmp_path / "run"), cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("[[1, 5]]\n", 0), done.stderr
    told = [line.partition("NotTakenOver: ")[2] for line in done.stderr.splitlines()]
    assert [line.partition(", since")[0] for line in told if line] == [
        "provider.n: is 2 here and 1 in a worker",
        "provider.decoder._config.beam: is 20 here and 5 in a worker",
    ]


# --- innocent code --------------------------------------------------------------------------------

INNOCENT = """
import argparse, collections, sys
from functools import cached_property
from espnet3.parallel import BaseRunner, EnvironmentProvider

class Data:
    def __getitem__(self, i):
        return i * 2

class Provider(EnvironmentProvider):
    def __init__(self, config):
        super().__init__(config)
        self.sizes = collections.deque([1])
    @cached_property
    def dataset(self):
        return Data()
    def build_env_local(self):
        return {**vars(self), "dataset": self.dataset}

def greedy(x):
    return "greedy"

def beam(x):
    return "beam"

search = greedy

class Show(BaseRunner):
    @staticmethod
    def forward(idx, *, dataset, config, sizes):
        return [dataset[idx], config, [*sizes], args.beam, args.func.__name__, search(idx)]

def decode():
    provider = Provider({"a": 1})
    assert provider.dataset[1] == 2
    provider.sizes.append(2)
    run = Show(provider, async_mode=True, run_dir=sys.argv[1])([1])
    run.wait(timeout=100, interval=0.1)
    local = Show(provider)([1])
    assert run.collect() == local, (run.collect(), local)
    print(*local[0])

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    command = commands.add_parser("decode")
    command.add_argument("--beam", type=int)
    command.set_defaults(func=decode)
    args = parser.parse_args(["decode", "--beam", "9"])
    search = beam
    args.func()
"""


def test_innocent_code_is_neither_refused_nor_broken(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(INNOCENT)
    done = python(str(tmp_path / "script.py"), str(tmp_path / "run"), cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("2 {'a': 1} [1, 2] 9 decode beam\n", 0), done.stderr
    assert "NotTakenOver" not in done.stderr
