"""The documents of search, and how far they are written.

Their tables are unlogged: a crash of PostgreSQL empties all of them, and the indexer begins again.
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, func, text
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from services.conversations.models.base import Base


class SearchDocument(Base):
    """All terms of a conversation's messages from `first_number` to `last_number`: see `search/documents.py`.

    A conversation without messages has an empty range. Deleting a conversation deletes its documents.
    """

    __tablename__ = "conversation_search"

    conversation_id: Mapped[UUID] = mapped_column(ForeignKey("conversations.id", ondelete="CASCADE"), primary_key=True)
    first_number: Mapped[int] = mapped_column(primary_key=True)
    last_number: Mapped[int]
    tsv: Mapped[str] = mapped_column(TSVECTOR)

    __table_args__ = (
        # New entries wait in a list of up to 16 MB, which searches read, until they are sorted in together (ADR 0015).
        Index(
            "conversation_search_idx", "tsv", postgresql_using="gin", postgresql_with={"gin_pending_list_limit": 16384}
        ),
        {"prefixes": ["unlogged"]},
    )


class NoteSearchDocument(Base):
    """All terms of a conversation's notes, apart from those of its messages: customers' searches never read it."""

    __tablename__ = "note_search"

    conversation_id: Mapped[UUID] = mapped_column(ForeignKey("conversations.id", ondelete="CASCADE"), primary_key=True)
    tsv: Mapped[str] = mapped_column(TSVECTOR)

    __table_args__ = (Index("note_search_idx", "tsv", postgresql_using="gin"), {"prefixes": ["unlogged"]})


class SearchProgress(Base):
    """The indexer's cursor in the log, and how far it has indexed the conversations that were there before.

    These have ids below `fill_before`, which is null once all of them are indexed. Without a row, none are.
    """

    __tablename__ = "search_progress"

    singleton: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    position: Mapped[int] = mapped_column(BigInteger)
    fill_before: Mapped[UUID | None]
    filled: Mapped[int] = mapped_column(BigInteger, server_default="0")

    __table_args__ = (CheckConstraint("singleton", name="one_row"), {"prefixes": ["unlogged"]})


class ParkedDocument(Base):
    """A conversation that the indexer could not index, with the name of the error."""

    __tablename__ = "search_parked"

    conversation_id: Mapped[UUID] = mapped_column(ForeignKey("conversations.id", ondelete="CASCADE"), primary_key=True)
    reason: Mapped[str]
    parked_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
