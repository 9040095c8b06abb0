"""The columns of tables that every log has."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column


class FeedHeadColumns:
    """The end of the log: its last position, and the epoch, which changes when the log is restored from a backup.

    `incarnation` identifies the database in which the log was last numbered; another database starts a new epoch.
    """

    __tablename__ = "feed"

    singleton: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    head: Mapped[int] = mapped_column(BigInteger, server_default="0")
    epoch: Mapped[UUID] = mapped_column(server_default=func.gen_random_uuid())
    incarnation: Mapped[str | None]

    __table_args__ = (CheckConstraint("singleton", name="one_row"),)


class FeedReaderColumns:
    """The last position that a reader of the log acknowledged; retention keeps later events for it."""

    __tablename__ = "feed_readers"

    name: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger)
    seen_at: Mapped[datetime]
