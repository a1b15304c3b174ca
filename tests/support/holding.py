"""What the tests of changed providers, classes and variables change; workers import it."""

from __future__ import annotations

import enum
import logging
import time
from typing import Any

from espnet3.parallel import BaseRunner, InferenceProvider


class Search(enum.Enum):
    GREEDY = 1
    BEAM = 2


BEAM = 1
SETTINGS = {"beam": 1, "deep": [1]}
START = time.time()
log = logging.getLogger(__name__)
_model: Any = None
_cache: dict[Any, Any] = {}
_objects: dict[Any, Any] = {}


def model() -> Any:
    """Loaded when it is first needed, as many do."""
    global _model
    if _model is None:
        _model = object()
    return _model


class Options:
    width = 1


class Tool:
    """An object that no worker can be given."""

    def __init__(self) -> None:
        self.size = 1


class Mixin:
    mixed = 1


class Holder(Mixin, InferenceProvider):
    beam = 1

    def __init__(self, config: Any, *, params: Any = None) -> None:
        super().__init__(config, params=params)
        self.extra: Any = {"a": [1]}
        self.tool = Tool()

    @staticmethod
    def build_dataset(config: Any) -> Any:
        return None

    @staticmethod
    def build_model(config: Any) -> Any:
        return None

    def build_env_local(self) -> dict[str, Any]:
        hidden = ("tool", "loaded")
        held = {name: value for name, value in sorted(vars(self).items()) if name not in hidden}
        self.loaded = Tool()  # what it makes for itself is its own affair
        return {"held": held, "variables": (self.beam, self.mixed, self.tool.size)}

    def make_worker_setup_fn(self) -> Any:
        return self.build_env_local


class Show(BaseRunner):
    """All that it can see, as text that tells types apart."""

    width = 1

    @staticmethod
    def forward(idx: int, *, held: Any, variables: Any) -> str:
        log.debug("%s", idx)
        _cache[idx] = idx
        _objects[idx] = model()
        assert START
        seen = (held, variables, BEAM, SETTINGS, Options.width, Show.width)
        return repr(seen)
