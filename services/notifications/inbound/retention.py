"""Retention of original emails, of emails that became nothing, and of addresses for replies."""

from typing import Final

from sqlalchemy import text

from services.notifications.event_log.append import INBOUND_UPDATED_SQL
from services.notifications.rules import InboundState
from shared.database.transactions import SessionFactory, transaction


async def purge_originals(sessions: SessionFactory, days: float, *, size: int) -> int:
    """Erase the oldest originals older than the retention; return how many. Delete what is long over.

    What waits to be posted keeps its original. What is held longer than that is ignored.
    """
    async with transaction(sessions) as session:
        rows = len((await session.execute(_ORIGINALS, {"days": days, "size": size})).all())
        for statement in (_ENDED, _ADDRESSES):
            await session.execute(statement, {"size": size})
    return rows


# Nobody can decide any more about one that is held: it must not count among those that are.
_ORIGINALS: Final = text(f"""
    with purged as (
        update inbound_emails set original = null, from_address = null,
            state = case when state = '{InboundState.HELD}' then '{InboundState.IGNORED}' else state end,
            finished_at = coalesce(finished_at, clock_timestamp())
        where id in (
            select id from inbound_emails
            where id < (select uuidv7(make_interval(secs => cast(:days as float8) * -86400)))
                and state <> '{InboundState.RECEIVED}' and original is not null
            order by id limit :size for update skip locked
        )
        returning id, old.state = '{InboundState.HELD}' as was_held
    ), logged as (
        {INBOUND_UPDATED_SQL} purged where was_held
    )
    select id from purged
""")  # noqa: S608 - built from constants
# Until then the same email is known when it arrives again.
_ENDED: Final = text(f"""
    delete from inbound_emails where id in (
        select id from inbound_emails
        where state in ('{InboundState.IGNORED}', '{InboundState.REFUSED}') and original is null
            and id < (select uuidv7(interval '-90 days'))
        order by id limit :size for update skip locked
    )
""")  # noqa: S608 - built from constants
# An address that has expired is told from one that never was for as long again.
_ADDRESSES: Final = text("""
    delete from reply_addresses where email_id in (
        select email_id from reply_addresses
        where email_id < (select uuidv7(interval '-180 days')) and expires_at < clock_timestamp() - interval '90 days'
        order by email_id limit :size
    )
""")
