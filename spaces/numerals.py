"""Numbers for people: sensible digits and pretty units. Files keep SI; only what people read passes here.

Bytes are decimal: 1 MB is 10^6 bytes.
"""

from __future__ import annotations

import math

from paretune.spaces.measurement import Measurement

_BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_JOULES = ((1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ"))
_OPERATIONS = ((1e15, "P operations"), (1e12, "T operations"), (1e9, "G operations"), (1e6, "M operations"))
MINUS = "−"  # the sign for people; files have ASCII


def digits(value: float, significant: int = 3) -> str:
    """``value`` with so many significant digits: ``0.0121``, ``1,234``, ``2.4e-5`` below a ten-thousandth."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) < 1e-4:
        mantissa, exponent = f"{value:.{significant - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    places = max(0, significant - 1 - math.floor(math.log10(abs(value))))
    # Rounding may carry into another digit (9.996 to 10.00): count again. Digits before the point all stay.
    rounded = round(value, places)
    places = max(0, significant - 1 - math.floor(math.log10(abs(rounded)))) if rounded else places
    return f"{rounded:,.{places}f}"


def with_error(value: float, stderr: float | None) -> str:
    """``0.0121 ± 0.0004``: as many decimals as the error is known to; without an error, three digits."""
    if stderr is None or stderr <= 0 or not math.isfinite(stderr):
        return digits(value)
    if 0 < abs(value) < 1e-4 or stderr < 1e-6:
        return f"{digits(value, 2)} ± {digits(stderr, 1)}"
    leading = math.floor(math.log10(stderr))
    places = -leading + (1 if stderr / 10.0**leading < 2.5 else 0)
    return f"{value:,.{max(0, places)}f} ± {stderr:,.{max(0, places)}f}"


def signed(value: float, stderr: float | None) -> str:
    """A difference: ``+0.0121 ± 0.0004``, ``−0.5``; nothing has no sign."""
    sign = MINUS if value < 0 else "+" if value > 0 else ""
    return f"{sign}{with_error(abs(value), stderr)}"


def scale_of(largest: float, unit: str) -> tuple[float, str]:
    """The factor and name of the pretty unit in which ``largest`` lies between 1 and 1,000."""
    ladder = {"B": _BYTES, "s": _SECONDS, "J": _JOULES, "operations": _OPERATIONS}.get(unit, ((1.0, unit),))
    for factor, name in ladder:
        if abs(largest) >= factor:
            return factor, name
    return ladder[-1]


def quantity(value: float, unit: str) -> str:
    """``7.35 MB``, ``1.82 ms``, ``3.41 bit``; a pure number has no unit."""
    factor, name = scale_of(value, unit)
    return f"{digits(value / factor)} {name}".rstrip()


def measured(found: Measurement) -> str:
    """A measurement in its pretty unit, with its error, or the spread of its rounds, where there is one."""
    factor, name = scale_of(found.value, found.unit)
    if found.unit == "B":
        return quantity(found.value, "B")
    error = None if found.stderr is None else found.stderr / factor
    spread = f" (half of its rounds within ± {digits(found.spread / factor, 1)})" if found.spread else ""
    return f"{with_error(found.value / factor, error)} {name}".rstrip() + spread


def percent(share: float) -> str:
    """``27 %``, ``98.4 %`` near the ends, where a point matters."""
    value = 100 * share
    near_end = abs(value) < 10 or 90 <= abs(value) < 100
    return f"{value:.1f} %" if near_end and round(value, 1) % 1 else f"{value:.0f} %"


def change(ratio: float) -> str:
    """How a quantity moved to ``ratio`` times what it was: ``−73 %``, ``+4 %``, ``unchanged``."""
    moved = 100 * (ratio - 1)
    if abs(moved) < 0.05:
        return "unchanged"
    shown = f"{abs(moved):.1f}" if abs(moved) < 1 else f"{abs(moved):.0f}"
    return f"{MINUS if moved < 0 else '+'}{shown} %"


def change_with_error(ratio: float, stderr: float | None) -> str:
    """The same with the error of the ratio: ``−1.6 ± 0.5 %``."""
    return f"{signed(100 * (ratio - 1), 100 * stderr)} %" if stderr else change(ratio)


def duration(seconds: float) -> str:
    """``4 min 12 s``, ``38 s``, ``0.4 s``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {left} s" if minutes else f"{left} s"


def times(ratio: float) -> str:
    """``3.4 times``, ``24 times``."""
    return f"{ratio:.0f} times" if ratio >= 9.95 else f"{ratio:.2g} times"


def counted(number: int, one: str, many: str | None = None) -> str:
    """``1 member``, ``10 members``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
