"""Response bodies of the API."""

from datetime import datetime
from typing import Literal, Self
from uuid import UUID

from pydantic import BaseModel

from services.notifications.models import DeliveryAttempt, Email, Notification, Person
from services.notifications.rules import Audience, EmailState, Outcome, Reason


class NotificationOut(BaseModel):
    """A `NEW_MESSAGE` notification about an admin's message."""

    id: UUID
    type: Literal["NEW_MESSAGE"] = "NEW_MESSAGE"
    conversation_id: UUID
    message_id: UUID
    subject: str
    sender_name: str
    preview: str
    is_read: bool
    created_at: datetime

    @classmethod
    def of(cls, notification: Notification, sender: Person | None, store_name: str) -> Self:
        """Convert a notification; a sender without a name is shown as the store."""
        return cls(
            id=notification.id,
            conversation_id=notification.conversation_id,
            message_id=notification.message_id,
            subject=notification.subject,
            sender_name=(sender and sender.name) or store_name,
            preview=notification.preview,
            is_read=notification.read_at is not None,
            created_at=notification.created_at,
        )


class Unread(BaseModel):
    """The number of unread notifications."""

    unread: int


class AttemptOut(BaseModel):
    """One attempt to send an email."""

    started_at: datetime | None
    finished_at: datetime
    outcome: Outcome
    phase: str
    code: int | None
    reply: str
    process: str

    @classmethod
    def of(cls, attempt: DeliveryAttempt) -> Self:
        """Convert an attempt."""
        return cls.model_validate({name: getattr(attempt, name) for name in cls.model_fields})


class EmailOut(BaseModel):
    """An email with its state, the messages it contains, and all attempts to send it.

    `reason` says why an email was cancelled, suppressed or failed. A scheduled email has no reason, or `rate-limited`:
    its address has reached its email limit, and the email will be sent later. `due_at` is when it is first due.
    `next_attempt_at` is when the next attempt is due; it is null unless the email is scheduled.
    """

    id: UUID
    audience: Audience
    user_id: str | None
    conversation_id: UUID
    message_ids: list[UUID]
    state: EmailState
    reason: Reason | None
    due_at: datetime
    next_attempt_at: datetime | None
    created_at: datetime
    finished_at: datetime | None
    tries: list[AttemptOut]

    @classmethod
    def of(cls, email: Email, message_ids: list[UUID], attempts: list[DeliveryAttempt]) -> Self:
        """Convert an email with its messages and attempts."""
        columns = {"id", "audience", "conversation_id", "state", "reason", "due_at", "created_at", "finished_at"}
        return cls.model_validate(
            {name: getattr(email, name) for name in columns}
            | {
                "user_id": email.recipient_id if email.audience == Audience.CUSTOMER else None,
                "message_ids": message_ids,
                "next_attempt_at": email.next_attempt_at if email.state == EmailState.SCHEDULED else None,
                "tries": [AttemptOut.of(attempt) for attempt in attempts],
            }
        )
