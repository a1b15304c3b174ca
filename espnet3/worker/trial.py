"""The hooks of a runner that writes, called to see what becomes of an item."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from espnet3.errors import EspnetError
from espnet3.user_code.writers import ShardWriters
from espnet3.worker.written import hook_failed


@contextlib.contextmanager
def tried(writers: ShardWriters) -> Iterator[Callable[[Any, Any], None]]:
    """The hooks of one shard around the block, which gets what writes an item and its result.

    Args:
        writers: of a folder that nothing else looks at.

    Raises:
        WriterFailed: a hook raised.
    """

    def write(item: Any, result: Any) -> None:
        _call("reduce_state", item, writers.write, result)

    _call("init_state", None, writers.open)
    yield write
    _call("finalize_state", None, writers.close)


def _call(hook: str, item: Any, action: Callable[..., None], *args: Any) -> None:
    try:
        action(*args)
    except EspnetError:
        raise
    except (Exception, SystemExit) as error:  # the user's code
        raise hook_failed(hook, item, error) from error
