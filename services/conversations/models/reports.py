"""The facts that reports count, and how far they are written."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from services.conversations.models.base import Base


class ConversationFact(Base):
    """What reports count of a cycle of a conversation (`reports/cycles.py`). It names neither text nor customer.

    No foreign keys: the row outlives its conversation, and admins' rows stay.
    """

    __tablename__ = "conversation_facts"

    conversation_id: Mapped[UUID] = mapped_column(primary_key=True)
    cycle: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int]  # a message up to which all are counted; fewer than `MAX_BEHIND` later ones may be, too
    opened_at: Mapped[datetime] = mapped_column(index=True)
    opened_by: Mapped[str | None]
    replied_at: Mapped[datetime | None]
    replied_by: Mapped[str | None]
    resolved_at: Mapped[datetime | None]
    resolved_by: Mapped[str | None]

    __table_args__ = (
        Index("conversation_facts_replied_at_idx", "replied_at", postgresql_where=text("replied_at is not null")),
        Index("conversation_facts_resolved_at_idx", "resolved_at", postgresql_where=text("resolved_at is not null")),
    )


class ReportProgress(Base):
    """The cursor of the facts in the log, and the first fill, as in `SearchProgress`.

    Changes of the status before `exact_since` were not recorded; null if there were no conversations.
    """

    __tablename__ = "report_progress"

    singleton: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    position: Mapped[int] = mapped_column(BigInteger)
    fill_before: Mapped[UUID | None]
    filled: Mapped[int] = mapped_column(BigInteger, server_default="0")
    exact_since: Mapped[datetime | None]

    __table_args__ = (CheckConstraint("singleton", name="one_row"),)
