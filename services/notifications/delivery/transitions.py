"""Change the state of emails. No other module does."""

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.models import Email
from services.notifications.rules import EmailState, Reason, check_transition

WAITING_STATES = (EmailState.SCHEDULED, EmailState.SENDING)
UNSENT_STATES = (*WAITING_STATES, EmailState.FAILED)


async def lock_emails(session: AsyncSession, which: ColumnElement[bool]) -> Sequence[UUID]:
    """Lock mails, in the one order in which all do; return the ids of those that are still `which`."""
    return (await session.scalars(select(Email.id).where(which).order_by(Email.id).with_for_update())).all()


async def cancel_emails(
    session: AsyncSession,
    which: ColumnElement[bool],
    reason: Reason,
    *,
    leaving: Collection[EmailState] = WAITING_STATES,
) -> None:
    """Cancel mails that wait, or whose try has not come to its DATA yet: its sender finds the lease gone and stops."""
    not_under_way = (Email.state != EmailState.SENDING) | Email.data_at.is_(None)
    await move_emails(session, which & not_under_way, EmailState.CANCELLED, {"reason": reason}, leaving=leaving)


async def move_emails(
    session: AsyncSession,
    which: ColumnElement[bool],
    to: EmailState,
    values: dict[str, Any],
    *,
    leaving: Collection[EmailState],
) -> Sequence[UUID]:
    """Take mails from one of the states that are left to the next, and return their ids; no other code sets a state.

    A mail that is in another state stays as it is. Raises ValueError for a transition that the rules do not know.
    """
    for state in leaving:
        check_transition(state, to)
    at_end = to not in WAITING_STATES
    # Rendered text is kept for as long as it may still go out: a failed mail can be retried.
    kept: dict[str, Any] = {} if to in UNSENT_STATES else {"content": None}
    moved = await session.scalars(
        update(Email)
        .where(which, Email.state.in_(leaving))
        .values(
            {"lease_id": None, "lease_until": None, "data_at": None, "reason": None}
            | kept
            | {"state": to, "finished_at": func.clock_timestamp() if at_end else None}
            | values
        )
        .returning(Email.id)
        .execution_options(synchronize_session=False)
    )
    return moved.all()
