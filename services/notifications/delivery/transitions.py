"""Change the state of emails; no other module does, except `attempts.record_accepted`."""

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.event_log.append import append_events
from services.notifications.models import Email
from services.notifications.rules import EmailState, Reason, check_transition, is_reported
from shared.database.transactions import transaction_driver
from shared.notifications_feed import LoggedType

WAITING_STATES = (EmailState.SCHEDULED, EmailState.SENDING)
UNSENT_STATES = (*WAITING_STATES, EmailState.FAILED)


async def lock_emails(session: AsyncSession, which: ColumnElement[bool]) -> Sequence[UUID]:
    """Lock the emails that match `which`, in the order of their ids; return the ids."""
    return (await session.scalars(select(Email.id).where(which).order_by(Email.id).with_for_update())).all()


async def lock_unsent_emails(
    session: AsyncSession, conversation_ids: Collection[UUID], with_sent: Collection[UUID]
) -> None:
    """Lock the unsent emails about conversations, and of those in `with_sent` all, in the order of their ids."""
    driver = await transaction_driver(session)
    await driver.execute(_LOCK_UNSENT, list(conversation_ids), UNSENT_STATES, list(with_sent))


_LOCK_UNSENT = """
    select from emails
    where conversation_id = any($1::uuid[]) and (state = any($2::text[]) or conversation_id = any($3::uuid[]))
    order by id for update
"""


async def cancel_emails(
    session: AsyncSession,
    which: ColumnElement[bool],
    reason: Reason,
    *,
    leaving: Collection[EmailState] = WAITING_STATES,
) -> None:
    """Cancel emails that wait or have not reached DATA: the sender of these finds its lease gone and stops."""
    before_data = (Email.state != EmailState.SENDING) | Email.data_at.is_(None)
    await move_emails(session, which & before_data, EmailState.CANCELLED, {"reason": reason}, leaving=leaving)


async def move_emails(
    session: AsyncSession,
    which: ColumnElement[bool],
    to: EmailState,
    values: dict[str, Any],
    *,
    leaving: Collection[EmailState],
) -> Sequence[UUID]:
    """Move emails from one of the states `leaving` to the state `to`; return their ids.

    Emails in another state stay as they are. Raises ValueError for a transition that `rules` does not allow.
    """
    for state in leaving:
        check_transition(state, to)
    finished = to not in WAITING_STATES
    moved = await session.execute(
        update(Email)
        .where(which, Email.state.in_(leaving))
        .values(
            {"lease_id": None, "lease_until": None, "data_at": None, "reason": None}
            | {"state": to, "finished_at": func.clock_timestamp() if finished else None}
            | values
        )
        .returning(Email.id, (Email.next_attempt_at > Email.due_at).label("has_waited"))
        .execution_options(synchronize_session=False)
    )
    rows = moved.all()
    reported = [row.id for row in rows if is_reported(to, values.get("reason"), leaving, has_waited=row.has_waited)]
    await append_events(session, LoggedType.EMAIL_UPDATED, reported)
    return [row.id for row in rows]
