"""This service's own log, and the broker connections of its workers."""

from sqlalchemy import ARRAY, BigInteger, Column, DateTime, Identity, Index, Table, Text, Uuid, func, text

from services.notifications.models.base import Base
from shared.broker.reports import BrokerReportColumns
from shared.event_log.tables import FeedHeadColumns, FeedReaderColumns

LOGGED_EVENTS = Table(
    "events",
    Base.metadata,
    Column("seq", BigInteger, Identity(always=True), nullable=False),
    Column("position", BigInteger),
    Column("numbered_at", DateTime(timezone=True), server_default=func.clock_timestamp(), nullable=False),
    Column("subject_id", Uuid, nullable=False),
    Column("type", Text, nullable=False),
    Column("more_ids", ARRAY(Uuid)),
    Index("events_position_idx", "position", unique=True, postgresql_where=text("position is not null")),
    Index("events_unnumbered_idx", "seq", unique=True, postgresql_where=text("position is null")),
)
"""This service's own log: that the row `subject_id` has changed, and the rows `more_ids` in the same statement.

What the rows say is read with the event. An email costs an event or a part of one, so it has no key and no index beside
those of its place, and no payload.
"""


class FeedHead(FeedHeadColumns, Base):
    """The end of this service's own log."""


class FeedReader(FeedReaderColumns, Base):
    """The readers of this service's own log."""


class BrokerReport(BrokerReportColumns, Base):
    """The broker connection of each worker."""
