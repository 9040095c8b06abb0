"""Save what callers write, for the API and the pages."""

from functools import partial
from uuid import UUID

from fastapi import Request
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.api.dependencies import key_of, via_of
from services.conversations.api.schemas.requests import AdminCreateConversation, CreateConversation, EditConversation
from services.conversations.api.state import api_state
from services.conversations.event_log.append import announce
from services.conversations.identity.access import authorize_caller
from services.conversations.messaging.commands import set_status
from services.conversations.messaging.idempotency import IdempotencyKey
from services.conversations.messaging.opening import NewConversation, create_conversation, open_conversation
from services.conversations.messaging.posting import Post, Posted
from services.conversations.messaging.queries import load_conversation
from services.conversations.records import ConversationDetail
from services.conversations.rules import ChosenStatus, Side, Status
from shared.auth.principal import Principal
from shared.database.errors import is_retryable_rollback
from shared.database.transactions import driver_connection, request_connection, run_transaction
from shared.observability.logs import current_origin
from shared.problems import Unavailable


async def authorize_sender(request: Request, caller: Principal) -> None:
    """Make sure that a caller's user exists, or that their session is live. Posting checks the user's row itself."""
    state = api_state(request)
    if caller.session_id is None:
        await state.known_users.ensure(caller, state.sessions)
    else:
        await state.session_checks.require(caller)


async def create(
    request: Request, caller: Principal, new: NewConversation, key: IdempotencyKey | None
) -> tuple[ConversationDetail, bool]:
    """Create a caller's conversation as `create_conversation` does; return it and whether the request is a replay.

    Almost always one statement does. If not, the rest is a transaction that checks the caller first.
    """
    await authorize_sender(request, caller)
    state = api_state(request)
    try:
        async with request_connection(state.acquire) as connection:
            opened = await open_conversation(connection, new, key)
    except Unavailable as error:
        if not is_retryable_rollback(error.__cause__):
            raise
        opened = None  # a transaction is repeated after a deadlock
    if opened is not None:
        announce(state.sessions)
        return opened, False
    return await run_transaction(state.sessions, partial(_authorize_and_create, caller=caller, new=new, key=key))


async def _authorize_and_create(
    session: AsyncSession, caller: Principal, new: NewConversation, key: IdempotencyKey | None
) -> tuple[ConversationDetail, bool]:
    await authorize_caller(session, caller, used=False)
    conversation_id, replayed = await create_conversation(session, new, key)
    scope = caller.id if new.side is Side.CUSTOMER else None
    return await load_conversation(await driver_connection(session), conversation_id, scope=scope), replayed


def own_conversation(
    customer: Principal, body: CreateConversation, key: str | None
) -> tuple[NewConversation, IdempotencyKey | None]:
    """Return the conversation that a customer asks for, and the idempotency key of the request."""
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
    return new, key_of(key, "create", body)


def conversation_with_customer(
    admin: Principal, body: AdminCreateConversation, key: str | None
) -> tuple[NewConversation, IdempotencyKey | None]:
    """Return the conversation that an admin asks for, as `own_conversation` does."""
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
    return new, key_of(key, "admin-create", body)


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
        idempotency_key=key_of(key, "edit", body),
        assigns=api_state(request).settings.assign_on_reply,
        attachments=tuple(body.attachments),
        via=via_of(admin),
        origin=current_origin() if body.status is not None else None,
    )
    return await save(request, reply)
