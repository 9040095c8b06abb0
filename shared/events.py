"""The event contract between the services: what the log holds, and what travels to Celery.

An event is known by its id, may come twice, late and out of order, and carries all that a consumer needs, so that
the consumer works while the producer is down. A payload is None once its text was erased.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel

from shared.people import Person

VERSION = 1


class EventType(StrEnum):
    """What can happen, in the past tense."""

    CONVERSATION_CREATED = "conversation.created"
    MESSAGE_POSTED = "message.posted"
    CONVERSATION_UPDATED = "conversation.updated"
    CONVERSATION_READ = "conversation.read"
    CONVERSATION_DELETED = "conversation.deleted"
    USER_UPDATED = "user.updated"
    USER_DELETED = "user.deleted"


class PostedMessage(BaseModel):
    """A message as an event carries it."""

    id: UUID
    number: int
    sender_role: Literal["customer", "admin"]
    body: str
    created_at: datetime


class MessagePosted(BaseModel):
    """A message was posted to a conversation, by `sender`; `customer` is whose conversation it is."""

    conversation_id: UUID
    subject: str
    message: PostedMessage
    sender: Person
    customer: Person


class ConversationRead(BaseModel):
    """One side has read a conversation up to message number `up_to`."""

    conversation_id: UUID
    by: Literal["user", "admin"]
    up_to: int


class ConversationDeleted(BaseModel):
    """A conversation and all its text are gone."""

    conversation_id: UUID


class UserChanged(BaseModel):
    """A user's name, address, language or zone changed, or was erased."""

    person: Person


Payload = MessagePosted | ConversationRead | ConversationDeleted | UserChanged

# What the notifications service acts on, and so what travels as a task. The other events are for those who follow
# the log itself.
PAYLOADS: dict[EventType, type[Payload]] = {
    EventType.MESSAGE_POSTED: MessagePosted,
    EventType.CONVERSATION_READ: ConversationRead,
    EventType.CONVERSATION_DELETED: ConversationDeleted,
    EventType.USER_UPDATED: UserChanged,
    EventType.USER_DELETED: UserChanged,
}


class Event(BaseModel):
    """One row of the log. `position` and `epoch`, which it counts in, are None until the sequencer has numbered it."""

    id: UUID
    type: str
    version: int = VERSION
    position: int | None = None
    epoch: UUID | None = None
    occurred_at: datetime
    payload: dict[str, Any] | None

    @property
    def ids(self) -> dict[str, Any]:
        """Return what a log line names an event by; no text and no address is among it."""
        payload = self.payload or {}
        message = payload.get("message")
        named = {
            "conversation_id": payload.get("conversation_id"),
            "message_id": message.get("id") if isinstance(message, dict) else None,
        }
        known = {name: value for name, value in named.items() if isinstance(value, str)}
        return {"event_id": str(self.id), "type": self.type, "position": self.position, **known}


class Feed(BaseModel):
    """A stretch of the log in order. `epoch` changes when the log was restored from a backup.

    `acknowledged` is how far the reader, by its own word, had come before, and when (by the log's clock) that was.
    """

    epoch: UUID
    head: int
    items: list[Event]
    acknowledged: int = 0
    acknowledged_at: datetime | None = None


class Kind(StrEnum):
    """What the present state is made of, in the order in which it is read."""

    PEOPLE = "people"
    READS = "reads"
    MESSAGES = "messages"


SNAPSHOTS: dict[Kind, type[Payload]] = {
    Kind.PEOPLE: UserChanged,
    Kind.READS: ConversationRead,
    Kind.MESSAGES: MessagePosted,
}


class Snapshot(BaseModel):
    """A page of the present state, told as events would tell it, in the order of ids.

    Of every conversation there are two reads, one a side. `last` is the id behind which the next page begins; None when
    this is the last one.
    """

    items: list[dict[str, Any]]
    last: str | None
