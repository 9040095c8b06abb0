"""Keyset pagination: a page of a list and the opaque cursor of the next page."""

import base64
import hashlib
import json
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Generic, TypeVar

import msgspec

from shared.problems import Invalid

T = TypeVar("T")

DEFAULT_LIMIT, MAX_LIMIT = 25, 100
MAX_NUMBER = 2**31 - 1
_FILTERS = json.JSONEncoder(default=str, sort_keys=True)


@dataclass(slots=True)
class Page(Generic[T]):
    """A page of a list. `next_cursor` is null on the last page."""

    items: list[T]
    next_cursor: str | None


def encode_cursor(filters: Hashable, key: Sequence[str | int]) -> str:
    """Make a cursor from the last row's key, bound to the list's filters."""
    return base64.urlsafe_b64encode(msgspec.json.encode([_fingerprint(filters), *key])).decode().rstrip("=")


def decode_cursor(cursor: str, filters: Hashable, *converters: Callable[[Any], Any]) -> list[Any]:
    """Return a cursor's key. Raise `Invalid` if the cursor is malformed or belongs to other filters."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        fingerprint, *key = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if fingerprint == _fingerprint(filters):
            return [convert(part) for convert, part in zip(converters, key, strict=True)]
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError):
        pass
    raise Invalid("This cursor is invalid or belongs to other filters.", ("query", "cursor"))


def moment(part: str) -> datetime:
    """Convert a part of a cursor to a time in UTC."""
    return datetime.fromisoformat(part).astimezone(UTC)


def number(part: int) -> int:
    """Convert a part of a cursor to a number that fits in an integer column."""
    if not isinstance(part, int) or not 0 <= part <= MAX_NUMBER:
        raise ValueError(part)
    return part


def store_id(part: str) -> str:
    """Convert a part of a cursor to an id of the store."""
    if not isinstance(part, str) or not part.isascii() or not part.isprintable():
        raise ValueError(part)
    return part


def plain_text(part: str) -> str:
    """Convert a part of a cursor to a text that can be compared with stored ones."""
    if not isinstance(part, str) or "\x00" in part:
        raise ValueError(part)
    part.encode()  # no lone surrogates
    return part


@lru_cache(maxsize=1000)
def _fingerprint(filters: Hashable) -> str:
    return hashlib.sha256(_FILTERS.encode(filters).encode()).hexdigest()[:12]
