"""Admins whom others name: assignees and those mentioned in notes."""

from collections.abc import Collection, Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.models import User
from services.conversations.rules import Side
from shared.orm import any_of
from shared.problems import Invalid


async def check_admins(session: AsyncSession, ids: Collection[str], loc: Sequence[str | int]) -> None:
    """Raise `Invalid` for the field `loc` unless all of these are present admins."""
    if not ids:
        return
    present = select(User.id).where(
        any_of(User.id, ids),
        User.role == Side.ADMIN,
        User.deleted_at.is_(None),
        User.synced_role.is_distinct_from(Side.CUSTOMER),
    )
    if missing := sorted(set(ids) - set(await session.scalars(present))):
        raise Invalid(f"There is no such admin: {', '.join(missing)}.", loc, "unknown_admin")
