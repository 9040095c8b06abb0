"""Scheduling of emails: which messages join an email, when it is due, when it is no longer needed."""

import itertools
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, NamedTuple, Self
from uuid import UUID

import structlog
from sqlalchemy import ColumnElement, case, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.delivery.admin_records import is_read_by
from services.notifications.delivery.recipients import find_recipient
from services.notifications.delivery.transitions import cancel_emails, lock_emails
from services.notifications.event_log.append import emails_updated_sql
from services.notifications.models import AdminNotification, ConversationState, Email, EmailMessage, Notification
from services.notifications.rules import Audience, EmailState, Reason
from services.notifications.settings import EmailSettings, StoreSettings
from shared.database.orm import any_of
from shared.database.transactions import transaction_driver
from shared.events import MessagePosted, PostedMessage

SUPPORT_RECIPIENT = "support"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class EmailItem:
    """A message to email to a recipient. An admin may also get a note or an assignment."""

    id: UUID
    conversation_id: UUID
    recipient_id: str
    subject: str
    number: int
    sender_id: str
    body: str
    created_at: datetime
    files: str | None = None  # as JSON
    notification_id: UUID | None = None  # for admins
    about: UUID | None = None  # the conversation of an item in a digest, which has another id in its place

    @classmethod
    def of(cls, event: MessagePosted, recipient_id: str) -> Self:
        """Return a posted message as an item."""
        message = event.message
        return cls(
            message.id,
            event.conversation_id,
            recipient_id,
            event.subject,
            message.number,
            event.sender.id,
            message.body,
            message.created_at,
            files_json(message),
        )

    @property
    def key(self) -> tuple[UUID, str]:
        """Return what an open email is about: a conversation, for a recipient."""
        return self.conversation_id, self.recipient_id


def files_json(message: PostedMessage) -> str | None:
    """Return what emails say of the files of a message."""
    files = [file.model_dump(mode="json", include=_FILE) for file in message.attachments]
    return json.dumps(files) if files else None


async def join_emails(
    session: AsyncSession, items: Sequence[EmailItem], audience: Audience, settings: EmailSettings
) -> set[UUID]:
    """Add messages to the open emails about their conversations, or to new ones; return the conversations of new ones.

    The caller has locked the states of the conversations, so that each has at most one open email to a recipient, and
    their unsent emails. A message that is already in an email stays there.
    """
    if not items:
        return set()
    driver = await transaction_driver(session)
    places = await driver.fetch(_FIND_PLACES, *zip(*map(_PLACED_BY, items), strict=True), audience)
    emails, messages = [], []  # type: list[tuple[Any, ...]], list[tuple[Any, ...]]
    opened: dict[tuple[UUID, str], UUID] = {}
    found = zip(items, itertools.starmap(_Place, places), strict=True)
    for item, place in sorted(found, key=lambda each: each[0].number):
        if place.is_taken:
            continue
        email_id = place.open_email_id or opened.get(item.key)
        if email_id is None:
            email_id, reason = place.new_email_id, find_recipient(audience, place, settings).reason
            emails.append(_new_email(email_id, item, audience, reason, place.now, settings))
            if reason is None:
                opened[item.key] = email_id
        values = (item.id, email_id, item.number, item.sender_id, item.body, item.created_at)
        messages.append((*values, item.files, item.notification_id, item.about))
        log.info("message joined email", message_id=str(item.id), email_id=str(email_id))
    if messages:
        new_emails = zip(*emails, strict=True) if emails else [()] * 9
        await driver.execute(_JOIN_EMAILS, *new_emails, *zip(*messages, strict=True))
    return {conversation_id for conversation_id, _ in opened}


class _Place(NamedTuple):
    """The open email that a message joins or the id of a new one, the time, and the recipient."""

    is_taken: bool
    """Whether the message is in an email already."""
    open_email_id: UUID | None
    new_email_id: UUID
    now: datetime
    email: str | None
    deleted: bool
    role: str | None


def _new_email(
    email_id: UUID, item: EmailItem, audience: Audience, reason: Reason | None, now: datetime, settings: EmailSettings
) -> tuple[Any, ...]:
    state, finished_at = (EmailState.SUPPRESSED, now) if reason else (EmailState.SCHEDULED, None)
    due_at = _due_after(item.created_at, now, audience, settings)
    about = (item.recipient_id, item.conversation_id, item.subject)
    return (email_id, audience, *about, state, reason, due_at, finished_at)


_PLACED_BY = attrgetter("id", "conversation_id", "recipient_id")
_FIND_PLACES = """
    select exists (select from email_messages where message_id = item.id), opened.id, uuidv7(), clock_timestamp(),
        people.email, coalesce(people.deleted, false), people.role
    from unnest($1::uuid[], $2::uuid[], $3::text[]) with ordinality
            as item (id, conversation_id, recipient_id, ordinality)
        left join (
            select id, conversation_id, recipient_id from emails
            where conversation_id = any($2) and audience = $4 and state = 'scheduled' and claimed_at is null
        ) as opened using (conversation_id, recipient_id)
        left join people on people.id = recipient_id
    order by ordinality
"""
# The new emails, and the messages that join them or open ones.
_JOIN_EMAILS = f"""
    with created as (
        insert into emails (id, audience, recipient_id, conversation_id, subject, state, reason, due_at,
            next_attempt_at, finished_at)
        select id, audience, recipient_id, conversation_id, subject, state, reason, due_at, due_at, finished_at
        from unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::text[], $7::text[],
            $8::timestamptz[], $9::timestamptz[])
            as new (id, audience, recipient_id, conversation_id, subject, state, reason, due_at, finished_at)
        returning id, finished_at
    ),
    joined as (
        insert into email_messages (message_id, email_id, number, sender_id, body, created_at, files, notification_id,
            conversation_id)
        select message_id, email_id, number, sender_id, body, created_at, files::jsonb, notification_id, conversation_id
        from unnest($10::uuid[], $11::uuid[], $12::int[], $13::text[], $14::text[], $15::timestamptz[], $16::text[],
            $17::uuid[], $18::uuid[])
            as new (message_id, email_id, number, sender_id, body, created_at, files, notification_id, conversation_id)
    )
    {emails_updated_sql("created where finished_at is not null")}
"""  # noqa: S608 - built from constants
_FILE = {"id", "name", "size"}  # what an email says of a file


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
            case((Email.reason.is_not(None), Email.next_attempt_at)).label("held_until"),
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

    A message whose notification was marked as read is not unread either. For an admin their own reading counts.
    """
    watermark = case(
        (Email.audience == Audience.CUSTOMER, ConversationState.read_by_user_number),
        else_=ConversationState.read_by_admin_number,
    )
    beyond = exists().where(ConversationState.conversation_id == Email.conversation_id, EmailMessage.number > watermark)
    dismissed = exists().where(Notification.message_id == EmailMessage.message_id, Notification.read_at.is_not(None))
    by_admin = exists().where(
        AdminNotification.id == EmailMessage.notification_id, ~is_read_by(Email.recipient_id, EmailMessage.number)
    )
    unread = case((Email.audience == Audience.ADMIN, by_admin), else_=beyond & ~dismissed)
    return EmailMessage.left_out.is_(False) & unread
