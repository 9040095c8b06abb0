"""Files, and those to delete from the file store."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, SmallInteger, func, text
from sqlalchemy.orm import Mapped, mapped_column

from services.conversations.models.base import Base, quoted
from services.conversations.rules import FileState, Side, ThumbnailState


class Attachment(Base):
    """A file. Its row is there before its bytes, and a trigger adds a `FileDeletion` when the row is deleted.

    Until it is sent, it is its uploader's alone, and `message_id` is null. `next_attempt_at` is when the scan or the
    thumbnail is due; null if there is nothing to do. `conversation_id` is no foreign key, as in `Message`.
    """

    __tablename__ = "attachments"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    uploader_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    side: Mapped[str]
    name: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)  # in bytes; while it is uploaded, as declared
    content_type: Mapped[str]
    sha256: Mapped[str | None]
    state: Mapped[str]
    width: Mapped[int | None]
    height: Mapped[int | None]
    thumbnail: Mapped[str] = mapped_column(server_default=ThumbnailState.NONE)
    conversation_id: Mapped[UUID | None]
    message_id: Mapped[UUID | None]
    position: Mapped[int | None] = mapped_column(SmallInteger)  # in its message
    idempotency_key: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    next_attempt_at: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(server_default="0")

    __table_args__ = (
        CheckConstraint(f"side in ({quoted(list(Side))})", name="side"),
        CheckConstraint(f"state in ({quoted(list(FileState))})", name="state"),
        CheckConstraint(f"thumbnail in ({quoted(list(ThumbnailState))})", name="thumbnail"),
        Index(
            "attachments_message_idx",
            "conversation_id",
            "message_id",
            postgresql_where=text("conversation_id is not null"),
        ),
        Index("attachments_uploader_idx", "uploader_id", "created_at"),
        Index("attachments_unsent_idx", "created_at", postgresql_where=text("message_id is null")),
        Index("attachments_due_idx", "next_attempt_at", postgresql_where=text("next_attempt_at is not null")),
        Index(
            "attachments_idempotency_key",
            "uploader_id",
            "idempotency_key",
            unique=True,
            postgresql_where=text("idempotency_key is not null"),
        ),
    )


class FileDeletion(Base):
    """The objects of a deleted attachment, which are to be deleted from the file store. The id is the attachment's."""

    __tablename__ = "file_deletions"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    due_at: Mapped[datetime] = mapped_column(index=True)
    attempts: Mapped[int] = mapped_column(server_default="0")
