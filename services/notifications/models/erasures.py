"""Erasures in progress."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, func, text
from sqlalchemy.orm import Mapped, mapped_column

from services.notifications.models.base import Base


class Erasure(Base):
    """A pending erasure of a deleted conversation, or of a user's address from emails up to a time, after `after`."""

    __tablename__ = "erasures"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    conversation_id: Mapped[UUID | None] = mapped_column(unique=True)
    user_id: Mapped[str | None] = mapped_column(index=True)
    until: Mapped[datetime | None]
    after: Mapped[UUID] = mapped_column(server_default=text("'00000000-0000-0000-0000-000000000000'"))
    erased: Mapped[int] = mapped_column(BigInteger, server_default="0")  # rows
    asked_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    advanced_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
