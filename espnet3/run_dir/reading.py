"""Reading the records of a run directory: whole, strictly, and with little memory."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from espnet3.errors import FileTooLarge, InvalidFile
from espnet3.specs.codec import Model, decode
from espnet3.storage.base import Store

SMALL = 1 << 20  # bytes of a record that each of many readers may hold
_ONE_LARGE = threading.Lock()


def read_persisted(
    store: Store,
    model: type[Model],
    path: str,
    read: Callable[[str, int], bytes] | None = None,
) -> Model:
    """Read a persisted model of a run directory.

    Many threads may do so. One at a time has a record in memory that is not small: together they
    need little more than the largest one.

    Args:
        store: the run directory.
        model: which model the file should hold.
        path: the file, relative to the run directory.
        read: a method of the store that gives the contents; `store.read` where unset.

    Raises:
        FileMissing: there is no such file.
        NewerFormat: a later espnet3 wrote it.
        InvalidFile: it breaks its schema; names the first wrong field. Or it is too large.
        StoreError: it cannot be read.

    Example:
        >>> from espnet3.specs import layout
        >>> from espnet3.specs.models import RunSpec
        >>> read_persisted(open_store("/shared/run"), RunSpec, layout.RUN)  # doctest: +SKIP
    """
    read, file = read or store.read, store.locate(path)
    try:
        if store.knows_sizes and model.MOST_BYTES > SMALL:
            with contextlib.suppress(FileTooLarge):
                return decode(model, read(path, SMALL), file)
            with _ONE_LARGE:
                return decode(model, read(path, model.MOST_BYTES), file)
        return decode(model, read(path, model.MOST_BYTES), file)
    except MemoryError:
        raise InvalidFile(file, "", "is larger than the memory that is left here") from None
