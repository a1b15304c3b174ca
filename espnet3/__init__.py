"""espnet3: submit sharded work from a login node, log out, collect a complete answer later.

Importing this package loads nothing else: it runs before every worker. Public names are resolved
when they are first used. What ESPnet3 has besides (`espnet3.systems`, …) is found where it is.

Example:
    >>> import espnet3
    >>> run = espnet3.Run("/shared/decode")        # doctest: +SKIP
    >>> results = run.collect()                    # doctest: +SKIP
"""

import os

from espnet3._lazy import OwnFirst, lazy_names

__version__ = "0.1.0.dev0"
__path__ = OwnFirst(__name__, __path__)
if os.path.exists(f"{__path__[0]}/systems"):  # ESPnet3's, which is never in our folder
    from espnet3._overwritten import warn

    warn(__path__[0])
__getattr__, __dir__ = lazy_names(__name__)
