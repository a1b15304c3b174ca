"""espnet3: submit sharded work from a login node, log out, collect a complete answer later.

Importing this package loads nothing else: it runs before every worker. Public names are resolved
when they are first used.

Example:
    >>> import espnet3
    >>> run = espnet3.Run("/shared/decode")        # doctest: +SKIP
    >>> results = run.collect()                    # doctest: +SKIP
"""

from espnet3._lazy import lazy_names

__version__ = "0.1.0.dev0"
__getattr__, __dir__ = lazy_names(__name__)
