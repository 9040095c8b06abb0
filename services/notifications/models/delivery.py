"""Emails, their messages and attempts, and what keeps them from being sent."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, UniqueConstraint, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from services.notifications.models.base import Base
from services.notifications.rules import Audience, EmailState

DEFERRED = "(counted_tries > 0 or refused_at is not null)"
"""SQL condition: a scheduled email was attempted before and waits for another attempt."""

RANDOM_KEY = "decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex')"
"""SQL of 32 bytes, of which 244 bits are random."""


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


class Mute(Base):
    """A customer who wants no emails about a conversation, or none at all: then `conversation_id` is null."""

    __tablename__ = "mutes"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    user_id: Mapped[str]
    conversation_id: Mapped[UUID | None] = mapped_column(index=True)
    muted_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())

    __table_args__ = (UniqueConstraint("user_id", "conversation_id", postgresql_nulls_not_distinct=True),)
