"""Forms of the pages, validated by the API's request schemas, with translated errors by field."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar
from uuid import UUID, uuid4

from fastapi import Request
from pydantic import BaseModel, ValidationError

from services.conversations.rules import ATTACHMENT_LIMIT
from shared.problems import Invalid

B = TypeVar("B", bound=BaseModel)
ATTACHMENTS = "attachments"
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
    attachments: Sequence[str] = ()  # the ids of uploaded files, as typed

    def with_errors(self, problem: Invalid) -> "Form[B]":
        """Return the form with the errors of a command, and a new key: the corrected form is another request."""
        errors = {
            str(error["loc"][1]): _translate(problem.field_code, error["msg"], self.gettext)
            for error in problem.extra["errors"]
        }
        return replace(self, body=None, errors={**self.errors, **errors}, key=str(uuid4()))

    def with_error(self, name: str, text: str) -> "Form[B]":
        """Return the form with the error of a field."""
        return replace(self, body=None, errors={**self.errors, name: text})

    def with_new_key(self) -> "Form[B]":
        """Return the form with a new idempotency key, so that the next submit is another request."""
        return replace(self, key=str(uuid4()))


def new_form(**typed: str) -> Form[Any]:
    """Return an empty or prefilled form. With its key, a second submit returns the first result."""
    return Form(typed, key=str(uuid4()))


async def read_form(
    request: Request, kind: type[B], gettext: Translate, files: Sequence[UUID] | None = None
) -> Form[B]:
    """Read a form into a request body. Blank fields count as missing; the last value of a repeated field wins.

    `files` are the ids of its files, which are sent after those that were uploaded before. While they are not stored
    yet, others stand for them.
    """
    typed: dict[str, str] = {}
    attachments, names = [], 0
    for name, value in (await request.form()).multi_items():
        if not isinstance(value, str):
            names += bool(value.filename)  # a browser sends a field without a file, too
        elif name == ATTACHMENTS:
            attachments += [value] if value.strip() else []
        elif value.strip() or name not in typed:
            typed[name] = value.replace("\r\n", "\n")
    stored = list(map(str, files)) if files is not None else [str(UUID(int=number)) for number in range(names)]
    given = {name: value for name, value in typed.items() if value.strip() and name not in _CONTROL_FIELDS}
    for name in _IDS & given.keys():  # may be pasted with white space
        given[name] = given[name].strip()
    key = known_key(typed.get("idempotency_key"))
    # Only `seen_number` is converted, so validation stays as strict as for JSON.
    values: dict[str, Any] = {name: field_value(name, value) for name, value in given.items()}
    if attachments or stored:
        values[ATTACHMENTS] = attachments + stored
    return replace(form_of(kind, values, typed, gettext), key=key, attachments=attachments + stored)


def form_of(kind: type[B], values: Mapping[str, Any], typed: Mapping[str, str], gettext: Translate) -> Form[B]:
    """Return a form with what was typed, and the request body of these values or what is wrong with them."""
    try:
        return Form(typed, kind.model_validate(values), gettext=gettext)
    except ValidationError as error:
        errors = {str(fault["loc"][0]) if fault["loc"] else "": _message(fault, gettext) for fault in error.errors()}
        return Form({name: _encodable(value) for name, value in typed.items()}, None, errors, gettext=gettext)


def _encodable(value: str) -> str:
    # A form in UTF-7 may contain lone surrogates, which a page in UTF-8 cannot show.
    return value.encode(errors="replace").decode()


def known_key(text: str | None) -> str:
    """Return a form's idempotency key, or a new one if it is not ours."""
    try:
        return str(UUID(text or ""))
    except ValueError:
        return str(uuid4())


def field_value(name: str, value: str) -> str | int:
    """Return what a field holds: `seen_number` a number if it is one, every other its text."""
    return int(value) if name == "seen_number" and value.isascii() and value.isdigit() and len(value) <= 10 else value  # noqa: PLR2004 - digits


def _message(fault: Mapping[str, Any], gettext: Translate) -> str:
    if fault["type"] in {"missing", "too_short", "string_too_short"}:
        return gettext("Please fill this in.")
    if fault["type"] == "string_pattern_mismatch" or fault["loc"] == ("locale",):  # ids and shortcuts have a pattern
        return {
            ("user_id",): gettext("There is no such customer."),
            ("shortcut",): gettext("Use one word, with no spaces."),
            ("locale",): gettext("Use the code of a language, such as en or de."),
        }.get(fault["loc"], gettext("There is no such order."))
    if fault["type"] == "unknown_variable":
        return gettext("These words in double braces are unknown: %(words)s.") % {"words": fault["ctx"]["unknown"]}
    if fault["loc"] == (ATTACHMENTS,) and fault["type"] == "too_long":
        return gettext("Attach at most %(limit)s files to a message.") % {"limit": ATTACHMENT_LIMIT}
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
        "unknown_attachment": gettext("A file is no longer there. Choose it again."),
        "repeated_attachment": gettext("A file is attached twice."),
        "empty_file": gettext("The file is empty."),
        "idempotency_key_reused": gettext(
            "This form was already sent with different text. Check what was sent, then send again."
        ),
    }
    return texts.get(code or "", message)


def parse_ids(values: Iterable[str]) -> list[UUID]:
    """Return each valid id once."""
    ids: dict[UUID, None] = {}
    for value in values:
        try:
            ids[UUID(value.strip())] = None
        except ValueError:
            continue
    return list(ids)
