"""What a browser says about its user: the languages they prefer, and their time zone."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from starlette.requests import HTTPConnection

from shared.auth.cookies import is_framed
from shared.people import LocaleTag, ZoneName

ZONE_COOKIE: Final = "chats-zone"  # written by static/zone.js
FRAMED_ZONE_COOKIE: Final = "chats-messenger-zone"  # by the same script in a store's page

_MAX_HEADER = 1_000  # characters; the rest is ignored
_MAX_RANGES = 10  # more than people prefer; each costs up to 0.25 ms
_LEAST = 1e-9  # weight of the languages that are not named
_RANGE = re.compile(r"(\*|[A-Za-z]{2,8}(?:[-_][A-Za-z0-9]{1,8})*)\s*(?:;\s*[qQ]\s*=\s*(0(?:\.[0-9]*)?|1(?:\.0*)?))?")
_LOCALE = TypeAdapter[str](LocaleTag)
_ZONE = TypeAdapter[str](ZoneName)


def preferred_locales(request: HTTPConnection, supported: Sequence[str]) -> Sequence[str]:
    """Return the locales of `Accept-Language`, the preferred first, then the `supported` ones that it does not name.

    Ranges with `q=0`, and those that are invalid or unknown, are left out. With `*;q=0` no others are added. Without
    the header the result is empty.
    """
    return _preferred(",".join(request.headers.getlist("Accept-Language"))[: _MAX_HEADER + 1], tuple(supported))


def browser_zone(request: HTTPConnection) -> str | None:
    """Return the time zone in the cookie of the pages' script, or None if there is no known one."""
    return _parse(_ZONE, request.cookies.get(FRAMED_ZONE_COOKIE if is_framed(request) else ZONE_COOKIE, ""))


@lru_cache(maxsize=1000)
def _preferred(header: str, supported: Sequence[str]) -> Sequence[str]:
    weights = _weights(header)
    if not weights:
        return ()
    named = {_language(tag) for tag in weights}
    others = [name for name in supported if _language(name) not in named]
    weights.setdefault("*", _LEAST)
    wanted = sorted((tag for tag in weights if weights[tag]), key=lambda tag: (-weights[tag], tag == "*"))
    return tuple(name for tag in wanted for name in (others if tag == "*" else _nearest(tag)))


def _weights(header: str) -> dict[str, float]:
    """Return the weight of each valid range, in the order of the header."""
    if len(header) > _MAX_HEADER:
        header = header.rpartition(",")[0]
    matches = (_RANGE.fullmatch(item.strip()) for item in header.split(",", _MAX_RANGES)[:_MAX_RANGES])
    return {match[1]: float(match[2] or 1) for match in matches if match}


def _nearest(tag: str) -> Iterable[str]:
    locale = _parse(_LOCALE, tag)
    return () if locale is None else (locale,)


def _language(tag: str) -> str:
    return re.split("[-_]", tag, maxsplit=1)[0].lower()


def _parse(adapter: TypeAdapter[Any], value: str) -> str | None:
    try:
        return str(adapter.validate_python(value))
    except ValidationError:
        return None
