"""Open conversations, with their first message: the only code that inserts them, in one statement."""

from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.errors import IdempotencyKeyReused
from services.conversations.event_log.append import announce_at_commit
from services.conversations.messaging.idempotency import IdempotencyKey
from services.conversations.messaging.merged_ids import refused_caller
from services.conversations.messaging.opening_sql import OPEN, OPEN_WITH_FILES, OPEN_WITH_MESSAGE
from services.conversations.messaging.posting import check_files, log_posted
from services.conversations.models import Conversation, CreateKey, Order, User
from services.conversations.records import ConversationDetail
from services.conversations.rules import Side, Status, Via
from shared.database.engine import Driver
from shared.database.transactions import transaction_driver
from shared.observability.logs import current_origin
from shared.problems import Forbidden, Invalid, NotFound, Unavailable
from shared.process.failpoints import failpoint
from shared.text import preview


@dataclass(frozen=True, slots=True)
class NewConversation:
    """A conversation to create, opened by its customer (`opened_by` is `user_id`) or by an admin.

    With `id`, its id is known before, and a key must be given.
    """

    user_id: str
    subject: str
    opened_by: str
    side: Side
    order_id: str | None = None
    body: str | None = None
    status: Status | None = None
    attachments: tuple[UUID, ...] = ()
    via: Via = Via.WEB
    id: UUID | None = None


async def create_conversation(
    session: AsyncSession, new: NewConversation, idempotency_key: IdempotencyKey | None = None
) -> tuple[UUID, bool]:
    """Create a conversation, with its first message if given; return its id and whether the request is a replay.

    Raises `Invalid` if the customer, the order or a file does not exist or cannot be used, `IdempotencyKeyReused`,
    `NotFound` for a replay whose conversation was deleted, `Unauthenticated` if the opening user has been deleted,
    `CallerMerged` if they have been merged, or `Forbidden` if the store has made an opening admin a customer.
    """
    connection = await transaction_driver(session)
    opened = await open_conversation(connection, new, idempotency_key)
    if opened is not None:
        announce_at_commit(session)
        return opened.conversation.id, False
    if idempotency_key is not None:
        earlier = await session.get(CreateKey, (new.opened_by, idempotency_key.key))
        if earlier is not None:
            return await _replay(session, earlier, idempotency_key), True
    if new.side is Side.ADMIN and (person_id := await _check_customer(session, new.user_id)) != new.user_id:
        return await create_conversation(session, replace(new, user_id=person_id), idempotency_key)
    raise await _find_refusal(session, connection, new)


async def open_conversation(
    connection: Driver, new: NewConversation, idempotency_key: IdempotencyKey | None
) -> ConversationDetail | None:
    """Create a conversation in one statement, which may be a transaction of its own; return it.

    Returns None for what `create_conversation` returns from an earlier request, or refuses, or what names its customer
    by a merged id. Nothing is written then.
    """
    failpoint("conversation-begun")
    if new.attachments:
        row: Any = await connection.fetchrow(OPEN_WITH_FILES, *_values(new, idempotency_key), new.attachments)
    else:
        row = await connection.fetchrow(OPEN_WITH_MESSAGE if new.body else OPEN, *_values(new, idempotency_key))
    if row is None:
        return None
    failpoint("conversation-opened")
    opened = ConversationDetail.of(row)
    if opened.conversation.last_message_id is not None:
        log_posted(opened.conversation.last_message_id, opened.conversation.id)
    return opened


def _values(new: NewConversation, key: IdempotencyKey | None) -> tuple[Any, ...]:
    about = (new.id, new.user_id, new.opened_by, new.side.value, new.order_id, new.subject)
    message = (new.body or "", preview(new.body or ""), new.status)
    once, origin = (key.key, key.request_hash) if key else (None, None), current_origin()
    return (*about, *message, *once, new.via.value, origin.address, origin.request_id)


async def _replay(session: AsyncSession, earlier: CreateKey, key: IdempotencyKey) -> UUID:
    """Return the id of the conversation that an earlier request with the key has created."""
    if earlier.request_hash != key.request_hash:
        raise IdempotencyKeyReused
    if await session.scalar(select(Conversation.id).where(Conversation.id == earlier.conversation_id)) is None:
        raise NotFound("There is no such conversation.")
    return earlier.conversation_id


async def _find_refusal(session: AsyncSession, connection: Driver, new: NewConversation) -> Exception:
    """Return why a conversation was not opened, other than for an admin's customer. May raise it instead."""
    if new.order_id is not None:
        await _check_order(session, new.order_id, new.user_id)
    sender = await session.get(User, new.opened_by, populate_existing=True)
    if sender is None or sender.deleted_at is not None:
        return await refused_caller(session, new.opened_by)
    if new.side is Side.ADMIN and sender.synced_role == Side.CUSTOMER:
        return Forbidden("This user is no longer an admin: the store has made them a customer.")
    await check_files(connection, new.attachments, new.opened_by, new.side)
    return Unavailable("What the conversation refers to has just been restored. Try again.")


async def _check_customer(session: AsyncSession, user_id: str) -> str:
    """Return the customer's id, which is another one for a merged id. Raises `Invalid`."""
    user = await session.get(User, user_id, populate_existing=True)
    if user is not None and user.merged_into is not None:
        return await _check_customer(session, user.merged_into)
    if user is None or user.deleted_at is not None or user.role != Side.CUSTOMER:
        raise Invalid("There is no such customer.", ("body", "user_id"), "unknown_customer")
    return user.id


async def _check_order(session: AsyncSession, order_id: str, user_id: str) -> None:
    query = select(Order.id).where(Order.id == order_id, Order.user_id == user_id, Order.deleted_at.is_(None))
    if await session.scalar(query) is None:
        raise Invalid("The customer has no such order.", ("body", "order_id"), "unknown_order")
