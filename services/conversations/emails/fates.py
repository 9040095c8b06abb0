"""Write what became of emails into the timeline, each email as one entry, and into the log for live streams.

An entry has the id of its email. It comes after the newest message that the email contained, and keeps that place when
the email changes its state. It holds no address and no text of a reply. Its data has the time of the state, `at`, if
that is not the entry's own.
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

    The caller holds the lock of the cursor. Conversations that do not exist (any more) get no entry. `live` appends an
    event of all changes.
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
    return max(fate.numbers, default=None), fate.at, json.dumps(data)


# The conversations are locked, so that an entry is written before their deletion or not at all. The lock of the cursor,
# which the caller holds, keeps other writers of these entries away.
# An email without messages gets no entry, but changes the one that it has: that keeps its numbers.
# All changes are one event: at a high rate its own cost is shared, and PostgreSQL's log has 100 bytes for each of them.
_WRITE: Final = f"""
with fates as (
    select * from unnest($1::uuid[], $2::uuid[], $3::int[], $4::timestamptz[], $5::text[])
        as fate (id, conversation_id, last_number, at, data)
), alive as (
    select id from conversations where id = any(array(select conversation_id from fates)) order by id for key share
), known as (
    select fates.id, fates.conversation_id, fates.last_number, fates.at, entry.data as before,
        case when entry.id is null or entry.at = fates.at then fates.data::jsonb - 'at' else fates.data::jsonb end
            || case when fates.last_number is null then jsonb_build_object('numbers', entry.data -> 'numbers')
                else '{{}}' end as data
    from fates join alive on alive.id = fates.conversation_id
        left join conversation_entries as entry on entry.id = fates.id
    where fates.last_number is not null or entry.id is not null
), added as (
    insert into conversation_entries (id, conversation_id, at, after_number, kind, data)
    select id, conversation_id, coalesce(at, clock_timestamp()), last_number, '{EntryKind.EMAIL}', data
    from known where before is null order by id
    returning id, conversation_id, data
), changed as (
    update conversation_entries as entry set data = known.data
    from known where entry.id = known.id and entry.kind = '{EntryKind.EMAIL}' and entry.data is distinct from known.data
    returning entry.id, entry.conversation_id, entry.data
), written as (
    select * from added union all select * from changed
), told as (
    insert into events (type, audience, payload)
    select '{EventType.EMAIL_UPDATED}', '{Side.ADMIN}', jsonb_build_object('emails', emails)
    from (
        select jsonb_agg(jsonb_build_object(
            'conversation_id', conversation_id, 'email_id', id, 'state', data -> 'state'
        )) as emails
        from written
    ) as together
    where $6 and emails is not null
)
select count(*) from written
"""  # noqa: S608 - built from constants
