"""Text that people type: trimmed, and without characters that PostgreSQL or an email header cannot store."""

import re
from typing import Annotated
from unicodedata import category, combining

from pydantic import AfterValidator, BeforeValidator, StringConstraints
from pydantic_core import PydanticCustomError

_LINE_BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_LINE_BREAK = re.compile(f"\r\n|[{_LINE_BREAKS}]")
_JOINER = "\N{ZERO WIDTH JOINER}"
_VIRAMA = 9  # the combining class of signs that join two consonants
# Joiners, Thai and Lao vowels, Hangul vowels and finals, Japanese voicing marks, skin tones, tags of regional flags.
_EXTENDING = re.compile("[\u200c\u200d\u0e33\u0eb3\u1160-\u11ff\uff9e\uff9f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]")
_FLAG_HALVES = re.compile("[\U0001f1e6-\U0001f1ff]+$")
_SURROGATES = re.compile("[\ud800-\udfff]")
_UNSEEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zs", "Zl", "Zp"})
# Invisible characters in the categories of letters, marks and symbols, or unassigned: Hangul fillers, inherent Khmer
# vowels, the Braille blank, variation selectors, the place of an object, a musical note without a head, tags.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufdd0-\ufdef\ufe00-\ufe0f\uffa0\ufff0-\ufff8\ufffc"
    "\ufffe\uffff\U00016fe4\U0001d159\U000e0000-\U000e0fff]"
)


def _strip(value: object) -> object:
    return value.strip() if isinstance(value, str) else value


def _trim(value: object) -> object:
    """Remove empty lines at the start and white space at the end. The first line keeps its indentation."""
    if not isinstance(value, str):
        return value
    value = value.rstrip()
    lead = value[: len(value) - len(value.lstrip())]
    return value[1 + max(map(lead.rfind, _LINE_BREAKS)) :] if lead else value


def _storable(value: str) -> str:
    if "\x00" in value:
        raise PydanticCustomError("nul_character", "text cannot contain NUL characters")
    if _SURROGATES.search(value):
        raise PydanticCustomError("lone_surrogate", "text cannot contain lone surrogates")
    return value


def _visible(value: str) -> str:
    if value and not is_visible(value):
        raise PydanticCustomError("invisible_text", "text needs at least one visible character")
    return value


def is_visible(text: str) -> bool:
    """Return whether a text has at least one visible character."""
    return _is_seen(text[0]) or any(map(_is_seen, set(text))) if text else False


def _is_seen(character: str) -> bool:
    # Unassigned characters count as visible: the next version of Unicode may make one an emoji.
    return "!" <= character <= "~" or not (category(character) in _UNSEEN_CATEGORIES or _UNSEEN.match(character))


def one_line(text: str) -> str:
    """Replace each line break of any kind by a space."""
    return _LINE_BREAK.sub(" ", text)


def _one_line(value: str) -> str:
    # Other line separators are invisible to the person who typed them, so they are replaced, not rejected.
    if "\n" in value or "\r" in value:
        raise PydanticCustomError("line_break", "must be one line, without line breaks")
    return one_line(value)


def _name(value: str) -> str:
    return one_line(value) if is_visible(value) else ""


Text = Annotated[str, BeforeValidator(_strip), AfterValidator(_storable)]
Visible = AfterValidator(_visible)
MultiLine = Annotated[str, BeforeValidator(_trim), AfterValidator(_storable), Visible]
OneLine = Annotated[Text, AfterValidator(_one_line)]
MAX_NAME = 200
Name = Annotated[Text, AfterValidator(_name), StringConstraints(max_length=MAX_NAME)]


def printable(text: str) -> str:
    """Return a text for a terminal: on one line, with control characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def cut(line: str, length: int) -> str:
    """Cut a line to at most `length` characters, without splitting a grapheme."""
    if len(line) <= length:
        return line
    return line[: next((end for end in range(length, 0, -1) if not _is_within_character(line, end)), length)].rstrip()


def preview(text: str, length: int = 140) -> str:
    """Return the start of a text on one line, at most `length` characters, with an ellipsis if it was cut."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: _end_within(line, length - 1)].rstrip() + "…"


def _end_within(line: str, length: int) -> int:
    """Return where to cut a line: after a word, or within a long word between two graphemes."""
    space = line.rfind(" ", length // 2, length + 1)
    if space > 0:
        return space
    return next((end for end in range(length, 0, -1) if not _is_within_character(line, end)), length)


def _is_within_character(line: str, end: int) -> bool:
    """Return whether a cut would split a grapheme, roughly by UAX #29: 👩‍💻, 🇩🇪, é, கி."""
    before, after = line[end - 1], line[end]
    if category(after).startswith("M") or before == _JOINER or _EXTENDING.match(after):
        return True
    if combining(before) == _VIRAMA:  # a conjunct of an Indic script
        return category(after) == "Lo"
    flags = _FLAG_HALVES.search(line[:end])  # a flag is a pair
    return bool(flags and _FLAG_HALVES.match(after) and len(flags[0]) % 2)
