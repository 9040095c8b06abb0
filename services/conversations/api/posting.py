"""Save what callers write, for the API and the pages."""

from uuid import UUID

from fastapi import Request
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.api.dependencies import via_of
from services.conversations.api.request_schemas import EditConversation
from services.conversations.api.state import api_state
from services.conversations.messaging.commands import set_status
from services.conversations.messaging.idempotency import IdempotencyKey
from services.conversations.messaging.posting import Post, Posted
from services.conversations.rules import ChosenStatus, Side, Status
from shared.observability import current_origin
from shared.principal import Principal


async def authorize_sender(request: Request, caller: Principal) -> None:
    """Make sure that a caller's user exists, or that their session is live. Posting checks the user's row itself."""
    state = api_state(request)
    if caller.session_id is None:
        await state.known_users.ensure(caller, state.sessions)
    else:
        await state.session_checks.require(caller)


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
        idempotency_key=IdempotencyKey.of(key, "edit", body.model_dump(mode="json", exclude_defaults=True)),
        assigns=api_state(request).settings.assign_on_reply,
        attachments=tuple(body.attachments),
        via=via_of(admin),
        origin=current_origin() if body.status is not None else None,
    )
    return await save(request, reply)
