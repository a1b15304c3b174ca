"""The records and logs of a run on standard output."""

from __future__ import annotations

import codecs
import sys
from typing import TYPE_CHECKING, Literal

from espnet3.errors import UsageError
from espnet3.run import Run
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.result_lines import encode_error, encode_json
from espnet3.storage.permissions import regular
from espnet3.text import visible, visible_json

if TYPE_CHECKING:
    from espnet3.run_dir.trust import Trust

_BLOCK = 1 << 16  # bytes of a log


def print_records(
    run_dir: str,
    partial: bool,
    errors: Literal["raise", "keep"],
    patience: float,
    trust: Trust | None,
) -> None:
    """Print the records of a run, the same lines as in the file that `collect` writes, one by one.

    Args:
        run_dir: a path or URL.
        partial: take what there is, also of shards that are not done.
        errors: what to do about items that failed and were recorded.
        patience: seconds in which results may still arrive through a network file system.
        trust: whose run directories are believed.

    Raises:
        UsageError: the results are pickled, which no line shows.
        EspnetError: as for `espnet3.collect.stream`.
    """
    if RunDirectory.open(run_dir).run().results == "pickle":
        raise UsageError(f"{run_dir}: holds pickled results; collect them into a file with -o FILE")
    out = sys.stdout.buffer
    obeyed = sys.stdout.isatty()  # a program gets the bytes of the file
    run = Run(run_dir, trust=trust)
    for record in run.stream(partial=partial, errors=errors, patience=patience):
        if record.error is None:
            line = encode_json(record.item, record.result)
        else:
            line = encode_error(record.item, record.error)
        out.write(visible_json(line.decode()).encode() if obeyed else line)
    out.flush()


def print_log(file: str, *, raw: bool = False) -> None:
    """Print a log; what a terminal would obey is made visible, and so are bytes that are no UTF-8.

    Args:
        file: the log.
        raw: print its bytes as they are.
    """
    with open(file, "rb", opener=regular) as log:
        printer = LogPrinter(raw=raw)
        while block := log.read(_BLOCK):
            printer.write(block)
        printer.end()


class LogPrinter:
    """Prints a log on standard output as its bytes come; see `print_log`."""

    def __init__(self, *, raw: bool = False) -> None:
        self._raw = raw
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._held = ""  # a carriage return, of which the next block tells whether it ends a line

    def write(self, block: bytes) -> None:
        """Print the next bytes, as far as it is clear what they are."""
        if self._raw:
            sys.stdout.buffer.write(block)
            return
        text = self._held + self._decoder.decode(block)
        self._held = "\r" if text.endswith("\r") else ""
        self._show(text.removesuffix(self._held))

    def end(self) -> None:
        """Print what is left, and hand all of it over."""
        if not self._raw:
            self._show(self._held + self._decoder.decode(b"", final=True))
            self._held = ""
        sys.stdout.buffer.flush()

    def _show(self, text: str) -> None:
        encoded = visible(text).encode(sys.stdout.encoding, "backslashreplace")
        sys.stdout.buffer.write(encoded)
