"""The tables of the conversations service."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    CheckConstraint,
    Computed,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, TSVECTOR
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from services.conversations.rules import (
    WAITING,
    AuditAction,
    DeliveryState,
    EntryKind,
    FileState,
    Side,
    Status,
    ThumbnailState,
    Via,
)
from shared.broker.reports import BrokerReportColumns
from shared.database.orm import NAMES, ColumnTypes
from shared.event_log.tables import FeedHeadColumns, FeedReaderColumns


class Base(ColumnTypes, DeclarativeBase):
    """All tables of the service."""

    metadata = MetaData(naming_convention=NAMES)


def _quoted(values: frozenset[Any] | list[Any]) -> str:
    return ", ".join(f"'{value}'" for value in sorted(values))


# Naming every status lets PostgreSQL use the index that starts with the status. `c` is the conversation.
UNREAD_BY_ADMIN = f"c.status in ({_quoted(list(Status))}) and not c.is_read_by_admin"

# What a search compares, spelled as in the indexes. `search_form`, a function in the migrations, folds case, accents
# and the shape of quotes.
USER_SEARCH_FORM = "search_form(name, email, id)"
CUSTOM_SEARCH_FORM = "custom_search_form(custom)"  # of the values of the store's own fields, without true and false
ORDER_SEARCH_FORM = "left(ltrim(search_form(number), '# '), 255)"

# The rows of orders that keep a former state, and the id of the order that each was: see `rules.py:former_order_id`.
FORMER_ORDERS = "strpos(id, ' ') > 0"
FORMER_ORDER_OF = "split_part(id, ' ', 1)"


class User(Base):
    """A customer or an admin. `version` grows with every change; `synced_at` is null until the store syncs the user.

    `claims_issued_at` is the `iat`, in seconds, of the last token whose claims changed the user. `synced_role` is the
    role that the store sent, null if none; it limits the role of the user's tokens.

    `merged_into` is the person to whom this id belongs since the store has merged it, who is never merged themselves.
    The row then counts as deleted, and is without a profile; `merged_at` is null until everything of it has moved.
    """

    __tablename__ = "users"

    id: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[str]
    version: Mapped[int] = mapped_column(BigInteger, server_default="1")
    email: Mapped[str | None]
    name: Mapped[str | None]
    locale: Mapped[str | None]
    zoneinfo: Mapped[str | None]
    updated_at: Mapped[datetime | None]  # by the store's clock
    synced_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    claims_issued_at: Mapped[int | None] = mapped_column(BigInteger)
    synced_role: Mapped[str | None]
    # The store's own fields, for admins only. The type `json` keeps them in the store's order.
    custom: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    merged_into: Mapped[str | None]
    merged_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(f"role in ({_quoted(list(Side))})", name="role"),
        CheckConstraint("merged_into is null or deleted_at is not null", name="merged"),
        Index("users_merging_idx", "id", postgresql_where=text("merged_into is not null and merged_at is null")),
        Index("users_merged_idx", "merged_into", postgresql_where=text("merged_into is not null")),
        Index(
            "users_search_form_idx",
            literal_column(USER_SEARCH_FORM).label("form"),
            postgresql_using="gin",
            postgresql_ops={"form": "gin_trgm_ops"},
        ),
        Index(
            "users_custom_search_form_idx",
            literal_column(CUSTOM_SEARCH_FORM).label("custom_form"),
            postgresql_using="gin",
            postgresql_ops={"custom_form": "gin_trgm_ops"},
            postgresql_where=text("custom is not null"),
        ),
        Index("users_admins_idx", "id", postgresql_where=text("role = 'admin'")),
    )


class BrowserSession(Base):
    """A browser session. It ends when its row is deleted or expires: see `identity/sessions.py`. Holds no token."""

    __tablename__ = "sessions"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    role: Mapped[str]  # the user's side when it started; later changes of the user's role do not change it
    csrf: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    last_seen_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp(), index=True)

    __table_args__ = (CheckConstraint(f"role in ({_quoted(list(Side))})", name="role"),)


class Order(Base):
    """An order as the store last sent it. A deleted order keeps its last state."""

    __tablename__ = "orders"

    id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    number: Mapped[str]
    status: Mapped[str]
    total: Mapped[str]  # text, to show amounts exactly as the store wrote them
    currency: Mapped[str]
    placed_at: Mapped[datetime]
    url: Mapped[str | None]
    items: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, server_default=text("'[]'::jsonb"))
    items_omitted: Mapped[int] = mapped_column(server_default="0")  # items over the limit, counted but not kept
    updated_at: Mapped[datetime | None]  # by the store's clock
    synced_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]

    __table_args__ = (
        Index(None, "user_id", text("placed_at desc"), text("id desc")),
        Index("orders_search_form_idx", text(ORDER_SEARCH_FORM)),
        Index("orders_former_idx", text(FORMER_ORDER_OF), postgresql_where=text(FORMER_ORDERS)),
    )


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
        Computed(f"case when status in ({_quoted(WAITING)}) then unanswered_since end", persisted=True)
    )

    __table_args__ = (
        CheckConstraint(f"status in ({_quoted(list(Status))})", name="status"),
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
        CheckConstraint(f"sender_role in ({_quoted(list(Side))})", name="sender_role"),
        CheckConstraint(f"via in ({_quoted(list(Via))})", name="via"),
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
        CheckConstraint(f"kind in ({_quoted(list(EntryKind))})", name="kind"),
        Index("conversation_entries_order_idx", "conversation_id", "after_number", "at", "id"),
        Index("conversation_entries_notes_idx", "actor_id", postgresql_where=text("kind = 'note'")),
        Index("conversation_entries_posted_idx", "id", postgresql_where=text("kind = 'posted-email'")),
    )


class UnmatchedEmail(Base):
    """An email that is held and belongs to no conversation, by its id in the notifications service."""

    __tablename__ = "held_letters"

    id: Mapped[UUID] = mapped_column(primary_key=True)


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
        CheckConstraint(f"side in ({_quoted(list(Side))})", name="side"),
        CheckConstraint(f"state in ({_quoted(list(FileState))})", name="state"),
        CheckConstraint(f"thumbnail in ({_quoted(list(ThumbnailState))})", name="thumbnail"),
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


class LoggedEvent(Base):
    """An event of the log. The sequencer assigns `position`, in commit order and without gaps.

    `seq` is the order of insertion. It matches the commit order of transactions that ran one after the other, such as
    those of one conversation.
    """

    __tablename__ = "events"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    seq: Mapped[int] = mapped_column(BigInteger, Identity(always=True))
    position: Mapped[int | None] = mapped_column(BigInteger)
    type: Mapped[str]
    version: Mapped[int] = mapped_column(server_default="1")
    user_id: Mapped[str | None]  # the customer or user that it is about
    conversation_id: Mapped[UUID | None]
    payload: Mapped[dict[str, Any] | None]
    audience: Mapped[str | None]  # `admin`: an event that customers do not see
    occurred_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    numbered_at: Mapped[datetime | None] = mapped_column(server_default=func.clock_timestamp())  # see the sequencer

    __table_args__ = (
        Index("events_position_idx", "position", unique=True, postgresql_where=text("position is not null")),
        Index("events_unnumbered_idx", "seq", postgresql_where=text("position is null")),
        Index("events_conversation_idx", "conversation_id", "seq"),  # in the order of erasure
        Index("events_user_idx", "user_id", "position"),
    )


class Erasure(Base):
    """The erasure of a deleted conversation or user, done in batches by `messaging/erasure_batches.py`.

    A trigger adds a conversation's erasure when its row is deleted, so no conversation is deleted without one.
    `number`, `seq` and `position` say how far messages, a conversation's events and a user's events are erased. A
    user's events are erased up to that of the deletion, `event_id`; with `whole_log` also in other users' events.
    """

    __tablename__ = "erasures"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    user_id: Mapped[str]  # the erased user, or the conversation's customer
    conversation_id: Mapped[UUID | None] = mapped_column(index=True)  # not unique: a restored one may be deleted again
    content: Mapped[bool] = mapped_column(server_default=text("false"))  # whether to erase the user's conversations too
    event_id: Mapped[UUID | None]
    whole_log: Mapped[bool] = mapped_column(server_default=text("false"))
    number: Mapped[int] = mapped_column(server_default="0")
    seq: Mapped[int] = mapped_column(BigInteger, server_default="0")
    position: Mapped[int] = mapped_column(BigInteger, server_default="0")
    erased: Mapped[int] = mapped_column(BigInteger, server_default="0")  # rows
    # Of a user: what there was to erase, by kind, and who asked for it.
    counts: Mapped[dict[str, int] | None] = mapped_column(JSONB(none_as_null=True))
    asked_by: Mapped[str | None]
    asked_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    advanced_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        Index("erasures_unfinished_idx", "id", postgresql_where=text("finished_at is null")),
        Index("erasures_user_idx", "user_id"),
    )


class SearchDocument(Base):
    """All terms of a conversation's messages from `first_number` to `last_number`: see `search/documents.py`.

    A conversation without messages has an empty range. Deleting a conversation deletes its documents.
    """

    __tablename__ = "conversation_search"

    conversation_id: Mapped[UUID] = mapped_column(ForeignKey("conversations.id", ondelete="CASCADE"), primary_key=True)
    first_number: Mapped[int] = mapped_column(primary_key=True)
    last_number: Mapped[int]
    tsv: Mapped[str] = mapped_column(TSVECTOR)

    __table_args__ = (Index("conversation_search_idx", "tsv", postgresql_using="gin"),)


class NoteSearchDocument(Base):
    """All terms of a conversation's notes, apart from those of its messages: customers' searches never read it."""

    __tablename__ = "note_search"

    conversation_id: Mapped[UUID] = mapped_column(ForeignKey("conversations.id", ondelete="CASCADE"), primary_key=True)
    tsv: Mapped[str] = mapped_column(TSVECTOR)

    __table_args__ = (Index("note_search_idx", "tsv", postgresql_using="gin"),)


class SearchProgress(Base):
    """The indexer's cursor in the log, and how far it has indexed the conversations that were there before.

    These have ids below `fill_before`, which is null once all of them are indexed.
    """

    __tablename__ = "search_progress"

    singleton: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    position: Mapped[int] = mapped_column(BigInteger)
    fill_before: Mapped[UUID | None]
    filled: Mapped[int] = mapped_column(BigInteger, server_default="0")

    __table_args__ = (CheckConstraint("singleton", name="one_row"),)


class ParkedDocument(Base):
    """A conversation that the indexer could not index, with the name of the error."""

    __tablename__ = "search_parked"

    conversation_id: Mapped[UUID] = mapped_column(ForeignKey("conversations.id", ondelete="CASCADE"), primary_key=True)
    reason: Mapped[str]
    parked_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class ConversationFact(Base):
    """What reports count of a cycle of a conversation (`reports/cycles.py`). It names neither text nor customer.

    No foreign keys: the row outlives its conversation, and admins' rows stay.
    """

    __tablename__ = "conversation_facts"

    conversation_id: Mapped[UUID] = mapped_column(primary_key=True)
    cycle: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int]  # a message up to which all are counted; fewer than `MAX_BEHIND` later ones may be, too
    opened_at: Mapped[datetime] = mapped_column(index=True)
    opened_by: Mapped[str | None]
    replied_at: Mapped[datetime | None]
    replied_by: Mapped[str | None]
    resolved_at: Mapped[datetime | None]
    resolved_by: Mapped[str | None]

    __table_args__ = (
        Index("conversation_facts_replied_at_idx", "replied_at", postgresql_where=text("replied_at is not null")),
        Index("conversation_facts_resolved_at_idx", "resolved_at", postgresql_where=text("resolved_at is not null")),
    )


class ReportProgress(Base):
    """The cursor of the facts in the log, and the first fill, as in `SearchProgress`.

    Changes of the status before `exact_since` were not recorded; null if there were no conversations.
    """

    __tablename__ = "report_progress"

    singleton: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    position: Mapped[int] = mapped_column(BigInteger)
    fill_before: Mapped[UUID | None]
    filled: Mapped[int] = mapped_column(BigInteger, server_default="0")
    exact_since: Mapped[datetime | None]

    __table_args__ = (CheckConstraint("singleton", name="one_row"),)


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


class FeedHead(FeedHeadColumns, Base):
    """The end of the log. `by_reference`: events of messages name the message instead of holding a copy of it."""

    by_reference: Mapped[bool] = mapped_column(server_default=text("false"))


class FeedReader(FeedReaderColumns, Base):
    """The readers of the log."""


class NotificationsCursor(Base):
    """The position up to which the notifications service's log is read, its epoch, and the types that were read.

    `list_after` is not null while all emails are listed instead, for `list_reason`: the id of the last one.
    """

    __tablename__ = "notifications_cursor"

    singleton: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    position: Mapped[int] = mapped_column(BigInteger, server_default="0")
    epoch: Mapped[UUID | None]
    types: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    list_after: Mapped[UUID | None]
    list_reason: Mapped[str | None]
    caught_up_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())  # read to its end

    __table_args__ = (CheckConstraint("singleton", name="one_row"),)


class EmailStop(Base):
    """Why a customer gets no emails, about a conversation or at all. Without `user_id` it concerns all customers.

    The notifications service decides it; its log says so here. No foreign key to users: it may know them first.
    """

    __tablename__ = "email_stops"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[str | None] = mapped_column(index=True)
    conversation_id: Mapped[UUID | None] = mapped_column(ForeignKey("conversations.id", ondelete="CASCADE"), index=True)
    reason: Mapped[str]


class Webhook(Base):
    """An endpoint of the store that is told of events of some types.

    It gets what is in the log after `after_position`, and the status of emails after `since`. `old_secret` also signs
    until `old_secret_until`, and so does each of `older_secrets`, a list of `{"secret", "until"}`. `failures` counts
    the failed attempts since the last success, the first of which was at `failing_since`; nothing is sent before
    `paused_until`. The row of a deleted one stays as long as its deliveries.
    """

    __tablename__ = "webhooks"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    url: Mapped[str]
    types: Mapped[list[str]] = mapped_column(ARRAY(Text))
    description: Mapped[str | None]
    secret: Mapped[str]
    old_secret: Mapped[str | None]
    old_secret_until: Mapped[datetime | None]
    older_secrets: Mapped[list[dict[str, str]]] = mapped_column(JSONB, server_default="[]")
    after_position: Mapped[int] = mapped_column(BigInteger)
    since: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    failures: Mapped[int] = mapped_column(server_default="0")
    failing_since: Mapped[datetime | None]
    paused_until: Mapped[datetime | None]
    disabled_at: Mapped[datetime | None]
    disabled_reason: Mapped[str | None]
    deleted_at: Mapped[datetime | None]


class WebhookDelivery(Base):
    """An event to deliver to a webhook. Ids only: the body is made of the present rows when it is sent.

    Those of a `lane` and conversation are delivered in the order of ids: only the first pending one has a `due_at`.
    `response` is the beginning of the last answer, if that was no success; it is erased with the conversation.
    """

    __tablename__ = "webhook_deliveries"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    webhook_id: Mapped[UUID]
    event_id: Mapped[UUID]
    type: Mapped[str]
    at: Mapped[datetime]
    lane: Mapped[int] = mapped_column(SmallInteger)
    conversation_id: Mapped[UUID | None]
    message_id: Mapped[UUID | None]
    data: Mapped[dict[str, Any] | None]
    replay_of: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    state: Mapped[str] = mapped_column(server_default=DeliveryState.PENDING)
    due_at: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    attempted_at: Mapped[datetime | None]
    status: Mapped[int | None] = mapped_column(SmallInteger)
    error: Mapped[str | None]
    response: Mapped[str | None]
    duration_ms: Mapped[int | None]

    __table_args__ = (
        CheckConstraint(f"state in ({_quoted(list(DeliveryState))})", name="state"),
        # Each event once, but for replays.
        Index(
            "webhook_deliveries_event_key",
            "event_id",
            "webhook_id",
            unique=True,
            postgresql_where=text("replay_of is null"),
        ),
        Index("webhook_deliveries_list_idx", "webhook_id", "id"),
        Index("webhook_deliveries_failed_idx", "webhook_id", "id", postgresql_where=text("state = 'failed'")),
        Index("webhook_deliveries_failed_at_idx", "attempted_at", postgresql_where=text("state = 'failed'")),
        Index(
            "webhook_deliveries_due_idx",
            "webhook_id",
            "due_at",
            postgresql_where=text("state = 'pending' and due_at is not null"),
        ),
        Index(
            "webhook_deliveries_line_idx",
            "webhook_id",
            "lane",
            "conversation_id",
            "id",
            postgresql_where=text("state = 'pending'"),
        ),
        Index("webhook_deliveries_response_idx", "conversation_id", postgresql_where=text("response is not null")),
    )


class WebhookProgress(Base):
    """The cursor of webhooks in the log, and the process that sends, until `held_until`.

    Every transaction that adds or ends deliveries locks this row, so that the first of each line is always due.
    """

    __tablename__ = "webhook_progress"

    singleton: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    position: Mapped[int] = mapped_column(BigInteger, server_default="0")
    holder: Mapped[UUID | None]
    held_until: Mapped[datetime | None]

    __table_args__ = (CheckConstraint("singleton", name="one_row"),)


class Presence(Base):
    """An admin who is viewing a conversation. No foreign keys: the row is a short-lived hint."""

    __tablename__ = "viewers"

    conversation_id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(primary_key=True)
    seen_at: Mapped[datetime]

    __table_args__ = ({"prefixes": ["unlogged"]},)


class BrokerReport(BrokerReportColumns, Base):
    """The state of each relay's connection to the broker."""
