"""The store's own fields of a user, such as a phone number: read leniently, with a warning for each that is changed."""

import math
import re
from contextlib import suppress
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, ValidationInfo, WithJsonSchema

from services.conversations.catalog.values import Number, Warnings, storable, warn
from services.conversations.rules import CustomValue
from shared.text import cut, is_visible, one_line

MAX_FIELDS: Final = 20
KEY_LENGTH: Final = 50  # characters
VALUE_LENGTH: Final = 500  # characters of a text
EXACT_DIGITS: Final = 15  # of a number: more do not survive JavaScript, nor a floating-point number

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_INTEGER = re.compile(rf"-?[0-9]{{1,{EXACT_DIGITS}}}")


def _read_fields(value: Any, info: ValidationInfo) -> dict[str, CustomValue]:
    if value is None or (isinstance(value, str) and not value.strip()):
        return {}
    if not isinstance(value, dict):
        warn(info, "left out: must be an object")
        return {}
    context: Any = info.context
    warnings = context.below("custom") if isinstance(context, Warnings) else Warnings()
    fields: dict[str, CustomValue] = {}
    for index, (key, sent) in enumerate(value.items()):
        name = _clean(key)
        if not is_visible(name) or len(name) > KEY_LENGTH:
            warnings.add(f"field {index + 1} left out: its name must have 1 to {KEY_LENGTH} characters")
        elif len(fields) == MAX_FIELDS and name not in fields:
            warn(info, f"only the first {MAX_FIELDS} fields are kept")
            break
        elif isinstance(sent, dict | list):
            warnings.add("left out: must be a text, a number, true, false or null", name)
        else:
            fields[name] = _read_value(sent, warnings.below(name))
    return fields


def _read_value(value: Any, warnings: Warnings) -> CustomValue:
    """Return a text, a number, a boolean or None as stored. An empty text is None."""
    if isinstance(value, Number):
        return _read_number(value, warnings)
    if not isinstance(value, str):
        return None if value is None else bool(value)
    text = _clean(value)
    if text != value.strip():
        warnings.add("line breaks and characters that cannot be stored were replaced")
    if len(text) > VALUE_LENGTH:
        warnings.add(f"truncated to {VALUE_LENGTH} characters")
    return cut(text, VALUE_LENGTH) or None


def _read_number(number: Number, warnings: Warnings) -> CustomValue:
    """Return a number that any JSON parser reads exactly, else its digits as a text."""
    text = str(number)
    if _INTEGER.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text) and len(re.sub(r"[^0-9]", "", text)) <= EXACT_DIGITS:
        with suppress(OverflowError):
            value = float(text)
            if math.isfinite(value):
                return value
    warnings.add("too precise for a number, kept as a text")
    return cut(text, VALUE_LENGTH)


def _clean(text: str) -> str:
    return storable(one_line(text.strip()))


_VALUES: Final = [
    {"type": "string", "maxLength": VALUE_LENGTH},
    *({"type": kind} for kind in ("number", "boolean", "null")),
]
CustomFields = Annotated[
    dict[str, CustomValue],
    BeforeValidator(_read_fields),
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": MAX_FIELDS,
            "propertyNames": {"minLength": 1, "maxLength": KEY_LENGTH},
            "additionalProperties": {"anyOf": _VALUES},
            "description": "The store's own fields, for admins only, in this order.",
        }
    ),
    Field(json_schema_extra={"default": {}}),
]
