"""The store's own fields of a customer, as a page shows them to admins."""

import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from services.conversations.rules import CustomValue

_PHONE_NAME: Final = re.compile(r"phone|mobile|\btel|telefon|handy|m[oó]vil|cell", re.IGNORECASE)
_PHONE: Final = re.compile(r"\+?(?:\([0-9]+\)|[0-9])(?:[ ./-]{0,3}(?:\([0-9]{1,6}\)|[0-9])){5,18}", re.ASCII)


class ShownField(NamedTuple):
    """A field: a yes or no, or a text, which may be a phone number to dial (`tel`)."""

    name: str
    text: str
    tel: str | None = None
    flag: bool | None = None


def shown_fields(custom: Mapping[str, CustomValue]) -> Iterator[ShownField]:
    """Yield the fields that have a value."""
    for name, value in custom.items():
        if isinstance(value, bool):
            yield ShownField(name, "", flag=value)
        elif value is not None:
            text = f"{value:.15g}" if isinstance(value, float) else str(value)
            yield ShownField(name, text, tel=_tel(name, text))


def _tel(name: str, text: str) -> str | None:
    """Return what to dial if a text is clearly a phone number: international, or in a field that is named so."""
    if not _PHONE.fullmatch(text) or not (text.startswith("+") or _PHONE_NAME.search(name)):
        return None
    digits = re.sub(r"[^0-9]", "", re.sub(r"\(0\)", "", text) if text.startswith("+") else text)
    return f"{'+' if text.startswith('+') else ''}{digits}" if 6 <= len(digits) <= 15 else None  # noqa: PLR2004 - E.164
