"""What a person of the store is known by, and what counts as a usable address, locale or time zone."""

import zoneinfo
from functools import lru_cache
from typing import Annotated

import email_validator
from babel import Locale, UnknownLocaleError
from pydantic import AfterValidator, BaseModel, Field, StringConstraints

MAX_ID = 255

# A store's internal or test domain is as good as any here: syntax is checked, delivery is the mail server's business.
email_validator.SPECIAL_USE_DOMAIN_NAMES.clear()


def _address(value: str) -> str:
    try:
        found = email_validator.validate_email(
            value, check_deliverability=False, globally_deliverable=False, allow_smtputf8=True
        )
    except email_validator.EmailNotValidError as error:
        raise ValueError(f"not an email address: {error}") from None
    return found.normalized


@lru_cache(maxsize=1000)  # there are few, and babel looks for each in the file system
def _locale(value: str) -> str:
    try:
        Locale.parse(value.replace("-", "_"))
    except (UnknownLocaleError, ValueError):
        raise ValueError("not a known locale, such as en or de-AT") from None
    return value


def _zone(value: str) -> str:
    try:
        zoneinfo.ZoneInfo(value)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("not a known IANA time zone, such as Europe/Vienna") from None
    return value


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
    """A user as events carry one. `version` grows with every change, so that the newest always wins."""

    id: str
    version: int
    name: str | None = None
    email: str | None = None
    locale: str | None = None
    zoneinfo: str | None = None
    deleted: bool = False
