"""Scheduling of emails: which messages join an email, when it is due, when it is no longer needed."""

import itertools
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
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
from shared.database.engine import Driver
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

    The caller has locked the states of the conversations, so that each has at most one open email to a recipient. A
    message that is already in an email stays there.
    """
    if not items:
        return set()
    driver = await transaction_driver(session)
    [facts] = await driver.fetch(
        _LOCK_OPEN_EMAILS, [item.conversation_id for item in items], audience, [item.id for item in items]
    )
    present = set(facts["present"])
    joining = sorted((item for item in items if item.id not in present), key=lambda item: item.number)
    keys = zip(facts["conversations"], facts["recipients"], strict=True)
    open_emails: dict[tuple[UUID, str], UUID] = dict(zip(keys, facts["emails"], strict=True))
    earlier = set(open_emails)
    joined = await _create_emails(driver, joining, open_emails, audience, settings)
    rows = []
    for item in joining:
        email_id = joined.get(item.id) or open_emails[item.key]
        values = (item.id, email_id, item.number, item.sender_id, item.body, item.created_at)
        rows.append((*values, item.files, item.notification_id, item.about))
        log.info("message joined email", message_id=str(item.id), email_id=str(email_id))
    if rows:
        await driver.execute(_JOIN_EMAILS, *zip(*rows, strict=True))
    return {conversation_id for conversation_id, _ in set(open_emails) - earlier}


async def _create_emails(
    driver: Driver,
    joining: Sequence[EmailItem],
    open_emails: dict[tuple[UUID, str], UUID],
    audience: Audience,
    settings: EmailSettings,
) -> dict[UUID, UUID]:
    """Create emails for conversations without an open one; return their ids by first message. Extends `open_emails`."""
    missing = [item for item in joining if item.key not in open_emails]
    if not missing:
        return {}
    rows = await driver.fetch(_NEW_EMAILS, [item.recipient_id for item in missing])
    created: dict[UUID, tuple[Any, ...]] = {}  # by first message
    for item, row in zip(missing, itertools.starmap(_NewEmail, rows), strict=True):
        if item.key in open_emails:
            continue
        reason = find_recipient(audience, row, settings).reason
        if reason is None:
            open_emails[item.key] = row.id
        due_at = _due_after(item.created_at, row.now, audience, settings)
        created[item.id] = (
            row.id,
            audience,
            item.recipient_id,
            item.conversation_id,
            item.subject,
            EmailState.SUPPRESSED if reason else EmailState.SCHEDULED,
            reason,
            due_at,
            row.now if reason else None,
        )
    await driver.execute(_CREATE_EMAILS, *zip(*created.values(), strict=True))
    return {message_id: email[0] for message_id, email in created.items()}


class _NewEmail(NamedTuple):
    """The id of a new email, the time, and the current recipient."""

    id: UUID
    now: datetime
    email: str | None
    deleted: bool
    role: str | None


# The open emails, which further messages join, and the messages that are in an email.
_LOCK_OPEN_EMAILS = """
    with opened as (
        select conversation_id, recipient_id, id from emails
        where conversation_id = any($1::uuid[]) and audience = $2 and state = 'scheduled' and claimed_at is null
        order by id for update
    )
    select array(select conversation_id from opened) as conversations,
        array(select recipient_id from opened) as recipients, array(select id from opened) as emails,
        array(select message_id from email_messages where message_id = any($3::uuid[])) as present
"""
_NEW_EMAILS = """
    select uuidv7(), clock_timestamp(), people.email, coalesce(people.deleted, false), people.role
    from unnest($1::text[]) with ordinality as recipient (id, number) left join people using (id) order by number
"""
_CREATE_EMAILS = f"""
    with created as (
        insert into emails (id, audience, recipient_id, conversation_id, subject, state, reason, due_at,
            next_attempt_at, finished_at)
        select id, audience, recipient_id, conversation_id, subject, state, reason, due_at, due_at, finished_at
        from unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::text[], $7::text[],
            $8::timestamptz[], $9::timestamptz[])
            as new (id, audience, recipient_id, conversation_id, subject, state, reason, due_at, finished_at)
        returning id, finished_at
    )
    {emails_updated_sql("created where finished_at is not null")}
"""  # noqa: S608 - built from constants
_JOIN_EMAILS = """
    insert into email_messages (message_id, email_id, number, sender_id, body, created_at, files, notification_id,
        conversation_id)
    select message_id, email_id, number, sender_id, body, created_at, files::jsonb, notification_id, conversation_id
    from unnest($1::uuid[], $2::uuid[], $3::int[], $4::text[], $5::text[], $6::timestamptz[], $7::text[], $8::uuid[],
            $9::uuid[])
        as new (message_id, email_id, number, sender_id, body, created_at, files, notification_id, conversation_id)
"""
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
