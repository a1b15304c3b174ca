"""An old name of `espnet3.parallel.base_runner`."""

from espnet3.parallel.base_runner import BaseRunner as BaseRunner
from espnet3.parallel.writer_hooks import concatenate_shard_files as concatenate_shard_files

__all__ = ["BaseRunner", "concatenate_shard_files"]
