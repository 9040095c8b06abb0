"""How single values of the store are read: generously, with a warning for each that is not used as it was sent."""

import json
import re
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import MAXYEAR, MINYEAR, UTC, datetime
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
_MAIL_DATE = re.compile(r"([A-Za-z]{3}, ?)?[0-9]{1,2} [A-Za-z]{3} [0-9]{4} [0-9]{2}:[0-9]{2}(:[0-9]{2})?( .{1,5})?")
_NOT_IN_URL = re.compile(r"[\s\x00-\x1f<>\"\\^`{|}]")  # what stands in no URL unless it is encoded
_NOT_STORABLE = re.compile("[\x00\ud800-\udfff]")


class Number(str):
    """A JSON number as it was written: a float would round it, and a huge exponent costs nothing as text."""

    __slots__ = ()


def read_json(text: bytes) -> Any:
    """Read JSON with each of its numbers as a `Number`. Raises ValueError or RecursionError."""
    # Some programs begin a file with a byte order mark.
    return json.loads(text.decode("utf-8-sig"), parse_float=Number, parse_int=Number, parse_constant=Number)


Location = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Warnings:
    """The warnings about one record; `at` is the part of it that is being read. It is pydantic's validation context."""

    at: Location = ("body",)
    found: list[tuple[Location, str]] = field(default_factory=list)

    def below(self, *loc: str | int) -> "Warnings":
        """Return the same warnings for a part of the record."""
        return Warnings((*self.at, *loc), self.found)

    def add(self, message: str, *loc: str | int) -> None:
        """Warn about a value."""
        self.found.append(((*self.at, *loc), message))

    def shown(self) -> list[dict[str, Any]]:
        """Return the warnings as an answer has them; of very many only the first."""
        shown = [{"loc": list(loc), "msg": message} for loc, message in self.found[:MAX_FAULTS]]
        if more := len(self.found) - len(shown):
            shown.append({"loc": ["body"], "msg": f"There are {more} more warnings."})
        return shown


def warn(info: ValidationInfo, message: str) -> None:
    """Warn about the field that is being validated."""
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
    found = _or_none(value, read, info)
    if found is not None and found != str(value).strip():
        warn(info, f"read as {found}")
    return found


OrNone = WrapValidator(_or_none)
"""Makes a field optional: a value that cannot be used becomes None, with a warning."""

OrNearest = WrapValidator(_or_nearest)
"""As `OrNone`, and warns when the nearest usable value was taken instead of the one that was sent."""


def line_of(limit: int) -> BeforeValidator:
    """Read a string as one line of at most `limit` characters: mended with warnings, refused only when nothing is seen.

    A number counts as the text that it was written as.
    """

    def read(value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        line = one_line(value.strip())
        if line != value.strip():
            warn(info, "line breaks became spaces")
        if _NOT_STORABLE.search(line):
            warn(info, "characters that cannot be stored were replaced")
            line = _NOT_STORABLE.sub("\ufffd", line)
        if len(line) > limit:
            warn(info, f"cut to {limit} characters")
        line = cut(line, limit)
        if not is_visible(line):
            raise ValueError("text needs at least one visible character")
        return str(line)  # of a number as well

    return BeforeValidator(read)


def _read_id(value: Any) -> Any:
    if isinstance(value, Number) and not _INTEGER.fullmatch(value):
        raise ValueError("an id is a string, or a whole number")
    return str(value) if isinstance(value, str) else value


AnyId = BeforeValidator(_read_id)
"""Lets an id be a whole number: many stores count their users and orders."""


def _read_decimal(value: Any) -> Decimal:
    """Read a decimal string or a JSON number exactly. Raises ValueError."""
    text = value.strip() if isinstance(value, str) else ""
    number = None
    if _DECIMAL.fullmatch(text):
        with suppress(DecimalException):  # an exponent beyond what decimals have
            number = Decimal(text)
    if number is None or not number.is_finite():
        raise ValueError("must be a decimal number, such as 12.50")
    return number


def _plain(number: Decimal, before: int, info: ValidationInfo) -> Decimal:
    """Return a number without exponent, rounded to 10 decimals with a warning. Raises ValueError when it is too large.

    Nothing is written out before its size is known.
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
    warn(info, f"rounded to {DECIMALS} decimals")
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


def _read_moment(value: Any, info: ValidationInfo) -> datetime:
    moment = None
    if isinstance(value, str) and not isinstance(value, Number):  # nobody says what a count is in
        with suppress(ValueError, OverflowError):
            moment = _parse_moment(value.strip())
    if moment is None:
        raise ValueError("must be a time, such as 2026-01-02T03:04:05Z")
    # The driver writes the first and the last moment of the calendar as infinity, and other zones reach beyond it.
    if not MINYEAR < moment.year < MAXYEAR:
        raise ValueError(f"this time lies outside the years {MINYEAR + 1} to {MAXYEAR - 1}")
    if moment.tzinfo is None:
        warn(info, "has no time zone, read as UTC")
        return moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC)


def _parse_moment(text: str) -> datetime | None:
    """Parse ISO 8601, as RFC 3339, SQL, Ruby or Java write it, or the date of an email."""
    if text[4:5] == "-":
        return datetime.fromisoformat(_ZONE_NAME.sub("", _UTC_NAME.sub("Z", text.replace("t", "T"))))
    return parsedate_to_datetime(text) if _MAIL_DATE.fullmatch(text) else None


def _read_link(value: str) -> str:
    parts = urlsplit(value)  # raises ValueError itself for some
    if parts.scheme.lower() not in {"http", "https"} or not value[len(parts.scheme) :].startswith("://"):
        raise ValueError("must be an http or https URL")
    if _NOT_IN_URL.search(value) or not parts.hostname:
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
            "description": "A decimal string or a number, read exactly as written and rounded to 10 decimals.",
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
Moment = Annotated[
    datetime, BeforeValidator(_read_moment), Field(description="RFC 3339. A time without a zone is read as UTC.")
]
Link = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=2000),
    AfterValidator(_read_link),
    Field(description="An http or https URL."),
]
AnyCase = BeforeValidator(_read_role)
