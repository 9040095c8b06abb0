"""What the API gives."""

from datetime import datetime
from typing import Literal, Self
from uuid import UUID

from pydantic import BaseModel

from services.notifications.models import DeliveryAttempt, Email, Notification, Person
from services.notifications.rules import Audience, EmailState, Outcome, Reason


class NotificationOut(BaseModel):
    """A `NEW_MESSAGE` record: an admin has written."""

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
        """Show a record; a sender without a name is the store."""
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
    """How many notifications are unread."""

    unread: int


class TryOut(BaseModel):
    """One try to send a mail."""

    started_at: datetime | None
    finished_at: datetime
    outcome: Outcome
    phase: str
    code: int | None
    reply: str
    process: str

    @classmethod
    def of(cls, attempt: DeliveryAttempt) -> Self:
        """Show a try."""
        return cls.model_validate({name: getattr(attempt, name) for name in cls.model_fields})


class EmailOut(BaseModel):
    """A mail: where it stands and why, which messages it is about, and every try to send it.

    `reason` is given for a mail that was cancelled, suppressed or failed. A scheduled one has none, or `rate-limited`:
    its address has had as many as it may, and it waits for room. `due_at` is when it was first to be sent,
    `next_attempt_at` when it will be tried next, null once it is at its end.
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
    tries: list[TryOut]

    @classmethod
    def of(cls, email: Email, message_ids: list[UUID], tries: list[DeliveryAttempt]) -> Self:
        """Show a mail with its messages and tries."""
        shown = {"id", "audience", "conversation_id", "state", "reason", "due_at", "created_at", "finished_at"}
        return cls.model_validate(
            {name: getattr(email, name) for name in shown}
            | {
                "user_id": email.recipient_id if email.audience == Audience.CUSTOMER else None,
                "message_ids": message_ids,
                "next_attempt_at": email.next_attempt_at if email.state == EmailState.SCHEDULED else None,
                "tries": [TryOut.of(attempt) for attempt in tries],
            }
        )
