"""Remember which emails are held, of a conversation or of none, and tell admins' live streams."""

from collections.abc import Iterable
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.event_log.append import announce_at_commit
from services.conversations.rules import Side
from shared.database.engine import Driver
from shared.database.transactions import transaction_driver
from shared.events import EventType
from shared.notifications_feed import InboundStatus


async def write_held(session: AsyncSession, statuses: Iterable[InboundStatus], *, live: bool) -> None:
    """Add emails to those that are held of their conversations, or remove them. Repeating it changes nothing."""
    newest = {status.inbound_id: status for status in statuses}
    if not newest:
        return
    driver = await transaction_driver(session)
    for statement, opens in ((_WRITE, False), (_WRITE_UNMATCHED, True)):
        rows = [
            (status.inbound_id, status.conversation_id, status.held)
            for status in newest.values()
            if status.opens is opens
        ]
        if rows:
            await driver.execute(statement, *zip(*rows, strict=True), live)
    if live:
        announce_at_commit(session)


async def forget_held(session: AsyncSession) -> None:
    """Forget all held emails, before they are listed again."""
    driver = await transaction_driver(session)
    for statement in _FORGET:
        await driver.execute(statement)


async def list_unmatched(connection: Driver, limit: int) -> list[UUID]:
    """Return the newest held emails that belong to no conversation."""
    return [row["id"] for row in await connection.fetch(_LIST_UNMATCHED, limit)]


_WRITE: Final = f"""
with statuses as (
    select * from unnest($1::uuid[], $2::uuid[], $3::bool[]) as status (id, conversation_id, held)
), locked as (
    select id, user_id, held_ids from conversations
    where id = any(array(select conversation_id from statuses)) order by id for update
), changed as (
    update conversations set held_ids = nullif(array(
        select id from unnest(locked.held_ids) as id
        where id <> all(array(select id from statuses where conversation_id = locked.id and not held))
        union select id from statuses where conversation_id = locked.id and held order by id
    ), '{{}}')
    from locked where conversations.id = locked.id
    returning conversations.id, conversations.user_id
)
insert into events (type, user_id, conversation_id, audience, payload)
select '{EventType.INBOUND_UPDATED}', user_id, id, '{Side.ADMIN}', jsonb_build_object('conversation_id', id)
from changed where $4
"""  # noqa: S608 - built from constants
# Each of these would open a conversation of its own, which does not exist while it is held.
_WRITE_UNMATCHED: Final = f"""
with statuses as (
    select * from unnest($1::uuid[], $2::uuid[], $3::bool[]) as status (id, conversation_id, held)
), added as (
    insert into held_letters (id) select id from statuses where held order by id on conflict do nothing returning id
), removed as (
    delete from held_letters where id in (select id from statuses where not held) returning id
)
insert into events (type, audience, payload)
select '{EventType.INBOUND_UPDATED}', '{Side.ADMIN}', jsonb_build_object('conversation_id', null)
where $4 and (exists (select from added) or exists (select from removed))
"""  # noqa: S608 - built from constants
_FORGET: Final = (
    "update conversations set held_ids = null where held_ids is not null",
    "delete from held_letters",
)
_LIST_UNMATCHED: Final = "select id from held_letters order by id desc limit $1"
