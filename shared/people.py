"""The data of a user of the store, and the validation of ids, addresses, locales and time zones."""

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
_POSIX_SUFFIX = re.compile(r"[.@].*", re.DOTALL)  # `.UTF-8` or `@euro`, which browsers reject

# Allow internal and test domains: only the syntax is checked here, delivery is up to the mail server.
email_validator.SPECIAL_USE_DOMAIN_NAMES.clear()


def _address(value: str) -> str:
    """Validate an address and lower the case of its domain.

    The local part may have two dots in a row, or a dot at either end: large Japanese carriers issued such addresses
    and deliver to them. Quotes that some stores put around them are removed.
    """
    bare = _NEEDLESS_QUOTES.sub(r"\1", value)
    local, _, domain = bare.rpartition("@")
    plain = ".".join(filter(None, local.split(".")))
    try:
        validated = email_validator.validate_email(
            bare if plain == local else f"{plain}@{domain}",
            check_deliverability=False,
            globally_deliverable=False,
            allow_smtputf8=True,
        )
    except email_validator.EmailNotValidError as error:
        raise ValueError(f"not an email address: {error}") from None
    local = normalize("NFC", local)
    if len(local.encode()) > MAX_LOCAL_PART:
        raise ValueError(f"not an email address: more than {MAX_LOCAL_PART} bytes before the @-sign")
    return f"{local}@{validated.domain}"


@lru_cache(maxsize=1000)  # babel reads the file system for each
def _locale(value: str) -> str:
    """Return the locale, or the nearest known one: `es` for the unknown `es-DE`."""
    tag = _POSIX_SUFFIX.sub("", value)
    while tag:
        try:
            Locale.parse(tag.replace("-", "_"))
        except (UnknownLocaleError, ValueError):
            tag = _LAST_SUBTAG.sub("", tag)
        else:
            return tag
    raise ValueError("must be a known locale, such as en or de-AT")


def _zone(value: str) -> str:
    """Return the zone's name, corrected in case and with underscores for spaces.

    The machine's zone files have more names than IANA, which other machines and browsers reject.
    """
    name = _zones().get(value.lower().replace(" ", "_"))
    if name is None:
        raise ValueError("must be a known IANA time zone, such as Europe/Vienna")
    return name


@cache
def _zones() -> Mapping[str, str]:
    return {name.lower(): name for name in zoneinfo.available_timezones() - {"localtime", "Factory"}}


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
    """A user as events carry one. `version` grows with every change, so that the newest state wins.

    `role` is the one that the store has synced, or None. It limits the roles of the user's tokens. `merged_into` is the
    person to whom this id belongs since the store has merged it; it then is deleted, too, and never changes again but
    for a further merger of that person.
    """

    id: str
    version: int
    name: str | None = None
    email: str | None = None
    locale: str | None = None
    zoneinfo: str | None = None
    deleted: bool = False
    role: str | None = None
    merged_into: str | None = None
