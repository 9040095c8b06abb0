"""Notifications of customers and admins, and what admins want of them."""

from datetime import datetime, time
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from services.notifications.models.base import Base


class Notification(Base):
    """A `NEW_MESSAGE` notification: one for every admin message."""

    __tablename__ = "notifications"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    user_id: Mapped[str]
    conversation_id: Mapped[UUID]
    message_id: Mapped[UUID] = mapped_column(unique=True)
    number: Mapped[int]
    subject: Mapped[str]
    sender_id: Mapped[str]
    preview: Mapped[str]
    read_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())

    __table_args__ = (
        Index("notifications_user_idx", "user_id", text("id desc")),
        Index("notifications_unread_idx", "user_id", postgresql_where=text("read_at is null")),
        Index("notifications_conversation_idx", "conversation_id", "number"),
    )


class AdminNotification(Base):
    """A notification for an admin, or for all admins if `recipient_id` is null.

    A conversation has one about its creation and one about its customer's replies: a newer message changes it and gives
    it a new `turn`, which orders them. So a burst is one entry. The id follows from what it is about (`record_id`).
    """

    __tablename__ = "admin_notifications"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    type: Mapped[str]
    recipient_id: Mapped[str | None]
    conversation_id: Mapped[UUID]
    source_id: Mapped[UUID]  # the message, note or entry; the conversation if it was opened without a message
    number: Mapped[int]  # of the message; of the last one before a note or an assignment
    subject: Mapped[str]
    actor_id: Mapped[str]
    preview: Mapped[str]
    occurred_at: Mapped[datetime]
    turn: Mapped[UUID] = mapped_column(server_default=func.uuidv7())

    __table_args__ = (
        Index("admin_notifications_turn_idx", "turn"),
        Index("admin_notifications_conversation_idx", "conversation_id"),
        Index("admin_notifications_recipient_idx", "recipient_id", postgresql_where=text("recipient_id is not null")),
    )


class AdminRead(Base):
    """An admin has marked a notification as read. It is unread again with another `turn`."""

    __tablename__ = "admin_reads"

    notification_id: Mapped[UUID] = mapped_column(
        ForeignKey("admin_notifications.id", ondelete="CASCADE"), primary_key=True
    )
    admin_id: Mapped[str] = mapped_column(primary_key=True)
    turn: Mapped[UUID]

    __table_args__ = (Index("admin_reads_admin_idx", "admin_id"),)


class AdminMark(Base):
    """How far an admin has read a conversation in which something was for them, and when."""

    __tablename__ = "admin_marks"

    conversation_id: Mapped[UUID] = mapped_column(primary_key=True)
    admin_id: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int]
    read_at: Mapped[datetime]

    __table_args__ = (Index("admin_marks_admin_idx", "admin_id"),)


class Bell(Base):
    """An admin's preferences by type, and up to which `turn` all of their notifications are read.

    No emails are sent from `quiet_start` to `quiet_end`. With `digest_at` they are one a day, at that local time.
    """

    __tablename__ = "bells"

    admin_id: Mapped[str] = mapped_column(primary_key=True)
    read_through: Mapped[UUID | None]
    preferences: Mapped[dict[str, Any] | None]
    quiet_start: Mapped[time | None]
    quiet_end: Mapped[time | None]
    digest_at: Mapped[time | None]
