"""Text that people type: trimmed, and free of what PostgreSQL or a mail header could not carry."""

import re
from typing import Annotated
from unicodedata import category, combining

from pydantic import AfterValidator, BeforeValidator, StringConstraints

_LINE_BREAKS = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_JOINER = "\N{ZERO WIDTH JOINER}"
_VIRAMA = 9  # the combining class of signs that join two consonants
# Joiners, Thai and Lao vowels, Hangul vowels and finals, Japanese voicing marks, skin tones, tags of regional flags.
_EXTENDING = re.compile("[\u200c\u200d\u0e33\u0eb3\u1160-\u11ff\uff9e\uff9f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]")
_FLAG_HALVES = re.compile("[\U0001f1e6-\U0001f1ff]+$")
_SURROGATES = re.compile("[\ud800-\udfff]")


def _strip(value: object) -> object:
    return value.strip() if isinstance(value, str) else value


def _storable(value: str) -> str:
    if "\x00" in value:
        raise ValueError("text cannot hold the character NUL")
    if _SURROGATES.search(value):
        raise ValueError("text cannot hold half of a character (a lone surrogate)")
    return value


def _one_line(value: str) -> str:
    if _LINE_BREAKS.search(value):
        raise ValueError("this is one line, without line breaks")
    return value


Text = Annotated[str, BeforeValidator(_strip), AfterValidator(_storable)]
OneLine = Annotated[Text, AfterValidator(_one_line)]
Name = Annotated[OneLine, StringConstraints(max_length=200)]


def preview(text: str, length: int = 140) -> str:
    """Return the beginning of a text on one line, at most `length` characters, cut ones marked by an ellipsis."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: _end_within(line, length - 1)].rstrip() + "…"


def _end_within(line: str, length: int) -> int:
    """Return where to cut a line: after a word, or in a long one between two characters as people see them."""
    space = line.rfind(" ", length // 2, length + 1)
    if space > 0:
        return space
    return next((end for end in range(length, 0, -1) if not _is_within_character(line, end)), length)


def _is_within_character(line: str, end: int) -> bool:
    """Tell whether a cut would divide what is seen as one character, roughly by UAX #29: 👩‍💻, 🇩🇪, é, கி."""
    before, after = line[end - 1], line[end]
    if category(after).startswith("M") or before == _JOINER or _EXTENDING.match(after):
        return True
    if combining(before) == _VIRAMA:  # a conjunct of Indic scripts
        return category(after) == "Lo"
    flags = _FLAG_HALVES.search(line[:end])  # two make a flag
    return bool(flags and _FLAG_HALVES.match(after) and len(flags[0]) % 2)
