"""What is known from the event log: handled events, people, the state of conversations."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, BigInteger, CheckConstraint, Index, Uuid, func, text
from sqlalchemy.orm import Mapped, mapped_column

from services.notifications.models.base import Base


class InboxEntry(Base):
    """An event that arrived. It is done when it is handled, or parked until an operator retries or discards it."""

    __tablename__ = "inbox"

    event_id: Mapped[UUID] = mapped_column(primary_key=True)
    type: Mapped[str]
    attempts: Mapped[int] = mapped_column(server_default="0")
    received_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    attempted_at: Mapped[datetime | None]  # the last counted attempt
    handled_at: Mapped[datetime | None]
    parked_at: Mapped[datetime | None]
    reason: Mapped[str | None]
    event: Mapped[dict[str, Any] | None]  # only of a parked event, for the retry

    __table_args__ = (Index("inbox_parked_idx", "parked_at", postgresql_where=text("parked_at is not null")),)


class FeedCursor(Base):
    """The position up to which the event log is handled, and the epoch of that position.

    `rebuild_*`: progress of a rebuild from a snapshot, after the position in the log was lost.
    `restored_*`: this database was restored from a backup. The service had handled the log up to this position and
    time before, so emails about those events may have been sent.
    """

    __tablename__ = "feed_cursor"

    singleton: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    position: Mapped[int] = mapped_column(BigInteger, server_default="0")
    head: Mapped[int] = mapped_column(BigInteger, server_default="0")  # the log's end when it was last read
    epoch: Mapped[UUID | None]
    caught_up_at: Mapped[datetime | None]  # when the log was last read to its end
    rebuild_reason: Mapped[str | None]
    rebuild_kind: Mapped[str | None]
    rebuild_after: Mapped[str | None]
    rebuilt_at: Mapped[datetime | None]
    restored_to: Mapped[int | None] = mapped_column(BigInteger)
    restored_until: Mapped[datetime | None]

    __table_args__ = (CheckConstraint("singleton", name="one_row"),)


class Person(Base):
    """A user, as of the newest event about them. `merged_into`: the person to whom this id belongs now."""

    __tablename__ = "people"

    id: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(BigInteger)
    name: Mapped[str | None]
    email: Mapped[str | None]
    locale: Mapped[str | None]
    zoneinfo: Mapped[str | None]
    role: Mapped[str | None]  # synced from the store; limits what the user's tokens may do
    deleted: Mapped[bool] = mapped_column(server_default=text("false"))
    merged_into: Mapped[str | None]

    __table_args__ = (
        Index("people_address_idx", text("lower(email)"), postgresql_where=text("email is not null")),
        Index("people_merged_idx", "merged_into", postgresql_where=text("merged_into is not null")),
    )


class ConversationState(Base):
    """The read watermarks of a conversation, its removed messages, and whether it was deleted.

    The row may exist before any message of the conversation is known, because events arrive in any order.
    """

    __tablename__ = "marks"

    conversation_id: Mapped[UUID] = mapped_column(primary_key=True)
    read_by_user_number: Mapped[int] = mapped_column(server_default="0")
    read_by_admin_number: Mapped[int] = mapped_column(server_default="0")
    opened_by_admin: Mapped[bool] = mapped_column(server_default=text("false"))  # also while it had no message
    deleted_at: Mapped[datetime | None]
    removed_ids: Mapped[list[UUID]] = mapped_column(ARRAY(Uuid), server_default=text("'{}'"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
