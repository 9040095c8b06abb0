"""Mails before they are sent: who gets one, when it is due, which messages are in it, when it is no longer needed."""

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
from services.notifications.settings import MailSettings, StoreSettings
from shared.events import MessagePosted
from shared.tables import any_of, bulk_insert

SUPPORT_RECIPIENT = "support"

log = structlog.get_logger()


async def join_emails(
    session: AsyncSession, posted: Sequence[MessagePosted], audience: Audience, settings: MailSettings
) -> None:
    """Put messages into the recipients' open mails about their conversations, or into new ones.

    The caller holds the conversations' marks, so that each has one open mail at most. A message that is in a mail
    already stays in that one.
    """
    if not posted:
        return
    ids = [one.message.id for one in posted]
    present = set(await session.scalars(select(EmailMessage.message_id).where(any_of(EmailMessage.message_id, ids))))
    joining = sorted((one for one in posted if one.message.id not in present), key=lambda one: one.message.number)
    open_mails = await _lock_open_emails(session, [one.conversation_id for one in joining], audience)
    joined = await _begin_emails(session, joining, open_mails, audience, settings)
    joined |= {one.message.id: open_mails[one.conversation_id] for one in joining if one.message.id not in joined}
    rows = [
        {
            "message_id": one.message.id,
            "email_id": joined[one.message.id],
            "number": one.message.number,
            "sender_id": one.sender.id,
            "body": one.message.body,
            "created_at": one.message.created_at,
        }
        for one in joining
    ]
    if rows:
        await session.execute(bulk_insert(EmailMessage, rows))
    for message_id, email_id in joined.items():
        log.info("message joined email", message_id=str(message_id), email_id=str(email_id))


async def _lock_open_emails(
    session: AsyncSession, conversation_ids: Collection[UUID], audience: Audience
) -> dict[UUID, UUID]:
    """Lock the mails that further messages join; return their ids by conversation."""
    found = await session.execute(
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
    return {row.conversation_id: row.id for row in found}


async def _begin_emails(
    session: AsyncSession,
    joining: Sequence[MessagePosted],
    open_mails: dict[UUID, UUID],
    audience: Audience,
    settings: MailSettings,
) -> dict[UUID, UUID]:
    """Make the mails that are lacking, and add the open ones to `open_mails`; return their ids by first message."""
    lacking = [one for one in joining if one.conversation_id not in open_mails]
    if not lacking:
        return {}
    begun: dict[UUID, dict[str, Any]] = {}  # by first message
    # With their ids beforehand: those that the table would give come back for one row at a time only.
    now, ids = (await session.execute(_NOW_AND_IDS, {"count": len(lacking)})).one()
    found = select(Person).where(any_of(Person.id, {one.customer.id for one in lacking}))
    customers = {one.id: one for one in await session.scalars(found.execution_options(populate_existing=True))}
    for one in lacking:
        if one.conversation_id in open_mails:
            continue
        email_id = ids[len(begun)]
        reason = find_recipient(audience, customers.get(one.customer.id), settings).reason
        if reason is None:
            open_mails[one.conversation_id] = email_id
        due_at = _due_after(one.message.created_at, now, audience, settings)
        begun[one.message.id] = {
            "id": email_id,
            "audience": audience,
            "recipient_id": SUPPORT_RECIPIENT if audience is Audience.SUPPORT else one.customer.id,
            "conversation_id": one.conversation_id,
            "subject": one.subject,
            "state": EmailState.SUPPRESSED if reason else EmailState.SCHEDULED,
            "reason": reason,
            "due_at": due_at,
            "next_attempt_at": due_at,
            "finished_at": now if reason else None,
        }
    await session.execute(bulk_insert(Email, list(begun.values())))
    return {message_id: mail["id"] for message_id, mail in begun.items()}


_NOW_AND_IDS = text("select clock_timestamp(), array(select uuidv7() from generate_series(1, :count))")


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
    if not conversation_ids:
        return
    # Lock first, look second: a message that is just joining a mail would be cancelled with it, unseen.
    waiting = await lock_emails(
        session,
        any_of(Email.conversation_id, conversation_ids)
        & (Email.audience == audience)
        & (Email.state == EmailState.SCHEDULED),
    )
    if not waiting:
        return
    first_unread = func.min(EmailMessage.created_at).label("first_unread")
    found = await session.execute(
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
    rows = found.all()
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


def _due_after(moment: datetime, now: datetime, audience: Audience, settings: StoreSettings) -> datetime:
    # The message was timed by another database: one whose clock is ahead must not hold the mail back.
    return min(moment, now) + delay(audience, settings)


async def mark_notifications_read(session: AsyncSession, which: ColumnElement[bool]) -> set[UUID]:
    """Mark notifications as read; return the conversations of those that were not."""
    # Locked in one order: a customer reads a conversation and all notifications at the same moment.
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
    """Tell whether an `EmailMessage` of an `Email` is still to be read by its recipient.

    The watermark of the conversation counts, and so does a notification that was read by itself.
    """
    watermark = case(
        (Email.audience == Audience.CUSTOMER, ConversationState.read_by_user_number),
        else_=ConversationState.read_by_admin_number,
    )
    beyond = exists().where(ConversationState.conversation_id == Email.conversation_id, EmailMessage.number > watermark)
    dismissed = exists().where(Notification.message_id == EmailMessage.message_id, Notification.read_at.is_not(None))
    return EmailMessage.left_out.is_(False) & beyond & ~dismissed
