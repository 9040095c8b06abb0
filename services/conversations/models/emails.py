"""What the notifications service has said of emails."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ARRAY, BigInteger, CheckConstraint, ForeignKey, Text, func, text
from sqlalchemy.orm import Mapped, mapped_column

from services.conversations.models.base import Base


class NotificationsCursor(Base):
    """The position up to which the notifications service's log is read, its epoch, and the types that were read.

    `list_after` is not null while all emails are listed instead, for `list_reason`: the id of the last one.
    """

    __tablename__ = "notifications_cursor"

    singleton: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    position: Mapped[int] = mapped_column(BigInteger, server_default="0")
    epoch: Mapped[UUID | None]
    types: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    list_after: Mapped[UUID | None]
    list_reason: Mapped[str | None]
    caught_up_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())  # read to its end

    __table_args__ = (CheckConstraint("singleton", name="one_row"),)


class UnmatchedEmail(Base):
    """An email that is held and belongs to no conversation, by its id in the notifications service."""

    __tablename__ = "held_letters"

    id: Mapped[UUID] = mapped_column(primary_key=True)


class EmailStop(Base):
    """Why a customer gets no emails, about a conversation or at all. Without `user_id` it concerns all customers.

    The notifications service decides it; its log says so here. No foreign key to users: it may know them first.
    """

    __tablename__ = "email_stops"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[str | None] = mapped_column(index=True)
    conversation_id: Mapped[UUID | None] = mapped_column(ForeignKey("conversations.id", ondelete="CASCADE"), index=True)
    reason: Mapped[str]
