"""Append to this service's own log, in the transaction of the change.

A new type of events needs a member of `LoggedType`, a call of `append_events` where rows change, and a query in
`feed.py` that reads what the conversations service shall know of a row. Log only what somebody looks at: an event costs
PostgreSQL's log some 380 bytes here, and more in the other service. Rows that change together share one.
"""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from shared.database.transactions import transaction_driver
from shared.notifications_feed import LoggedType

INBOUND_UPDATED_SQL: Final = f"insert into events (type, subject_id) select '{LoggedType.INBOUND_UPDATED}', id from"
"""The start of a statement that logs emails that came in, for statements that change them, too: those that are held
now, and those that were."""


def emails_updated_sql(rows: str) -> str:
    """Return the SQL that logs emails together, for statements that change them, too.

    `rows` is the name of what returns their ids, and its conditions.
    """
    return _together(LoggedType.EMAIL_UPDATED, rows)


def new_messages_created_sql(rows: str) -> str:
    """Return the same for new notifications of customers."""
    return _together(LoggedType.NEW_MESSAGE_CREATED, rows)


def _together(event_type: LoggedType, rows: str) -> str:
    return f"""
        insert into events (type, subject_id, more_ids)
        select '{event_type}', ids[1], nullif(ids[2:], '{{}}')
        from (select array_agg(id) as ids from {rows}) as changed where ids is not null
    """  # noqa: S608 - built from constants


STOP_UPDATED_SQL: Final = f"insert into events (type, subject_id) select '{LoggedType.STOP_UPDATED}', id from"
"""The same for reasons why a customer gets no emails: those that begin, and those that are over."""


async def append_events(session: AsyncSession, event_type: LoggedType, subject_ids: Sequence[UUID]) -> None:
    """Log that rows have changed, in the transaction that changes them. The ids are those of the rows."""
    if subject_ids:
        first, *more = subject_ids
        await (await transaction_driver(session)).execute(_APPEND, event_type, first, more or None)


_APPEND = "insert into events (type, subject_id, more_ids) values ($1, $2, $3)"
