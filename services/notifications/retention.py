"""Retention of the inbox, of attempts of finished emails, of admins' notifications, and of the service's own log."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.event_log.feed import number_events
from services.notifications.settings import StoreSettings
from shared.event_log.retention import purge_oldest

DAYS_OF_BOUNCES = 90  # in which a second report about an address follows
DAYS_COUNTED = 1.1  # days of attempts that the recipient limits count, with a margin for clocks


async def purge_inbox(session: AsyncSession, settings: StoreSettings, *, size: int) -> int:
    """Delete the oldest handled entries older than the retention; return how many.

    Keeps entries that the cursor has not passed, because the log delivers their events again. Keeps parked events.
    """
    values = {"size": size, "retention": settings.retention_days}
    return len((await session.execute(_PURGE_INBOX, values)).all())


async def purge_attempts(session: AsyncSession, settings: StoreSettings, *, size: int) -> int:
    """Delete the oldest attempts of finished emails that are older than the retention; return how many.

    Keeps those of the last day, which the recipient limits count.
    """
    values = {"size": size, "retention": max(settings.retention_days, DAYS_COUNTED)}
    return len((await session.execute(_PURGE_ATTEMPTS, values)).all())


async def purge_bounces(session: AsyncSession, settings: StoreSettings, *, size: int) -> int:  # noqa: ARG001 - as the others
    """Delete the oldest bounces that count no more as the first of two; return how many."""
    return len((await session.execute(_PURGE_BOUNCES, {"size": size, "days": DAYS_OF_BOUNCES})).all())


async def purge_events(session: AsyncSession, settings: StoreSettings, *, size: int) -> int:
    """Delete the oldest events that are older than the retention; return how many. They are numbered, read or not.

    A reader that comes later lists the current state.
    """
    await number_events(session, size=size)
    days = settings.retention_days
    return await purge_oldest(session, days=days, cap_days=days, size=size)


async def purge_admin_notifications(session: AsyncSession, settings: StoreSettings, *, size: int) -> int:
    """Delete the oldest notifications of admins that are older than the retention; return how many."""
    values = {"size": size, "retention": settings.retention_days}
    return len((await session.execute(_PURGE_ADMIN_NOTIFICATIONS, values)).all())


# UUIDv7 ids are in the order of time. A subquery makes the bound once, so that PostgreSQL can use the indexes.
_PURGE_INBOX = text("""
    delete from inbox where event_id = any(array(
        select event_id from inbox
        where event_id < (select uuidv7(make_interval(secs => cast(:retention as float8) * -86400)))
            and handled_at is not null and received_at < least(
            clock_timestamp() - make_interval(secs => cast(:retention as float8) * 86400),
            (select coalesce(caught_up_at, '-infinity') - interval '1 minute' from feed_cursor)
        )
        order by event_id limit :size
    ))
    returning event_id
""")

_PURGE_ATTEMPTS = text("""
    delete from email_tries where id = any(array(
        select attempts.id from email_tries as attempts join emails on emails.id = attempts.email_id
        where attempts.id < (select uuidv7(make_interval(secs => cast(:retention as float8) * -86400)))
            and emails.finished_at is not null
        order by attempts.id limit :size
    ))
    returning id
""")

_PURGE_BOUNCES = text("""
    delete from bounces where id = any(array(
        select id from bounces where id < (select uuidv7(make_interval(days => cast(:days as int) * -1)))
        order by id limit :size
    ))
    returning id
""")

_PURGE_ADMIN_NOTIFICATIONS = text("""
    delete from admin_notifications where id = any(array(
        select id from admin_notifications
        where turn < (select uuidv7(make_interval(secs => cast(:retention as float8) * -86400)))
        order by turn limit :size
    ))
    returning id
""")
