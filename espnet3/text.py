"""What a terminal would obey is shown instead: the one place for all that people read.

Texts that come from a directory or from user code (messages of exceptions, hosts, names of jobs,
paths) may hold sequences that set a terminal's title or clipboard, clear its screen, or turn around
what is read. Who prints such a text calls `visible`; errors of espnet3 do by themselves.
"""

from __future__ import annotations

import re

# C0 but for tab and newline, DEL, C1, and what changes the direction of text or ends a line.
# Backspaces and carriage returns overwrite what stands before them, but for one at a line's end.
_OBEYED = (
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029]"
    "|\r(?!\n)"
)


def visible(text: str) -> str:
    r"""The text with every character that a terminal obeys written as an escape.

    Tabs and newlines stay. A text that is visible already stays as it is.

    Example:
        >>> print(visible("a\x1b]0;title\x07 b\u202e"))
        a\x1b]0;title\x07 b\u202e
    """
    # As a rule there is none, and no pattern has to be compiled.
    if text.isprintable():
        return text
    return re.sub(_OBEYED, _escape, text)


def visible_line(text: str) -> str:
    r"""As `visible`, on one line: white space is folded.

    >>> visible_line("two\n\tlines\r")
    'two lines\\r'
    """
    return " ".join(visible(text).split())


def visible_json(document: str) -> str:
    r"""A JSON document that means the same and holds nothing that a terminal obeys.

    JSON escapes C0 by itself; the others stand in texts only, where an escape means the same.

    >>> visible_json('{"host":"\x9b2J"}')
    '{"host":"\\u009b2J"}'
    """
    return re.sub(_OBEYED, lambda found: f"\\u{ord(found[0]):04x}", document)


def one_line(text: str, limit: int = 500) -> str:
    """Fold white space and cut a text so that it fits on one line of a table or a log.

    What a terminal would obey is made visible.
    """
    folded = visible_line(text)
    return folded if len(folded) <= limit else folded[: limit - 1] + "…"


def plural(n: float, what: str) -> str:
    """The word for so many things.

    Example:
        >>> plural(1, "shard"), plural(0, "shard")
        ('shard', 'shards')
    """
    return what if n == 1 else f"{what}s"


def counted(n: float, what: str, form: str = "") -> str:
    """A number of things, where people read it.

    Args:
        n: how many.
        what: one of them.
        form: how the number is written, as for `format`.

    Example:
        >>> counted(1, "shard"), counted(12, "shard"), counted(12_000, "item", ",")
        ('1 shard', '12 shards', '12,000 items')
    """
    return f"{n:{form}} {plural(n, what)}"


def failed_and_skipped(failed: int, skipped: int, of: int | None = None) -> list[str]:
    """How many items failed, and how many were passed over; nothing of what there is none.

    Args:
        failed: how many failed.
        skipped: how many were passed over.
        of: how many items there are, where that is to be said.

    Example:
        >>> failed_and_skipped(8, 1, of=30), failed_and_skipped(0, 2)
        (['8 of 30 items failed', '1 skipped'], ['2 items skipped'])
    """
    counts = [(n, what) for n, what in ((failed, "failed"), (skipped, "skipped")) if n]
    words = [f"{n} {what}" for n, what in counts]
    if counts:  # the first one says of what
        n, what = counts[0]
        items = counted(n, "item") if of is None else f"{n} of {counted(of, 'item')}"
        words[0] = f"{items} {what}"
    return words


def duration(seconds: float) -> str:
    """A time that passes, in words: the two largest of its units, or seconds.

    >>> duration(9.6), duration(100), duration(1500), duration(12_000), duration(200_000)
    ('10 s', '1 min 40 s', '25 min', '3 h 20 min', '2 d 8 h')
    """
    left = round(seconds)
    if left >= 600:
        left = round(left / 60) * 60
    if left >= 86_400:
        left = round(left / 3600) * 3600
    words = []
    for name, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        n, left = divmod(left, size)
        if n:
            words.append(f"{n} {name}")
    return " ".join(words[:2]) or "0 s"


def signal_name(number: int) -> str:
    """A signal as people call it.

    Example:
        >>> signal_name(9), signal_name(99)
        ('SIGKILL', 'signal 99')
    """
    import signal  # seldom needed

    names = {each.value: each.name for each in signal.Signals}
    return names.get(number, f"signal {number}")


def cut(text: str, limit: int = 1 << 16) -> str:
    r"""A text whose UTF-8 has no more bytes than a limit, but for a note of what was left out.

    What is left out is the middle: a traceback begins with where it started, and ends with why.

    Example:
        >>> cut("abcdefghij", 4)
        'ab\n[6 bytes are left out here]\nij'
    """
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= limit:
        return text
    half = limit // 2
    first, last = (part.decode(errors="ignore") for part in (data[:half], data[-half:]))
    n = len(data) - 2 * half
    left_out = f"{counted(n, 'byte')} {'is' if n == 1 else 'are'} left out here"
    return f"{first}\n[{left_out}]\n{last}"


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
