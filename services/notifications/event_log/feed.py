"""Read this service's own log, with the current state of what has changed."""

from collections.abc import Collection, Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.rules import NO_SMTP_STOP, Reason
from shared.database.transactions import transaction_driver
from shared.event_log.reading import read_after
from shared.event_log.sequencer import numbering_sql, run_sequencer
from shared.notifications_feed import (
    EmailPage,
    EmailStatus,
    EmailStop,
    HeldPage,
    InboundStatus,
    LoggedEvent,
    LoggedType,
    LogPage,
    NewMessageCreated,
    NotificationCreated,
    StopsPage,
)

ANY_UNNUMBERED: Final = "select from events where position is null limit 1"
"""SQL that finds a row if `number_events` has anything to do."""

_NUMBER: Final = numbering_sql("events.position")
_READ: Final = text("""
    select position, type, array_prepend(subject_id, more_ids) as subject_ids
    from events where position > :after order by position limit :n
""")

# Those to admins about notes and assignments have no place in a conversation: they name no number.
_EMAIL_STATUS: Final = """
    select id as email_id, conversation_id, audience as "to", state, reason, finished_at as at, array(
        select number from email_messages
        where email_messages.email_id = emails.id and not left_out and notification_id is null order by number
    ) as numbers
    from emails
"""
# As in `rules.is_reported`.
_LIST_EMAILS: Final = text(f"""
    {_EMAIL_STATUS}
    where finished_at is not null and (reason is distinct from 'read' or next_attempt_at > due_at) and id > :after
    order by id limit :n
""")

# For each type, the query of the rows with these ids, whose first column is the id.
_INBOUND_STATUS: Final = """
    select id as inbound_id, conversation_id, state = 'held' as held, kind = 'conversation' as opens from inbound_emails
"""
_LIST_HELD: Final = text(f"{_INBOUND_STATUS} where state = 'held' and id > :after order by id limit :n")
_STOPS: Final = f"""
    select * from (
        select id as stop_id, user_id, conversation_id, '{Reason.MUTED}' as reason from mutes
        union all select id, user_id, null, '{Reason.BOUNCED_ADDRESS}' from suppressions where user_id is not null
        union all select '{NO_SMTP_STOP}', null, null, '{Reason.NO_SMTP}' from gate where has_no_smtp
    ) as stop
"""  # noqa: S608 - built from constants
_LIST_STOPS: Final = text(f"{_STOPS} where stop_id > :after order by stop_id limit :n")
_Subject = EmailStatus | InboundStatus | NotificationCreated | NewMessageCreated | EmailStop
_SUBJECTS: Final[dict[LoggedType, tuple[type[_Subject], TextClause]]] = {
    LoggedType.STOP_UPDATED: (EmailStop, text(f"{_STOPS} where stop_id = any(:ids)")),
    LoggedType.INBOUND_UPDATED: (InboundStatus, text(f"{_INBOUND_STATUS} where id = any(:ids)")),
    LoggedType.EMAIL_UPDATED: (EmailStatus, text(f"{_EMAIL_STATUS} where id = any(:ids)")),
    LoggedType.NOTIFICATION_CREATED: (
        NotificationCreated,
        text("""
            select id as notification_id, type, conversation_id, recipient_id from admin_notifications
            where id = any(:ids) and recipient_id is not null
        """),
    ),
    LoggedType.NEW_MESSAGE_CREATED: (
        NewMessageCreated,
        text("""
            select id as notification_id, message_id, conversation_id, user_id as recipient_id from notifications
            where id = any(:ids)
        """),
    ),
}


async def number_events(session: AsyncSession, *, size: int = 1000) -> int:
    """Give committed events their positions; return how many.

    Commit before a reader sees the positions. No process does it for itself: a reader numbers the log before it reads.
    """
    return len(await run_sequencer(await transaction_driver(session), _NUMBER, size))


async def read_log(session: AsyncSession, *, after: int, types: Collection[str], limit: int) -> LogPage:
    """Return the events of some types after a position. Raises `EventsPurged` if the next event has been purged."""
    page = await read_after(session, _READ, after, n=limit)
    wanted = [row for row in page.rows if row["type"] in types]
    subjects = {
        event_type: await _read_subjects(session, event_type, [each for row in wanted for each in row["subject_ids"]])
        for event_type in {LoggedType(row["type"]) for row in wanted}
    }
    items = [
        LoggedEvent(
            position=row["position"],
            type=row["type"],
            subject_id=subject_id,
            payload=subjects[row["type"]].get(subject_id),
        )
        for row in wanted
        for subject_id in row["subject_ids"]
    ]
    return LogPage(epoch=page.epoch, head=page.head, end=page.rows[-1]["position"] if page.rows else after, items=items)


async def _read_subjects(
    session: AsyncSession, event_type: LoggedType, ids: Sequence[UUID]
) -> dict[UUID, dict[str, Any]]:
    model, query = _SUBJECTS[event_type]
    rows = await session.execute(query, {"ids": list(ids)})
    return {row[0]: model.model_validate(row, from_attributes=True).model_dump(mode="json") for row in rows}


async def list_emails(session: AsyncSession, *, after: UUID | None, limit: int) -> EmailPage:
    """Return the emails in a final state after an id, in the order of ids."""
    rows = (await session.execute(_LIST_EMAILS, {"after": after or UUID(int=0), "n": limit})).mappings().all()
    items = [EmailStatus.model_validate(row) for row in rows]
    return EmailPage(items=items, last=items[-1].email_id if len(items) == limit else None)


async def list_held(session: AsyncSession, *, after: UUID | None, limit: int) -> HeldPage:
    """Return the emails that came in and are held, after an id, in the order of ids."""
    rows = (await session.execute(_LIST_HELD, {"after": after or UUID(int=0), "n": limit})).mappings().all()
    items = [InboundStatus.model_validate(row) for row in rows]
    return HeldPage(items=items, last=items[-1].inbound_id if len(items) == limit else None)


async def list_stops(session: AsyncSession, *, after: UUID | None, limit: int) -> StopsPage:
    """Return the reasons why customers get no emails after an id, in the order of ids."""
    rows = (await session.execute(_LIST_STOPS, {"after": after or UUID(int=0), "n": limit})).mappings().all()
    items = [EmailStop.model_validate(row) for row in rows]
    return StopsPage(items=items, last=items[-1].stop_id if len(items) == limit else None)
