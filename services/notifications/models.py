"""The tables of the notifications service."""

from datetime import datetime, time
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from services.notifications.rules import Audience, EmailState, InboundKind, InboundState
from shared.broker.reports import BrokerReportColumns
from shared.database.orm import NAMES, ColumnTypes
from shared.event_log.tables import FeedHeadColumns, FeedReaderColumns

DEFERRED = "(counted_tries > 0 or refused_at is not null)"
"""SQL condition: a scheduled email was attempted before and waits for another attempt."""

RANDOM_KEY = "decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex')"
"""SQL of 32 bytes, of which 244 bits are random."""


class Base(ColumnTypes, DeclarativeBase):
    """All tables of the service."""

    metadata = MetaData(naming_convention=NAMES)


class InboxEntry(Base):
    """An event that arrived. It is done when it is handled, or parked until an operator retries or discards it."""

    __tablename__ = "inbox"

    event_id: Mapped[UUID] = mapped_column(primary_key=True)
    type: Mapped[str]
    attempts: Mapped[int] = mapped_column(server_default="0")
    received_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    attempted_at: Mapped[datetime | None]  # the last counted attempt
    handled_at: Mapped[datetime | None]
    parked_at: Mapped[datetime | None]
    reason: Mapped[str | None]
    event: Mapped[dict[str, Any] | None]  # only of a parked event, for the retry

    __table_args__ = (Index("inbox_parked_idx", "parked_at", postgresql_where=text("parked_at is not null")),)


class FeedCursor(Base):
    """The position up to which the event log is handled, and the epoch of that position.

    `rebuild_*`: progress of a rebuild from a snapshot, after the position in the log was lost.
    `restored_*`: this database was restored from a backup. The service had handled the log up to this position and
    time before, so emails about those events may have been sent.
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
    """A user, as of the newest event about them. `merged_into`: the person to whom this id belongs now."""

    __tablename__ = "people"

    id: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(BigInteger)
    name: Mapped[str | None]
    email: Mapped[str | None]
    locale: Mapped[str | None]
    zoneinfo: Mapped[str | None]
    role: Mapped[str | None]  # synced from the store; limits what the user's tokens may do
    deleted: Mapped[bool] = mapped_column(server_default=text("false"))
    merged_into: Mapped[str | None]

    __table_args__ = (
        Index("people_address_idx", text("lower(email)"), postgresql_where=text("email is not null")),
        Index("people_merged_idx", "merged_into", postgresql_where=text("merged_into is not null")),
    )


class ConversationState(Base):
    """The read watermarks of a conversation, its removed messages, and whether it was deleted.

    The row may exist before any message of the conversation is known, because events arrive in any order.
    """

    __tablename__ = "marks"

    conversation_id: Mapped[UUID] = mapped_column(primary_key=True)
    read_by_user_number: Mapped[int] = mapped_column(server_default="0")
    read_by_admin_number: Mapped[int] = mapped_column(server_default="0")
    opened_by_admin: Mapped[bool] = mapped_column(server_default=text("false"))  # also while it had no message
    deleted_at: Mapped[datetime | None]
    removed_ids: Mapped[list[UUID]] = mapped_column(ARRAY(Uuid), server_default=text("'{}'"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class Notification(Base):
    """A `NEW_MESSAGE` notification: one for every admin message."""

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


class AdminNotification(Base):
    """A notification for an admin, or for all admins if `recipient_id` is null.

    A conversation has one about its creation and one about its customer's replies: a newer message changes it and gives
    it a new `turn`, which orders them. So a burst is one entry. The id follows from what it is about (`record_id`).
    """

    __tablename__ = "admin_notifications"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    type: Mapped[str]
    recipient_id: Mapped[str | None]
    conversation_id: Mapped[UUID]
    source_id: Mapped[UUID]  # the message, note or entry; the conversation if it was opened without a message
    number: Mapped[int]  # of the message; of the last one before a note or an assignment
    subject: Mapped[str]
    actor_id: Mapped[str]
    preview: Mapped[str]
    occurred_at: Mapped[datetime]
    turn: Mapped[UUID] = mapped_column(server_default=func.uuidv7())

    __table_args__ = (
        Index("admin_notifications_turn_idx", "turn"),
        Index("admin_notifications_conversation_idx", "conversation_id"),
        Index("admin_notifications_recipient_idx", "recipient_id", postgresql_where=text("recipient_id is not null")),
    )


class AdminRead(Base):
    """An admin has marked a notification as read. It is unread again with another `turn`."""

    __tablename__ = "admin_reads"

    notification_id: Mapped[UUID] = mapped_column(
        ForeignKey("admin_notifications.id", ondelete="CASCADE"), primary_key=True
    )
    admin_id: Mapped[str] = mapped_column(primary_key=True)
    turn: Mapped[UUID]

    __table_args__ = (Index("admin_reads_admin_idx", "admin_id"),)


class AdminMark(Base):
    """How far an admin has read a conversation in which something was for them, and when."""

    __tablename__ = "admin_marks"

    conversation_id: Mapped[UUID] = mapped_column(primary_key=True)
    admin_id: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int]
    read_at: Mapped[datetime]

    __table_args__ = (Index("admin_marks_admin_idx", "admin_id"),)


class Bell(Base):
    """An admin's preferences by type, and up to which `turn` all of their notifications are read.

    No emails are sent from `quiet_start` to `quiet_end`. With `digest_at` they are one a day, at that local time.
    """

    __tablename__ = "bells"

    admin_id: Mapped[str] = mapped_column(primary_key=True)
    read_through: Mapped[UUID | None]
    preferences: Mapped[dict[str, Any] | None]
    quiet_start: Mapped[time | None]
    quiet_end: Mapped[time | None]
    digest_at: Mapped[time | None]


class Email(Base):
    """An email about one conversation to one recipient.

    It is open for further messages until it is first claimed. From then on its messages are fixed, and each attempt
    renders them again.
    """

    __tablename__ = "emails"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    audience: Mapped[str]
    recipient_id: Mapped[str]  # the customer's or admin's id, or `support`
    conversation_id: Mapped[UUID]
    subject: Mapped[str | None]
    state: Mapped[str]
    reason: Mapped[str | None]
    due_at: Mapped[datetime]
    next_attempt_at: Mapped[datetime]
    claimed_at: Mapped[datetime | None]  # the first time
    lease_id: Mapped[UUID | None]
    lease_until: Mapped[datetime | None]
    data_at: Mapped[datetime | None]  # the current attempt is about to send DATA
    counted_tries: Mapped[int] = mapped_column(server_default="0")
    uncertain_tries: Mapped[int] = mapped_column(server_default="0")
    refused_at: Mapped[datetime | None]  # the last refusal that may be caused by the setup
    message_id: Mapped[str | None]
    to_address: Mapped[str | None]
    mailbox: Mapped[str | None]  # the key of the recipient limits: `mailbox_of` or `support_quota_key`
    content: Mapped[bytes | None] = mapped_column(deferred=True)  # always null: for release 0.2.0
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
        Index("emails_sending_idx", "mailbox", "lease_until", postgresql_where=text("state = 'sending'")),  # few
        Index("emails_held_back_idx", "id", postgresql_where=text("state = 'scheduled' and reason is not null")),
        Index("emails_deferred_idx", "id", postgresql_where=text(f"state = 'scheduled' and {DEFERRED}")),
        Index("emails_conversation_idx", "conversation_id"),
        Index("emails_recipient_idx", "recipient_id", "id"),
        Index("emails_finished_idx", "state", "id", postgresql_where=text("finished_at is not null")),
    )


class EmailMessage(Base):
    """A message in an email. `left_out`: it was read before the email was first claimed.

    In an email to an admin it may also be a note or an assignment: what `notification_id` is about. Several admins may
    get the same message, so the key is then `item_id`. A digest has those of several conversations.

    `email_id` is no foreign key, here and in `DeliveryAttempt`: a check for each row locks the email, and both only get
    rows of emails that exist. Emails are never deleted.
    """

    __tablename__ = "email_messages"

    message_id: Mapped[UUID] = mapped_column(primary_key=True)
    email_id: Mapped[UUID] = mapped_column(index=True)
    number: Mapped[int]
    sender_id: Mapped[str]
    body: Mapped[str]
    files: Mapped[list[dict[str, Any]] | None] = mapped_column(
        JSONB(none_as_null=True)
    )  # of each its id, name and size
    created_at: Mapped[datetime]
    left_out: Mapped[bool] = mapped_column(server_default=text("false"))
    notification_id: Mapped[UUID | None]
    conversation_id: Mapped[UUID | None]  # only in a digest; else that of the email

    __table_args__ = (
        Index(
            "email_messages_conversation_idx",
            "conversation_id",
            postgresql_where=text("conversation_id is not null"),
        ),
    )


class DeliveryAttempt(Base):
    """One attempt to send an email: the phase it reached, the server's reply, the process."""

    __tablename__ = "email_tries"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    email_id: Mapped[UUID] = mapped_column(index=True)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    outcome: Mapped[str]
    phase: Mapped[str]
    code: Mapped[int | None]
    reply: Mapped[str]
    process: Mapped[str]
    mailbox: Mapped[str | None]  # only if it got or may have got the email

    __table_args__ = (
        Index(
            "email_tries_mailbox_idx", "mailbox", text("finished_at desc"), postgresql_where=text("mailbox is not null")
        ),
    )


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


class Bounce(Base):
    """A report that an email did not arrive. The report's words are in a row of `email_tries`.

    `address_hash` is null if the address was erased before. Rows are kept for as long as a second report counts.
    """

    __tablename__ = "bounces"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    email_id: Mapped[UUID]
    address_hash: Mapped[bytes | None] = mapped_column(index=True)
    status: Mapped[str]  # RFC 3463
    reason: Mapped[str]
    consequence: Mapped[str]
    permanent: Mapped[bool]


class Suppression(Base):
    """An address to which no email is sent any more, as a keyed hash: it stays when its person is erased.

    `user_id` is whose address it is, as long as it is theirs; `email_id` the email that was reported.
    """

    __tablename__ = "suppressions"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    address_hash: Mapped[bytes] = mapped_column(unique=True)
    user_id: Mapped[str | None] = mapped_column(index=True)
    email_id: Mapped[UUID]
    reason: Mapped[str]
    status: Mapped[str]
    since: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class HeldNotice(Base):
    """An address whose sender is to be told that an email is held, or was told less than a day ago."""

    __tablename__ = "held_notices"

    mailbox: Mapped[str] = mapped_column(primary_key=True)
    inbound_id: Mapped[UUID]
    asked_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    sent_at: Mapped[datetime | None]


class Mute(Base):
    """A customer who wants no emails about a conversation, or none at all: then `conversation_id` is null."""

    __tablename__ = "mutes"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    user_id: Mapped[str]
    conversation_id: Mapped[UUID | None] = mapped_column(index=True)
    muted_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())

    __table_args__ = (UniqueConstraint("user_id", "conversation_id", postgresql_nulls_not_distinct=True),)


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


class SendingControl(Base):
    """Whether emails may be sent at all: not while sending is paused or the circuit breaker is open.

    An open breaker is probed by one email at a time, under the lease `breaker_probe`. `proven_at` is when a probe last
    succeeded: an email that was refused before that and is refused again is itself the cause.

    `incarnation` is the identity of the database that knows which emails were sent. In any other database, which may be
    a restored backup, nothing is sent until that is known again.
    """

    __tablename__ = "gate"

    singleton: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    paused_at: Mapped[datetime | None]
    breaker_trips: Mapped[int] = mapped_column(server_default="0")  # consecutive
    breaker_until: Mapped[datetime | None]
    breaker_since: Mapped[datetime | None]
    breaker_phase: Mapped[str | None]
    breaker_host: Mapped[str | None]
    breaker_code: Mapped[int | None]
    breaker_reason: Mapped[str | None]
    breaker_probe: Mapped[UUID | None]
    proven_at: Mapped[datetime | None]
    incarnation: Mapped[str | None]
    has_no_smtp: Mapped[bool] = mapped_column(server_default=text("false"))  # as the sweeper's settings say
    leave_key: Mapped[bytes] = mapped_column(server_default=text(RANDOM_KEY))  # signs the links that stop emails

    __table_args__ = (CheckConstraint("singleton", name="one_row"),)


class FeedHead(FeedHeadColumns, Base):
    """The end of this service's own log."""


class FeedReader(FeedReaderColumns, Base):
    """The readers of this service's own log."""


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


class BrokerReport(BrokerReportColumns, Base):
    """The broker connection of each worker."""
