"""What admins work with beside messages: labels, canned replies, who is viewing."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Identity, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from services.conversations.models.base import Base


class Label(Base):
    """A label for conversations. `folded` is its name without case, by which names are compared."""

    __tablename__ = "labels"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    name: Mapped[str]
    folded: Mapped[str] = mapped_column(unique=True)


class CannedReply(Base):
    """A reply that admins insert by its shortcut, with variables that are filled in."""

    __tablename__ = "canned_replies"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    shortcut: Mapped[str]
    title: Mapped[str]
    body: Mapped[str]
    locale: Mapped[str | None]

    __table_args__ = (
        Index("canned_replies_shortcut_key", text("lower(shortcut)"), text("coalesce(locale, '')"), unique=True),
    )


class Presence(Base):
    """An admin who is viewing a conversation. No foreign keys: the row is a short-lived hint."""

    __tablename__ = "viewers"

    conversation_id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(primary_key=True)
    seen_at: Mapped[datetime]

    __table_args__ = ({"prefixes": ["unlogged"]},)
