"""The hooks of a runner that writes, called to see what becomes of an item."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from espnet3.errors import EspnetError
from espnet3.user_code.writers import ShardWriters
from espnet3.worker.signals import Interrupted
from espnet3.worker.written import call_hook


@contextlib.contextmanager
def tried(writers: ShardWriters) -> Iterator[Callable[[Any, Any], None]]:
    """The hooks of one shard around the block, which gets what writes an item and its result.

    Args:
        writers: of a folder that nothing else looks at.

    Raises:
        WriterFailed: a hook raised.
    """
    call = partial(call_hook, spared=(EspnetError, Interrupted, KeyboardInterrupt))

    def write(item: Any, result: Any) -> None:
        call("reduce_state", item, writers.write, result)

    call("init_state", None, writers.open)
    yield write
    call("finalize_state", None, writers.close)
