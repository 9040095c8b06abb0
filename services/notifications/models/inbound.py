"""Emails that came in, and the addresses by which they are recognised."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from services.notifications.models.base import Base
from services.notifications.rules import InboundKind, InboundState


class ReplyAddress(Base):
    """The address for replies to an email, from its first attempt on, and the words by which a quote is recognised.

    Conversation and recipient are those of the email. `as_note`: an admin's reply becomes a note.
    """

    __tablename__ = "reply_addresses"

    email_id: Mapped[UUID] = mapped_column(primary_key=True)
    token_hash: Mapped[bytes]
    newest_number: Mapped[int]  # of the messages in the email
    fingerprints: Mapped[bytes]
    expires_at: Mapped[datetime]
    as_note: Mapped[bool] = mapped_column(server_default=text("false"))


class InboundEmail(Base):
    """An email that came in. It is committed before its sender's server gets an answer.

    `same_as` is its Message-ID, or a hash of its bytes: an email that arrives again is the same row. `failing_since`:
    the first of the attempts at posting that failed for what is in the email, not for an outage.

    `kind` is what it becomes (`InboundKind`), and never changes. `user_id` is who then wrote it, null if that is not
    known. The conversation of one that opens it does not exist before the email is posted. `posted_by`: the admin who
    posted it by hand, empty for an operator.
    """

    __tablename__ = "inbound_emails"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    conversation_id: Mapped[UUID]
    email_id: Mapped[UUID | None]  # the email of ours that it answers
    user_id: Mapped[str | None]
    read_up_to: Mapped[int]
    same_as: Mapped[str]
    from_address: Mapped[str | None]
    size: Mapped[int]
    original: Mapped[bytes | None] = mapped_column(deferred=True)
    state: Mapped[str]
    reason: Mapped[str | None]
    tries: Mapped[int] = mapped_column(server_default="0")
    failing_since: Mapped[datetime | None]
    next_attempt_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    lease_id: Mapped[UUID | None]
    lease_until: Mapped[datetime | None]
    message_id: Mapped[UUID | None]  # of the message that it became
    message_number: Mapped[int | None]
    received_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    finished_at: Mapped[datetime | None]
    kind: Mapped[str] = mapped_column(server_default=text(f"'{InboundKind.MESSAGE}'"))
    posted_by: Mapped[str | None]

    __table_args__ = (
        CheckConstraint(f"state in ({', '.join(repr(str(state)) for state in InboundState)})", name="state"),
        UniqueConstraint("conversation_id", "same_as"),
        Index("inbound_emails_held_idx", "from_address", "id", postgresql_where=text("state = 'held'")),
        Index("inbound_emails_waiting_idx", "conversation_id", "id", postgresql_where=text("state = 'received'")),
        Index("inbound_emails_state_idx", "state", "id"),
        Index("inbound_emails_user_id_idx", "user_id"),
        Index("inbound_emails_original_idx", "id", postgresql_where=text("original is not null")),
        Index("inbound_emails_message_id_idx", "message_id", postgresql_where=text("message_id is not null")),
    )


class HeldNotice(Base):
    """An address whose sender is to be told that an email is held, or was told less than a day ago."""

    __tablename__ = "held_notices"

    mailbox: Mapped[str] = mapped_column(primary_key=True)
    inbound_id: Mapped[UUID]
    asked_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    sent_at: Mapped[datetime | None]
