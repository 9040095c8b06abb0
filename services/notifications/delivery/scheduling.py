"""Scheduling of emails: which messages join an email, when it is due, when it is no longer needed."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import ColumnElement, case, exists, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.delivery.recipients import find_recipient
from services.notifications.delivery.transitions import cancel_emails, lock_emails
from services.notifications.models import ConversationState, Email, EmailMessage, Notification, Person
from services.notifications.rules import Audience, EmailState, Reason
from services.notifications.settings import EmailSettings, StoreSettings
from shared.events import MessagePosted
from shared.orm import any_of, bulk_insert

SUPPORT_RECIPIENT = "support"

log = structlog.get_logger()


async def join_emails(
    session: AsyncSession, posted: Sequence[MessagePosted], audience: Audience, settings: EmailSettings
) -> set[UUID]:
    """Add messages to the open emails about their conversations, or to new ones; return the conversations of new ones.

    The caller has locked the states of the conversations, so that each has at most one open email. A message that is
    already in an email stays there.
    """
    if not posted:
        return set()
    ids = [event.message.id for event in posted]
    present = set(await session.scalars(select(EmailMessage.message_id).where(any_of(EmailMessage.message_id, ids))))
    joining = sorted(
        (event for event in posted if event.message.id not in present), key=lambda event: event.message.number
    )
    open_emails = await _lock_open_emails(session, [event.conversation_id for event in joining], audience)
    earlier = set(open_emails)
    joined = await _create_emails(session, joining, open_emails, audience, settings)
    joined |= {
        event.message.id: open_emails[event.conversation_id] for event in joining if event.message.id not in joined
    }
    rows = [
        {
            "message_id": event.message.id,
            "email_id": joined[event.message.id],
            "number": event.message.number,
            "sender_id": event.sender.id,
            "body": event.message.body,
            "created_at": event.message.created_at,
        }
        for event in joining
    ]
    if rows:
        await session.execute(bulk_insert(EmailMessage, rows))
    for message_id, email_id in joined.items():
        log.info("message joined email", message_id=str(message_id), email_id=str(email_id))
    return set(open_emails) - earlier


async def _lock_open_emails(
    session: AsyncSession, conversation_ids: Collection[UUID], audience: Audience
) -> dict[UUID, UUID]:
    """Lock the open emails, which further messages join; return their ids by conversation."""
    rows = await session.execute(
        select(Email.conversation_id, Email.id)
        .where(
            any_of(Email.conversation_id, conversation_ids),
            Email.audience == audience,
            Email.state == EmailState.SCHEDULED,
            Email.claimed_at.is_(None),
        )
        .order_by(Email.id)
        .with_for_update()
    )
    return {row.conversation_id: row.id for row in rows}


async def _create_emails(
    session: AsyncSession,
    joining: Sequence[MessagePosted],
    open_emails: dict[UUID, UUID],
    audience: Audience,
    settings: EmailSettings,
) -> dict[UUID, UUID]:
    """Create emails for conversations without an open one; return their ids by first message. Extends `open_emails`."""
    missing = [event for event in joining if event.conversation_id not in open_emails]
    if not missing:
        return {}
    created: dict[UUID, dict[str, Any]] = {}  # by first message
    # Generate the ids first: the table's own ids would only be returned for single-row inserts.
    now, ids = (await session.execute(_NOW_AND_IDS, {"count": len(missing)})).one()
    query = select(Person).where(any_of(Person.id, {event.customer.id for event in missing}))
    people = await session.scalars(query.execution_options(populate_existing=True))
    customers = {person.id: person for person in people}
    for event in missing:
        if event.conversation_id in open_emails:
            continue
        email_id = ids[len(created)]
        reason = find_recipient(audience, customers.get(event.customer.id), settings).reason
        if reason is None:
            open_emails[event.conversation_id] = email_id
        due_at = _due_after(event.message.created_at, now, audience, settings)
        created[event.message.id] = {
            "id": email_id,
            "audience": audience,
            "recipient_id": SUPPORT_RECIPIENT if audience is Audience.SUPPORT else event.customer.id,
            "conversation_id": event.conversation_id,
            "subject": event.subject,
            "state": EmailState.SUPPRESSED if reason else EmailState.SCHEDULED,
            "reason": reason,
            "due_at": due_at,
            "next_attempt_at": due_at,
            "finished_at": now if reason else None,
        }
    await session.execute(bulk_insert(Email, list(created.values())))
    return {message_id: email["id"] for message_id, email in created.items()}


_NOW_AND_IDS = text("select clock_timestamp(), array(select uuidv7() from generate_series(1, :count))")


def delay(audience: Audience, settings: StoreSettings) -> timedelta:
    """Return how long an email waits for further messages."""
    seconds = settings.support_email_delay_seconds if audience is Audience.SUPPORT else settings.email_delay_seconds
    return timedelta(seconds=seconds)


async def review_emails(
    session: AsyncSession, conversation_ids: Collection[UUID], audience: Audience, settings: StoreSettings
) -> None:
    """Adjust waiting emails to what their recipient has read.

    An email without unread messages is cancelled. An open one is due after its first unread message.
    """
    if not conversation_ids:
        return
    # Lock before reading: otherwise a message that joins an email meanwhile would be cancelled with it.
    waiting = await lock_emails(
        session,
        any_of(Email.conversation_id, conversation_ids)
        & (Email.audience == audience)
        & (Email.state == EmailState.SCHEDULED),
    )
    if not waiting:
        return
    first_unread = func.min(EmailMessage.created_at).label("first_unread")
    result = await session.execute(
        select(
            Email.id,
            Email.claimed_at,
            Email.due_at,
            case((Email.reason == Reason.RATE_LIMITED, Email.next_attempt_at)).label("held_until"),
            first_unread,
            func.clock_timestamp().label("now"),
        )
        .outerjoin(EmailMessage, (EmailMessage.email_id == Email.id) & is_unread())
        .where(any_of(Email.id, waiting))
        .group_by(Email.id)
    )
    rows = result.all()
    if read := [row.id for row in rows if row.first_unread is None]:
        await cancel_emails(session, any_of(Email.id, read), Reason.READ)
    due = {
        row.id: _due_after(row.first_unread, row.now, audience, settings)
        for row in rows
        if row.first_unread is not None and row.claimed_at is None
    }
    moved = [
        {"id": row.id, "due_at": due[row.id], "next_attempt_at": max(due[row.id], row.held_until or due[row.id])}
        for row in rows
        if row.id in due and due[row.id] != row.due_at
    ]
    if moved:
        await session.execute(update(Email), moved)


def _due_after(created_at: datetime, now: datetime, audience: Audience, settings: StoreSettings) -> datetime:
    # `created_at` is from another database, whose clock may be ahead: that must not delay the email.
    return min(created_at, now) + delay(audience, settings)


async def mark_notifications_read(session: AsyncSession, which: ColumnElement[bool]) -> set[UUID]:
    """Mark notifications as read; return the conversations of those that were unread."""
    # Locked in the order of the ids: a customer may read a conversation and all notifications at the same time.
    unread = select(Notification.id).where(which, Notification.read_at.is_(None))
    locked = (await session.scalars(unread.order_by(Notification.id).with_for_update())).all()
    if not locked:
        return set()
    changed = (
        update(Notification)
        .where(any_of(Notification.id, locked))
        .values(read_at=func.clock_timestamp())
        .returning(Notification.conversation_id)
        .execution_options(synchronize_session=False)
    )
    return set(await session.scalars(changed))


def is_unread() -> ColumnElement[bool]:
    """Return the condition that an `EmailMessage` of an `Email` is unread: above the watermark of its conversation.

    A message whose notification was marked as read is not unread either.
    """
    watermark = case(
        (Email.audience == Audience.CUSTOMER, ConversationState.read_by_user_number),
        else_=ConversationState.read_by_admin_number,
    )
    beyond = exists().where(ConversationState.conversation_id == Email.conversation_id, EmailMessage.number > watermark)
    dismissed = exists().where(Notification.message_id == EmailMessage.message_id, Notification.read_at.is_not(None))
    return EmailMessage.left_out.is_(False) & beyond & ~dismissed
