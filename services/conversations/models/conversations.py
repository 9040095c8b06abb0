"""Conversations, their messages and timeline, and the idempotency keys of what was created."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    CheckConstraint,
    Computed,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from services.conversations.models.base import Base, quoted
from services.conversations.rules import WAITING, EntryKind, Side, Status, Via

# Naming every status lets PostgreSQL use the index that starts with the status. `c` is the conversation.
UNREAD_BY_ADMIN = f"c.status in ({quoted(list(Status))}) and not c.is_read_by_admin"


class Conversation(Base):
    """A conversation, with everything that a list shows, so that a list is one indexed query.

    `unanswered_since` is the time of the first customer message (or the creation) that no admin has answered;
    `waiting_since` is the same while the status is a waiting one. The read numbers are watermarks: the number up to
    which that side has read. Sending does not move them.

    `assignee_id` and `label_ids` are no foreign keys: users' rows stay, and ids of deleted labels have no effect.

    `awaited` are the admins who have not opened it since something happened that was for them: a note mentioned them,
    it was assigned to them, or its customer wrote while it was. Null for none, so that others cost nothing.
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
    changed_at: Mapped[datetime]  # the last message or status change: keeps paging by waiting time stable
    unanswered_since: Mapped[datetime | None]
    assignee_id: Mapped[str | None]
    first_reply_at: Mapped[datetime | None]  # by an admin; null if an admin opened the conversation
    label_ids: Mapped[list[int]] = mapped_column(ARRAY(Integer), server_default=text("'{}'"))
    awaited: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    held_ids: Mapped[list[UUID] | None] = mapped_column(ARRAY(Uuid))  # of emails that an admin is to post or discard
    waiting_since: Mapped[datetime | None] = mapped_column(
        Computed(f"case when status in ({quoted(WAITING)}) then unanswered_since end", persisted=True)
    )

    __table_args__ = (
        CheckConstraint(f"status in ({quoted(list(Status))})", name="status"),
        Index("conversations_activity_idx", text("last_activity_at desc"), text("id desc")),
        # Status and flag are for filters: entries that do not match are skipped without reading their rows.
        Index(
            "conversations_user_idx",
            "user_id",
            text("last_activity_at desc"),
            text("id desc"),
            "status",
            "is_read_by_admin",
        ),
        # Sorted within each status and flag: `messaging/listing.py` merges a page from several such parts.
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
        # For retention: when each was closed, or last written in.
        Index(
            "conversations_closed_idx",
            "changed_at",
            "id",
            postgresql_where=text("status = 'CLOSED' and held_ids is null"),
        ),
        Index("conversations_order_idx", "order_id", postgresql_where=text("order_id is not null")),
        Index("conversations_unread_by_user_idx", "user_id", postgresql_where=text("not is_read_by_user")),
        Index(
            "conversations_assigned_idx",
            "assignee_id",
            "status",
            text("last_activity_at desc"),
            text("id desc"),
            postgresql_where=text("assignee_id is not null"),
        ),
        Index(
            "conversations_unassigned_idx",
            "status",
            text("last_activity_at desc"),
            text("id desc"),
            postgresql_where=text("assignee_id is null"),
        ),
        Index(
            "conversations_labels_idx",
            "label_ids",
            postgresql_using="gin",
            postgresql_with={"fastupdate": "off"},
            postgresql_where=text("label_ids <> '{}'"),
        ),
        Index(
            "conversations_held_idx",
            text("last_activity_at desc"),
            text("id desc"),
            postgresql_where=text("held_ids is not null"),
        ),
    )


class Message(Base):
    """A message. Its idempotency key is a unique column, so that a repeated post fails as a whole and leaves no trace.

    `conversation_id` is no foreign key: messages are erased after their conversation, in batches (`Erasure`). A removed
    message keeps its row and number, without text.
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
    removed_at: Mapped[datetime | None]
    via: Mapped[str] = mapped_column(server_default="web")
    attachment_count: Mapped[int] = mapped_column(SmallInteger, server_default="0")  # spares most reads the other table

    __table_args__ = (
        CheckConstraint(f"sender_role in ({quoted(list(Side))})", name="sender_role"),
        CheckConstraint(f"via in ({quoted(list(Via))})", name="via"),
        UniqueConstraint("conversation_id", "number"),
        Index(
            "messages_idempotency_key",
            "conversation_id",
            "sender_id",
            "idempotency_key",
            unique=True,
            postgresql_where=text("idempotency_key is not null"),
        ),
        # For admins only: a customer's messages are found by their conversations.
        Index("messages_admin_idx", "sender_id", postgresql_where=text("sender_role = 'admin'")),
        Index("messages_removed_idx", "id", postgresql_where=text("removed_at is not null")),
    )


class ConversationEntry(Base):
    """What admins did in a conversation, other than posting messages: `EntryKind` has the kinds and their `data`.

    It follows the message `after_number` in the timeline. Written under the lock of the conversation's row, so `at` has
    the same order. `conversation_id` is no foreign key, as in `Message`.
    """

    __tablename__ = "conversation_entries"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    conversation_id: Mapped[UUID]
    at: Mapped[datetime]
    after_number: Mapped[int]
    kind: Mapped[str]
    actor_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"))  # null: it happened by itself
    data: Mapped[dict[str, Any]]

    __table_args__ = (
        CheckConstraint(f"kind in ({quoted(list(EntryKind))})", name="kind"),
        Index("conversation_entries_order_idx", "conversation_id", "after_number", "at", "id"),
        Index("conversation_entries_notes_idx", "actor_id", postgresql_where=text("kind = 'note'")),
        Index("conversation_entries_posted_idx", "id", postgresql_where=text("kind = 'posted-email'")),
    )


class CreateKey(Base):
    """An idempotency key that created a conversation or something else; `conversation_id` is its id.

    Of a request whose answer is no id, `result` is what the answer is made of.

    It outlives what it created, so that a late retry finds it.
    """

    __tablename__ = "create_keys"

    caller_id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_hash: Mapped[str]
    conversation_id: Mapped[UUID]
    result: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp(), index=True)
