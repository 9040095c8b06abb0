"""Save what callers write, for the API and the pages."""

from uuid import UUID

from fastapi import Request
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.api.request_schemas import EditConversation
from services.conversations.api.state import api_state
from services.conversations.identity.sessions import check_session
from services.conversations.messaging.commands import set_status
from services.conversations.messaging.idempotency import IdempotencyKey
from services.conversations.messaging.posting import Post, Posted, post_message
from services.conversations.rules import Side
from shared.auth import Principal
from shared.database import request_transaction


async def save(request: Request, caller: Principal, post: Post) -> Posted:
    """Save a caller's message as `post_message` does, batched with others that arrive at the same time."""
    state = api_state(request)
    if caller.session_id is None:
        await state.known_users.ensure(caller, state.sessions)
        posted: Posted = await state.group_commit.save(post)
        return posted
    async with request_transaction(state.sessions) as session:
        await check_session(session, caller)  # an ended session must not post
        return await post_message(session, post)


async def save_edit(
    session: AsyncSession, conversation_id: UUID, admin_id: str, body: EditConversation, key: str | None
) -> Posted | None:
    """Save an admin's reply, a status, or both at once; return the reply. Raises as `post_message` does."""
    if body.reply_body is None:
        if body.status is not None:
            await set_status(session, conversation_id, body.status, seen_number=body.seen_number)
        return None
    reply = Post(
        conversation_id,
        admin_id,
        Side.ADMIN,
        body.reply_body,
        seen_number=body.seen_number,
        chosen_status=body.status,
        idempotency_key=IdempotencyKey.of(key, "edit", body.model_dump(mode="json", exclude_defaults=True)),
    )
    return await post_message(session, reply)
