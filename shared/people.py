"""What a person of the store is known by, and what counts as a usable address, locale or time zone."""

import re
import zoneinfo
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Annotated
from unicodedata import normalize

import email_validator
from babel import Locale, UnknownLocaleError
from pydantic import AfterValidator, BaseModel, Field, StringConstraints

MAX_ID = 255

MAX_LOCAL_PART = 64  # bytes before the @

_NEEDLESS_QUOTES = re.compile(r'^"([^"\\]+)"(?=@)')
_LAST_SUBTAG = re.compile("(^|[-_])[^-_]*$")

# A store's internal or test domain is as good as any here: syntax is checked, delivery is the mail server's business.
email_validator.SPECIAL_USE_DOMAIN_NAMES.clear()


def _address(value: str) -> str:
    """Return an address with its domain in lower case.

    Its local part may have two dots in a row, or a dot at either end: large Japanese carriers gave out such addresses,
    and deliver to them. They are kept without the quotes that some stores put around them.
    """
    bare = _NEEDLESS_QUOTES.sub(r"\1", value)
    local, _, domain = bare.rpartition("@")
    plain = ".".join(filter(None, local.split(".")))
    try:
        found = email_validator.validate_email(
            bare if plain == local else f"{plain}@{domain}",
            check_deliverability=False,
            globally_deliverable=False,
            allow_smtputf8=True,
        )
        if plain == local:
            return found.normalized
        if len(local.encode()) > MAX_LOCAL_PART:
            raise ValueError(f"not an email address: more than {MAX_LOCAL_PART} bytes before the @-sign")
    except email_validator.EmailNotValidError as error:
        raise ValueError(f"not an email address: {error}") from None
    return f"{normalize('NFC', local)}@{found.domain}"


@lru_cache(maxsize=1000)  # there are few, and babel looks for each in the file system
def _locale(value: str) -> str:
    """Return the locale, or the nearest known one: `es` for `es-DE`, which nobody has described."""
    tag = value
    while tag:
        try:
            Locale.parse(tag.replace("-", "_"))
        except (UnknownLocaleError, ValueError):
            tag = _LAST_SUBTAG.sub("", tag)
        else:
            return tag
    raise ValueError("not a known locale, such as en or de-AT")


def _zone(value: str) -> str:
    """Return the zone, or the one whose name differs in case, or in spaces for underscores."""
    try:
        zoneinfo.ZoneInfo(value)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        found = _zones().get(value.lower().replace(" ", "_"))
        if found is None:
            raise ValueError("not a known IANA time zone, such as Europe/Vienna") from None
        return found
    return value


@cache
def _zones() -> Mapping[str, str]:
    return {name.lower(): name for name in zoneinfo.available_timezones()}


StoreId = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]+$", min_length=1, max_length=MAX_ID)]
Address = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=254),
    AfterValidator(_address),
    Field(description="An email address."),
]
LocaleTag = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=35),
    AfterValidator(_locale),
    Field(description="A known locale, such as `en` or `de-AT`."),
]
ZoneName = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=64),
    AfterValidator(_zone),
    Field(description="A known IANA time zone, such as `Europe/Vienna`."),
]


class Person(BaseModel):
    """A user as events carry one. `version` grows with every change, so that the newest always wins.

    `role` is the one that the store itself has sent, None for none: it bounds what their tokens can do.
    """

    id: str
    version: int
    name: str | None = None
    email: str | None = None
    locale: str | None = None
    zoneinfo: str | None = None
    deleted: bool = False
    role: str | None = None
