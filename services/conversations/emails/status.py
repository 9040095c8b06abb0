"""Write the status of emails into the timeline, each email as one entry, and into the log for live streams.

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
from shared.database.transactions import transaction_driver
from shared.events import EventType
from shared.notifications_feed import EmailStatus


async def write_statuses(session: AsyncSession, statuses: Iterable[EmailStatus], *, live: bool) -> int:
    """Write the last status of each email; return how many entries have changed. Repeating it changes nothing.

    The caller holds the lock of the cursor. Conversations that do not exist (any more) get no entry. `live` appends an
    event of all changes.
    """
    newest = {status.email_id: status for status in statuses}
    if not newest:
        return 0
    columns = zip(*((each.email_id, each.conversation_id, *_entry(each)) for each in newest.values()), strict=True)
    driver = await transaction_driver(session)
    changed = await driver.fetchval(_WRITE, *columns, live)
    if changed and live:
        announce_at_commit(session)
    return int(changed)


def _entry(status: EmailStatus) -> tuple[int | None, object, str]:
    data = status.model_dump(mode="json", include={"to", "state", "reason", "numbers", "at"}, exclude_none=True)
    return max(status.numbers, default=None), status.at, json.dumps(data)


# `known`: the new data of each email's entry, beside what it has now; `added` and `changed` write it.
# The conversations are locked, so that an entry is written before their deletion or not at all. The lock of the cursor,
# which the caller holds, keeps other writers of these entries away.
# An email without messages gets no entry, but changes the one that it has: that keeps its numbers.
# All changes are one event: at a high rate its own cost is shared, and PostgreSQL's log has 100 bytes for each of them.
_WRITE: Final = f"""
with statuses as (
    select * from unnest($1::uuid[], $2::uuid[], $3::int[], $4::timestamptz[], $5::text[])
        as status (id, conversation_id, last_number, at, data)
), alive as (
    select id from conversations where id = any(array(select conversation_id from statuses)) order by id for key share
), known as (
    select statuses.id, statuses.conversation_id, statuses.last_number, statuses.at, entry.data as before,
        case when entry.id is null or entry.at = statuses.at then statuses.data::jsonb - 'at'
            else statuses.data::jsonb end
            || case when statuses.last_number is null then jsonb_build_object('numbers', entry.data -> 'numbers')
                else '{{}}' end as data
    from statuses join alive on alive.id = statuses.conversation_id
        left join conversation_entries as entry on entry.id = statuses.id
    where statuses.last_number is not null or entry.id is not null
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
), logged as (
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
