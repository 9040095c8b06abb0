"""Write what became of emails into the timeline, each email as one entry, and into the log for live streams.

An entry has the id of its email. It comes after the newest message that the email contained, and keeps that place when
the email changes its state. It holds no address and no text of a reply.
"""

import json
from collections.abc import Iterable
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.event_log.append import announce_at_commit
from services.conversations.rules import EntryKind, Side
from shared.database import transaction_driver
from shared.events import EventType
from shared.notifications_feed import EmailFate


async def write_fates(session: AsyncSession, fates: Iterable[EmailFate], *, live: bool) -> int:
    """Write fates, the last one of each email; return how many entries have changed. Repeating it changes nothing.

    Conversations that do not exist (any more) get no entry. `live` appends an event for each change.
    """
    newest = {fate.email_id: fate for fate in fates}
    if not newest:
        return 0
    columns = zip(*((each.email_id, each.conversation_id, *_entry(each)) for each in newest.values()), strict=True)
    driver = await transaction_driver(session)
    changed = await driver.fetchval(_WRITE, *columns, live)
    if changed and live:
        announce_at_commit(session)
    return int(changed)


def _entry(fate: EmailFate) -> tuple[int | None, object, str]:
    data = fate.model_dump(mode="json", include={"to", "state", "reason", "numbers", "at"}, exclude_none=True)
    # Removed messages are no longer in it: the entry keeps the numbers that it had.
    return max(fate.numbers, default=None), fate.at, json.dumps(data if fate.numbers else {**data, "numbers": []})


# The conversations are locked, so that an entry is written before their deletion or not at all.
# An email without messages gets no entry, but changes the one that it has: that keeps its numbers.
_WRITE: Final = f"""
with fates as (
    select * from unnest($1::uuid[], $2::uuid[], $3::int[], $4::timestamptz[], $5::text[])
        as fate (id, conversation_id, last_number, at, data)
), alive as (
    select id, user_id from conversations
    where id = any(array(select conversation_id from fates)) order by id for key share
), known as (
    select fates.id, fates.conversation_id, fates.at, fates.data::jsonb as data, alive.user_id,
        coalesce(fates.last_number, entry.after_number) as after_number, entry.data as before
    from fates join alive on alive.id = fates.conversation_id
        left join conversation_entries as entry on entry.id = fates.id
    where fates.last_number is not null or entry.id is not null
), written as (
    insert into conversation_entries (id, conversation_id, at, after_number, kind, data)
    select id, conversation_id, coalesce(at, clock_timestamp()), after_number, '{EntryKind.EMAIL}',
        case when data -> 'numbers' = '[]' then data || jsonb_build_object('numbers', before -> 'numbers') else data end
    from known order by id
    on conflict (id) do update set data = excluded.data
    where conversation_entries.kind = '{EntryKind.EMAIL}' and conversation_entries.data is distinct from excluded.data
    returning id, conversation_id, data
), told as (
    insert into events (type, user_id, conversation_id, audience, payload)
    select '{EventType.EMAIL_UPDATED}', known.user_id, written.conversation_id, '{Side.ADMIN}',
        jsonb_build_object(
            'conversation_id', written.conversation_id, 'email_id', written.id, 'state', written.data -> 'state'
        )
    from written join known using (id) where $6
)
select count(*) from written
"""  # noqa: S608 - built from constants
