"""Lenient parsing of the store's values, with a warning for each value that is changed or left out."""

import json
import re
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import MAXYEAR, MINYEAR, UTC, datetime, timedelta
from decimal import Decimal, DecimalException
from email.utils import parsedate_to_datetime
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)

from shared.problems import MAX_FAULTS, message_of
from shared.text import cut, is_visible, one_line

MONEY_DIGITS, QUANTITY_DIGITS, DECIMALS = 15, 10, 10  # before the decimal point; after it

_INTEGER = re.compile(r"-?[0-9]+")
_DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_STEP = Decimal(1).scaleb(-DECIMALS)
_UTC_NAME = re.compile(r"(?<=[0-9]) ?(UTC|GMT|z)$")
_ZONE_NAME = re.compile(r"\[[A-Za-z0-9_/+-]+\]$")  # RFC 9557, as Java writes it
_BASIC_DATE = re.compile(r"[0-9]{8}([Tt ]|$)")
_LEAP_SECOND = re.compile(r"(?<=[T ])([0-9]{2}:?[0-9]{2}:?)60(?![0-9])")
_DAYS_END = re.compile(r"(?<=[T ])24(?=(:00(:00([.,]0+)?)?|00(00([.,]0+)?)?)(?![0-9.,:]))")
_MAIL_DATE = re.compile(r"([A-Za-z]{3}, ?)?[0-9]{1,2} [A-Za-z]{3} [0-9]{4} [0-9]{2}:[0-9]{2}(:[0-9]{2})?( .{1,5})?")
_NOT_IN_URL = re.compile(r"[\s\x00-\x1f<>\"\\^`{|}]")  # characters that a URL contains only percent-encoded
_NOT_STORABLE = re.compile("[\x00\ud800-\udfff]")


class Number(str):
    """A JSON number as written. Unlike a float it is exact, and a huge exponent costs nothing."""

    __slots__ = ()


def read_json(text: bytes) -> Any:
    """Parse JSON with every number as a `Number`. Raises ValueError or RecursionError."""
    # Some programs write a byte order mark.
    return json.loads(text.decode("utf-8-sig"), parse_float=Number, parse_int=Number, parse_constant=Number)


def storable(text: str) -> str:
    """Replace each character that PostgreSQL cannot store."""
    return _NOT_STORABLE.sub("\ufffd", text)


Location = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Warnings:
    """The warnings about a record, collected as pydantic's validation context; `at` is the part being validated."""

    at: Location = ("body",)
    messages: list[tuple[Location, str]] = field(default_factory=list)

    def below(self, *loc: str | int) -> "Warnings":
        """Return the same warnings with the location of a part."""
        return Warnings((*self.at, *loc), self.messages)

    def add(self, message: str, *loc: str | int) -> None:
        """Add a warning about a value."""
        self.messages.append(((*self.at, *loc), message))

    def as_json(self) -> list[dict[str, Any]]:
        """Return the first warnings for an API response, and the number of the others."""
        # The name of an unknown field is as the store sent it, and a response cannot hold half of a surrogate pair.
        warnings = [
            {"loc": [storable(part) if isinstance(part, str) else part for part in loc], "msg": message}
            for loc, message in self.messages[:MAX_FAULTS]
        ]
        if more := len(self.messages) - len(warnings):
            warnings.append({"loc": ["body"], "msg": f"{more} more warnings"})
        return warnings


def warn(info: ValidationInfo, message: str) -> None:
    """Add a warning about the field being validated."""
    if isinstance(info.context, Warnings):
        info.context.add(message, *([info.field_name] if info.field_name else []))


def _or_none(value: Any, read: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        return read(value)
    except ValidationError as error:
        warn(info, f"left out: {message_of(error.errors()[0])}")
        return None


def _or_nearest(value: Any, read: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    result = _or_none(value, read, info)
    if result is not None and result != str(value).strip():
        warn(info, f"read as {result}")
    return result


OrNone = WrapValidator(_or_none)
"""Makes a field optional: an unusable value becomes None, with a warning."""

OrNearest = WrapValidator(_or_nearest)
"""Like `OrNone`, but also warns if the nearest usable value replaces the one that was sent."""


def single_line(limit: int) -> BeforeValidator:
    """Validate a string as one line of at most `limit` characters; fixes most problems with a warning.

    Refuses text without visible characters. A number becomes its text.
    """

    def read(value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        line = one_line(value.strip())
        if line != value.strip():
            warn(info, "line breaks were replaced by spaces")
        if line != storable(line):
            warn(info, "characters that cannot be stored were replaced")
            line = storable(line)
        if len(line) > limit:
            warn(info, f"truncated to {limit} characters")
        line = cut(line, limit)
        if not is_visible(line):
            raise ValueError("text needs at least one visible character")
        return str(line)  # converts a `Number`

    return BeforeValidator(read)


def _read_id(value: Any) -> Any:
    if isinstance(value, Number) and not _INTEGER.fullmatch(value):
        raise ValueError("must be a string or an integer")
    return str(value) if isinstance(value, str) else value


AnyId = BeforeValidator(_read_id)
"""Accepts integers as ids, because many stores number their users and orders."""


def _read_decimal(value: Any) -> Decimal:
    """Parse a decimal string or a JSON number exactly. Raises ValueError."""
    text = value.strip() if isinstance(value, str) else ""
    number = None
    if _DECIMAL.fullmatch(text):
        with suppress(DecimalException):  # the exponent is too large for a Decimal
            number = Decimal(text)
    if number is None or not number.is_finite():
        raise ValueError("must be a decimal number, such as 12.50")
    return number


def _plain(number: Decimal, before: int, info: ValidationInfo) -> Decimal:
    """Return a number without exponent, rounded to 10 decimals with a warning. Raises ValueError if it is too large.

    Checks the size first, so that a huge exponent does not fill the memory.
    """
    exponent = int(number.as_tuple().exponent)
    if number.is_zero():
        return Decimal(0).scaleb(max(min(exponent, 0), -DECIMALS))
    if number.adjusted() >= before:
        raise ValueError(f"must have at most {before} digits before the decimal point")
    if exponent >= -DECIMALS:
        return number.quantize(Decimal(1)) if exponent > 0 else number
    rounded = number.quantize(_STEP)
    if rounded == number:
        return rounded
    warn(info, f"rounded to {DECIMALS} decimal places")
    if rounded.adjusted() >= before:
        raise ValueError(f"must have at most {before} digits before the decimal point")
    return Decimal(0) if rounded.is_zero() else Decimal(f"{rounded:f}".rstrip("0").rstrip("."))


def _read_money(value: Any, info: ValidationInfo) -> str:
    return f"{_plain(_read_decimal(value), MONEY_DIGITS, info):f}"


def _read_quantity(value: Any, info: ValidationInfo) -> int | float:
    number = _plain(_read_decimal(value), QUANTITY_DIGITS, info)
    return int(number) if number == number.to_integral_value() else float(number)


def _read_currency(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, str):
        return value
    code = value.strip()
    if code.isascii() and code != code.upper():
        warn(info, f"read as {code.upper()}")
    return code.upper() if code.isascii() else code


def _read_timestamp(value: Any, info: ValidationInfo) -> datetime:
    timestamp = None
    if isinstance(value, str) and not isinstance(value, Number):  # the unit of a number is unknown
        with suppress(ValueError, OverflowError):
            timestamp = _parse_timestamp(value.strip())
    if timestamp is None:
        raise ValueError("must be a date and time, such as 2026-01-02T03:04:05Z")
    # Conversion to UTC may leave the calendar.
    if not MINYEAR < timestamp.year < MAXYEAR:
        raise ValueError(f"must be between the years {MINYEAR + 1} and {MAXYEAR - 1}")
    if timestamp.tzinfo is None:
        warn(info, "has no time zone, read as UTC")
        return timestamp.replace(tzinfo=UTC)
    return timestamp.astimezone(UTC)


def _parse_timestamp(text: str) -> datetime | None:
    """Parse ISO 8601 as in RFC 3339, SQL, Ruby or Java, or the date format of emails.

    A leap second and 24:00 are the next moment.
    """
    if text[4:5] == "-" or _BASIC_DATE.match(text):
        parse, text = datetime.fromisoformat, _ZONE_NAME.sub("", _UTC_NAME.sub("Z", text.replace("t", "T")))
    elif _MAIL_DATE.fullmatch(text):
        parse = parsedate_to_datetime
    else:
        return None
    text, leap_seconds = _LEAP_SECOND.subn(r"\g<1>59", text)
    text, days = _DAYS_END.subn("00", text)
    return parse(text) + timedelta(days=days, seconds=leap_seconds)


def _read_link(value: str) -> str:
    try:
        parts = urlsplit(value)
        is_web = parts.scheme.lower() in {"http", "https"} and value[len(parts.scheme) :].startswith("://")
        is_usable = is_web and bool(parts.hostname) and parts.port != 0 and not _NOT_IN_URL.search(value)
    except ValueError:  # an address in brackets that is none, or a port that is no number
        is_usable = False
    if not is_usable:
        raise ValueError("must be an http or https URL")
    return value


def _read_role(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


_MONEY_PATTERN = rf"^-?[0-9]{{1,{MONEY_DIGITS}}}(\.[0-9]{{1,{DECIMALS}}})?$"
Money = Annotated[
    str,
    BeforeValidator(_read_money),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": _MONEY_PATTERN},
                {"type": "number", "exclusiveMinimum": -(10**MONEY_DIGITS), "exclusiveMaximum": 10**MONEY_DIGITS},
            ],
            "description": "A decimal string or a number, read exactly as written and rounded to 10 decimal places.",
        }
    ),
]
Quantity = Annotated[
    int | float,
    BeforeValidator(_read_quantity),
    Field(description="A number or a decimal string. It may be fractional, zero or negative."),
]
Currency = Annotated[
    str, StringConstraints(pattern=r"^[A-Z]{3}$"), BeforeValidator(_read_currency), Field(description="ISO 4217.")
]
Timestamp = Annotated[
    datetime, BeforeValidator(_read_timestamp), Field(description="RFC 3339. A time without a zone is read as UTC.")
]
Link = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=2000),
    AfterValidator(_read_link),
    Field(description="An http or https URL."),
]
AnyCase = BeforeValidator(_read_role)
