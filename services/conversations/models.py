"""The tables of the conversations service."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Computed,
    ForeignKey,
    Identity,
    Index,
    MetaData,
    UniqueConstraint,
    func,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from services.conversations.rules import WAITING, Side, Status
from shared.broker_reports import BrokerReportColumns
from shared.tables import NAMES, ColumnTypes


class Base(ColumnTypes, DeclarativeBase):
    """All tables of the service."""

    metadata = MetaData(naming_convention=NAMES)


def _quoted(values: frozenset[Any] | list[Any]) -> str:
    return ", ".join(f"'{value}'" for value in sorted(values))


# All of them, in the words of the index that begins with the status. `c` is the conversation.
UNREAD_BY_ADMIN = f"c.status in ({_quoted(list(Status))}) and not c.is_read_by_admin"

# What a search compares, in the words of the indexes: without regard to case, accents and the shape of quotes, which is
# what the function `search_form` of the migrations makes of a text.
USER_SEARCH_FORM = "search_form(name, email, id)"
ORDER_SEARCH_FORM = "left(ltrim(search_form(number), '# '), 255)"


class User(Base):
    """A person of the store. `version` grows with every change; `synced_at` is null until the store sent them.

    `claims_issued_at` is the `iat` of the token whose claims changed them last, in seconds. `synced_role` is the role
    that the store itself has sent, which bounds what their tokens can do; null as long as it has sent none.
    """

    __tablename__ = "users"

    id: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[str]
    version: Mapped[int] = mapped_column(BigInteger, server_default="1")
    email: Mapped[str | None]
    name: Mapped[str | None]
    locale: Mapped[str | None]
    zoneinfo: Mapped[str | None]
    updated_at: Mapped[datetime | None]  # the store's own clock
    synced_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    claims_issued_at: Mapped[int | None] = mapped_column(BigInteger)
    synced_role: Mapped[str | None]

    __table_args__ = (
        CheckConstraint(f"role in ({_quoted(list(Side))})", name="role"),
        Index(
            "users_search_form_idx",
            literal_column(USER_SEARCH_FORM).label("form"),
            postgresql_using="gin",
            postgresql_ops={"form": "gin_trgm_ops"},
        ),
    )


class BrowserSession(Base):
    """A browser's session. It ends by its row's deletion, or with time: see `sessions.py`. No token is kept."""

    __tablename__ = "sessions"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    role: Mapped[str]  # the side it was begun for, whatever the user's is later
    csrf: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    last_seen_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp(), index=True)

    __table_args__ = (CheckConstraint(f"role in ({_quoted(list(Side))})", name="role"),)


class Order(Base):
    """An order as the store last sent it; a deleted one keeps its last state."""

    __tablename__ = "orders"

    id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    number: Mapped[str]
    status: Mapped[str]
    total: Mapped[str]  # money is text: what the store wrote is what is shown
    currency: Mapped[str]
    placed_at: Mapped[datetime]
    url: Mapped[str | None]
    items: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, server_default=text("'[]'::jsonb"))
    items_omitted: Mapped[int] = mapped_column(server_default="0")  # sent, but too many to be kept
    updated_at: Mapped[datetime | None]  # the store's own clock
    synced_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]

    __table_args__ = (
        Index(None, "user_id", text("placed_at desc"), text("id desc")),
        Index("orders_search_form_idx", text(ORDER_SEARCH_FORM)),
    )


class Conversation(Base):
    """A conversation, with all that a list shows of it, so that a list is one indexed query.

    `unanswered_since` is the first thing that no admin has answered; `waiting_since` shows it while somebody waits.
    The read numbers are watermarks: what that side has read, which sending does not move.
    """

    __tablename__ = "conversations"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    order_id: Mapped[str | None] = mapped_column(ForeignKey("orders.id"))
    subject: Mapped[str]
    status: Mapped[str]
    is_read_by_admin: Mapped[bool]
    is_read_by_user: Mapped[bool]
    read_by_admin_number: Mapped[int] = mapped_column(server_default="0")
    read_by_user_number: Mapped[int] = mapped_column(server_default="0")
    message_count: Mapped[int] = mapped_column(server_default="0")
    last_admin_number: Mapped[int] = mapped_column(server_default="0")
    last_customer_number: Mapped[int] = mapped_column(server_default="0")
    last_message_id: Mapped[UUID | None]
    last_message_role: Mapped[str | None]
    last_message_preview: Mapped[str | None]
    created_at: Mapped[datetime]
    last_activity_at: Mapped[datetime]  # the last message's time, or the creation
    changed_at: Mapped[datetime]  # the last message or status change: keeps a page by waiting time stable
    unanswered_since: Mapped[datetime | None]
    waiting_since: Mapped[datetime | None] = mapped_column(
        Computed(f"case when status in ({_quoted(WAITING)}) then unanswered_since end", persisted=True)
    )

    __table_args__ = (
        CheckConstraint(f"status in ({_quoted(list(Status))})", name="status"),
        Index("conversations_activity_idx", text("last_activity_at desc"), text("id desc")),
        Index("conversations_user_activity_idx", "user_id", text("last_activity_at desc"), text("id desc")),
        # In order within each status and flag: `lists.py` takes a page from several such parts.
        Index(
            "conversations_state_activity_idx",
            "status",
            "is_read_by_admin",
            text("last_activity_at desc"),
            text("id desc"),
        ),
        Index(
            "conversations_state_waiting_idx",
            "status",
            "is_read_by_admin",
            text("coalesce(waiting_since, 'infinity'::timestamptz)"),
            "id",
        ),
        Index("conversations_order_idx", "order_id", postgresql_where=text("order_id is not null")),
        Index("conversations_unread_by_user_idx", "user_id", postgresql_where=text("not is_read_by_user")),
    )


class Message(Base):
    """A message. Its idempotency key is a column, so that a repeated post breaks as a whole and leaves no trace.

    Its conversation is no foreign key: a deleted conversation's messages are erased behind it, in batches (`Erasure`).
    """

    __tablename__ = "messages"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    conversation_id: Mapped[UUID]
    number: Mapped[int]
    sender_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    sender_role: Mapped[str]
    body: Mapped[str]
    created_at: Mapped[datetime]
    idempotency_key: Mapped[str | None]
    request_hash: Mapped[str | None]

    __table_args__ = (
        CheckConstraint(f"sender_role in ({_quoted(list(Side))})", name="sender_role"),
        UniqueConstraint("conversation_id", "number"),
        Index(
            "messages_idempotency_key",
            "conversation_id",
            "sender_id",
            "idempotency_key",
            unique=True,
            postgresql_where=text("idempotency_key is not null"),
        ),
        # Customers write in their own conversations only, where they are found without it.
        Index("messages_admin_idx", "sender_id", postgresql_where=text("sender_role = 'admin'")),
    )


class CreateKey(Base):
    """An idempotency key that created a conversation; it outlives the conversation, so that a late retry finds it."""

    __tablename__ = "create_keys"

    caller_id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_hash: Mapped[str]
    conversation_id: Mapped[UUID]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp(), index=True)


class LoggedEvent(Base):
    """One row of the event log. The sequencer gives `position`, in commit order and without holes.

    `seq` keeps the order of events whose transactions followed each other, as those of one conversation do.
    """

    __tablename__ = "events"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    seq: Mapped[int] = mapped_column(BigInteger, Identity(always=True))
    position: Mapped[int | None] = mapped_column(BigInteger, unique=True)
    type: Mapped[str]
    version: Mapped[int] = mapped_column(server_default="1")
    user_id: Mapped[str | None]  # the customer whom it concerns
    conversation_id: Mapped[UUID | None]
    payload: Mapped[dict[str, Any] | None]
    occurred_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    numbered_at: Mapped[datetime | None]

    __table_args__ = (
        Index("events_unnumbered_idx", "seq", postgresql_where=text("position is null")),
        Index("events_conversation_idx", "conversation_id", "seq"),  # in the order in which they are erased
        Index("events_user_idx", "user_id", "position"),
    )


class Erasure(Base):
    """What is still to be erased of a deleted conversation or user; `erasing.py` does it in batches.

    A trigger makes the row of a conversation when its own row is deleted, so no conversation can go without it.
    `number`, `seq` and `position` say how far messages, a conversation's events and a user's events are erased. A
    user's events end at that of the deletion, `event_id`; with `whole_log` they are looked for in all conversations.
    """

    __tablename__ = "erasures"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    user_id: Mapped[str]  # who is erased, or whose conversation is
    conversation_id: Mapped[UUID | None] = mapped_column(index=True)  # one that was restored may go once more
    content: Mapped[bool] = mapped_column(server_default=text("false"))  # the user's conversations as well
    event_id: Mapped[UUID | None]
    whole_log: Mapped[bool] = mapped_column(server_default=text("false"))
    number: Mapped[int] = mapped_column(server_default="0")
    seq: Mapped[int] = mapped_column(BigInteger, server_default="0")
    position: Mapped[int] = mapped_column(BigInteger, server_default="0")
    erased: Mapped[int] = mapped_column(BigInteger, server_default="0")  # rows
    asked_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    advanced_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        Index("erasures_unfinished_idx", "id", postgresql_where=text("finished_at is null")),
        Index("erasures_user_idx", "user_id"),
    )


class FeedHead(Base):
    """The log's end: the last position given, and the epoch that tells a log restored from a backup.

    `incarnation` is where the log was last numbered; elsewhere it begins a new epoch.
    """

    __tablename__ = "feed"

    singleton: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    head: Mapped[int] = mapped_column(BigInteger, server_default="0")
    epoch: Mapped[UUID] = mapped_column(server_default=func.gen_random_uuid())
    incarnation: Mapped[str | None]

    __table_args__ = (CheckConstraint("singleton", name="one_row"),)


class FeedReader(Base):
    """How far a reader of the log has come, by its own word: what lies before is kept for it no longer."""

    __tablename__ = "feed_readers"

    name: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger)
    seen_at: Mapped[datetime]


class Presence(Base):
    """Somebody has said a moment ago that they are looking at a conversation. Nothing hangs on it, so no keys do."""

    __tablename__ = "viewers"

    conversation_id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(primary_key=True)
    seen_at: Mapped[datetime]

    __table_args__ = ({"prefixes": ["unlogged"]},)


class BrokerReport(BrokerReportColumns, Base):
    """How each relay stands with the broker."""
