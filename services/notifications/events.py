"""What each event does to the service's own tables. Every handler commutes with every other.

A read mark is a watermark, a person has a version, a deleted conversation leaves a tombstone: whatever comes late
finds what has already happened.
"""

from typing import Any
from uuid import UUID

from sqlalchemy import Text, cast, delete, func, select, update
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications import emails
from services.notifications.models import Email, EmailMessage, EmailTry, InboxEntry, Mark, Notification, Person
from services.notifications.rules import Audience, Reason
from services.notifications.settings import MailSettings
from shared.events import PAYLOADS, ConversationDeleted, ConversationRead, Event, EventType, MessagePosted, UserChanged
from shared.people import Person as PersonOfEvent
from shared.text import preview


async def handle_event(session: AsyncSession, event: Event, settings: MailSettings) -> None:
    """Let one event take effect. Its payload was validated; one that was erased has no effect."""
    if event.payload is None:
        return
    match PAYLOADS[EventType(event.type)].model_validate(event.payload):
        case MessagePosted() as posted:
            await _message_posted(session, posted, settings)
        case ConversationRead() as read:
            await _conversation_read(session, read, settings)
        case ConversationDeleted() as deleted:
            await _conversation_deleted(session, deleted.conversation_id)
        case UserChanged() as changed:
            await _user_changed(session, changed.person)


async def names_deleted(session: AsyncSession, event: dict[str, Any] | None) -> bool:
    """Tell whether an event of any shape is about a conversation that was deleted."""
    payload = event.get("payload") if event else None
    try:
        conversation_id = UUID(payload["conversation_id"]) if isinstance(payload, dict) else None
    except (KeyError, ValueError, AttributeError, TypeError):
        return False
    return conversation_id is not None and (await _mark(session, conversation_id)).deleted_at is not None


async def _message_posted(session: AsyncSession, posted: MessagePosted, settings: MailSettings) -> None:
    for person in sorted((posted.sender, posted.customer), key=lambda person: person.id):
        await _know(session, person)
    mark = await _mark(session, posted.conversation_id)
    if mark.deleted_at is not None:
        return
    if posted.message.sender_role == "customer":
        if settings.support_email is not None:
            await emails.join_email(session, posted, Audience.SUPPORT, emails.SUPPORT_RECIPIENT, settings)
        return
    await session.execute(
        insert(Notification)
        .values(
            user_id=posted.customer.id,
            conversation_id=posted.conversation_id,
            message_id=posted.message.id,
            number=posted.message.number,
            subject=posted.subject,
            sender_id=posted.sender.id,
            preview=preview(posted.message.body),
            read_at=func.clock_timestamp() if posted.message.number <= mark.read_by_user_number else None,
        )
        .on_conflict_do_nothing()
    )
    await emails.join_email(session, posted, Audience.CUSTOMER, posted.customer.id, settings)


async def _conversation_read(session: AsyncSession, read: ConversationRead, settings: MailSettings) -> None:
    mark = await _mark(session, read.conversation_id)
    if read.by == "user":
        mark.read_by_user_number = max(mark.read_by_user_number, read.up_to)
        await emails.mark_notifications_read(
            session,
            (Notification.conversation_id == read.conversation_id) & (Notification.number <= read.up_to),
        )
    else:
        mark.read_by_admin_number = max(mark.read_by_admin_number, read.up_to)
    await session.flush()
    audience = Audience.CUSTOMER if read.by == "user" else Audience.SUPPORT
    await emails.review_emails(session, [read.conversation_id], audience, settings)


async def _conversation_deleted(session: AsyncSession, conversation_id: UUID) -> None:
    mark = await _mark(session, conversation_id)
    mark.deleted_at = mark.deleted_at or func.clock_timestamp()
    await session.flush()
    await session.execute(delete(Notification).where(Notification.conversation_id == conversation_id))
    theirs = Email.conversation_id == conversation_id
    await emails.lock_emails(session, theirs)
    await emails.cancel_emails(session, theirs, Reason.DELETED, leaving=emails.UNSENT_STATES)
    await session.execute(delete(EmailMessage).where(EmailMessage.email_id.in_(select(Email.id).where(theirs))))
    await session.execute(update(Email).where(theirs).values(subject=None, content=None))
    # A parked event may be of any shape: wherever it names the conversation, it may hold its text.
    await session.execute(
        update(InboxEntry)
        .where(InboxEntry.parked_at.is_not(None), InboxEntry.event.cast(Text).contains(str(conversation_id)))
        .values(event=None)
        .execution_options(synchronize_session=False)
    )


async def _user_changed(session: AsyncSession, person: PersonOfEvent) -> None:
    if await _know(session, person) and person.deleted:
        await _forget(session, person.id)


async def _forget(session: AsyncSession, user_id: str) -> None:
    """Erase a deleted user's name and address wherever they were written down, and cancel their mail."""
    theirs = (Email.recipient_id == user_id) & (Email.audience == Audience.CUSTOMER)
    written_by = select(EmailMessage.email_id).where(EmailMessage.sender_id == user_id)
    naming = Email.content.is_not(None) & Email.id.in_(written_by)
    await emails.lock_emails(session, theirs | naming)
    await emails.cancel_emails(session, theirs, Reason.USER_DELETED, leaving=emails.UNSENT_STATES)
    await session.execute(update(Email).where(theirs).values(to_address=None))
    await session.execute(update(Email).where(theirs | naming).values(content=None))  # composed anew if still unsent
    replies = update(EmailTry).where(EmailTry.email_id.in_(select(Email.id).where(theirs)))
    await session.execute(replies.values(reply=""))  # servers quote the address
    nobody = {"id": user_id, "version": 0, "deleted": True}
    for role in ("customer", "sender", "person"):
        await session.execute(
            update(InboxEntry)
            .where(InboxEntry.parked_at.is_not(None), InboxEntry.event["payload"][role]["id"].astext == user_id)
            .values(event=func.jsonb_set(InboxEntry.event, ["payload", role], cast(nobody, JSONB)))
            .execution_options(synchronize_session=False)
        )


async def _know(session: AsyncSession, person: PersonOfEvent) -> bool:
    """Take over a person unless a newer version is known; True when this one is the newest."""
    values = person.model_dump(include={"version", "name", "email", "locale", "zoneinfo", "deleted"})
    known = await session.scalar(
        insert(Person)
        .values(id=person.id, **values)
        .on_conflict_do_update(index_elements=[Person.id], set_=values, where=Person.version < person.version)
        .returning(Person.id)
    )
    return known is not None


async def _mark(session: AsyncSession, conversation_id: UUID) -> Mark:
    """Return a conversation's mark, locked: what happens to one conversation happens one after the other."""
    await session.execute(insert(Mark).values(conversation_id=conversation_id).on_conflict_do_nothing())
    return await session.get_one(Mark, conversation_id, with_for_update=True, populate_existing=True)
