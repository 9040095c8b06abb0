"""Response bodies of the API."""

from dataclasses import asdict
from datetime import datetime, time
from typing import Annotated, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from services.notifications.delivery import admin_records, timing
from services.notifications.delivery.admin_records import Preferences
from services.notifications.delivery.rendering import actor_name
from services.notifications.delivery.timing import Timing, is_digest
from services.notifications.models import AdminNotification, DeliveryAttempt, Email, Notification, Person
from services.notifications.rules import ACTS, Audience, EmailState, NotificationType, Outcome, Reason


class NotificationOut(BaseModel):
    """A notification: `NEW_MESSAGE` for a customer, about an admin's message; all others for admins.

    `MENTION`: another admin's note mentions the caller. `ASSIGNED`: another admin assigned the conversation to the
    caller. `CONVERSATION_CREATED`: a customer opened a conversation. `CUSTOMER_REPLIED`: its customer wrote again; a
    newer message changes it. `message_id` is null for a note, an assignment, and a conversation without a message.
    """

    id: UUID
    type: NotificationType
    conversation_id: UUID
    message_id: UUID | None
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
            type=NotificationType.NEW_MESSAGE,
            conversation_id=notification.conversation_id,
            message_id=notification.message_id,
            subject=notification.subject,
            sender_name=(sender and sender.name) or store_name,
            preview=notification.preview,
            is_read=notification.read_at is not None,
            created_at=notification.created_at,
        )

    @classmethod
    def of_admin(cls, record: AdminNotification, actor: Person | None, store_name: str, *, is_read: bool) -> Self:
        """Convert an admin's notification; who caused it and has no name is shown as their id."""
        by_admin = record.type in ACTS
        deleted = actor is not None and actor.deleted
        return cls(
            id=record.id,
            type=NotificationType(record.type),
            conversation_id=record.conversation_id,
            message_id=record.source_id if not by_admin and record.number > 0 else None,
            subject=record.subject,
            sender_name=store_name if by_admin and deleted else actor_name(actor, record.actor_id),
            preview=record.preview,
            is_read=is_read,
            created_at=record.occurred_at,
        )


class Choice(BaseModel):
    """Where to show notifications of a type: in the `bell`, and by `email`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    bell: bool
    email: bool


LocalTime = Annotated[
    str,
    StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$"),
    Field(description="A local time in the admin's time zone, such as `07:30`."),
]


class QuietHours(BaseModel):
    """Hours without emails, from `start` up to `end`, on the next day if `end` is earlier."""

    model_config = ConfigDict(extra="forbid")

    start: LocalTime
    end: LocalTime

    @model_validator(mode="after")
    def _is_some_time(self) -> Self:
        if self.start == self.end:
            raise PydanticCustomError("quiet_hours", "start and end must be different times")
        return self

    def as_times(self) -> timing.QuietHours:
        """Return them as times."""
        return timing.QuietHours(time.fromisoformat(self.start), time.fromisoformat(self.end))


class PreferencesOut(BaseModel):
    """An admin's preferences for each type of notification, and when emails come.

    During `quiet_hours` no email is sent; those that wait are sent at their end, without what was read by then. With
    `digest_at` they come once a day, in one email about all conversations.
    """

    MENTION: Choice
    ASSIGNED: Choice
    CONVERSATION_CREATED: Choice
    CUSTOMER_REPLIED: Choice
    quiet_hours: QuietHours | None
    digest_at: LocalTime | None

    @classmethod
    def of(cls, preferences: Preferences, times: Timing) -> Self:
        """Convert preferences."""
        quiet = times.quiet and {"start": _written(times.quiet.start), "end": _written(times.quiet.end)}
        digest_at = _written(times.digest_at) if times.digest_at is not None else None
        choices = {str(type_): asdict(choice) for type_, choice in preferences.items()}
        return cls.model_validate({**choices, "quiet_hours": quiet, "digest_at": digest_at})


class PreferencesIn(BaseModel):
    """Preferences to change. What is left out stays as it is; null ends quiet hours or the digest."""

    model_config = ConfigDict(extra="forbid")

    MENTION: Choice | None = None
    ASSIGNED: Choice | None = None
    CONVERSATION_CREATED: Choice | None = None
    CUSTOMER_REPLIED: Choice | None = None
    quiet_hours: QuietHours | None = None
    digest_at: LocalTime | None = None

    def applied_to(self, preferences: Preferences) -> Preferences:
        """Return preferences with these changes."""
        changes = {
            NotificationType(name): admin_records.Choice(choice.bell, choice.email)
            for name, choice in self
            if isinstance(choice, Choice)
        }
        return {**preferences, **changes}

    def applied_to_timing(self, times: Timing) -> Timing:
        """Return when emails come, with these changes."""
        quiet, digest_at = times.quiet, times.digest_at
        if "quiet_hours" in self.model_fields_set:
            quiet = self.quiet_hours.as_times() if self.quiet_hours is not None else None
        if "digest_at" in self.model_fields_set:
            digest_at = time.fromisoformat(self.digest_at) if self.digest_at else None
        return Timing(quiet, digest_at)


def _written(local: time) -> str:
    return local.isoformat("minutes")


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

    `reason` says why an email was cancelled or suppressed, failed or bounced. A scheduled email has no reason, or
    `rate-limited`: its address has reached its email limit, and the email will be sent later; to admins also
    `quiet-hours` or `digest`: it waits for a time that they have chosen. `conversation_id` is null for a digest, which
    is about several. `message_ids` names no notes and no assignments. `due_at` is when it is first due.
    `next_attempt_at` is when the next attempt is due; it is null unless the email is scheduled.
    """

    id: UUID
    audience: Audience
    user_id: str | None
    conversation_id: UUID | None
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
        columns = {"id", "audience", "state", "reason", "due_at", "created_at", "finished_at"}
        return cls.model_validate(
            {name: getattr(email, name) for name in columns}
            | {
                "conversation_id": None if is_digest(email) else email.conversation_id,
                "user_id": email.recipient_id if email.audience != Audience.SUPPORT else None,
                "message_ids": message_ids,
                "next_attempt_at": email.next_attempt_at if email.state == EmailState.SCHEDULED else None,
                "tries": [AttemptOut.of(attempt) for attempt in attempts],
            }
        )
