"""Read the email in a provider's request: the raw body, or a form or a JSON document around it.

The forms and the document are those that providers send: Mailgun (`body-mime`, `recipient`, `sender`), SendGrid
(`email`, `envelope`) and Postmark (`RawEmail`, `OriginalRecipient`). Other fields are dropped as they arrive.
"""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, QuerystringParser, parse_options_header

from services.notifications.inbound.reception import MAX_BYTES
from shared.api.streamed_body import declared_size, received
from shared.problems import Invalid, PayloadTooLarge

MAX_FIELD: Final = 64 * 1024  # bytes of a field that is not the email
MAX_AROUND: Final = 1024 * 1024  # bytes of a form around the email
MAX_FIELDS: Final = 200
_EMAIL_FIELDS: Final = ("body-mime", "email", "RawEmail")
_OTHERS: Final = ("recipient", "sender", "envelope")
_FORM: Final = "application/x-www-form-urlencoded"
_MULTIPART: Final = "multipart/form-data"
_JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Given:
    """An email, and what the request says of its envelope. `sender`: None if it says nothing."""

    content: bytes
    recipients: list[str] = field(default_factory=list)
    sender: str | None = None


def body_limit(request: Request) -> int:
    """Return the most bytes that a request may have around an email of the largest size."""
    kind = _kind(request)
    if kind == _FORM:
        return 3 * MAX_BYTES + MAX_AROUND  # each byte may be written as %41
    return {_MULTIPART: MAX_BYTES + MAX_AROUND, _JSON: 2 * MAX_BYTES}.get(kind, MAX_BYTES)


async def read_email(request: Request) -> Given:
    """Return the email in a request. Raises `PayloadTooLarge`, or `Invalid` if there is none."""
    limit = body_limit(request)
    if (declared_size(request) or 0) > limit:
        raise _too_large()
    chunks = received(request, limit, _too_large())
    kind = _kind(request)
    if kind in {_FORM, _MULTIPART}:
        given = _of_form(await _read_form(request, chunks))
    else:
        content = b"".join([chunk async for chunk in chunks])
        given = _of_json(content) if kind == _JSON else Given(content)
    if not given.content.strip():
        raise Invalid("send the email: as the body, or in the field body-mime or email", ("body",), "missing")
    if len(given.content) > MAX_BYTES:
        raise _too_large()
    return given


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _too_large() -> PayloadTooLarge:
    return PayloadTooLarge(f"The email is larger than {MAX_BYTES / 2**20:g} MiB, the most that is accepted.")


class _Fields:
    """The fields of a form that are wanted, as bytes: an email need not be text in any charset."""

    def __init__(self, decode: Callable[[bytes], bytes] | None = None) -> None:
        self.values: dict[str, bytearray] = {}
        self._decode = decode
        self._name, self._rest, self._count = b"", b"", 0
        self._value: bytearray | None = None
        self._is_chosen = False
        self.is_complete = False

    def begin(self) -> None:
        """Begin a field."""
        self._name, self._rest, self._value, self._is_chosen = b"", b"", None, False
        self._count += 1
        if self._count > MAX_FIELDS:
            raise FormParserError("too many fields")

    def add_name(self, data: bytes, start: int, end: int) -> None:
        """Add a part of the field's name."""
        self._name += data[start:end][:MAX_FIELD]

    def name_is(self, name: bytes) -> None:
        """Set the field's name."""
        self._name = name
        self._choose()

    def _choose(self) -> None:
        self._is_chosen = True
        name = self._name.decode("ascii", "replace")
        if name == "recipient" and name in self.values:
            self._value = self.values[name]
            self._value += b","
        elif name in (*_EMAIL_FIELDS, *_OTHERS) and name not in self.values:
            self._value = self.values[name] = bytearray()

    def add(self, data: bytes, start: int, end: int) -> None:
        """Add a part of the field's value."""
        if self._decode is not None and not self._is_chosen:
            self._choose()
        if self._value is None:
            return
        piece = data[start:end]
        if self._decode is not None:  # an escape may continue in the next piece
            piece = self._rest + piece
            cut = piece.rfind(b"%", -2) if b"%" in piece[-2:] else len(piece)
            self._rest, piece = piece[cut:], self._decode(piece[:cut])
        self._value += piece
        is_email = self._name.decode("ascii", "replace") in _EMAIL_FIELDS
        if len(self._value) > (MAX_BYTES if is_email else MAX_FIELD):
            raise _too_large()

    def end(self) -> None:
        """End the field. An empty one had no data: of a sender it says that there is none."""
        if self._decode is not None and not self._is_chosen:
            self._choose()
        if self._value is not None and self._rest:
            self._value += self._rest

    def complete(self) -> None:
        """Note that the form has ended: without its last line an email may have lost its end."""
        self.is_complete = True


async def _read_form(request: Request, chunks: AsyncIterator[bytes]) -> dict[str, bytearray]:
    fields, parser = _parser(request)
    try:
        async for chunk in chunks:
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise _unreadable(str(error)) from None
    if not fields.is_complete:
        raise _unreadable("it has no end")
    return fields.values


def _unreadable(why: str) -> Invalid:
    return Invalid(f"the form cannot be read: {why}", ("body",))


def _parser(request: Request) -> tuple[_Fields, MultipartParser | QuerystringParser]:
    _, options = parse_options_header(request.headers.get("content-type"))
    if _kind(request) == _FORM:
        fields = _Fields(lambda raw: unquote_to_bytes(raw.replace(b"+", b" ")))
        return fields, QuerystringParser(
            {
                "on_field_start": fields.begin,
                "on_field_name": fields.add_name,
                "on_field_data": fields.add,
                "on_field_end": fields.end,
                "on_end": fields.complete,
            }
        )
    boundary = options.get(b"boundary")
    if not boundary:
        raise _unreadable("its Content-Type has no boundary")
    fields, header, value = _Fields(), bytearray(), bytearray()

    def end_header() -> None:
        if header.strip().lower() == b"content-disposition":
            _, disposition = parse_options_header(bytes(value))
            fields.name_is(disposition.get(b"name", b""))
        header.clear()
        value.clear()

    def add_header(data: bytes, start: int, end: int) -> None:
        header.extend(data[start:end])

    def add_value(data: bytes, start: int, end: int) -> None:
        value.extend(data[start:end])

    try:
        return fields, MultipartParser(
            boundary,
            {
                "on_part_begin": fields.begin,
                "on_header_field": add_header,
                "on_header_value": add_value,
                "on_header_end": end_header,
                "on_part_data": fields.add,
                "on_end": fields.complete,
            },
        )
    except FormParserError as error:
        raise _unreadable(str(error)) from None


def _of_form(fields: dict[str, bytearray]) -> Given:
    content = next((bytes(fields.pop(name)) for name in _EMAIL_FIELDS if fields.get(name)), b"")
    texts = {name: value.decode("utf-8", "replace") for name, value in fields.items()}
    envelope: Any = _json(texts.get("envelope", ""))
    sender = texts.get("sender")
    recipients = texts.get("recipient", "").split(",")
    if isinstance(envelope, dict):
        to = envelope.get("to")
        recipients += [str(address) for address in (to if isinstance(to, list) else [to]) if address]
        given = envelope.get("from")
        sender = given if sender is None and isinstance(given, str) else sender
    return Given(content, [address.strip(" <>") for address in recipients if address.strip()], sender)


def _of_json(body: bytes) -> Given:
    document = _json(body)
    content = document.get("RawEmail") if isinstance(document, dict) else None
    if not isinstance(content, str):
        raise Invalid("a JSON document must have the email in the field RawEmail", ("body", "RawEmail"), "missing")
    recipient = document.get("OriginalRecipient")
    return Given(content.encode("utf-8", "replace"), [recipient] if isinstance(recipient, str) and recipient else [])


def _json(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
