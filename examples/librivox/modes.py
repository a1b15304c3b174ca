"""The same recognition in all three modes: `python modes.py decode.yaml [key=value ...]`.

On a cluster: `python modes.py decode.yaml parallel.env=slurm 'parallel.options={cores: 1, ...}'`
"""

from __future__ import annotations

import sys
import time
from typing import Any

from omegaconf import OmegaConf
from recognise import LibriVox, Recognise  # type: ignore[import-not-found]  # found beside this file

from espnet3 import EspnetError
from espnet3.parallel import set_parallel


def main(config_file: str, *overrides: str) -> None:
    changes = OmegaConf.from_dotlist(list(overrides))
    config: Any = OmegaConf.merge(OmegaConf.load(config_file), changes)
    recognise = Recognise(LibriVox(config.config))
    items = range(config["items"])

    began = time.monotonic()
    set_parallel(None)  # local: in this process, one after the other
    here = recognise(items)
    say("local", began)

    began = time.monotonic()
    set_parallel(OmegaConf.merge(config.parallel, {"async_mode": False}))  # synchronous: wait
    together = recognise(items)
    say("synchronous", began)

    began = time.monotonic()
    set_parallel(OmegaConf.merge(config.parallel, {"async_mode": True}))  # asynchronous
    run = recognise(items)  # this process could end now
    say("asynchronous", began, f", submitted: {run.run_dir}")
    run.wait(interval=0.5)
    later = run.collect()
    say("", began, ", collected")

    for result in here:
        print(f"{result['id']}: {result['hypothesis']}")
    print(f"the same in all modes: {here == together == later}")


def say(mode: str, began: float, what: str = "") -> None:
    print(f"{mode:<12} {time.monotonic() - began:5.1f} s{what}", flush=True)


if __name__ == "__main__":  # workers of the synchronous mode import this script
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except EspnetError as error:
        sys.exit(f"modes.py: {error}")
