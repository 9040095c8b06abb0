"""Resolve conversations whose customer stays quiet, for the jobs."""

from datetime import timedelta

from sqlalchemy import false, func, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.messaging.commands import change_status
from services.conversations.models import Conversation
from services.conversations.rules import Status


async def resolve_quiet(session: AsyncSession, days: float, *, size: int) -> int:
    """Resolve up to `size` conversations that have waited for their customer longer than `days`; return how many.

    Skips those that others have locked. Locking a row checks it once more: a message that was committed meanwhile wins.
    """
    # Not `clock_timestamp()`, which moves: an index cannot be searched for it.
    before, resolved = func.now() - timedelta(days=days), 0
    for is_read in (true(), false()):  # each in the order of an index, which ends at the limit
        quiet = (
            select(Conversation)
            .where(
                Conversation.status == Status.AWAITING_USER,
                Conversation.is_read_by_admin == is_read,
                Conversation.last_activity_at < before,
                Conversation.changed_at < before,  # the status may have been set by hand since
            )
            .order_by(Conversation.last_activity_at, Conversation.id)
            .limit(size - resolved)
            .with_for_update(skip_locked=True)
            .execution_options(populate_existing=True)
        )
        for conversation in (await session.scalars(quiet)).all():
            await change_status(session, conversation, Status.RESOLVED, None)
            resolved += 1
    return resolved
