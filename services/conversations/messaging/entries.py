"""Entries of a conversation's timeline beside its messages."""

from collections.abc import Collection
from typing import Any, Final
from uuid import UUID

from sqlalchemy import func, insert
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.audit.recording import Act, recording
from services.conversations.models import Conversation, ConversationEntry
from services.conversations.rules import EntryKind
from shared.database.engine import Driver
from shared.problems import NotFound


async def lock_conversation(session: AsyncSession, conversation_id: UUID) -> Conversation:
    """Lock and return a conversation. Raises `NotFound`."""
    conversation = await session.get(Conversation, conversation_id, with_for_update=True, populate_existing=True)
    if conversation is None:
        raise NotFound("There is no such conversation.")
    return conversation


async def keep_conversations(driver: Driver, ids: Collection[UUID]) -> None:
    """Exclude the deletion and other changes of conversations until the transaction ends.

    A transaction that touches several locks them all at once: this has the order of changes in bulk, two of these not.
    """
    await driver.execute(_KEEP, list(ids))


_KEEP: Final = "select from conversations where id = any($1::uuid[]) order by id for key share"


async def add_entry(
    session: AsyncSession,
    conversation: Conversation,
    kind: EntryKind,
    actor_id: str | None,
    data: dict[str, Any],
    *,
    entry_id: UUID | None = None,
    act: Act | None = None,
) -> ConversationEntry:
    """Add an entry after the newest message of a locked conversation; no actor means that it happened by itself.

    With `act`, the same statement records it in the audit.
    """
    entry = (
        insert(ConversationEntry)
        .values(
            id=func.coalesce(entry_id, func.uuidv7()),
            conversation_id=conversation.id,
            # The clock is read under the lock, as for messages.
            at=func.greatest(func.clock_timestamp(), conversation.last_activity_at),
            after_number=conversation.message_count,
            kind=kind,
            actor_id=actor_id,
            data=data,
        )
        .returning(ConversationEntry)
    )
    if act is not None:
        entry = entry.add_cte(recording(act).cte("audited"))
    return (await session.scalars(entry)).one()
