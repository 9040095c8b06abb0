"""Append to this service's own log, in the transaction of the change.

A new type of events needs a member of `LoggedType`, a call of `append_events` where rows change, and a query in
`feed.py` that reads what the conversations service shall know of a row. Log only what somebody looks at: each event
costs PostgreSQL's log some 380 bytes here, and more in the other service.
"""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from shared.database import transaction_driver
from shared.notifications_feed import LoggedType

EMAIL_UPDATED_SQL: Final = f"insert into events (type, subject_id) select '{LoggedType.EMAIL_UPDATED}', id from"
"""The start of a statement that logs emails, for statements that change them, too."""

INBOUND_UPDATED_SQL: Final = f"insert into events (type, subject_id) select '{LoggedType.INBOUND_UPDATED}', id from"
"""The same for emails that came in: those that are held now, and those that were."""


async def append_events(session: AsyncSession, event_type: LoggedType, subject_ids: Sequence[UUID]) -> None:
    """Log that rows have changed, in the transaction that changes them. The ids are those of the rows."""
    if subject_ids:
        await (await transaction_driver(session)).execute(_APPEND, event_type, list(subject_ids))


_APPEND = "insert into events (type, subject_id) select $1, unnest($2::uuid[])"
