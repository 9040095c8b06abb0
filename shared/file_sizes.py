"""Sizes of files, in the words of a language."""

from typing import Literal

from babel import Locale
from babel.units import format_unit

_UNITS = ("byte", "kilobyte", "megabyte", "gigabyte")
_STEP = 1000


def format_size(size: int, locale: Locale) -> str:
    """Return a size with its unit, for example "1.2 MB", as browsers and file managers show it."""
    value, unit = float(size), 0
    while value >= _STEP and unit < len(_UNITS) - 1:
        value, unit = value / _STEP, unit + 1
    rounded = round(value, 1) if value < 10 and unit else round(value)  # noqa: PLR2004 - two digits are enough
    length: Literal["long", "short"] = "short" if unit else "long"  # the short form of bytes has no plural
    return format_unit(rounded, f"digital-{_UNITS[unit]}", length=length, locale=locale)
