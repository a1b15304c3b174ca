"""What users subclass and call. Light to import: a user's runner module is on a worker's path."""

from espnet3._lazy import OwnFirst, lazy_names

__path__ = OwnFirst(__name__, __path__)  # ESPnet3 has a room of this name, too
__getattr__, __dir__ = lazy_names(__name__)
