"""Submit the recognition and exit: `python submit.py decode.yaml [key=value ...]`.

For example, on a cluster: `python submit.py decode.yaml parallel.env=slurm`
"""

from __future__ import annotations

import os
import sys
from typing import Any

from omegaconf import OmegaConf
from recognise import LibriVox, Recognise  # type: ignore[import-not-found]  # found beside this file

from espnet3 import EspnetError
from espnet3.parallel import set_parallel


def main(config_file: str, *overrides: str) -> None:
    changes = OmegaConf.from_dotlist(list(overrides))
    config: Any = OmegaConf.merge(OmegaConf.load(config_file), changes)
    set_parallel(config.parallel)
    recognise = Recognise(LibriVox(config.config), run_dir=config.run_dir)
    run = recognise(range(config["items"]))  # not `config.items`: that is a method
    print(f"process {os.getpid()}: {run}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except EspnetError as error:
        sys.exit(f"submit.py: {error}")
