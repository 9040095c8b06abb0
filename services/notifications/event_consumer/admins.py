"""Notifications for admins, from what customers and other admins do, and each admin's own reading."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.delivery.admin_records import (
    email_recipients,
    item_id,
    load_email_choices,
    record_id,
)
from services.notifications.delivery.scheduling import EmailItem, files_json
from services.notifications.delivery.timing import digest_of, lock_bells
from services.notifications.event_log.append import append_events
from services.notifications.models import (
    AdminMark,
    AdminNotification,
    Email,
    EmailMessage,
    Person,
)
from services.notifications.rules import ACTS, Audience, NotificationType
from shared.database.orm import any_of
from shared.database.transactions import transaction_driver
from shared.events import (
    ConversationCreated,
    ConversationRead,
    ConversationUpdated,
    MessagePosted,
    MessageRemoved,
    NoteDeleted,
    NotePosted,
    Payload,
)
from shared.notifications_feed import LoggedType
from shared.settings import Role
from shared.text import preview


@dataclass(frozen=True, slots=True)
class Act:
    """What somebody did that concerns admins: the `recipients`, or all if that is None."""

    type: NotificationType
    recipients: Sequence[str] | None
    conversation_id: UUID
    source_id: UUID
    number: int
    subject: str
    actor_id: str
    at: datetime
    body: str = ""
    preview: str = ""
    files: str | None = None

    def record_id(self, recipient_id: str) -> UUID:
        """Return the id of a recipient's notification."""
        if self.type in ACTS:
            return record_id(self.type, self.source_id, recipient_id)
        return record_id(self.type, self.conversation_id)

    def item(self, recipient_id: str, *, in_digest: bool) -> EmailItem:
        """Return it as a part of an email to a recipient, or of their digest."""
        return EmailItem(
            item_id(self.source_id, recipient_id),
            digest_of(recipient_id) if in_digest else self.conversation_id,
            recipient_id,
            self.subject,
            self.number,
            self.actor_id,
            self.body,
            self.at,
            self.files,
            self.record_id(recipient_id),
            self.conversation_id if in_digest else None,
        )


def find_acts(payloads: Sequence[Payload]) -> list[Act]:
    """Return what payloads say that concerns admins. A note that is deleted in one of them is left out."""
    deleted = {payload.note_id for payload in payloads if isinstance(payload, NoteDeleted)}
    return [act for payload in payloads if (act := _act(payload)) is not None and act.source_id not in deleted]


def _act(payload: Payload) -> Act | None:
    match payload:
        case MessagePosted() if payload.message.sender_role == "customer":
            return _message(payload)
        case NotePosted(mentions=[_, *_], at=datetime() as at):
            return Act(
                NotificationType.MENTION,
                payload.mentions,
                payload.conversation_id,
                payload.note_id,
                payload.number,
                payload.subject,
                payload.actor_id,
                at,
                payload.body,
                preview(payload.body),
            )
        case ConversationUpdated(assignee_id=str() as assignee, actor_id=str() as actor, entry_id=UUID() as entry):
            if payload.at is None:
                return None
            type_, conversation_id = NotificationType.ASSIGNED, payload.conversation_id
            return Act(type_, [assignee], conversation_id, entry, payload.number, payload.subject, actor, payload.at)
        case ConversationCreated(subject=str() as subject, customer=customer, at=datetime() as at) if customer:
            type_, conversation_id = NotificationType.CONVERSATION_CREATED, payload.conversation_id
            return Act(type_, None, conversation_id, conversation_id, 0, subject, customer.id, at)
    return None


def _message(event: MessagePosted) -> Act:
    """Return a customer's message: the first one in a conversation belongs to its creation."""
    message, is_first = event.message, event.message.number == 1
    return Act(
        NotificationType.CONVERSATION_CREATED if is_first else NotificationType.CUSTOMER_REPLIED,
        None if is_first or event.assignee_id is None else [event.assignee_id],
        event.conversation_id,
        message.id,
        message.number,
        event.subject,
        event.customer.id,
        message.created_at,
        message.body,
        preview(message.body) or next((file.name for file in message.attachments), ""),
        files_json(message),
    )


async def notify_admins(session: AsyncSession, acts: Sequence[Act]) -> list[EmailItem]:
    """Create or change the notifications of acts; return what to email to whom."""
    if not acts:
        return []
    absent = await _find_absent(session, {admin_id for act in acts for admin_id in act.recipients or ()})
    records: dict[UUID, tuple[Act, str | None]] = {}
    items = []
    choices, with_digest = await load_email_choices(session)
    for act in sorted(acts, key=lambda act: act.number):
        present = None if act.recipients is None else [one for one in act.recipients if one not in absent]
        if act.type in ACTS:
            records |= {act.record_id(admin_id): (act, admin_id) for admin_id in present or ()}
        else:  # the newest of a conversation
            records[act.record_id("")] = (act, present[0] if present else None)
            present = present or None
        items += [
            act.item(admin_id, in_digest=admin_id in with_digest)
            for admin_id in email_recipients(act.type, present, choices)
        ]
    if digests := {item.recipient_id for item in items if item.about is not None}:
        await lock_bells(session, digests)
    # In the order of the acts, so that their turns are. The rows are of conversations that the caller has locked.
    rows = [_row(key, *record) for key, record in sorted(records.items(), key=lambda item: item[1][0].at)]
    if rows:
        saved = await (await transaction_driver(session)).fetch(_SAVE, *zip(*rows, strict=True))
        # Customers' messages are events of the other log already.
        created = [row["id"] for row in saved if records[row["id"]][0].type in ACTS]
        await append_events(session, LoggedType.NOTIFICATION_CREATED, created)
    return items


def _row(key: UUID, act: Act, recipient_id: str | None) -> tuple[object, ...]:
    where = (act.conversation_id, act.source_id, act.number)
    return (key, act.type, recipient_id, *where, act.subject, act.actor_id, act.preview, act.at)


async def _find_absent(session: AsyncSession, ids: Collection[str]) -> set[str]:
    """Return which of these users were deleted, or are no admins any more."""
    if not ids:
        return set()
    is_absent = Person.deleted | (Person.role != Role.ADMIN)
    return set(await session.scalars(select(Person.id).where(any_of(Person.id, ids), is_absent)))


async def mark_own_reading(session: AsyncSession, reads: Sequence[ConversationRead]) -> None:
    """Record how far admins have read conversations in which something was for them, and which ones were opened."""
    own: dict[tuple[UUID, str], tuple[int, datetime]] = {}
    for read in reads:
        if read.reader_id is None or read.at is None:
            continue
        key = read.conversation_id, read.reader_id
        number, at = own.get(key, (read.up_to, read.at))
        own[key] = max(number, read.up_to), max(at, read.at)
    driver = await transaction_driver(session)
    if own:
        await driver.execute(_MOVE_MARKS, *zip(*((*key, *own[key]) for key in sorted(own)), strict=True))
    if empty := [read.conversation_id for read in reads if read.by == "admin" and read.up_to == 0 and read.at]:
        await driver.execute(_OPENED, empty)


async def forget_notes(session: AsyncSession, deleted: Sequence[NoteDeleted]) -> None:
    """Delete the notifications of deleted notes."""
    if deleted:
        which = any_of(AdminNotification.conversation_id, {payload.conversation_id for payload in deleted})
        of_note = any_of(AdminNotification.source_id, {payload.note_id for payload in deleted})
        await session.execute(delete(AdminNotification).where(which, of_note))


async def forget_messages(session: AsyncSession, removed: Sequence[MessageRemoved]) -> None:
    """Erase the text of removed messages from notifications."""
    if removed:
        which = any_of(AdminNotification.conversation_id, {payload.conversation_id for payload in removed})
        of_message = any_of(AdminNotification.source_id, {payload.message_id for payload in removed})
        erased = update(AdminNotification).where(which, of_message).values(preview="")
        await session.execute(erased, execution_options={"synchronize_session": False})


async def find_items(
    session: AsyncSession, conversation_ids: Collection[UUID], source_ids: Collection[UUID]
) -> list[UUID]:
    """Return the keys that messages or notes of these conversations may have in emails to admins."""
    of_emails = select(Email.recipient_id).where(
        any_of(Email.conversation_id, conversation_ids), Email.audience == Audience.ADMIN
    )
    in_digest = any_of(EmailMessage.conversation_id, conversation_ids)
    of_digests = select(Email.recipient_id).join(EmailMessage, EmailMessage.email_id == Email.id).where(in_digest)
    found = await session.scalars(of_emails.union(of_digests))
    return [item_id(source_id, recipient_id) for recipient_id in found for source_id in source_ids]


async def forget_conversations(session: AsyncSession, conversation_ids: Collection[UUID]) -> None:
    """Delete the notifications and the reading of deleted conversations."""
    if not conversation_ids:
        return
    for model in (AdminNotification, AdminMark):
        await session.execute(delete(model).where(any_of(model.conversation_id, conversation_ids)))


_SAVE = """
    insert into admin_notifications (id, type, recipient_id, conversation_id, source_id, number, subject, actor_id,
        preview, occurred_at)
    select * from unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::uuid[], $6::int[], $7::text[], $8::text[],
        $9::text[], $10::timestamptz[])
    on conflict (id) do update set recipient_id = excluded.recipient_id, source_id = excluded.source_id,
        number = excluded.number, actor_id = excluded.actor_id, preview = excluded.preview,
        occurred_at = excluded.occurred_at, turn = uuidv7()
    where admin_notifications.number < excluded.number
    returning id
"""
_MOVE_MARKS = """
    insert into admin_marks (conversation_id, admin_id, number, read_at)
    select * from unnest($1::uuid[], $2::text[], $3::int[], $4::timestamptz[])
    on conflict (conversation_id, admin_id) do update set
        number = greatest(admin_marks.number, excluded.number),
        read_at = greatest(admin_marks.read_at, excluded.read_at)
"""
_OPENED = """
    update marks set opened_by_admin = true where conversation_id = any($1::uuid[]) and not opened_by_admin
"""
