"""The contract: what is persisted, and under which names. It knows no storage.

Other names than those of persisted models are from before other packages held them.
"""

from espnet3._lazy import lazy_names

__getattr__, __dir__ = lazy_names(__name__)
