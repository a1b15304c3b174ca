"""Numbers as people read them."""

from __future__ import annotations

from datetime import UTC, datetime

from espnet3.text import counted

NOTHING = "\N{EN DASH}"  # where there is no number


def duration(seconds: float) -> str:
    """A time span, to about two digits.

    Example:
        >>> duration(0.0312), duration(4.26), duration(94), duration(7260), duration(195_000)
        ('31 ms', '4.3 s', '1 min 34 s', '2 h 1 min', '2 d 6 h')
    """
    if seconds < 0.9995:
        return f"{1000 * seconds:.2g} ms" if seconds < 0.0995 else f"{1000 * seconds:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.0f} s"
    whole = round(seconds)
    for unit, name, below, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // below} {part}"
    return f"{whole // 60} min {whole % 60} s"


def size(n_bytes: float) -> str:
    """A size, to three digits, in the units of memory options.

    Example:
        >>> size(512), size(6_000_000_000), size(1_234_567_890)
        ('512 B', '6 GB', '1.23 GB')
    """
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= unit:
            return f"{n_bytes / unit:.3g} {name}"
    return f"{n_bytes:.0f} B"


def hours(value: float) -> str:
    """Hours, with as many digits as say something.

    Example:
        >>> hours(1234.5), hours(3.21), hours(0.0123), hours(0)
        ('1,234', '3.21', '0.0123', '0')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def share(value: float | None) -> str:
    """A share in percent; a dash where there is none.

    Example:
        >>> share(0.5), share(0.0042), share(None) == NOTHING
        ('50 %', '0.4 %', True)
    """
    if value is None:
        return NOTHING
    return f"{100 * value:.0f} %" if value >= 0.0995 or value == 0 else f"{100 * value:.1f} %"


def moment(time: float) -> str:
    """A time in UTC.

    Example:
        >>> moment(0)
        '1970-01-01 00:00:00'
    """
    time = min(max(time, -6e10), 2.5e11)  # years that there are
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M:%S}"


def count(n: float, what: str) -> str:
    """A number of things.

    Example:
        >>> count(1, "shard"), count(12_000, "item")
        ('1 shard', '12,000 items')
    """
    return counted(n, what, ",.0f")
