"""Tell open pages and clients that a file of a message has changed: it was scanned, or has a thumbnail."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.event_log.append import append_event
from services.conversations.models import Conversation
from shared.events import EventType


async def announce_change(session: AsyncSession, conversation_id: UUID | None) -> None:
    """Append an event to the log, if the file was sent and its conversation is still there."""
    if conversation_id is None:
        return
    # The lock keeps the order of the conversation's events that of its changes.
    owner = select(Conversation.user_id).where(Conversation.id == conversation_id).with_for_update(key_share=True)
    user_id = await session.scalar(owner)
    if user_id is not None:
        payload = {"conversation_id": str(conversation_id)}
        await append_event(
            session, EventType.CONVERSATION_UPDATED, payload, user_id=user_id, conversation_id=conversation_id
        )
