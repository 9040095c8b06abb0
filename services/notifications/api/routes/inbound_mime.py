"""The route by which providers of email deliver what came in for our addresses."""

import hmac
from base64 import b64decode
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import Depends, Header, Query, Request
from fastapi.security import HTTPBearer
from pydantic import BaseModel

from services.notifications.api.mime_bodies import Given, body_limit, read_email
from services.notifications.api.state import api_state
from services.notifications.errors import InboundRefused
from services.notifications.inbound.intake import TakenIn
from services.notifications.inbound.parsing.mime import parse_headers
from services.notifications.inbound.reception import UNKNOWN, Reception, Refused
from services.notifications.inbound.recipients import distinct, envelope_sender
from services.notifications.rules import InboundReason, InboundState
from shared.api.routing import ApiRouter
from shared.api.streamed_body import declared_size
from shared.problems import (
    Invalid,
    PayloadTooLarge,
    RequestTimeout,
    Unauthenticated,
    Unavailable,
    problem_responses,
)

MIME: Final = "/api/v1/notifications/inbound/mime"
MAX_REQUEST_MEMORY: Final = 256 * 2**20  # bytes of requests at the same time
_TEXT: Final = {"type": "string"}
_FORM: Final = {
    "schema": {
        "title": "ProviderForm",
        "type": "object",
        "properties": {name: {**_TEXT} for name in ("body-mime", "email", "recipient", "sender", "envelope")},
    }
}
_DOCUMENT: Final = {
    "schema": {
        "title": "PostmarkDocument",
        "type": "object",
        "required": ["RawEmail"],
        "properties": {"RawEmail": {**_TEXT}, "OriginalRecipient": {**_TEXT}},
    }
}
_CONTENT: Final = {
    "message/rfc822": {"schema": {"type": "string", "format": "binary"}},
    "multipart/form-data": _FORM,
    "application/x-www-form-urlencoded": _FORM,
    "application/json": _DOCUMENT,
}


_SCHEME: Final = HTTPBearer(
    scheme_name="InboundSecret",
    description="CHATS_INBOUND_HTTP_SECRET, also as the password of basic authentication.",
    auto_error=False,
)


async def _check_secret(
    request: Request,
    _: Annotated[object, Depends(_SCHEME)],
    authorization: Annotated[str, Header(include_in_schema=False)] = "",
) -> None:
    """Admit a provider: by a bearer token, or by the password of basic authentication, as webhook URLs can have."""
    secret = api_state(request).settings.inbound_http_secret
    if secret is None:
        raise Unauthenticated("No provider may deliver emails here: CHATS_INBOUND_HTTP_SECRET is not set.")
    if not hmac.compare_digest(given_secret(authorization).encode(), secret.get_secret_value().encode()):
        raise Unauthenticated("Missing or wrong CHATS_INBOUND_HTTP_SECRET.")


def given_secret(authorization: str) -> str:
    """Return the secret in an `Authorization` header; empty if there is none."""
    scheme, _, given = authorization.strip().partition(" ")
    if scheme.lower() == "bearer":
        return given
    try:
        return b64decode(given, validate=True).decode().partition(":")[2] if scheme.lower() == "basic" else ""
    except ValueError:
        return ""


router = ApiRouter(
    prefix="/api/v1/notifications/inbound",
    tags=["Emails"],
    responses=problem_responses(Unauthenticated, Invalid, InboundRefused, PayloadTooLarge, RequestTimeout, Unavailable),
)


class TakenOut(BaseModel):
    """An email that is kept for one of its recipients. `again`: it was there already."""

    id: UUID
    state: InboundState
    reason: InboundReason | None
    again: bool


class TakenInOut(BaseModel):
    """What became of an email, for each of its addresses for replies: no other is kept as an email."""

    emails: list[TakenOut]


@router.post(
    "/mime",
    summary="Deliver an email as a provider",
    dependencies=[Depends(_check_secret)],
    openapi_extra={"requestBody": {"required": True, "content": _CONTENT}},
)
async def receive_inbound_mime(
    request: Request,
    recipients: Annotated[
        list[str],
        Query(alias="to", max_length=100, description="Who the email was delivered to, if its headers do not say so."),
    ] = [],  # noqa: B006 - never changed
    sender: Annotated[
        str | None, Query(alias="from", description="The sender in the envelope; empty for a delivery report.")
    ] = None,
) -> TakenInOut:
    """Take an email in from a provider.

    The secret `CHATS_INBOUND_HTTP_SECRET` is a bearer token or the password of basic authentication. The email is the
    body, or in a form or a document as Mailgun, SendGrid and Postmark send it. An answer of 200 means that it is
    stored; the same email may come again. 406 means that none of its recipients takes it: do not send it again.
    """
    state = api_state(request)
    size = declared_size(request)
    limit = body_limit(request)
    with state.request_memory.taken(limit if size is None else min(size, limit)):
        given = await read_email(request)
        answer = await _keep(state.reception, given, recipients, sender)
    return TakenInOut(emails=[TakenOut(**_values(taken)) for taken in answer if taken is not None])


async def _keep(reception: Reception, given: Given, recipients: list[str], sender: str | None) -> list[TakenIn | None]:
    headers = parse_headers(given.content)
    to = distinct(recipients or given.recipients or reception.addresses_in(headers))
    envelope_from = next((value for value in (sender, given.sender) if value is not None), envelope_sender(headers))
    kept: list[TakenIn | None] = []
    refused = UNKNOWN
    try:
        for address in to:
            bound = await reception.find(address, envelope_from)
            taken = bound if isinstance(bound, Refused) else await reception.keep(bound, envelope_from, given.content)
            if isinstance(taken, Refused):
                refused = taken
            else:
                kept.append(taken)
    except TimeoutError:
        raise Unavailable("The database does not answer. Try again.") from None
    if not kept:
        raise InboundRefused(f"{refused.text}.", reason=refused.reason)
    return kept


def _values(taken: TakenIn) -> dict[str, Any]:
    return {"id": taken.id, "state": taken.state, "reason": taken.reason, "again": not taken.is_new}
