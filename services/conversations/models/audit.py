"""The audit."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from services.conversations.models.base import Base
from services.conversations.rules import AuditAction


class AuditEntry(Base):
    """An act of an admin or of the store, in partitions of a month. A trigger refuses to change or delete any."""

    __tablename__ = "audit_entries"

    at: Mapped[datetime] = mapped_column(primary_key=True, server_default=func.clock_timestamp())
    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    actor_id: Mapped[str]
    actor_role: Mapped[str]
    action: Mapped[str]
    conversation_id: Mapped[UUID | None]
    target_id: Mapped[str | None]  # what else it was done to
    data: Mapped[dict[str, Any] | None]
    address: Mapped[str | None]
    request_id: Mapped[UUID | None]

    __table_args__ = (
        Index("audit_entries_key", "at", "id", unique=True),  # of the mapper alone a primary key, see migration 0024
        Index("audit_entries_actor_idx", "actor_id", "at", "id"),
        Index("audit_entries_action_idx", "action", "at", "id"),
        Index(
            "audit_entries_conversation_idx",
            "conversation_id",
            "at",
            "id",
            postgresql_where=text("conversation_id is not null"),
        ),
        Index(
            "audit_entries_read_key",
            "at",
            "actor_id",
            "conversation_id",
            unique=True,
            postgresql_where=text(f"action = '{AuditAction.CONVERSATION_READ}'"),
        ),
        {"postgresql_partition_by": "RANGE (at)", "info": {"append_only": True}},
    )
