"""Delete conversations that have been closed for long, for the jobs, and say which ones are due.

A conversation is due when `changed_at` is long ago: its last message or change of the status, which for a closed one is
the later of its closing and its last message. Reads, notes, labels and assignments do not count. One with a held email
stays until the email is posted or discarded: its customer has written.
"""

from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.messaging.commands import delete_conversations
from services.conversations.rules import ActorRole, Status

ACTOR: Final = "retention"  # in the audit, with the role `system`
COUNT_LIMIT: Final = 10_000
MAX_ERASING: Final = 1000  # unfinished erasures, above which no more are begun


class Expiring(NamedTuple):
    """A closed conversation, and the later time of its closing and its last message."""

    id: UUID
    since: datetime


class Preview(NamedTuple):
    """How many are due now, and the first of these. `soon` counts those that will be due within a week."""

    due: int
    soon: int
    first: list[Expiring]


async def expire_closed(session: AsyncSession, days: float, *, size: int) -> int:
    """Delete up to `size` conversations that have been closed for `days`, as an admin would; return how many.

    Skips those that others have locked. Locking a row checks it once more: a message that was committed meanwhile has
    reopened the conversation.
    """
    ids = (await session.scalars(_LOCK, {"days": days, "size": size})).all()
    if not ids:
        return 0
    return await delete_conversations(
        session, ids, actor_id=ACTOR, actor_role=ActorRole.SYSTEM, data={"retention_days": days}
    )


async def is_erasing_many(session: AsyncSession) -> bool:
    """Return whether so much that was deleted waits to be erased that no more is to be deleted now."""
    return bool((await session.scalar(_ERASING, {"size": MAX_ERASING + 1}) or 0) > MAX_ERASING)


async def count_due(session: AsyncSession, days: float) -> int:
    """Return how many conversations are due, up to `COUNT_LIMIT`."""
    return int((await session.execute(_COUNT, {"days": days, "size": COUNT_LIMIT})).scalar_one())


async def preview_expiry(session: AsyncSession, days: float, *, limit: int) -> Preview:
    """Return what is due, with the first `limit`. Changes nothing."""
    due, soon = (await session.execute(_PREVIEW, {"days": days})).one()
    first = await session.execute(_FIRST, {"days": days, "size": limit})
    return Preview(due, soon, [Expiring(*row) for row in first])


# As the partial index has it. `now()`, because an index cannot be searched for the moving `clock_timestamp()`.
_CLOSED: Final = f"status = '{Status.CLOSED}' and held_ids is null"
_BEFORE: Final = "changed_at < now() - make_interval(secs => cast(:days as float8) * 86400)"
_DUE: Final = f"from conversations where {_CLOSED} and {_BEFORE}"
_FIRST = text(f"select id, changed_at {_DUE} order by changed_at, id limit :size")
_LOCK = text(f"select id {_DUE} order by changed_at, id limit :size for update skip locked")
# In the order of the index, without which the planner may prefer to read the table.
_COUNT = text(f"select count(*) from (select {_DUE} order by changed_at limit :size) as due")  # noqa: S608 - constants
_PREVIEW = text(f"""
    select count(*) filter (where {_BEFORE}), count(*) filter (where not {_BEFORE}) from conversations
    where {_CLOSED} and changed_at < now() - make_interval(secs => (cast(:days as float8) - 7) * 86400)
""")  # noqa: S608 - constants
_ERASING = text("select count(*) from (select from erasures where finished_at is null limit :size) as unfinished")
