"""CONFIG.yaml: a whole submission in one file.

    provider: {_target_: decode.MyProvider, params: {beam: 5}}
    runner: {_target_: decode.MyRunner, batch_size: 8}
    items: 1000                      # or a list, {start, stop, step}, or {_target_: function, ...}
    run_dir: /shared/decode
    n_shards: 40
    config: {model: /shared/model.pt}
    parallel: {env: slurm, n_workers: 16, options: {cores: 1, memory: 4GB, walltime: 02:00:00}}

It is an OmegaConf file: `${...}` reaches from any section to any other.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from espnet3.cli.target_calls import call_target, find_target
from espnet3.config.finish import Finish
from espnet3.config.model import ParallelConfig, did_you_mean, parse_parallel
from espnet3.config.yaml_values import parse_setting, read_yaml
from espnet3.errors import ConfigError, UsageError
from espnet3.parallel.base_runner import BaseRunner
from espnet3.parallel.env_provider import EnvironmentProvider
from espnet3.redaction import remember, shown_value
from espnet3.text import one_line
from espnet3.user_code.import_path import extended_import_path

REQUIRED = ("provider", "runner", "items")
KEYS = (*REQUIRED, "run_dir", "n_shards", "config", "parallel")


class Request(NamedTuple):
    """What a config file asks for: the arguments of `espnet3.submit.submit`."""

    runner: Any
    items: Any
    run_dir: str | None
    n_shards: int | None
    parallel: ParallelConfig


@contextlib.contextmanager
def import_path(file: str) -> Iterator[None]:
    """For a while, modules are also found in the current folder and beside a config file.

    The submission has to happen inside, since workers get the import path as it is then. The words
    of this command are its own: modules see a command line without arguments, here and there.
    """
    argv = sys.argv
    with extended_import_path(first=[os.getcwd(), os.path.dirname(os.path.abspath(file))]):
        sys.argv = argv[:1]
        try:
            yield
        finally:
            sys.argv = argv


def load_request(file: str, overrides: Iterable[str] = ()) -> Request:
    """Read a config file, apply overrides, and make the runner and the items. See `import_path`.

    Args:
        file: the file.
        overrides: `key=value`, the key dotted and the value YAML.

    Raises:
        UsageError: the file or what it names is wrong; one line that says where.
    """
    raw = read_config(file, overrides)
    config = OmegaConf.create(_section(raw, "config") if raw.get("config") else {})
    provider = _make("provider", _section(raw, "provider"), config, EnvironmentProvider)
    section = _section(raw, "runner")
    for key in ("run_dir", "async_mode"):
        if key in section:
            raise ConfigError(f"runner.{key}", "belongs to the top level of the file" if key ==
                              "run_dir" else "is always on for what is submitted")  # fmt: skip
    runner = _make("runner", section, provider, BaseRunner)
    return Request(
        runner,
        _items(raw["items"]),
        _run_dir(raw.get("run_dir")),
        _positive(raw.get("n_shards"), "n_shards"),
        parse_parallel(_section(raw, "parallel")) if raw.get("parallel") else ParallelConfig(),
    )


def with_finish(request: Request) -> Request:
    """The request, with the defaults of `parallel.finish` where it has none."""
    if request.parallel.finish is not None:
        return request
    update = {"finish": Finish()}
    return request._replace(parallel=request.parallel.model_copy(update=update))


def load_parallel(
    file: str | None, overrides: Iterable[str] = ()
) -> tuple[ParallelConfig, str | None]:
    """The parallel config of a config file and its run directory; nothing of it is imported.

    Args:
        file: the file; None where overrides say all.
        overrides: as for `load_request`.

    Raises:
        UsageError: the file is wrong; one line that says where.
    """
    raw = read_config(file, overrides, required=())
    section = _section(raw, "parallel") if raw.get("parallel") else {}
    return parse_parallel(section) if section else ParallelConfig(), _run_dir(raw.get("run_dir"))


def read_config(
    file: str | None, overrides: Iterable[str] = (), required: Iterable[str] = REQUIRED
) -> dict[str, Any]:
    """The file's sections as plain values, overridden, resolved and known.

    Raises:
        ConfigError: it is not YAML, an interpolation fails, a key is unknown or missing.
    """
    try:
        raw = {} if file is None else read_yaml(file)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}") from None
    file = file or "the command line"
    if not isinstance(raw, Mapping):
        raise ConfigError(file, f"must be a mapping with the keys {', '.join(REQUIRED)}")
    settings = [parse_setting(override) for override in overrides]
    try:
        config = OmegaConf.create(dict(raw))
        for key, value in settings:
            _replace(config, key, value)
        plain = _resolved(config)
    except OmegaConfBaseException as error:
        reason = one_line(str(error).partition("\n")[0])
        raise ConfigError(str(getattr(error, "full_key", None) or file), reason) from None
    remember(plain)
    for key in plain:
        if key not in KEYS:
            raise ConfigError(str(key), f"unknown key in {file}{did_you_mean(str(key), KEYS)}")
        if key != "config":  # what nobody uses may be missing there
            _require_all(plain[key], str(key))
    for key in required:
        if plain.get(key) is None:
            raise ConfigError(key, f"is missing in {file}")
    return dict(plain)


def _resolved(config: DictConfig) -> Any:
    """Plain values; what refers to a missing value in the section `config` is missing as well."""
    missing: set[str] = set()
    while True:
        try:
            return OmegaConf.to_container(config, resolve=True)
        except InterpolationToMissingValueError as error:
            key = str(error.full_key)
            if not key.startswith("config.") or key in missing:
                raise
            missing.add(key)
            _replace(config, key, MISSING)


def _require_all(value: Any, where: str) -> None:
    """Refuse a mandatory value that is missing."""
    if value == MISSING:
        raise ConfigError(where, f"is missing: it is {MISSING} in the file")
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            _require_all(part, f"{where}.{key}")


def _replace(config: DictConfig | ListConfig, key: str, value: Any) -> None:
    """Set the value of a dotted key, whatever was there."""
    try:
        OmegaConf.update(config, key, value, merge=False, force_add=True)
    except ValueError:  # OmegaConf reads a key below a list as a number
        last = one_line(repr(key.rpartition(".")[2]), 60)
        raise ConfigError(key, f"{last} is not a position in a list") from None


def _section(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = raw[name]
    if not isinstance(section, Mapping):
        raise ConfigError(name, f"must be a mapping, got {shown_value(section)}")
    return dict(section)


def _make(name: str, section: dict[str, Any], first: Any, base: type) -> Any:
    """The object of a subclass of `base` that a section describes."""
    if "_target_" not in section:
        raise ConfigError(f"{name}._target_", "is missing: the import path of a class")
    path = section.pop("_target_")
    target = find_target(path, f"{name}._target_")
    if not (isinstance(target, type) and issubclass(target, base)):
        problem = f"{path} is not a {name}; name a subclass of {base.__name__}"
        raise ConfigError(f"{name}._target_", problem)
    return call_target(target, (first,), section, name)


def _items(raw: Any) -> Any:
    """Items as a config file may give them."""
    if isinstance(raw, int) and not isinstance(raw, bool):
        return range(_positive(raw, "items") or 0)
    if isinstance(raw, list):
        return raw
    if not isinstance(raw, Mapping):
        raise ConfigError(
            "items",
            "must be a number, a list, a mapping with start, stop and step, or one with _target_, "
            f"got {shown_value(raw)}",
        )
    given = dict(raw)
    if "_target_" in given:
        target = find_target(given.pop("_target_"), "items._target_")
        return call_target(target, (), given, "items")
    valid = ("start", "stop", "step")
    for key, value in given.items():
        if key not in valid:
            raise ConfigError(f"items.{key}", f"unknown key{did_you_mean(str(key), valid)}")
        if type(value) is not int:
            raise ConfigError(f"items.{key}", f"must be an integer, got {value!r}")
    if "stop" not in given:
        raise ConfigError("items.stop", "is missing")
    if given.get("step") == 0:
        raise ConfigError("items.step", "must not be 0")
    return range(given.get("start", 0), given["stop"], given.get("step", 1))


def _run_dir(raw: Any) -> str | None:
    if raw is not None and not (isinstance(raw, str) and raw):
        raise ConfigError("run_dir", f"must be a path or URL, got {raw!r}")
    return raw


def _positive(raw: Any, name: str) -> int | None:
    if raw is not None and (type(raw) is not int or raw < 1):
        raise ConfigError(name, f"must be an integer from 1, got {one_line(repr(raw), 60)}")
    return raw
