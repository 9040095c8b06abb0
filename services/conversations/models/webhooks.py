"""Webhooks and their deliveries."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, BigInteger, CheckConstraint, Identity, Index, SmallInteger, Text, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from services.conversations.models.base import Base, quoted
from services.conversations.rules import DeliveryState


class Webhook(Base):
    """An endpoint of the store that is told of events of some types.

    It gets what is in the log after `after_position`, and the status of emails after `since`. `old_secret` also signs
    until `old_secret_until`, and so does each of `older_secrets`, a list of `{"secret", "until"}`. `failures` counts
    the failed attempts since the last success, the first of which was at `failing_since`; nothing is sent before
    `paused_until`. The row of a deleted one stays as long as its deliveries.
    """

    __tablename__ = "webhooks"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    url: Mapped[str]
    types: Mapped[list[str]] = mapped_column(ARRAY(Text))
    description: Mapped[str | None]
    secret: Mapped[str]
    old_secret: Mapped[str | None]
    old_secret_until: Mapped[datetime | None]
    older_secrets: Mapped[list[dict[str, str]]] = mapped_column(JSONB, server_default="[]")
    after_position: Mapped[int] = mapped_column(BigInteger)
    since: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    failures: Mapped[int] = mapped_column(server_default="0")
    failing_since: Mapped[datetime | None]
    paused_until: Mapped[datetime | None]
    disabled_at: Mapped[datetime | None]
    disabled_reason: Mapped[str | None]
    deleted_at: Mapped[datetime | None]


class WebhookDelivery(Base):
    """An event to deliver to a webhook. Ids only: the body is made of the present rows when it is sent.

    Those of a `lane` and conversation are delivered in the order of ids: only the first pending one has a `due_at`.
    `response` is the beginning of the last answer, if that was no success; it is erased with the conversation.
    """

    __tablename__ = "webhook_deliveries"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    webhook_id: Mapped[UUID]
    event_id: Mapped[UUID]
    type: Mapped[str]
    at: Mapped[datetime]
    lane: Mapped[int] = mapped_column(SmallInteger)
    conversation_id: Mapped[UUID | None]
    message_id: Mapped[UUID | None]
    data: Mapped[dict[str, Any] | None]
    replay_of: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    state: Mapped[str] = mapped_column(server_default=DeliveryState.PENDING)
    due_at: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    attempted_at: Mapped[datetime | None]
    status: Mapped[int | None] = mapped_column(SmallInteger)
    error: Mapped[str | None]
    response: Mapped[str | None]
    duration_ms: Mapped[int | None]

    __table_args__ = (
        CheckConstraint(f"state in ({quoted(list(DeliveryState))})", name="state"),
        # Each event once, but for replays.
        Index(
            "webhook_deliveries_event_key",
            "event_id",
            "webhook_id",
            unique=True,
            postgresql_where=text("replay_of is null"),
        ),
        Index("webhook_deliveries_list_idx", "webhook_id", "id"),
        Index("webhook_deliveries_failed_idx", "webhook_id", "id", postgresql_where=text("state = 'failed'")),
        Index("webhook_deliveries_failed_at_idx", "attempted_at", postgresql_where=text("state = 'failed'")),
        Index(
            "webhook_deliveries_due_idx",
            "webhook_id",
            "due_at",
            postgresql_where=text("state = 'pending' and due_at is not null"),
        ),
        Index(
            "webhook_deliveries_line_idx",
            "webhook_id",
            "lane",
            "conversation_id",
            "id",
            postgresql_where=text("state = 'pending'"),
        ),
        Index("webhook_deliveries_response_idx", "conversation_id", postgresql_where=text("response is not null")),
    )


class WebhookProgress(Base):
    """The cursor of webhooks in the log, and the process that sends, until `held_until`.

    Every transaction that adds or ends deliveries locks this row, so that the first of each line is always due.
    """

    __tablename__ = "webhook_progress"

    singleton: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    position: Mapped[int] = mapped_column(BigInteger, server_default="0")
    holder: Mapped[UUID | None]
    held_until: Mapped[datetime | None]

    __table_args__ = (CheckConstraint("singleton", name="one_row"),)
