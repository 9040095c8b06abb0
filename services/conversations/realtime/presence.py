"""Who is looking at a conversation, as far as their browsers say so: a hint for two admins who would answer at once.

The table is unlogged: a crash of the server empties it, and half a minute later it is right again.
"""

from datetime import timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import delete, func, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.models import Conversation, Presence, User
from services.conversations.settings import StoreSettings
from shared.problems import NotFound

SEEN_FOR: Final = timedelta(seconds=30)  # browsers say every 15 s that they are still there


async def look(session: AsyncSession, conversation_id: UUID, user_id: str) -> list[User]:
    """Note that somebody looks at a conversation, and return who else does, by id. Raises `NotFound`."""
    there = select(Conversation.id, literal(user_id), func.clock_timestamp()).where(Conversation.id == conversation_id)
    note = insert(Presence).from_select(["conversation_id", "user_id", "seen_at"], there)
    note = note.on_conflict_do_update(
        index_elements=[Presence.conversation_id, Presence.user_id], set_={"seen_at": note.excluded.seen_at}
    )
    if await session.scalar(note.returning(Presence.user_id)) is None:
        raise NotFound("There is no such conversation.")
    others = (
        select(User)
        .join(Presence, Presence.user_id == User.id)
        .where(
            Presence.conversation_id == conversation_id,
            Presence.user_id != user_id,
            Presence.seen_at > func.clock_timestamp() - SEEN_FOR,
            User.deleted_at.is_(None),
        )
        .order_by(User.id)
    )
    return list((await session.scalars(others)).all())


async def leave(session: AsyncSession, conversation_id: UUID, user_id: str) -> None:
    """Note that somebody looks no more; who did not look is not missed."""
    await session.execute(
        delete(Presence).where(Presence.conversation_id == conversation_id, Presence.user_id == user_id)
    )


async def purge_presence(session: AsyncSession, _: StoreSettings, *, size: int) -> int:
    """Delete what is no longer true; return how many."""
    old = (
        select(Presence.conversation_id, Presence.user_id)
        .where(Presence.seen_at < func.clock_timestamp() - 2 * SEEN_FOR)
        .limit(size)
        .with_for_update(skip_locked=True)
        .subquery()
    )
    gone = delete(Presence).where(Presence.conversation_id == old.c.conversation_id, Presence.user_id == old.c.user_id)
    return len((await session.execute(gone.returning(Presence.user_id))).all())
