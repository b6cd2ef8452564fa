"""Numbers in sentences: three digits and a unit. Bytes are decimal: 1 GB is 10^9 bytes."""

from __future__ import annotations

import math

_BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))

_COUNTS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1.0, ""))


def three_digits(value: float) -> str:
    """``1,234``, ``12.3``, ``0.0123``."""
    if value == 0:
        return "0"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}"


def size(count: float) -> str:
    """``16.1 GB``."""
    return _scaled(count, _BYTES)


def duration(seconds: float) -> str:
    """``5.14 ms``."""
    return _scaled(seconds, _SECONDS)


def count(number: float) -> str:
    """``1.79 T `` of something, to stand before its name."""
    return f"{_scaled(number, _COUNTS)} ".replace("  ", " ")


def share(part: float, whole: float) -> str:
    """``87 %`` of the whole; ``0.4 %`` where that matters."""
    percent = 100 * part / whole
    return f"{percent:.1f} %" if 0 < abs(percent) < 1 else f"{percent:.0f} %"


def times(ratio: float) -> str:
    """``3.4 times``, ``24 times``."""
    return f"{ratio:.0f} times" if ratio >= 9.95 else f"{ratio:.2g} times"


def _scaled(value: float, ladder: tuple[tuple[float, str], ...]) -> str:
    for factor, unit in ladder:
        if abs(value) >= factor:
            return f"{three_digits(value / factor)} {unit}"
    return f"{three_digits(value / ladder[-1][0])} {ladder[-1][1]}"
