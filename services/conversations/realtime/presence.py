"""The admins who are viewing a conversation, so that two of them do not answer at once.

The table is unlogged: a crash of the database empties it, and browsers fill it again within half a minute.
"""

from datetime import timedelta
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy import DateTime, delete, false, func, literal, literal_column, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.models import Conversation, Presence, User
from services.conversations.settings import StoreSettings
from shared.problems import NotFound

SEEN_FOR: Final = timedelta(seconds=30)  # browsers report every 15 s


class Watch(NamedTuple):
    """The viewers of a conversation, by id, and whether the one who reports is new among them."""

    viewers: list[User]
    is_new: bool


async def record_viewer(session: AsyncSession, conversation_id: UUID, user_id: str) -> Watch:
    """Record that a user is viewing a conversation; return its viewers. Raises `NotFound`."""
    viewer = select(Conversation.id, literal(user_id), func.clock_timestamp()).where(Conversation.id == conversation_id)
    upsert = insert(Presence).from_select(["conversation_id", "user_id", "seen_at"], viewer)
    upsert = upsert.on_conflict_do_update(
        index_elements=[Presence.conversation_id, Presence.user_id], set_={"seen_at": upsert.excluded.seen_at}
    )
    seen_at = literal_column("old.seen_at", DateTime(timezone=True))
    was_seen = func.coalesce(seen_at > func.clock_timestamp() - SEEN_FOR, false())
    row = (await session.execute(upsert.returning(was_seen))).one_or_none()
    if row is None:
        raise NotFound("There is no such conversation.")
    viewers = (
        select(User)
        .join(Presence, Presence.user_id == User.id)
        .where(
            Presence.conversation_id == conversation_id,
            Presence.seen_at > func.clock_timestamp() - SEEN_FOR,
            User.deleted_at.is_(None),
        )
        .order_by(User.id)
    )
    return Watch(list((await session.scalars(viewers)).all()), not row[0])


async def remove_viewer(session: AsyncSession, conversation_id: UUID, user_id: str) -> bool:
    """Record that a user is no longer viewing a conversation; return whether they were."""
    viewer = (Presence.conversation_id == conversation_id) & (Presence.user_id == user_id)
    return await session.scalar(delete(Presence).where(viewer).returning(Presence.user_id)) is not None


async def purge_presence(session: AsyncSession, _: StoreSettings, *, size: int) -> int:
    """Delete expired viewers; return how many."""
    expired = (
        select(Presence.conversation_id, Presence.user_id)
        .where(Presence.seen_at < func.clock_timestamp() - 2 * SEEN_FOR)
        .limit(size)
        .with_for_update(skip_locked=True)
        .subquery()
    )
    is_expired = (Presence.conversation_id == expired.c.conversation_id) & (Presence.user_id == expired.c.user_id)
    return len((await session.execute(delete(Presence).where(is_expired).returning(Presence.user_id))).all())
