"""The event log: its rows, its end, its readers, and the relays that publish it."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Identity, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from services.conversations.models.base import Base
from shared.broker.reports import BrokerReportColumns
from shared.event_log.tables import FeedHeadColumns, FeedReaderColumns


class LoggedEvent(Base):
    """An event of the log. The sequencer assigns `position`, in commit order and without gaps.

    `seq` is the order of insertion. It matches the commit order of transactions that ran one after the other, such as
    those of one conversation.
    """

    __tablename__ = "events"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    seq: Mapped[int] = mapped_column(BigInteger, Identity(always=True))
    position: Mapped[int | None] = mapped_column(BigInteger)
    type: Mapped[str]
    version: Mapped[int] = mapped_column(server_default="1")
    user_id: Mapped[str | None]  # the customer or user that it is about
    conversation_id: Mapped[UUID | None]
    payload: Mapped[dict[str, Any] | None]
    audience: Mapped[str | None]  # `admin`: an event that customers do not see
    occurred_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    numbered_at: Mapped[datetime | None] = mapped_column(server_default=func.clock_timestamp())  # see the sequencer

    __table_args__ = (
        Index("events_position_idx", "position", unique=True, postgresql_where=text("position is not null")),
        Index("events_unnumbered_idx", "seq", postgresql_where=text("position is null")),
        Index("events_conversation_idx", "conversation_id", "seq"),  # in the order of erasure
        Index("events_user_idx", "user_id", "position"),
    )


class FeedHead(FeedHeadColumns, Base):
    """The end of the log. `by_reference`: events of messages name the message instead of holding a copy of it."""

    by_reference: Mapped[bool] = mapped_column(server_default=text("false"))


class FeedReader(FeedReaderColumns, Base):
    """The readers of the log."""


class BrokerReport(BrokerReportColumns, Base):
    """The state of each relay's connection to the broker."""
