"""What events do to the service's own tables. Every handler commutes with every other.

A read mark is a watermark, a person has a version, a deleted conversation leaves a tombstone: whatever comes late
finds what has already happened. So many events take effect together as well as one by one: kind by kind, each kind
with a handful of statements however many there are.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

from sqlalchemy import Text, cast, delete, exists, func, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.delivery import erasure
from services.notifications.delivery.scheduling import join_emails, mark_notifications_read, review_emails
from services.notifications.delivery.transitions import UNSENT_STATES, cancel_emails, lock_emails
from services.notifications.models import ConversationState, Email, EmailMessage, InboxEntry, Notification, Person
from services.notifications.rules import Audience, Reason
from services.notifications.settings import EmailSettings
from shared.events import (
    PAYLOADS,
    ConversationDeleted,
    ConversationRead,
    Event,
    EventType,
    MessagePosted,
    Payload,
    UserChanged,
)
from shared.people import Person as PersonOfEvent
from shared.tables import any_of, bulk_insert
from shared.text import preview

States = dict[UUID, ConversationState]


async def handle_events(session: AsyncSession, events: Iterable[Event], settings: EmailSettings) -> None:
    """Let events take effect. Their payloads were validated; one that was erased has no effect."""
    told, deletions = [], {}  # type: list[Payload], dict[str, datetime]
    for event in events:
        if event.payload:
            payload = PAYLOADS[EventType(event.type)].model_validate(event.payload)
            told.append(payload)
            if isinstance(payload, UserChanged) and event.type == EventType.USER_DELETED:
                earlier = deletions.get(payload.person.id, event.occurred_at)
                deletions[payload.person.id] = max(earlier, event.occurred_at)
    await handle_payloads(session, told, settings, deletions)


async def handle_payloads(
    session: AsyncSession,
    told: Sequence[Payload],
    settings: EmailSettings,
    deletions: Mapping[str, datetime] = MappingProxyType({}),
) -> None:
    """Let what events tell take effect, all of it together.

    `deletions` are the users who were deleted and when, also those of whom something newer is known: they are back.
    """
    posted = [one for one in told if isinstance(one, MessagePosted)]
    reads = [one for one in told if isinstance(one, ConversationRead)]
    deleted = {one.conversation_id for one in told if isinstance(one, ConversationDeleted)}
    people = [one.person for one in told if isinstance(one, UserChanged)]

    # Whoever locks does it table by table, and within each by its keys: people, marks, records, mails.
    newest = await _update_people(
        session, [*people, *(person for one in posted for person in (one.sender, one.customer))]
    )
    named = {one.conversation_id for one in posted} | {one.conversation_id for one in reads} | deleted
    marks = await _lock_states(session, named)
    gone = deleted | {mark.conversation_id for mark in marks.values() if mark.deleted_at is not None}
    small = await erasure.choose_small(session, deleted)
    if small:
        await session.execute(delete(Notification).where(any_of(Notification.conversation_id, small)))
    await _conversations_read(session, reads, marks)
    posted = [one for one in posted if one.conversation_id not in gone]
    from_admins = await _record(session, [one for one in posted if one.message.sender_role == "admin"], marks)
    from_customers = [one for one in posted if one.message.sender_role == "customer"] if settings.support_email else []
    await lock_emails(session, any_of(Email.conversation_id, named))
    for audience, by, messages in (
        (Audience.CUSTOMER, "user", from_admins),
        (Audience.SUPPORT, "admin", from_customers),
    ):
        await join_emails(session, messages, audience, settings)
        touched = {one.conversation_id for one in messages} | {one.conversation_id for one in reads if one.by == by}
        await review_emails(session, touched, audience, settings)
    await _conversations_deleted(session, deleted, small)
    for person in newest:
        if person.deleted:
            await _erase_user(session, person.id, None)
    for user_id in sorted(deletions.keys() - {person.id for person in newest if person.deleted}):
        await _erase_user(session, user_id, deletions[user_id])


async def names_deleted(session: AsyncSession, event: dict[str, Any] | None) -> bool:
    """Tell whether an event of any shape is about a conversation that was deleted."""
    payload = event.get("payload") if event else None
    try:
        conversation_id = UUID(payload["conversation_id"]) if isinstance(payload, dict) else None
    except (KeyError, ValueError, AttributeError, TypeError):
        return False
    if conversation_id is None:
        return False
    return (await _lock_states(session, [conversation_id]))[conversation_id].deleted_at is not None


async def _record(session: AsyncSession, posted: Sequence[MessagePosted], marks: States) -> list[MessagePosted]:
    """Make a `NEW_MESSAGE` record of each message; return those that there was none of yet."""
    if not posted:
        return []
    rows = [
        {
            "user_id": one.customer.id,
            "conversation_id": one.conversation_id,
            "message_id": one.message.id,
            "number": one.message.number,
            "subject": one.subject,
            "sender_id": one.sender.id,
            "preview": preview(one.message.body),
        }
        for one in sorted(posted, key=lambda one: one.message.id)
    ]
    recorded = set(
        await session.scalars(
            bulk_insert(Notification, rows).on_conflict_do_nothing().returning(Notification.message_id)
        )
    )
    read = {
        one.conversation_id for one in posted if one.message.number <= marks[one.conversation_id].read_by_user_number
    }
    await _mark_records_read(session, read)
    return [one for one in posted if one.message.id in recorded]


async def _conversations_read(session: AsyncSession, reads: Sequence[ConversationRead], marks: States) -> None:
    for read in reads:
        mark = marks[read.conversation_id]
        if read.by == "user":
            mark.read_by_user_number = max(mark.read_by_user_number, read.up_to)
        else:
            mark.read_by_admin_number = max(mark.read_by_admin_number, read.up_to)
    await session.flush()
    await _mark_records_read(session, {read.conversation_id for read in reads if read.by == "user"})


async def _mark_records_read(session: AsyncSession, conversation_ids: Collection[UUID]) -> None:
    """Mark the records of what the customer has read in these conversations."""
    if not conversation_ids:
        return
    watermark = select(ConversationState.read_by_user_number).where(
        ConversationState.conversation_id == Notification.conversation_id
    )
    await mark_notifications_read(
        session,
        any_of(Notification.conversation_id, conversation_ids) & (Notification.number <= watermark.scalar_subquery()),
    )


async def _conversations_deleted(session: AsyncSession, conversation_ids: Collection[UUID], small: set[UUID]) -> None:
    """Leave a tombstone of each and cancel its mails; erase what these hold, at once of those that are `small`.

    The records are gone already, or out of sight by the tombstone.
    """
    if not conversation_ids:
        return
    await session.execute(
        update(ConversationState)
        .where(any_of(ConversationState.conversation_id, conversation_ids), ConversationState.deleted_at.is_(None))
        .values(deleted_at=func.clock_timestamp())
        .execution_options(synchronize_session=False)
    )
    theirs = any_of(Email.conversation_id, conversation_ids)
    await cancel_emails(session, theirs, Reason.DELETED, leaving=UNSENT_STATES)
    at_once = any_of(Email.conversation_id, small)
    await session.execute(delete(EmailMessage).where(EmailMessage.email_id.in_(select(Email.id).where(at_once))))
    await session.execute(update(Email).where(at_once).values(subject=None, content=None))
    # A parked event may be of any shape: wherever it names the conversation, it may hold its text.
    for conversation_id in conversation_ids:
        await session.execute(
            update(InboxEntry)
            .where(InboxEntry.parked_at.is_not(None), InboxEntry.event.cast(Text).contains(str(conversation_id)))
            .values(event=None)
            .execution_options(synchronize_session=False)
        )


async def _erase_user(session: AsyncSession, user_id: str, before: datetime | None) -> None:
    """Erase a deleted user's name and address wherever they were written down, and cancel their mail.

    With `before` the user is back already: mail of a later time is left alone.
    """
    until = before or (await session.execute(select(func.clock_timestamp()))).scalar_one()
    theirs = (Email.recipient_id == user_id) & (Email.audience == Audience.CUSTOMER) & (Email.created_at <= until)
    unsent = Email.state.in_(UNSENT_STATES)
    written_by = exists().where(EmailMessage.email_id == Email.id, EmailMessage.sender_id == user_id)
    naming = unsent & Email.content.is_not(None) & written_by  # no others have content
    await lock_emails(session, unsent & (theirs | naming))
    await cancel_emails(session, theirs, Reason.USER_DELETED, leaving=UNSENT_STATES)
    await session.execute(update(Email).where(naming).values(content=None))  # composed anew
    await erasure.erase_recipient(session, user_id, until)
    nobody = {"id": user_id, "version": 0, "deleted": True}
    for role in ("customer", "sender", "person"):
        await session.execute(
            update(InboxEntry)
            .where(InboxEntry.parked_at.is_not(None), InboxEntry.event["payload"][role]["id"].astext == user_id)
            .values(event=func.jsonb_set(InboxEntry.event, ["payload", role], cast(nobody, JSONB)))
            .execution_options(synchronize_session=False)
        )


async def _update_people(session: AsyncSession, people: Iterable[PersonOfEvent]) -> list[PersonOfEvent]:
    """Take over people unless the same or a newer version is known; return those that were taken over."""
    told: dict[str, PersonOfEvent] = {}
    for person in people:
        if person.id not in told or told[person.id].version < person.version:
            told[person.id] = person
    # An upsert locks the row even where it changes nothing, and the same admin is in every event: look first.
    rows = await session.execute(select(Person.id, Person.version).where(any_of(Person.id, told)))
    known = {row.id: row.version for row in rows}
    newer = [key for key in sorted(told) if key not in known or known[key] < told[key].version]
    if not newer:
        return []
    values = ("version", "name", "email", "locale", "zoneinfo", "role", "deleted")
    upsert = bulk_insert(Person, [told[key].model_dump(include={"id", *values}) for key in newer])
    taken = await session.scalars(
        upsert.on_conflict_do_update(
            index_elements=[Person.id],
            set_={name: upsert.excluded[name] for name in values},
            where=Person.version < upsert.excluded.version,
        ).returning(Person.id)
    )
    return [told[key] for key in taken]


async def _lock_states(session: AsyncSession, conversation_ids: Collection[UUID]) -> States:
    """Return conversations' marks, locked: what happens to one conversation happens one after the other."""
    if not conversation_ids:
        return {}
    rows = [{"conversation_id": key} for key in sorted(conversation_ids)]
    await session.execute(bulk_insert(ConversationState, rows).on_conflict_do_nothing())
    marks = await session.scalars(
        select(ConversationState)
        .where(any_of(ConversationState.conversation_id, conversation_ids))
        .order_by(ConversationState.conversation_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return {mark.conversation_id: mark for mark in marks}
