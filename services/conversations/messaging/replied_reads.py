"""Mark conversations as read up to what their customers' replies answer: many in one statement.

It does what `commands.mark_read` does for one customer. Rows are locked in one order, so that two such statements never
wait for each other.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.event_log.append import announce_at_commit
from shared.database.transactions import driver_connection
from shared.events import EventType


class RepliedRead(NamedTuple):
    """A customer has read a conversation up to a message."""

    conversation_id: UUID
    user_id: str
    up_to: int


async def mark_replied_read(session: AsyncSession, reads: Sequence[RepliedRead]) -> None:
    """Move the watermarks of customers. What was read already, and conversations of others, stay as they are."""
    furthest: dict[tuple[UUID, str], int] = {}
    for read in reads:
        key = (read.conversation_id, read.user_id)
        furthest[key] = max(read.up_to, furthest.get(key, 0))
    if not furthest:
        return
    connection = await driver_connection(session)
    ids, users = zip(*furthest, strict=True)
    if await connection.fetchval(_MARK, ids, users, list(furthest.values())):
        announce_at_commit(session)


_MARK: Final = f"""
with wanted as (
    select c.id, least(read.up_to, c.message_count) as reached
    from unnest($1::uuid[], $2::text[], $3::int[]) as read (id, user_id, up_to)
        join conversations as c on c.id = read.id and c.user_id = read.user_id
    where c.read_by_user_number < least(read.up_to, c.message_count)
        or not c.is_read_by_user and read.up_to >= c.message_count
    order by c.id for no key update of c
), moved as (
    update conversations as c set
        read_by_user_number = greatest(c.read_by_user_number, reached),
        is_read_by_user = c.is_read_by_user or reached >= c.message_count
    from wanted where c.id = wanted.id
    returning c.id, c.user_id, c.read_by_user_number as up_to
), logged as (
    insert into events (type, payload, user_id, conversation_id)
    select '{EventType.CONVERSATION_READ}',
        jsonb_build_object('conversation_id', id, 'by', 'user', 'up_to', up_to), user_id, id
    from moved
    returning id
)
select count(*) from logged
"""  # noqa: S608 - built from constants
