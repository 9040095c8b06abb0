"""Text that people type: trimmed, and free of what PostgreSQL or a mail header could not carry."""

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, StringConstraints

_LINE_BREAKS = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
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
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"
