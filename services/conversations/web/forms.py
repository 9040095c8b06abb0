"""What a form brings: the API's own bodies, checked by the API's own rules, and errors for people, by field."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar
from uuid import UUID, uuid4

from fastapi import Request
from pydantic import BaseModel, ValidationError

from shared.problems import Invalid

B = TypeVar("B", bound=BaseModel)
_IDS = frozenset({"order_id", "user_id"})
Translate = Callable[[str], str]

_OWN = frozenset({"csrf_token", "idempotency_key"})  # a form's fields that are no field of the body


@dataclass(frozen=True, slots=True)
class Form(Generic[B]):
    """A form as it came: what was typed, and the body, or None when something is to be mended."""

    typed: Mapping[str, str] = field(default_factory=dict)
    body: B | None = None
    errors: Mapping[str, str] = field(default_factory=dict)
    key: str = ""
    gettext: Translate = str

    def refused(self, problem: Invalid) -> "Form[B]":
        """Return the form with the errors that only the database could tell, and a new key: mended, it is another."""
        found = {
            str(fault["loc"][-1]): _text_of(problem.field_code, fault["msg"], self.gettext)
            for fault in problem.extra["errors"]
        }
        return replace(self, body=None, errors={**self.errors, **found}, key=str(uuid4()))

    def anew(self) -> "Form[B]":
        """Return the form with a new key: sent again, it is another request."""
        return replace(self, key=str(uuid4()))


def new_form(**typed: str) -> Form[Any]:
    """Make an empty form, or one with something in it already. Its key makes a second submit lead to the first."""
    return Form(typed, key=str(uuid4()))


async def read_form(request: Request, kind: type[B], gettext: Translate) -> Form[B]:
    """Read a form into a body of the API. A blank field counts as not given; of several values the last one wins."""
    typed: dict[str, str] = {}
    for name, value in (await request.form()).multi_items():
        if isinstance(value, str) and (value.strip() or name not in typed):
            typed[name] = value.replace("\r\n", "\n")
    given = {name: value for name, value in typed.items() if value.strip() and name not in _OWN}
    for name in _IDS & given.keys():  # pasted with a space, or with a separator that nobody sees
        given[name] = given[name].strip()
    key = _known_key(typed.get("idempotency_key"))
    try:
        # As from JSON, so that numbers may be text and nothing else is let through.
        body = kind.model_validate({name: _number(name, value) for name, value in given.items()})
    except ValidationError as error:
        errors = {str(fault["loc"][0]) if fault["loc"] else "": _error_text(fault, gettext) for fault in error.errors()}
        return Form({name: _shown(value) for name, value in typed.items()}, None, errors, key, gettext)
    return Form(typed, body, {}, key, gettext)


def _shown(value: str) -> str:
    # A form in UTF-7 may hold half of a character, which is an error, and which no page can carry.
    return value.encode(errors="replace").decode()


def _known_key(text: str | None) -> str:
    try:
        return str(UUID(text or ""))
    except ValueError:
        return str(uuid4())


def _number(name: str, value: str) -> str | int:
    return int(value) if name == "seen_number" and value.isascii() and value.isdigit() and len(value) <= 10 else value  # noqa: PLR2004 - digits


def _error_text(fault: Mapping[str, Any], gettext: Translate) -> str:
    if fault["type"] in {"missing", "too_short", "string_too_short"}:
        return gettext("Please fill this in.")
    if fault["type"] == "string_pattern_mismatch":  # of an id: nothing else here has a pattern
        return (
            gettext("There is no such customer.")
            if fault["loc"] == ("user_id",)
            else gettext("There is no such order.")
        )
    if fault["type"] in {"too_long", "string_too_long"}:
        return gettext("This is too long. Use at most %(limit)s characters.") % {"limit": fault["ctx"]["max_length"]}
    return _text_of(fault["type"], str(fault["msg"]).removeprefix("Value error, "), gettext)


def _text_of(code: str | None, message: str, gettext: Translate) -> str:
    """Return what a page says of a field error by its code; without a text of its own, the message of the API."""
    texts = {
        "line_break": gettext("Line breaks are not allowed here."),
        "invisible_text": gettext("Please fill this in."),
        "lone_surrogate": gettext("This text contains an invalid character."),
        "nul_character": gettext("This text contains a character that cannot be stored (NUL)."),
        "empty_edit": gettext("Write a reply, choose a status, or both."),
        "unknown_order": gettext("There is no such order."),
        "unknown_customer": gettext("There is no such customer."),
        "idempotency_key_reused": gettext(
            "This form was already sent with different text. Check what was sent, then send again."
        ),
    }
    return texts.get(code or "", message)
