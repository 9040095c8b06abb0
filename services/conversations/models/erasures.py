"""Erasures in progress, and their receipts."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, Index, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from services.conversations.models.base import Base


class Erasure(Base):
    """The erasure of a deleted conversation or user, done in batches by `messaging/erasure_batches.py`.

    A trigger adds a conversation's erasure when its row is deleted, so no conversation is deleted without one.
    `number`, `seq` and `position` say how far messages, a conversation's events and a user's events are erased. A
    user's events are erased up to that of the deletion, `event_id`; with `whole_log` also in other users' events.
    """

    __tablename__ = "erasures"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    user_id: Mapped[str]  # the erased user, or the conversation's customer
    conversation_id: Mapped[UUID | None] = mapped_column(index=True)  # not unique: a restored one may be deleted again
    content: Mapped[bool] = mapped_column(server_default=text("false"))  # whether to erase the user's conversations too
    event_id: Mapped[UUID | None]
    whole_log: Mapped[bool] = mapped_column(server_default=text("false"))
    number: Mapped[int] = mapped_column(server_default="0")
    seq: Mapped[int] = mapped_column(BigInteger, server_default="0")
    position: Mapped[int] = mapped_column(BigInteger, server_default="0")
    erased: Mapped[int] = mapped_column(BigInteger, server_default="0")  # rows
    # Of a user: what there was to erase, by kind, and who asked for it.
    counts: Mapped[dict[str, int] | None] = mapped_column(JSONB(none_as_null=True))
    asked_by: Mapped[str | None]
    asked_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    advanced_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        Index("erasures_unfinished_idx", "id", postgresql_where=text("finished_at is null")),
        Index("erasures_user_idx", "user_id"),
    )
