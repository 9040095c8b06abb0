"""The tables of the notifications service."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, MetaData, func, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from services.notifications.rules import Audience, EmailState
from shared.broker_reports import BrokerReportColumns
from shared.tables import NAMES, ColumnTypes

DEFERRED = "(counted_tries > 0 or refused_at is not null)"
"""Whether, as SQL, a scheduled email was tried before and waits for another attempt."""


class Base(ColumnTypes, DeclarativeBase):
    """All tables of the service."""

    metadata = MetaData(naming_convention=NAMES)


class InboxEntry(Base):
    """An event that arrived. It is done when handled, or parked: given up on, listed, and retried by hand."""

    __tablename__ = "inbox"

    event_id: Mapped[UUID] = mapped_column(primary_key=True)
    type: Mapped[str]
    attempts: Mapped[int] = mapped_column(server_default="0")
    received_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    attempted_at: Mapped[datetime | None]  # the last attempt that was counted
    handled_at: Mapped[datetime | None]
    parked_at: Mapped[datetime | None]
    reason: Mapped[str | None]
    event: Mapped[dict[str, Any] | None]  # kept of a parked event only, for the retry

    __table_args__ = (
        Index("inbox_parked_idx", "parked_at", postgresql_where=text("parked_at is not null")),
        Index("inbox_received_idx", "received_at"),
    )


class FeedCursor(Base):
    """How far the log was caught up with, and of which epoch that position is.

    `rebuild_*`: the place in the log was lost, and the present state is read instead, kind by kind, page by page.
    `restored_*`: this database is younger than the log remembers, up to that position and to that time; mail of those
    messages may have been sent.
    """

    __tablename__ = "feed_cursor"

    singleton: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    position: Mapped[int] = mapped_column(BigInteger, server_default="0")
    head: Mapped[int] = mapped_column(BigInteger, server_default="0")  # the log's end when it was last read
    epoch: Mapped[UUID | None]
    caught_up_at: Mapped[datetime | None]  # when the log was last read to its end
    rebuild_reason: Mapped[str | None]
    rebuild_kind: Mapped[str | None]
    rebuild_after: Mapped[str | None]
    rebuilt_at: Mapped[datetime | None]
    restored_to: Mapped[int | None] = mapped_column(BigInteger)
    restored_until: Mapped[datetime | None]

    __table_args__ = (CheckConstraint("singleton", name="one_row"),)


class Person(Base):
    """A user as the newest event told of them."""

    __tablename__ = "people"

    id: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(BigInteger)
    name: Mapped[str | None]
    email: Mapped[str | None]
    locale: Mapped[str | None]
    zoneinfo: Mapped[str | None]
    role: Mapped[str | None]  # that the store itself has sent, which bounds what their tokens can do
    deleted: Mapped[bool] = mapped_column(server_default=text("false"))


class ConversationState(Base):
    """What is known of a conversation: how far each side has read, and whether it was deleted.

    It may be known before any of its messages is: events come in any order.
    """

    __tablename__ = "marks"

    conversation_id: Mapped[UUID] = mapped_column(primary_key=True)
    read_by_user_number: Mapped[int] = mapped_column(server_default="0")
    read_by_admin_number: Mapped[int] = mapped_column(server_default="0")
    deleted_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class Notification(Base):
    """A `NEW_MESSAGE` record: one for every admin message."""

    __tablename__ = "notifications"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    user_id: Mapped[str]
    conversation_id: Mapped[UUID]
    message_id: Mapped[UUID] = mapped_column(unique=True)
    number: Mapped[int]
    subject: Mapped[str]
    sender_id: Mapped[str]
    preview: Mapped[str]
    read_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())

    __table_args__ = (
        Index("notifications_user_idx", "user_id", text("id desc")),
        Index("notifications_unread_idx", "user_id", postgresql_where=text("read_at is null")),
        Index("notifications_conversation_idx", "conversation_id", "number"),
    )


class Email(Base):
    """A mail about one conversation to one recipient.

    It is open for further messages until it is first claimed; from then on its messages are fixed, and its
    bytes for as long as its recipient's address and its senders' names are.
    """

    __tablename__ = "emails"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    audience: Mapped[str]
    recipient_id: Mapped[str]  # the customer's id, or `support`
    conversation_id: Mapped[UUID]
    subject: Mapped[str | None]
    state: Mapped[str]
    reason: Mapped[str | None]
    due_at: Mapped[datetime]
    next_attempt_at: Mapped[datetime]
    claimed_at: Mapped[datetime | None]  # the first time
    lease_id: Mapped[UUID | None]
    lease_until: Mapped[datetime | None]
    data_at: Mapped[datetime | None]  # the current try is about to send its DATA
    counted_tries: Mapped[int] = mapped_column(server_default="0")
    uncertain_tries: Mapped[int] = mapped_column(server_default="0")
    refused_at: Mapped[datetime | None]  # for a reason that was taken for the set-up's; the last time
    message_id: Mapped[str | None]
    to_address: Mapped[str | None]
    mailbox: Mapped[str | None]  # what the caps count it by: `mailbox_of`, to support a customer's share of it
    content: Mapped[bytes | None] = mapped_column(deferred=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(f"state in ({', '.join(repr(str(state)) for state in EmailState)})", name="state"),
        CheckConstraint(f"audience in ({', '.join(repr(str(audience)) for audience in Audience)})", name="audience"),
        Index(
            "emails_open_key",
            "recipient_id",
            "conversation_id",
            "audience",
            unique=True,
            postgresql_where=text("state = 'scheduled' and claimed_at is null"),
        ),
        Index("emails_due_idx", "next_attempt_at", postgresql_where=text("state = 'scheduled'")),
        Index("emails_leased_idx", "lease_until", postgresql_where=text("state = 'sending'")),
        Index("emails_in_hand_idx", "mailbox", postgresql_where=text("state = 'sending'")),
        Index("emails_held_back_idx", "id", postgresql_where=text("state = 'scheduled' and reason is not null")),
        Index("emails_deferred_idx", "id", postgresql_where=text(f"state = 'scheduled' and {DEFERRED}")),
        Index("emails_conversation_idx", "conversation_id"),
        Index("emails_recipient_idx", "recipient_id", "id"),
        Index("emails_state_idx", "state", text("id desc")),
    )


class EmailMessage(Base):
    """A message in a mail. `left_out`: it was read before the mail was first taken for sending."""

    __tablename__ = "email_messages"

    message_id: Mapped[UUID] = mapped_column(primary_key=True)
    email_id: Mapped[UUID] = mapped_column(ForeignKey("emails.id", ondelete="CASCADE"), index=True)
    number: Mapped[int]
    sender_id: Mapped[str]
    body: Mapped[str]
    created_at: Mapped[datetime]
    left_out: Mapped[bool] = mapped_column(server_default=text("false"))


class DeliveryAttempt(Base):
    """One try to send a mail: how far it came, what the server said, which process it was."""

    __tablename__ = "email_tries"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    email_id: Mapped[UUID] = mapped_column(ForeignKey("emails.id", ondelete="CASCADE"), index=True)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    outcome: Mapped[str]
    phase: Mapped[str]
    code: Mapped[int | None]
    reply: Mapped[str]
    process: Mapped[str]
    mailbox: Mapped[str | None]  # that got, or may have got, the mail by this try; none otherwise

    __table_args__ = (
        Index(
            "email_tries_mailbox_idx", "mailbox", text("finished_at desc"), postgresql_where=text("mailbox is not null")
        ),
    )


class Erasure(Base):
    """What is still to be erased of a deleted conversation, or of a user's mails up to a time and behind `after`."""

    __tablename__ = "erasures"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    conversation_id: Mapped[UUID | None] = mapped_column(unique=True)
    user_id: Mapped[str | None] = mapped_column(index=True)
    until: Mapped[datetime | None]
    after: Mapped[UUID] = mapped_column(server_default=text("'00000000-0000-0000-0000-000000000000'"))
    erased: Mapped[int] = mapped_column(BigInteger, server_default="0")  # rows
    asked_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    advanced_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class SendingControl(Base):
    """Whether mail may be sent at all: paused by hand, or the breaker is open because the set-up is at fault.

    While it is open one mail at a time, under the lease `breaker_probe`, finds out whether the set-up works again.
    `proven_at` is when that was last found out: mail that was refused before and is refused again is refused for
    its own sake.

    `incarnation` is the database in which it was last known which mail was sent. In another one, which may be a
    restored one, nothing is sent until that is known again.
    """

    __tablename__ = "gate"

    singleton: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    paused_at: Mapped[datetime | None]
    breaker_trips: Mapped[int] = mapped_column(server_default="0")  # in a row
    breaker_until: Mapped[datetime | None]
    breaker_since: Mapped[datetime | None]
    breaker_phase: Mapped[str | None]
    breaker_host: Mapped[str | None]
    breaker_code: Mapped[int | None]
    breaker_reason: Mapped[str | None]
    breaker_probe: Mapped[UUID | None]
    proven_at: Mapped[datetime | None]
    incarnation: Mapped[str | None]

    __table_args__ = (CheckConstraint("singleton", name="one_row"),)


class BrokerReport(BrokerReportColumns, Base):
    """How each worker stands with the broker."""
