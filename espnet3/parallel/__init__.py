"""What users subclass and call. Light to import: a user's runner module is on a worker's path."""

from espnet3._lazy import lazy_names

__getattr__, __dir__ = lazy_names(__name__)
