"""Operators' commands: retry emails, pause and resume sending."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.delivery.circuit_breaker import CLOSED_BREAKER
from services.notifications.delivery.transitions import move_emails
from services.notifications.errors import EmailNotFailed
from services.notifications.models import DeliveryAttempt, Email, SendingControl
from services.notifications.rules import MAY_HAVE_ARRIVED_REASONS, EmailState
from shared.database.orm import any_of
from shared.database.transactions import SessionFactory, request_transaction
from shared.problems import NotFound

RETRIABLE = (EmailState.FAILED, EmailState.BOUNCED)
RETRY_BATCH = 1000  # emails of one transaction


async def retry_email(session: AsyncSession, email_id: UUID) -> None:
    """Queue a failed or bounced email for another attempt, with its retry schedule reset.

    No messages join it: the conversation may have another open email by now. Raises `NotFound` or `EmailNotFailed`.
    """
    if await _retry(session, Email.id == email_id):
        return
    email = await session.get(Email, email_id)
    if email is None:
        raise NotFound("There is no email with this id.")
    raise EmailNotFailed(f"This email is {email.state}. Only failed and bounced emails can be retried.")


async def retry_failed_emails_in_batches(
    sessions: SessionFactory,
    *,
    since: timedelta | None,
    reply: str | None,
    state: EmailState = EmailState.FAILED,
    most: int | None = None,
) -> tuple[int, int]:
    """Queue failed or bounced emails for another attempt, `most` at most, as `retry_failed_emails` does.

    Returns how many, and how many were skipped because they may have arrived. Each batch is a transaction.
    """
    async with request_transaction(sessions) as session:
        began: datetime = (await session.execute(select(func.clock_timestamp()))).scalar_one()
        doubtful = await _count_doubtful_emails(session, began, since=since, reply=reply, state=state)
    retried, size = 0, RETRY_BATCH
    while size:
        async with request_transaction(sessions) as session:
            count = await retry_failed_emails(session, began, since=since, reply=reply, state=state, size=size)
        retried += count
        size = min(RETRY_BATCH, most - retried) if most is not None else RETRY_BATCH
        if not count:
            break
    return retried, doubtful


async def retry_failed_emails(
    session: AsyncSession,
    began: datetime,
    *,
    since: timedelta | None,
    reply: str | None,
    size: int,
    state: EmailState = EmailState.FAILED,
) -> int:
    """Queue up to `size` failed or bounced emails for another attempt; return how many. Repeat until it returns 0.

    Selects emails that failed before `began` (by the database's clock), at most `since` before it, and whose last reply
    with its code matches the regular expression `reply`. Skips emails that may have arrived.
    """
    which = _failed(state, began, since, reply) & Email.reason.not_in(MAY_HAVE_ARRIVED_REASONS)
    query = select(Email.id).where(which).order_by(Email.id).limit(size).with_for_update(skip_locked=True)
    ids = (await session.scalars(query)).all()
    return len(await _retry(session, any_of(Email.id, ids))) if ids else 0


async def _count_doubtful_emails(
    session: AsyncSession,
    began: datetime,
    *,
    since: timedelta | None,
    reply: str | None,
    state: EmailState = EmailState.FAILED,
) -> int:
    """Count the failed emails that `retry_failed_emails` skips because they may have arrived."""
    which = _failed(state, began, since, reply) & Email.reason.in_(MAY_HAVE_ARRIVED_REASONS)
    return (await session.execute(select(func.count()).where(which))).scalar_one()


def _failed(state: EmailState, began: datetime, since: timedelta | None, reply: str | None) -> ColumnElement[bool]:
    which = (Email.state == state) & (Email.finished_at <= began)
    if since is not None:
        which &= Email.finished_at >= began - since
    if reply is not None:
        last = (
            select(func.concat_ws(" ", DeliveryAttempt.code, DeliveryAttempt.reply))
            .where(DeliveryAttempt.email_id == Email.id)
            .order_by(DeliveryAttempt.id.desc())
            .limit(1)
            .scalar_subquery()
        )
        which &= last.regexp_match(reply, "i")
    return which


async def _retry(session: AsyncSession, which: ColumnElement[bool]) -> Sequence[UUID]:
    now = func.clock_timestamp()
    values = {
        "reason": None,
        "counted_tries": 0,
        "uncertain_tries": 0,
        "refused_at": None,
        "next_attempt_at": now,
        "claimed_at": func.coalesce(Email.claimed_at, now),
    }
    return await move_emails(session, which, EmailState.SCHEDULED, values, leaving=RETRIABLE)


async def pause_sending(session: AsyncSession) -> None:
    """Pause all sending. Emails that have reached DATA are still sent."""
    await session.execute(
        update(SendingControl).values(paused_at=func.coalesce(SendingControl.paused_at, func.clock_timestamp()))
    )


async def resume_sending(session: AsyncSession) -> None:
    """Resume sending: close the breaker, and make emails due that were refused because of the setup."""
    refused = (Email.state == EmailState.SCHEDULED) & Email.refused_at.is_not(None)
    await session.execute(update(Email).where(refused).values(next_attempt_at=func.clock_timestamp()))
    await session.execute(update(SendingControl).values(paused_at=None, **CLOSED_BREAKER))
