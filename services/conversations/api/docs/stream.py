"""The events of the live stream: `x-events` of its route in the OpenAPI document, which has no place for events."""

from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

from fastapi import FastAPI

from services.conversations.api.routes.stream import AdminConversationChanged, ConversationChanged
from services.conversations.api.schemas.responses import Unread
from services.conversations.realtime.presence_feed import PRESENCE, PresenceChange
from services.conversations.realtime.rendering import RESET
from shared.api.json_schema import add_schemas
from shared.api.response_body import ResponseBody
from shared.events import ConversationDeleted, EventType
from shared.notifications_feed import NotificationCreated
from shared.settings import Role


class ConversationReadData(ResponseBody):
    """The side that has read a conversation, and up to which message."""

    conversation_id: UUID
    by: Literal["user", "admin"]
    up_to: int


class NotePostedData(ResponseBody):
    """A note. Its text is in the timeline."""

    conversation_id: UUID
    note_id: UUID
    mentions: list[str]


class NoteDeletedData(ResponseBody):
    """A note whose text is gone."""

    conversation_id: UUID
    note_id: UUID


class EmailUpdatedData(ResponseBody):
    """An email whose state has changed."""

    conversation_id: UUID
    email_id: UUID
    state: str


class InboundUpdatedData(ResponseBody):
    """A conversation whose held emails have changed."""

    conversation_id: UUID | None


class ResetData(ResponseBody):
    """No fields."""


class StreamEvent(NamedTuple):
    """An event of the stream: when it comes, its data for customers and for admins."""

    description: str
    customer: type[Any] | None
    admin: type[Any] | None


EVENTS: Final[dict[str, StreamEvent]] = {
    EventType.CONVERSATION_CREATED: StreamEvent(
        "A conversation was created, by its customer or an admin. With a first message, `message.posted` follows.",
        ConversationChanged,
        AdminConversationChanged,
    ),
    EventType.MESSAGE_POSTED: StreamEvent(
        "A message was posted. `conversation` is as it is now, so that a list needs no further call.",
        ConversationChanged,
        AdminConversationChanged,
    ),
    EventType.CONVERSATION_UPDATED: StreamEvent(
        "Something else of the conversation changed, such as its status, or for admins its assignee or labels. A"
        " change that a customer cannot see is not sent to customers.",
        ConversationChanged,
        AdminConversationChanged,
    ),
    EventType.MESSAGE_REMOVED: StreamEvent(
        "An admin removed the text of a message. `removed_number` is its number.",
        ConversationChanged,
        AdminConversationChanged,
    ),
    EventType.CONVERSATION_READ: StreamEvent(
        "One side has read the conversation up to a message.", ConversationReadData, ConversationReadData
    ),
    EventType.CONVERSATION_DELETED: StreamEvent(
        "A conversation was deleted. Remove it from the screen.", ConversationDeleted, ConversationDeleted
    ),
    "unread": StreamEvent(
        "The number of unread conversations of the caller's side: after connecting, then when it changes. It has"
        " no `id`.",
        Unread,
        Unread,
    ),
    EventType.NOTE_POSTED: StreamEvent("An admin wrote a note.", None, NotePostedData),
    EventType.NOTE_DELETED: StreamEvent("An admin deleted a note.", None, NoteDeletedData),
    EventType.EMAIL_UPDATED: StreamEvent(
        "The state of an email about the conversation changed. Load the timeline.", None, EmailUpdatedData
    ),
    EventType.INBOUND_UPDATED: StreamEvent(
        "The held emails of a conversation changed. `conversation_id` is null for those of no conversation.",
        None,
        InboundUpdatedData,
    ),
    EventType.NOTIFICATION_CREATED: StreamEvent(
        "There is a mention or an assignment for one admin, the recipient.", None, NotificationCreated
    ),
    PRESENCE: StreamEvent(
        "An admin views a conversation, writes a reply, or has left. It counts for 30 s, `writing` for 8 s. It has no"
        " `id`.",
        None,
        PresenceChange,
    ),
    RESET: StreamEvent(
        "The position to start from is unknown, or its events have been purged. Load everything again. The stream"
        " goes on from now.",
        ResetData,
        ResetData,
    ),
}


def describe_stream(app: FastAPI) -> None:
    """Add the events of the stream to the OpenAPI document."""
    build = app.openapi

    def document() -> dict[str, Any]:
        built = build()
        kinds = {kind.__name__: kind for event in EVENTS.values() for kind in event[1:] if kind is not None}
        schemas = add_schemas(built, kinds)
        built["paths"]["/api/v1/stream"]["get"]["x-events"] = {
            name: {
                "description": event.description,
                "data": {
                    role: schemas[kind.__name__]
                    for role, kind in ((Role.CUSTOMER, event.customer), (Role.ADMIN, event.admin))
                    if kind is not None
                },
            }
            for name, event in EVENTS.items()
        }
        return built

    app.openapi = document  # type: ignore[method-assign] # as in FastAPI's documentation
