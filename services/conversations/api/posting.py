"""Save what callers write, for the API and the pages."""

from typing import Any
from uuid import UUID

from fastapi import Request
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.api.dependencies import via_of
from services.conversations.api.schemas.requests import AdminCreateConversation, CreateConversation, EditConversation
from services.conversations.api.state import api_state
from services.conversations.messaging.commands import NewConversation, create_conversation, set_status
from services.conversations.messaging.idempotency import IdempotencyKey
from services.conversations.messaging.posting import Post, Posted
from services.conversations.rules import ChosenStatus, Side, Status
from shared.auth.principal import Principal
from shared.observability.logs import current_origin


async def authorize_sender(request: Request, caller: Principal) -> None:
    """Make sure that a caller's user exists, or that their session is live. Posting checks the user's row itself."""
    state = api_state(request)
    if caller.session_id is None:
        await state.known_users.ensure(caller, state.sessions)
    else:
        await state.session_checks.require(caller)


async def create_own_conversation(
    session: AsyncSession, customer: Principal, body: CreateConversation, key: str | None
) -> tuple[UUID, bool]:
    """Create a customer's conversation; return its id, and whether the request is a replay.

    Raises as `create_conversation` does.
    """
    new = NewConversation(
        customer.id,
        body.subject,
        customer.id,
        Side.CUSTOMER,
        body.order_id,
        body.body,
        attachments=tuple(body.attachments),
        via=via_of(customer),
    )
    return await create_conversation(session, new, IdempotencyKey.of(key, "create", _fields(body)))


async def create_conversation_with_customer(
    session: AsyncSession, admin: Principal, body: AdminCreateConversation, key: str | None
) -> tuple[UUID, bool]:
    """Create an admin's conversation with the customer whom `body` names, as `create_own_conversation` does."""
    new = NewConversation(
        body.user_id,
        body.subject,
        admin.id,
        Side.ADMIN,
        body.order_id,
        body.body,
        body.status,
        tuple(body.attachments),
        via_of(admin),
    )
    return await create_conversation(session, new, IdempotencyKey.of(key, "admin-create", _fields(body)))


async def save(request: Request, post: Post) -> Posted:
    """Save an authorized sender's message as `post_message` does, batched with concurrent ones.

    Call it without a database connection: posts that wait must not hold those that others need.
    """
    return await api_state(request).group_commit.save(post)


async def save_edit(
    request: Request,
    session: AsyncSession,
    conversation_id: UUID,
    admin: Principal,
    body: EditConversation,
    key: str | None,
) -> Posted | None:
    """Save an authorized admin's reply, a status, or both at once; return the reply. Raises as `post_message` does.

    The session's transaction contains only a status without a reply.
    """
    if not body.is_reply:
        if body.status is not None and body.status is not ChosenStatus.KEEP:
            await set_status(
                session,
                conversation_id,
                Status(body.status),
                actor_id=admin.id,
                seen_number=body.seen_number,
                expected_status=body.expected_status,
            )
        return None
    reply = Post(
        conversation_id,
        admin.id,
        Side.ADMIN,
        body.reply_body or "",
        seen_number=body.seen_number,
        chosen_status=body.status,
        expected_status=body.expected_status,
        idempotency_key=IdempotencyKey.of(key, "edit", _fields(body)),
        assigns=api_state(request).settings.assign_on_reply,
        attachments=tuple(body.attachments),
        via=via_of(admin),
        origin=current_origin() if body.status is not None else None,
    )
    return await save(request, reply)


def _fields(body: BaseModel) -> dict[str, Any]:
    """Return the fields that a repeated request must have in common with the first one."""
    return body.model_dump(mode="json", exclude_defaults=True)
