"""Messages that came in by email, from the notifications service. The proxy must not expose it."""

import hashlib
import hmac
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Request
from pydantic import BaseModel, Field

from services.conversations.api.posting import save
from services.conversations.api.request_schemas import OptionalBody
from services.conversations.api.state import api_state
from services.conversations.api.uploading import save_file, too_large
from services.conversations.attachments.names import safe_name
from services.conversations.attachments.uploads import Upload
from services.conversations.messaging.commands import mark_read
from services.conversations.messaging.idempotency import IdempotencyKey
from services.conversations.messaging.posting import Post
from services.conversations.rules import Side, Via
from shared.database import request_connection, request_transaction
from shared.problems import Forbidden, Invalid, Unauthenticated
from shared.streamed_body import received

FILES = "/internal/inbound/files"


async def _check_secret(request: Request, authorization: Annotated[str, Header()] = "") -> None:
    secret = api_state(request).settings.inbound_secret
    expected = f"Bearer {secret.get_secret_value()}" if secret else ""
    if not expected or not hmac.compare_digest(authorization.encode(), expected.encode()):
        raise Unauthenticated("Missing or wrong CHATS_INBOUND_SECRET.")


router = APIRouter(prefix="/internal/inbound", include_in_schema=False, dependencies=[Depends(_check_secret)])


class InboundMessage(BaseModel):
    """A customer's message that came by email; `read_up_to` is the newest message in the email that it answers."""

    conversation_id: UUID
    user_id: str
    body: OptionalBody
    attachments: Annotated[list[UUID], Field(max_length=10)]
    read_up_to: Annotated[int, Field(ge=0)]


@router.post("/files", status_code=HTTPStatus.CREATED)
async def receive_inbound_file(
    request: Request,
    inbound_id: Annotated[UUID, Query()],
    user_id: Annotated[str, Query()],
    conversation_id: Annotated[UUID, Query()],
    position: Annotated[int, Query(ge=0)],
    size: Annotated[int, Query(ge=0)],
    name: Annotated[str, Query()] = "",
    *,
    inline: Annotated[bool, Query()] = False,
) -> dict[str, Any]:
    """Store a file of an email, once for each position; return its id.

    The id is null for a picture within the text that the conversation has already, such as a logo.
    """
    state = api_state(request)
    await _check_customer(request, user_id)
    limit = state.settings.attachment_max_bytes
    body = received(request, limit, too_large(limit))
    if inline:
        content = b"".join([chunk async for chunk in body])
        if await _is_known(request, conversation_id, content):
            return {"id": None}
        body = _chunks(content)
    upload = Upload(user_id, Side.CUSTOMER, safe_name(name), size)
    row, _ = await save_file(state, upload, body, f"inbound:{inbound_id}:{position}")
    return {"id": str(row["id"])}


@router.post("/{inbound_id}", status_code=HTTPStatus.CREATED)
async def post_inbound_message(request: Request, inbound_id: UUID, body: InboundMessage) -> dict[str, Any]:
    """Post the message of an email, once; then mark the conversation as read up to what the email answers."""
    await _check_customer(request, body.user_id)
    if not body.body and not body.attachments:
        raise Invalid("write something, or send a file", ("body", "body"), "missing")
    # The key says all: the same email may be read differently by another release.
    post = Post(
        body.conversation_id,
        body.user_id,
        Side.CUSTOMER,
        body.body,
        scope=body.user_id,
        idempotency_key=IdempotencyKey.of(str(inbound_id), "inbound", {}),
        attachments=tuple(body.attachments),
        via=Via.EMAIL,
    )
    posted = await save(request, post)
    async with request_transaction(api_state(request).sessions) as session:
        await mark_read(session, body.conversation_id, Side.CUSTOMER, body.read_up_to, scope=body.user_id)
    return {"id": str(posted.id), "number": posted.number}


async def _check_customer(request: Request, user_id: str) -> None:
    """Raise `Forbidden` for a user who was deleted, or whom the store has made an admin."""
    async with request_connection(api_state(request).acquire) as connection:
        role = await connection.fetchrow("select deleted_at, synced_role from users where id = $1", user_id)
    if role is None or role["deleted_at"] is not None or role["synced_role"] not in {None, Side.CUSTOMER.value}:
        raise Forbidden("This user was deleted, or is no customer any more.")


async def _is_known(request: Request, conversation_id: UUID, content: bytes) -> bool:
    async with request_connection(api_state(request).acquire) as connection:
        return bool(await connection.fetchval(_KNOWN, conversation_id, hashlib.sha256(content).hexdigest()))


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    yield content


_KNOWN = "select exists (select from attachments where conversation_id = $1 and sha256 = $2)"
