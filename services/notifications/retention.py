"""What is kept for a while only: the inbox, which knows repeated events, and the tries of finished mails."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.settings import StoreSettings

DAYS_COUNTED = 1.1  # of tries, by the caps, and some for clocks


async def purge_inbox(session: AsyncSession, settings: StoreSettings, *, size: int) -> int:
    """Delete the oldest handled entries beyond the retention; return how many.

    Only those that the cursor has passed: what it has not, the log brings again. Parked events stay until retried.
    """
    values = {"size": size, "retention": settings.retention_days}
    return len((await session.execute(_PURGE_INBOX, values)).all())


async def purge_tries(session: AsyncSession, settings: StoreSettings, *, size: int) -> int:
    """Delete the oldest tries beyond the retention, of mails that are at their end; return how many.

    None of the last day: they are what the caps count.
    """
    values = {"size": size, "retention": max(settings.retention_days, DAYS_COUNTED)}
    return len((await session.execute(_PURGE_TRIES, values)).all())


_PURGE_INBOX = text("""
    delete from inbox where event_id in (
        select event_id from inbox
        where handled_at is not null and received_at < least(
            clock_timestamp() - make_interval(secs => cast(:retention as float8) * 86400),
            (select coalesce(caught_up_at, '-infinity') - interval '1 minute' from feed_cursor)
        )
        order by received_at limit :size
    )
    returning event_id
""")

# The ids are of version 7 and so in the order of time.
_PURGE_TRIES = text("""
    delete from email_tries where id in (
        select tries.id from email_tries as tries join emails on emails.id = tries.email_id
        where tries.id < uuidv7(make_interval(secs => cast(:retention as float8) * -86400))
            and emails.finished_at is not null
        order by tries.id limit :size
    )
    returning id
""")
