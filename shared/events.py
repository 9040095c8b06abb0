"""The event contract between the services: the event log, and the events in Celery tasks.

Events are identified by their id, and may arrive twice, late and out of order. An event contains everything that a
consumer needs, so consumers work while the producer is down. A payload is None after its text was erased.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel

from shared.people import Person

VERSION = 1


class EventType(StrEnum):
    """The types of events."""

    CONVERSATION_CREATED = "conversation.created"
    MESSAGE_POSTED = "message.posted"
    MESSAGE_REMOVED = "message.removed"
    CONVERSATION_UPDATED = "conversation.updated"
    CONVERSATION_READ = "conversation.read"
    CONVERSATION_DELETED = "conversation.deleted"
    NOTE_POSTED = "note.posted"
    NOTE_DELETED = "note.deleted"
    EMAIL_UPDATED = "email.updated"
    NOTIFICATION_CREATED = "notification.created"
    INBOUND_UPDATED = "inbound.updated"
    USER_UPDATED = "user.updated"
    USER_DELETED = "user.deleted"
    USER_MERGED = "user.merged"


class PostedFile(BaseModel):
    """A file in a message, as it was when the message was posted."""

    id: UUID
    name: str
    size: int
    content_type: str
    sha256: str
    state: str
    width: int | None = None
    height: int | None = None
    thumbnail: bool = False


class PostedMessage(BaseModel):
    """A message in an event."""

    id: UUID
    number: int
    sender_role: Literal["customer", "admin"]
    body: str
    created_at: datetime
    via: Literal["web", "api", "email"] = "web"
    attachments: list[PostedFile] = []


class MessagePosted(BaseModel):
    """A message was posted by `sender` to a conversation of `customer`."""

    conversation_id: UUID
    subject: str
    message: PostedMessage
    sender: Person
    customer: Person
    assignee_id: str | None = None  # of the conversation, when a customer wrote
    is_told: bool = False  # a webhook is to be told of the customer's notification


class MessageRemoved(BaseModel):
    """An admin removed the text of a message."""

    conversation_id: UUID
    message_id: UUID
    number: int


class ConversationRead(BaseModel):
    """One side has read a conversation up to message number `up_to`."""

    conversation_id: UUID
    by: Literal["user", "admin"]
    up_to: int
    reader_id: str | None = None  # the admin who opened it, if something in it was for them
    at: datetime | None = None  # when; of the event, not of its payload


class ConversationDeleted(BaseModel):
    """A conversation was deleted with all of its text."""

    conversation_id: UUID


class ConversationCreated(BaseModel):
    """A conversation was created. `subject` and `customer` are set if its customer opened it without a message."""

    conversation_id: UUID
    subject: str | None = None
    customer: Person | None = None
    at: datetime | None = None  # as above


class ConversationUpdated(BaseModel):
    """A conversation changed. `actor_id` is set if somebody assigned it to another admin, in this entry."""

    conversation_id: UUID
    assignee_id: str | None = None
    actor_id: str | None = None
    entry_id: UUID | None = None
    subject: str = ""
    number: int = 0  # messages before the entry
    at: datetime | None = None  # as above


class NotePosted(BaseModel):
    """An admin wrote a note. `mentions` are other admins; without any, the text is left out."""

    conversation_id: UUID
    note_id: UUID
    mentions: list[str] = []
    actor_id: str = ""
    subject: str = ""
    number: int = 0  # messages before the note
    body: str = ""
    at: datetime | None = None  # as above


class NoteDeleted(BaseModel):
    """An admin deleted the text of a note."""

    conversation_id: UUID
    note_id: UUID


class UserChanged(BaseModel):
    """A user's name, address, language or zone changed, or was erased, or their id was merged into another one."""

    person: Person


Payload = (
    MessagePosted
    | MessageRemoved
    | ConversationCreated
    | ConversationUpdated
    | ConversationRead
    | ConversationDeleted
    | NotePosted
    | NoteDeleted
    | UserChanged
)

# The events that the notifications service handles. The others exist only in the log.
PAYLOADS: dict[EventType, type[Payload]] = {
    EventType.CONVERSATION_CREATED: ConversationCreated,
    EventType.CONVERSATION_UPDATED: ConversationUpdated,
    EventType.NOTE_POSTED: NotePosted,
    EventType.NOTE_DELETED: NoteDeleted,
    EventType.MESSAGE_POSTED: MessagePosted,
    EventType.MESSAGE_REMOVED: MessageRemoved,
    EventType.CONVERSATION_READ: ConversationRead,
    EventType.CONVERSATION_DELETED: ConversationDeleted,
    EventType.USER_UPDATED: UserChanged,
    EventType.USER_DELETED: UserChanged,
    EventType.USER_MERGED: UserChanged,
}


# What concerns admins only waits for the sweeper: so a note's text is in no task, and its deletion comes after it.
UNPUBLISHED = frozenset(
    {
        EventType.CONVERSATION_CREATED,
        EventType.CONVERSATION_UPDATED,
        EventType.NOTE_POSTED,
        EventType.NOTE_DELETED,
    }
)
_CONTENT = {
    EventType.CONVERSATION_CREATED: "subject",
    EventType.CONVERSATION_UPDATED: "actor_id",
    EventType.NOTE_POSTED: "mentions",
}


def is_relevant(event_type: str, payload: dict[str, Any] | None) -> bool:
    """Return whether the notifications service has something to do with an event; with one of an unknown type, too."""
    if event_type not in set(EventType):
        return True
    known = EventType(event_type)
    return known in PAYLOADS and (known not in _CONTENT or _CONTENT[known] in (payload or {}))


class Event(BaseModel):
    """A row of the log. `position`, and the `epoch` it belongs to, are None until the sequencer has numbered it."""

    id: UUID
    type: str
    version: int = VERSION
    position: int | None = None
    epoch: UUID | None = None
    occurred_at: datetime
    payload: dict[str, Any] | None

    @property
    def message_ids(self) -> list[str]:
        """Return the id of the event's message, if it has one."""
        return [message_id] if (message_id := self.ids.get("message_id")) else []

    @property
    def ids(self) -> dict[str, Any]:
        """Return the ids of an event for log lines, without any text or address."""
        payload = self.payload or {}
        message = payload.get("message")
        ids = {
            "conversation_id": payload.get("conversation_id"),
            "message_id": message.get("id") if isinstance(message, dict) else None,
        }
        known = {name: value for name, value in ids.items() if isinstance(value, str)}
        return {"event_id": str(self.id), "type": self.type, "position": self.position, **known}


class Feed(BaseModel):
    """A page of the log, in order. `epoch` changes when the log was restored from a backup.

    `acknowledged` is the position that the reader reported before, at `acknowledged_at` by the log's clock.
    """

    epoch: UUID
    head: int
    items: list[Event]
    acknowledged: int = 0
    acknowledged_at: datetime | None = None


class Kind(StrEnum):
    """The parts of the current state, in the order in which they are read."""

    PEOPLE = "people"
    READS = "reads"
    MESSAGES = "messages"
    REMOVED = "removed"
    NOTES = "notes"
    ASSIGNMENTS = "assignments"


SNAPSHOTS: dict[Kind, type[Payload]] = {
    Kind.PEOPLE: UserChanged,
    Kind.READS: ConversationRead,
    Kind.MESSAGES: MessagePosted,
    Kind.REMOVED: MessageRemoved,
    Kind.NOTES: NotePosted,
    Kind.ASSIGNMENTS: ConversationUpdated,
}


class Snapshot(BaseModel):
    """A page of the current state as payloads of events, in the order of ids.

    Every conversation has two reads, one for each side. Of notes and assignments there are those in conversations that
    the mentioned or assigned admin has not opened since the last one. The next page starts after the id `last`, None on
    the last one.
    """

    items: list[dict[str, Any]]
    last: str | None
