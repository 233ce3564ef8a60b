"""Numbers of bytes as text."""

from __future__ import annotations

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_THOUSAND = 1024


def size_text(number: int) -> str:
    """A number of bytes in the largest unit that leaves it whole."""
    unit = 0
    while number and number % _THOUSAND == 0 and unit + 1 < len(_UNITS):
        number //= _THOUSAND
        unit += 1
    return f"{number} {_UNITS[unit]}"
