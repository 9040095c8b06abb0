"""The effects of events on the service's tables. All handlers commute.

Read positions are watermarks, people have versions, and deleted conversations leave tombstones, so late events do no
harm. Many events can therefore be handled together, type by type, with a fixed number of statements.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Text, cast, delete, func, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.delivery import erasure
from services.notifications.delivery.admin_records import forget_admins
from services.notifications.delivery.muting import unmute_written
from services.notifications.delivery.scheduling import (
    SUPPORT_RECIPIENT,
    EmailItem,
    join_emails,
    mark_notifications_read,
    review_emails,
)
from services.notifications.delivery.transitions import UNSENT_STATES, cancel_emails, lock_emails, lock_unsent_emails
from services.notifications.event_consumer.admins import (
    find_acts,
    forget_conversations,
    forget_messages,
    forget_notes,
    mark_own_reading,
    notify_admins,
)
from services.notifications.event_consumer.merging import begin_merges, ids_of, move_merged, use_persons
from services.notifications.event_consumer.people import update_people
from services.notifications.event_consumer.removal import erase_removed, remember_removed
from services.notifications.event_log.append import new_messages_created_sql
from services.notifications.models import ConversationState, Email, EmailMessage, InboxEntry, Mute, Notification
from services.notifications.rules import Audience, Reason
from services.notifications.settings import EmailSettings
from shared.database.orm import any_of
from shared.database.transactions import transaction_driver
from shared.events import (
    PAYLOADS,
    ConversationCreated,
    ConversationDeleted,
    ConversationRead,
    ConversationUpdated,
    Event,
    EventType,
    MessagePosted,
    MessageRemoved,
    NoteDeleted,
    NotePosted,
    Payload,
    UserChanged,
)
from shared.people import Person
from shared.text import preview


@dataclass(slots=True)
class ReadState:
    """The row of a conversation in `marks`."""

    read_by_user_number: int
    read_by_admin_number: int
    deleted_at: datetime | None
    removed_ids: set[UUID]


States = dict[UUID, ReadState]
P = TypeVar("P", bound=Payload)
_WITH_STATE = (MessagePosted, ConversationRead, MessageRemoved, NoteDeleted, ConversationDeleted)


async def handle_events(session: AsyncSession, events: Iterable[Event], settings: EmailSettings) -> None:
    """Handle events with validated payloads. Events whose payload was erased have no effect."""
    payloads, deletions = [], {}  # type: list[Payload], dict[str, datetime]
    for event in events:
        if event.payload:
            payload = PAYLOADS[EventType(event.type)].model_validate(event.payload)
            if isinstance(payload, ConversationRead | ConversationCreated | ConversationUpdated | NotePosted):
                payload.at = event.occurred_at
            payloads.append(payload)
            if isinstance(payload, UserChanged) and event.type == EventType.USER_DELETED:
                previous = deletions.get(payload.person.id, event.occurred_at)
                deletions[payload.person.id] = max(previous, event.occurred_at)
    await handle_payloads(session, payloads, settings, deletions)


async def handle_payloads(
    session: AsyncSession,
    payloads: Sequence[Payload],
    settings: EmailSettings,
    deletions: Mapping[str, datetime] = MappingProxyType({}),
) -> None:
    """Handle payloads together.

    `deletions` are deleted users and the times of their deletion, including users who were restored since.
    """
    people = list(_people(payloads))
    merged = await begin_merges(session, people)
    versions = await use_persons(session, _of_type(payloads, MessagePosted))
    # Lock order: people, conversation states, notifications, emails; within a table by key.
    updated = await update_people(session, people, versions)
    deleted = {person.id for person in updated if person.deleted and person.merged_into is None}
    if merged:  # out of that order: it is rare, and a deadlock only repeats it
        deleted |= await move_merged(session, merged)
    await _handle_conversations(session, payloads, settings)
    await _users_deleted(session, sorted(deleted), deletions)


def _people(payloads: Sequence[Payload]) -> Iterator[Person]:
    for payload in payloads:
        match payload:
            case UserChanged():
                yield payload.person
            case ConversationCreated() if payload.customer:
                yield payload.customer
            case MessagePosted():
                yield from (payload.sender, payload.customer)


async def _handle_conversations(session: AsyncSession, payloads: Sequence[Payload], settings: EmailSettings) -> None:
    posted, reads = _of_type(payloads, MessagePosted), _of_type(payloads, ConversationRead)
    removed, deleted_notes = _of_type(payloads, MessageRemoved), _of_type(payloads, NoteDeleted)
    deleted = {event.conversation_id for event in _of_type(payloads, ConversationDeleted)}
    acts = find_acts(payloads)
    conversation_ids = {event.conversation_id for event in payloads if isinstance(event, _WITH_STATE)}
    conversation_ids |= {act.conversation_id for act in acts}
    states = await _lock_states(session, conversation_ids)
    gone = deleted | {key for key, state in states.items() if state.deleted_at is not None}
    small = await erasure.choose_small(session, deleted)
    if small:
        await session.execute(delete(Notification).where(any_of(Notification.conversation_id, small)))
    if removed:
        await remember_removed(session, removed)
    removed_ids = {message.message_id for message in removed}.union(*(state.removed_ids for state in states.values()))
    await _conversations_read(session, reads, states)
    posted = [event for event in posted if event.conversation_id not in gone and event.message.id not in removed_ids]
    admin_messages = [event for event in posted if event.message.sender_role == "admin"]
    from_admins = await _create_notifications(session, admin_messages, states)
    await mark_own_reading(session, reads)
    await forget_notes(session, deleted_notes)
    await forget_messages(session, removed)
    await forget_conversations(session, deleted)
    acts = [act for act in acts if act.conversation_id not in gone and act.source_id not in removed_ids]
    for_admins = await notify_admins(session, acts)
    from_customers = [event for event in posted if event.message.sender_role == "customer"]
    await unmute_written(session, from_customers)
    # Only a deletion changes sent emails, and each lock writes to PostgreSQL's log.
    joined = {item.conversation_id for item in for_admins}  # digests have ids of their own
    await lock_unsent_emails(session, conversation_ids | joined, with_sent=deleted)
    await erase_removed(session, [*removed, *deleted_notes])
    removed_from = {message.conversation_id for message in removed}
    for audience, messages in (
        (Audience.CUSTOMER, from_admins),
        (Audience.SUPPORT, from_customers if settings.support_email else []),
    ):
        reviewed = removed_from | await _join_emails(session, audience, messages, reads, states, settings)
        await review_emails(session, reviewed, audience, settings)
    await join_emails(session, for_admins, Audience.ADMIN, settings)
    reviewed = removed_from | {read.conversation_id for read in reads if read.by == "admin"}
    reviewed |= {item.conversation_id for item in for_admins if item.about is None}
    await review_emails(session, reviewed, Audience.ADMIN, settings)
    await _conversations_deleted(session, deleted, small)


async def _join_emails(
    session: AsyncSession,
    audience: Audience,
    messages: Sequence[MessagePosted],
    reads: Sequence[ConversationRead],
    states: States,
    settings: EmailSettings,
) -> set[UUID]:
    """Add messages to the emails to customers or to support; return the conversations whose emails need a review."""
    by = "user" if audience is Audience.CUSTOMER else "admin"
    items = [
        EmailItem.of(event, event.customer.id if audience is Audience.CUSTOMER else SUPPORT_RECIPIENT)
        for event in messages
    ]
    created = await join_emails(session, items, audience, settings)
    return {read.conversation_id for read in reads if read.by == by} | {
        event.conversation_id
        for event in messages
        if event.conversation_id not in created or _is_read(event, states, by)
    }


def _of_type(payloads: Sequence[Payload], kind: type[P]) -> list[P]:
    return [payload for payload in payloads if isinstance(payload, kind)]


async def is_about_deleted(session: AsyncSession, event: dict[str, Any] | None) -> bool:
    """Return whether an event, which may be invalid, is about a deleted conversation."""
    payload = event.get("payload") if event else None
    try:
        conversation_id = UUID(payload["conversation_id"]) if isinstance(payload, dict) else None
    except (KeyError, ValueError, AttributeError, TypeError):
        return False
    if conversation_id is None:
        return False
    return (await _lock_states(session, [conversation_id]))[conversation_id].deleted_at is not None


async def _create_notifications(
    session: AsyncSession, posted: Sequence[MessagePosted], states: States
) -> list[MessagePosted]:
    """Create a `NEW_MESSAGE` notification for each message; return the messages that had none."""
    if not posted:
        return []
    columns = zip(*map(_notification, sorted(posted, key=lambda event: event.message.id)), strict=True)
    driver = await transaction_driver(session)
    with_webhook = [event.message.id for event in posted if event.is_told]
    created = {row["message_id"] for row in await driver.fetch(_CREATE_NOTIFICATIONS, *columns, with_webhook)}
    read = {event.conversation_id for event in posted if _is_read(event, states, "user")}
    await _mark_notifications_read(session, read)
    return [event for event in posted if event.message.id in created]


def _notification(event: MessagePosted) -> tuple[Any, ...]:
    message = event.message
    return (
        event.customer.id,
        event.conversation_id,
        message.id,
        message.number,
        event.subject,
        event.sender.id,
        preview(message.body) or next((file.name for file in message.attachments), ""),
    )


def _is_read(event: MessagePosted, states: States, by: str) -> bool:
    state = states[event.conversation_id]
    return event.message.number <= (state.read_by_user_number if by == "user" else state.read_by_admin_number)


async def _conversations_read(session: AsyncSession, reads: Sequence[ConversationRead], states: States) -> None:
    moved: dict[UUID, ReadState] = {}
    for read in reads:
        state = states[read.conversation_id]
        if read.by == "user" and read.up_to > state.read_by_user_number:
            state.read_by_user_number = read.up_to
            moved[read.conversation_id] = state
        elif read.by == "admin" and read.up_to > state.read_by_admin_number:
            state.read_by_admin_number = read.up_to
            moved[read.conversation_id] = state
    if moved:
        rows = [(key, state.read_by_user_number, state.read_by_admin_number) for key, state in moved.items()]
        await (await transaction_driver(session)).execute(_MOVE_WATERMARKS, *zip(*rows, strict=True))
    await _mark_notifications_read(session, {read.conversation_id for read in reads if read.by == "user"})


async def _mark_notifications_read(session: AsyncSession, conversation_ids: Collection[UUID]) -> None:
    """Mark notifications up to the customer's watermark in these conversations as read."""
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
    """Create tombstones and cancel emails; erase the emails of `small` conversations.

    Their notifications are already deleted, or hidden by the tombstone.
    """
    if not conversation_ids:
        return
    await session.execute(
        update(ConversationState)
        .where(any_of(ConversationState.conversation_id, conversation_ids), ConversationState.deleted_at.is_(None))
        .values(deleted_at=func.clock_timestamp())
        .execution_options(synchronize_session=False)
    )
    which = any_of(Email.conversation_id, conversation_ids)
    await cancel_emails(session, which, Reason.DELETED, leaving=UNSENT_STATES)
    in_small = any_of(Email.conversation_id, small)
    await session.execute(delete(EmailMessage).where(EmailMessage.email_id.in_(select(Email.id).where(in_small))))
    await session.execute(update(Email).where(in_small).values(subject=None))
    await erasure.erase_inbound(session, small)
    await erasure.erase_from_digests(session, conversation_ids)
    await session.execute(delete(Mute).where(any_of(Mute.conversation_id, conversation_ids)))
    # A parked event may have any shape: if the id occurs anywhere, it may contain the conversation's text.
    for conversation_id in conversation_ids:
        await session.execute(
            update(InboxEntry)
            .where(InboxEntry.parked_at.is_not(None), InboxEntry.event.cast(Text).contains(str(conversation_id)))
            .values(event=None)
            .execution_options(synchronize_session=False)
        )


async def _users_deleted(session: AsyncSession, user_ids: Sequence[str], deletions: Mapping[str, datetime]) -> None:
    """Erase deleted users, and from `deletions` those who were restored since."""
    await forget_admins(session, set(user_ids))
    for user_id in await ids_of(session, user_ids) if user_ids else ():
        await _erase_user(session, user_id, None)
    for user_id in sorted(deletions.keys() - set(user_ids)):
        await _erase_user(session, user_id, deletions[user_id])


async def _erase_user(session: AsyncSession, user_id: str, before: datetime | None) -> None:
    """Erase a deleted user's name and address from emails and parked events, and cancel emails to them.

    `before` is set for a user who was restored since: later emails are kept.
    """
    until = before or (await session.execute(select(func.clock_timestamp()))).scalar_one()
    to_user = (Email.recipient_id == user_id) & (Email.audience != Audience.SUPPORT) & (Email.created_at <= until)
    unsent = Email.state.in_(UNSENT_STATES)
    await lock_emails(session, unsent & to_user)
    await cancel_emails(session, to_user, Reason.USER_DELETED, leaving=UNSENT_STATES)
    await erasure.erase_recipient(session, user_id, until)
    placeholder = {"id": user_id, "version": 0, "deleted": True}
    for role in ("customer", "sender", "person"):
        await session.execute(
            update(InboxEntry)
            .where(InboxEntry.parked_at.is_not(None), InboxEntry.event["payload"][role]["id"].astext == user_id)
            .values(event=func.jsonb_set(InboxEntry.event, ["payload", role], cast(placeholder, JSONB)))
            .execution_options(synchronize_session=False)
        )


async def _lock_states(session: AsyncSession, conversation_ids: Collection[UUID]) -> States:
    """Lock and return the states of conversations: changes to one conversation happen one after the other."""
    states: States = {}
    driver = await transaction_driver(session)
    # A second time for a row that another transaction has inserted during the statement, which does not see it.
    while missing := sorted(set(conversation_ids) - states.keys()):
        for key, by_user, by_admin, deleted_at, removed_ids in await driver.fetch(_LOCK_STATES, missing):
            states[key] = ReadState(by_user, by_admin, deleted_at, set(removed_ids))
    return states


# No other transaction sees the rows that this one inserts, so they need no lock.
_LOCK_STATES = """
    with created as (
        insert into marks (conversation_id) select unnest($1::uuid[]) on conflict do nothing
        returning conversation_id, read_by_user_number, read_by_admin_number, deleted_at, removed_ids
    ),
    locked as (
        select conversation_id, read_by_user_number, read_by_admin_number, deleted_at, removed_ids
        from marks where conversation_id = any($1) order by conversation_id for update
    )
    select * from created union all select * from locked
"""
_MOVE_WATERMARKS = """
    update marks set read_by_user_number = moved.by_user, read_by_admin_number = moved.by_admin
    from unnest($1::uuid[], $2::int[], $3::int[]) as moved (id, by_user, by_admin)
    where marks.conversation_id = moved.id
"""
_CREATE_NOTIFICATIONS = f"""
    with created as (
        insert into notifications (user_id, conversation_id, message_id, number, subject, sender_id, preview)
        select * from unnest($1::text[], $2::uuid[], $3::uuid[], $4::int[], $5::text[], $6::text[], $7::text[])
        on conflict do nothing returning id, message_id
    ),
    logged as ({new_messages_created_sql("created where message_id = any($8::uuid[])")})
    select message_id from created
"""  # noqa: S608 - built from constants
