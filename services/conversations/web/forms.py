"""Forms of the pages, validated by the API's request schemas, with translated errors by field."""

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

_CONTROL_FIELDS = frozenset({"csrf_token", "idempotency_key"})  # not part of the body


@dataclass(frozen=True, slots=True)
class Form(Generic[B]):
    """A submitted form: what was typed, and the valid body, or None and the errors."""

    typed: Mapping[str, str] = field(default_factory=dict)
    body: B | None = None
    errors: Mapping[str, str] = field(default_factory=dict)
    key: str = ""
    gettext: Translate = str

    def with_errors(self, problem: Invalid) -> "Form[B]":
        """Return the form with the errors of a command, and a new key: the corrected form is another request."""
        errors = {
            str(error["loc"][-1]): _translate(problem.field_code, error["msg"], self.gettext)
            for error in problem.extra["errors"]
        }
        return replace(self, body=None, errors={**self.errors, **errors}, key=str(uuid4()))

    def with_new_key(self) -> "Form[B]":
        """Return the form with a new idempotency key, so that the next submit is another request."""
        return replace(self, key=str(uuid4()))


def new_form(**typed: str) -> Form[Any]:
    """Return an empty or prefilled form. With its key, a second submit returns the first result."""
    return Form(typed, key=str(uuid4()))


async def read_form(request: Request, kind: type[B], gettext: Translate) -> Form[B]:
    """Read a form into a request body. Blank fields count as missing; the last value of a repeated field wins."""
    typed: dict[str, str] = {}
    for name, value in (await request.form()).multi_items():
        if isinstance(value, str) and (value.strip() or name not in typed):
            typed[name] = value.replace("\r\n", "\n")
    given = {name: value for name, value in typed.items() if value.strip() and name not in _CONTROL_FIELDS}
    for name in _IDS & given.keys():  # may be pasted with white space
        given[name] = given[name].strip()
    key = _known_key(typed.get("idempotency_key"))
    try:
        # Only `seen_number` is converted, so validation stays as strict as for JSON.
        body = kind.model_validate({name: _number(name, value) for name, value in given.items()})
    except ValidationError as error:
        errors = {str(fault["loc"][0]) if fault["loc"] else "": _message(fault, gettext) for fault in error.errors()}
        return Form({name: _encodable(value) for name, value in typed.items()}, None, errors, key, gettext)
    return Form(typed, body, {}, key, gettext)


def _encodable(value: str) -> str:
    # A form in UTF-7 may contain lone surrogates, which a page in UTF-8 cannot show.
    return value.encode(errors="replace").decode()


def _known_key(text: str | None) -> str:
    try:
        return str(UUID(text or ""))
    except ValueError:
        return str(uuid4())


def _number(name: str, value: str) -> str | int:
    return int(value) if name == "seen_number" and value.isascii() and value.isdigit() and len(value) <= 10 else value  # noqa: PLR2004 - digits


def _message(fault: Mapping[str, Any], gettext: Translate) -> str:
    if fault["type"] in {"missing", "too_short", "string_too_short"}:
        return gettext("Please fill this in.")
    if fault["type"] == "string_pattern_mismatch":  # only ids have a pattern
        return (
            gettext("There is no such customer.")
            if fault["loc"] == ("user_id",)
            else gettext("There is no such order.")
        )
    if fault["type"] in {"too_long", "string_too_long"}:
        return gettext("This is too long. Use at most %(limit)s characters.") % {"limit": fault["ctx"]["max_length"]}
    return _translate(fault["type"], str(fault["msg"]).removeprefix("Value error, "), gettext)


def _translate(code: str | None, message: str, gettext: Translate) -> str:
    """Return the translation for the code of a field error, or the API's message if there is none."""
    texts = {
        "line_break": gettext("Line breaks are not allowed here."),
        "invisible_text": gettext("Please fill this in."),
        "lone_surrogate": gettext("This text contains an invalid character."),
        "nul_character": gettext("This text contains a character that cannot be stored (NUL)."),
        "empty_edit": gettext("Write a reply, choose a status, or both."),
        "keep_without_reply": gettext("Write a reply, or choose another status."),
        "unknown_order": gettext("There is no such order."),
        "unknown_customer": gettext("There is no such customer."),
        "idempotency_key_reused": gettext(
            "This form was already sent with different text. Check what was sent, then send again."
        ),
    }
    return texts.get(code or "", message)
