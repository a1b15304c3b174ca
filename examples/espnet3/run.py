"""The recipe: `python run.py [key=value ...] --inference_config FILE --stages infer measure`.

In this process: `parallel=null`; on Dask workers: `parallel.async_mode=false`; detached, as the
YAML has it: `infer` returns at once, and `measure` is for later.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import jiwer
from omegaconf import DictConfig, OmegaConf

from espnet3 import EspnetError, Run
from espnet3.parallel import set_parallel


def infer(config: DictConfig) -> None:
    """Recognise each test set; each is a run of its own, below `inference_dir`."""
    set_parallel(config.parallel)
    for test_set in config.dataset.test:
        of_one = OmegaConf.merge(config, {"test_set": test_set.name})
        provider = named(config.inference.provider)(of_one)
        runner = named(config.inference.runner)(
            provider,
            batch_size=config.inference.batch_size,
            output_dir=config.inference_dir,
            shard_subdir=test_set.name,
        )
        result = runner(range(test_set.stop - test_set.start))
        if isinstance(result, Run):
            print(f"{test_set.name}: {result}")
        else:
            print(f"{test_set.name}: {result['hyp']}")


def measure(config: DictConfig) -> None:
    """Compare hypotheses and references of each test set."""
    for test_set in config.dataset.test:
        folder = Path(config.inference_dir) / test_set.name
        try:
            hyp, ref = (read_scp(folder / f"{name}.scp") for name in ("hyp", "ref"))
        except FileNotFoundError as error:
            sys.exit(f"{error.filename} is not there yet: espnet3 status {config.inference_dir}")
        rate = jiwer.wer([ref[key] for key in ref], [hyp[key] for key in ref])
        print(f"{test_set.name}: {rate:.1%} of the words are wrong")


def read_scp(path: Path) -> dict[str, str]:
    lines = (line.partition(" ") for line in path.read_text().splitlines())
    return {key: value for key, _, value in lines}


def named(config: DictConfig) -> Any:
    module, _, name = config._target_.rpartition(".")
    return getattr(import_module(module), name)


STAGES: dict[str, Callable[[DictConfig], None]] = {"infer": infer, "measure": measure}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--inference_config", default="conf/inference.yaml")
    arguments, overrides = parser.parse_known_args()
    changes = OmegaConf.from_dotlist(overrides)
    config: Any = OmegaConf.merge(OmegaConf.load(arguments.inference_config), changes)
    for stage in arguments.stages:
        STAGES[stage](config)


if __name__ == "__main__":  # workers of the synchronous mode import this script
    try:
        main()
    except EspnetError as error:
        sys.exit(f"run.py: {error}")
