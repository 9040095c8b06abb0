"""What the conversations service learns from the notifications service's log, and from a list of the current state.

An event only says that something has changed: its payload is how that is when the event is read. So two events in a row
may have the same payload, and the last one of a subject is always right. A payload is None if the subject is gone.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from pydantic import BaseModel


class LoggedType(StrEnum):
    """The types of events."""

    EMAIL_UPDATED = "email.updated"  # an `EmailStatus`
    NOTIFICATION_CREATED = "notification.created"
    INBOUND_UPDATED = "inbound.updated"  # an `InboundStatus`
    STOP_UPDATED = "stop.updated"  # an `EmailStop`
    NEW_MESSAGE_CREATED = "new-message.created"  # a `NewMessageCreated`


class EmailStatus(BaseModel):
    """The status of an email about a conversation: whether it was delivered, and if not, why.

    `to` is the side that it is for. `state` and `reason` are as in the API of emails; readers take unknown ones as they
    are. `numbers` are those of the messages in it. `at` is when it came to a final state, None while it waits again.
    """

    email_id: UUID
    conversation_id: UUID
    to: str
    state: str
    reason: str | None
    numbers: list[int]
    at: datetime | None


class NotificationCreated(BaseModel):
    """A notification for one admin: of a mention, or of an assignment."""

    notification_id: UUID
    type: str
    conversation_id: UUID
    recipient_id: str


class NewMessageCreated(BaseModel):
    """A `NEW_MESSAGE` notification, for a customer. Logged only if its event says that a webhook is to be told."""

    notification_id: UUID
    message_id: UUID
    conversation_id: UUID
    recipient_id: str


class InboundStatus(BaseModel):
    """An email that came in for a conversation, and whether it is held: an admin is to post or discard it.

    `opens`: it opens the conversation, which does not exist before it is posted.
    """

    inbound_id: UUID
    conversation_id: UUID
    held: bool
    opens: bool = False


class EmailStop(BaseModel):
    """A reason why a customer gets no emails: about a conversation, or at all if `conversation_id` is None.

    Without `user_id` it concerns all customers. Its event has no payload when it is over. `reason` is as in the API of
    emails.
    """

    stop_id: UUID
    user_id: str | None
    conversation_id: UUID | None
    reason: str


class LoggedEvent(BaseModel):
    """An event of the log. `subject_id` is the id in its payload, also when the subject is gone."""

    position: int
    type: str
    subject_id: UUID | None = None
    payload: dict[str, Any] | None


class LogPage(BaseModel):
    """A page of the log: the events of the types that were asked for, up to the position `end`.

    `epoch` changes when the log was restored from a backup. `head` is the log's last position.
    """

    epoch: UUID
    head: int
    end: int
    items: list[LoggedEvent]


class EmailPage(BaseModel):
    """Emails in a final state, in the order of ids. The next page starts after `last`, None on the last one."""

    items: list[EmailStatus]
    last: UUID | None


class HeldPage(BaseModel):
    """Held emails, in the order of ids. The next page starts after `last`, None on the last one."""

    items: list[InboundStatus]
    last: UUID | None


class StopsPage(BaseModel):
    """Reasons why customers get no emails, in the order of ids. The next page starts after `last`, None on the last."""

    items: list[EmailStop]
    last: UUID | None
