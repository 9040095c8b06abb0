"""Remember which conversations have emails that are held, and tell admins' live streams."""

from collections.abc import Iterable
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.event_log.append import announce_at_commit
from services.conversations.rules import Side
from shared.database import transaction_driver
from shared.events import EventType
from shared.notifications_feed import InboundFate


async def write_held(session: AsyncSession, fates: Iterable[InboundFate], *, live: bool) -> None:
    """Add emails to those that are held of their conversations, or remove them. Repeating it changes nothing."""
    newest = {fate.inbound_id: fate for fate in fates}
    if not newest:
        return
    columns = zip(*((fate.inbound_id, fate.conversation_id, fate.held) for fate in newest.values()), strict=True)
    await (await transaction_driver(session)).execute(_WRITE, *columns, live)
    if live:
        announce_at_commit(session)


async def forget_held(session: AsyncSession) -> None:
    """Forget all held emails, before they are listed again."""
    await (await transaction_driver(session)).execute(_FORGET)


_WRITE: Final = f"""
with fates as (
    select * from unnest($1::uuid[], $2::uuid[], $3::bool[]) as fate (id, conversation_id, held)
), locked as (
    select id, user_id, held_ids from conversations
    where id = any(array(select conversation_id from fates)) order by id for update
), changed as (
    update conversations set held_ids = nullif(array(
        select id from unnest(locked.held_ids) as id
        where id <> all(array(select id from fates where conversation_id = locked.id and not held))
        union select id from fates where conversation_id = locked.id and held order by id
    ), '{{}}')
    from locked where conversations.id = locked.id
    returning conversations.id, conversations.user_id
)
insert into events (type, user_id, conversation_id, audience, payload)
select '{EventType.INBOUND_UPDATED}', user_id, id, '{Side.ADMIN}', jsonb_build_object('conversation_id', id)
from changed where $4
"""  # noqa: S608 - built from constants
_FORGET: Final = "update conversations set held_ids = null where held_ids is not null"
