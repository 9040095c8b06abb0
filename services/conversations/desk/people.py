"""Admins whom others name: assignees and those mentioned in notes."""

from collections.abc import Collection, Sequence

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.event_log.payloads import person_payload
from services.conversations.models import Conversation, User
from services.conversations.rules import Side
from shared.database.orm import any_of
from shared.events import EventType
from shared.problems import Invalid


async def check_admins(session: AsyncSession, ids: Collection[str], loc: Sequence[str | int]) -> None:
    """Raise `Invalid` for the field `loc` unless all of these are present admins."""
    if missing := sorted(set(ids) - set(await present_admins(session, ids))):
        raise Invalid(f"There is no such admin: {', '.join(missing)}.", loc, "unknown_admin")


async def present_admins(session: AsyncSession, ids: Collection[str]) -> list[str]:
    """Return which of these are present admins."""
    if not ids:
        return []
    present = select(User.id).where(
        any_of(User.id, ids),
        User.role == Side.ADMIN,
        User.deleted_at.is_(None),
        User.synced_role.is_distinct_from(Side.CUSTOMER),
    )
    return sorted(await session.scalars(present))


async def await_admins(session: AsyncSession, conversation: Conversation, ids: Collection[str], actor_id: str) -> None:
    """Remember that these admins have not yet seen what `actor_id` did for them in a locked conversation.

    Also logs the profiles of those who are known from tokens only: the notifications service needs names and addresses.
    """
    conversation.awaited = sorted({*(conversation.awaited or ()), *ids})
    await session.flush()
    await session.execute(_LOG_PROFILES, {"ids": [*ids, actor_id]})


# The lock waits for a concurrent deletion of the user, and then finds no row.
_LOG_PROFILES = text(f"""
    insert into events (type, user_id, payload)
    select '{EventType.USER_UPDATED}', admin.id, jsonb_build_object('person', {person_payload("admin")})
    from (
        select * from users
        where id = any(cast(:ids as text[])) and synced_at is null and deleted_at is null
        order by id for key share
    ) as admin
""")  # noqa: S608 - built from constants
