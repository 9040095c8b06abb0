"""Mails before they are sent: who gets one, when it is due, which messages are in it, when it is no longer needed."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import ColumnElement, case, exists, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.models import Email, EmailMessage, Mark, Notification, Person
from services.notifications.rules import Audience, EmailState, Reason, check_transition
from services.notifications.settings import MailSettings, StoreSettings
from shared.events import MessagePosted

SUPPORT_RECIPIENT = "support"
WAITING_STATES = (EmailState.SCHEDULED, EmailState.SENDING)
UNSENT_STATES = (*WAITING_STATES, EmailState.FAILED)

log = structlog.get_logger()


async def join_email(
    session: AsyncSession, posted: MessagePosted, audience: Audience, recipient_id: str, settings: MailSettings
) -> None:
    """Put a message into the recipient's open mail about the conversation, or into a new one.

    The caller holds the conversation's mark, so that there is one open mail at most.
    """
    message = posted.message
    email = await session.scalar(
        select(Email)
        .where(
            Email.recipient_id == recipient_id,
            Email.conversation_id == posted.conversation_id,
            Email.audience == audience,
            Email.state == EmailState.SCHEDULED,
            Email.claimed_at.is_(None),
        )
        .with_for_update()
    )
    if email is None:
        due_at = _due_after(message.created_at, audience, settings)
        reason = await suppression(session, audience, recipient_id, settings)
        email = Email(
            audience=audience,
            recipient_id=recipient_id,
            conversation_id=posted.conversation_id,
            subject=posted.subject,
            state=EmailState.SUPPRESSED if reason else EmailState.SCHEDULED,
            reason=reason,
            due_at=due_at,
            next_attempt_at=due_at,
            finished_at=func.clock_timestamp() if reason else None,
        )
        session.add(email)
        await session.flush()
    await session.execute(
        insert(EmailMessage)
        .values(
            message_id=message.id,
            email_id=email.id,
            number=message.number,
            sender_id=posted.sender.id,
            body=message.body,
            created_at=message.created_at,
        )
        .on_conflict_do_nothing()
    )
    log.info("message joined email", message_id=str(message.id), email_id=str(email.id), state=email.state)
    await review_emails(session, [posted.conversation_id], audience, settings)


async def suppression(
    session: AsyncSession, audience: Audience, recipient_id: str, settings: MailSettings
) -> Reason | None:
    """Say why no mail may go to a recipient, or None."""
    person = await session.get(Person, recipient_id) if audience is Audience.CUSTOMER else None
    if person is not None and person.deleted:
        return Reason.USER_DELETED
    address = await recipient_address(session, audience, recipient_id, settings)
    if address is None:
        return Reason.NO_ADDRESS
    if settings.smtp_url is None:
        return Reason.NO_SMTP
    patterns = settings.email_only_to
    if patterns and not any(fnmatchcase(address.lower(), pattern.lower()) for pattern in patterns):
        return Reason.RECIPIENT_NOT_ALLOWED
    return None


async def recipient_address(
    session: AsyncSession, audience: Audience, recipient_id: str, settings: MailSettings
) -> str | None:
    """Return where mail to a recipient goes at present."""
    if audience is Audience.SUPPORT:
        return settings.support_email
    person = await session.get(Person, recipient_id)
    return person.email if person else None


def delay(audience: Audience, settings: StoreSettings) -> timedelta:
    """How long a mail waits for further messages."""
    seconds = settings.support_email_delay_seconds if audience is Audience.SUPPORT else settings.email_delay_seconds
    return timedelta(seconds=seconds)


async def review_emails(
    session: AsyncSession, conversation_ids: Collection[UUID], audience: Audience, settings: StoreSettings
) -> None:
    """See to it that waiting mails fit what their recipient has read by now.

    Nothing unread is left: the mail is cancelled. Otherwise one that is still open is due after its first unread
    message.
    """
    # Lock first, look second: a message that is just joining a mail would be cancelled with it, unseen.
    waiting = await lock_emails(
        session,
        Email.conversation_id.in_(conversation_ids)
        & (Email.audience == audience)
        & (Email.state == EmailState.SCHEDULED),
    )
    if not waiting:
        return
    rows = await session.execute(
        select(Email.id, Email.claimed_at, func.min(EmailMessage.created_at).label("first_unread"))
        .outerjoin(EmailMessage, (EmailMessage.email_id == Email.id) & is_unread())
        .where(Email.id.in_(waiting))
        .group_by(Email.id)
    )
    for row in rows.all():
        if row.first_unread is None:
            await cancel_emails(session, Email.id == row.id, Reason.READ)
        elif row.claimed_at is None:
            due_at = _due_after(row.first_unread, audience, settings)
            await session.execute(update(Email).where(Email.id == row.id).values(due_at=due_at, next_attempt_at=due_at))


def _due_after(moment: datetime, audience: Audience, settings: StoreSettings) -> ColumnElement[datetime]:
    # The message was timed by another database: one whose clock is ahead must not hold the mail back.
    return func.least(moment, func.clock_timestamp()) + delay(audience, settings)


async def mark_notifications_read(session: AsyncSession, which: ColumnElement[bool]) -> set[UUID]:
    """Mark notifications as read; return the conversations of those that were not."""
    # Locked in one order: a customer reads a conversation and all notifications at the same moment.
    unread = select(Notification.id).where(which, Notification.read_at.is_(None))
    locked = (await session.scalars(unread.order_by(Notification.id).with_for_update())).all()
    if not locked:
        return set()
    changed = (
        update(Notification)
        .where(Notification.id.in_(locked))
        .values(read_at=func.clock_timestamp())
        .returning(Notification.conversation_id)
        .execution_options(synchronize_session=False)
    )
    return set(await session.scalars(changed))


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
            {"lease_id": None, "lease_until": None, "data_at": None}
            | kept
            | {"state": to, "finished_at": func.clock_timestamp() if at_end else None}
            | values
        )
        .returning(Email.id)
        .execution_options(synchronize_session=False)
    )
    return moved.all()


def is_unread() -> ColumnElement[bool]:
    """Tell whether an `EmailMessage` of an `Email` is still to be read by its recipient.

    The watermark of the conversation counts, and so does a notification that was read by itself.
    """
    watermark = case((Email.audience == Audience.CUSTOMER, Mark.read_by_user_number), else_=Mark.read_by_admin_number)
    beyond = exists().where(Mark.conversation_id == Email.conversation_id, EmailMessage.number > watermark)
    dismissed = exists().where(Notification.message_id == EmailMessage.message_id, Notification.read_at.is_not(None))
    return EmailMessage.left_out.is_(False) & beyond & ~dismissed
