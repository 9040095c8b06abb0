"""Events as the conversations service logs them, for tests of the notifications service."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from pydantic import BaseModel, SecretStr

from services.notifications.event_consumer.consumer import receive_events
from services.notifications.settings import EmailSettings
from shared.database.transactions import SessionFactory
from shared.events import (
    ConversationDeleted,
    ConversationRead,
    Event,
    EventType,
    MessagePosted,
    MessageRemoved,
    PostedMessage,
    UserChanged,
)
from shared.people import Person

ANNA = Person(id="anna", version=1, name="Anna", email="anna@customer.test")
SAM = Person(id="sam", version=1, name="Sam", email="sam@store.test")


def email_settings(url: str, **changes: Any) -> EmailSettings:
    """Return a worker's settings; by default emails are due at once and have no limits."""
    values: dict[str, Any] = {
        "notifications_database_url": url,
        "smtp_url": SecretStr("smtp://127.0.0.1:2525"),
        "email_from": "Test Store <support@store.test>",
        "public_url": "https://store.test",
        "store_name": "Test Store",
        "email_delay_seconds": 0,
        "support_email_delay_seconds": 0,
        "limit_mails_per_10_minutes": 0,
        "limit_mails_per_day": 0,
    }
    return EmailSettings(**(values | changes))


def event(event_type: EventType, payload: BaseModel | None, **changes: Any) -> Event:
    """Return an event with a new id."""
    body = payload.model_dump(mode="json") if payload else None
    return Event(id=uuid4(), type=event_type, occurred_at=datetime.now(UTC), payload=body, **changes)


def posted(
    conversation: UUID,
    number: int,
    *,
    by: str = "admin",
    body: str = "Here it is.",
    customer: Person = ANNA,
    created_at: datetime | None = None,
) -> Event:
    """Return the event of a posted message, by default an admin's."""
    message = PostedMessage(
        id=uuid4(),
        number=number,
        sender_role="customer" if by == "customer" else "admin",
        body=body,
        created_at=created_at or datetime.now(UTC),
    )
    payload = MessagePosted(
        conversation_id=conversation,
        subject="Where is my parcel?",
        message=message,
        sender=customer if by == "customer" else SAM,
        customer=customer,
    )
    return event(EventType.MESSAGE_POSTED, payload)


def read(conversation: UUID, up_to: int, *, by: str = "user") -> Event:
    """Return the event of one side's reading up to a message."""
    payload = ConversationRead(conversation_id=conversation, by="user" if by == "user" else "admin", up_to=up_to)
    return event(EventType.CONVERSATION_READ, payload)


def removed(message: Event) -> Event:
    """Return the event of the removal of a posted message's text."""
    posted_payload = MessagePosted.model_validate(message.payload)
    payload = MessageRemoved(
        conversation_id=posted_payload.conversation_id,
        message_id=posted_payload.message.id,
        number=posted_payload.message.number,
    )
    return event(EventType.MESSAGE_REMOVED, payload)


def deleted(conversation: UUID) -> Event:
    """Return the event of a deleted conversation."""
    return event(EventType.CONVERSATION_DELETED, ConversationDeleted(conversation_id=conversation))


def user_changed(person: Person) -> Event:
    """Return the event of a changed or deleted user."""
    return event(EventType.USER_DELETED if person.deleted else EventType.USER_UPDATED, UserChanged(person=person))


async def receive(sessions: SessionFactory, settings: EmailSettings, *events: Event) -> None:
    """Receive events for the first time, one after the other."""
    for received in events:
        await receive_events(sessions, [received], settings, repeated=False)
