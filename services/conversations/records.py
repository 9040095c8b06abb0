"""Read-only records: rows from the driver, with the columns that answers and pages show."""

from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from services.conversations.rules import CustomValue, ThumbnailState


class CallerRecord(NamedTuple):
    """A caller's stored profile, to compare with a token's claims; `id` is None for an unknown caller."""

    id: str | None
    deleted: bool
    synced: bool
    email: str | None
    name: str | None
    locale: str | None
    zoneinfo: str | None
    claims_issued_at: int | None
    synced_role: str | None
    merged_into: str | None


class UserRow(NamedTuple):
    """A customer or an admin."""

    id: str
    name: str | None
    email: str | None
    deleted_at: datetime | None


class CustomerRow(NamedTuple):
    """A customer, with the store's own fields."""

    id: str
    name: str | None
    email: str | None
    deleted_at: datetime | None
    custom: dict[str, CustomValue] | None


class OrderRow(NamedTuple):
    """An order as the store last sent it."""

    id: str
    number: str
    status: str
    total: str
    currency: str
    placed_at: datetime
    url: str | None
    items: list[dict[str, Any]]
    synced_at: datetime
    deleted_at: datetime | None
    items_omitted: int


class ConversationRow(NamedTuple):
    """A conversation, with everything that a list shows."""

    id: UUID
    subject: str
    status: str
    is_read_by_admin: bool
    is_read_by_user: bool
    read_by_admin_number: int
    read_by_user_number: int
    message_count: int
    last_message_id: UUID | None
    last_message_role: str | None
    last_message_preview: str | None
    created_at: datetime
    last_activity_at: datetime
    waiting_since: datetime | None


class DeskRow(NamedTuple):
    """What only admins see of a conversation."""

    assignee_id: str | None
    assignee_name: str | None
    assignee_deleted: bool | None
    labels: list[str]
    first_reply_at: datetime | None
    awaited: list[str] | None  # admins who have not opened it since they were mentioned or assigned
    held_ids: list[UUID] | None  # of emails that an admin is to post or discard


class MessageRow(NamedTuple):
    """A message with its sender."""

    id: UUID
    conversation_id: UUID
    number: int
    sender_id: str
    sender_role: str
    body: str
    created_at: datetime
    via: str
    sender_name: str | None
    sender_deleted: bool
    removed_at: datetime | None
    attachments: list[dict[str, Any]] | None  # objects of `ATTACHMENT_JSON`

    @classmethod
    def of(cls, row: Any) -> "MessageRow":
        """Build it from a row of its columns."""
        return tuple.__new__(cls, row)  # as `_make`, which a thread would call for each message


class ConversationDetail(NamedTuple):
    """A conversation with its customer and its order. `desk` is null if it was read for a customer."""

    conversation: ConversationRow
    user: UserRow
    order: OrderRow | None
    desk: DeskRow | None

    @classmethod
    def of(cls, row: Any) -> "ConversationDetail":
        """Build it from a row of `CONVERSATION_COLUMNS` and `DESK_COLUMNS`; further columns are ignored."""
        # `tuple.__new__` is what `_make` calls: a list converts many rows.
        order = tuple.__new__(OrderRow, row[_ORDER]) if row[_ORDER_FROM] is not None else None
        conversation, user = tuple.__new__(ConversationRow, row[_CONVERSATION]), tuple.__new__(UserRow, row[_USER])
        desk = DeskRow._make(row[_DESK]) if row[_LABELS] is not None else None
        return tuple.__new__(cls, (conversation, user, order, desk))


def columns(kind: Any, alias: str) -> str:
    """Return the SQL of a record's columns, from the table with this alias."""
    return ", ".join(f"{alias}.{name}" for name in kind._fields)


def attachments_sql(message: str) -> str:
    """Return the SQL of a message's files, null if there are none; these cost nothing."""
    return f"""case when {message}.attachment_count > 0 then (
        select jsonb_agg({ATTACHMENT_JSON} order by file.position) from attachments as file
        where file.conversation_id = {message}.conversation_id and file.message_id = {message}.id
    ) end"""  # noqa: S608 - built from constants


# A file as messages and events show it. `file` is its row.
ATTACHMENT_JSON = f"""jsonb_strip_nulls(jsonb_build_object(
        'id', file.id, 'name', file.name, 'size', file.size, 'content_type', file.content_type,
        'sha256', file.sha256, 'state', file.state, 'width', file.width, 'height', file.height,
        'thumbnail', nullif(file.thumbnail = '{ThumbnailState.READY}', false)
    ))"""

CALLER_COLUMNS = ", ".join(
    {
        **{name: f"u.{name}" for name in CallerRecord._fields},
        "deleted": "u.deleted_at is not null",
        "synced": "u.synced_at is not null",
    }.values()
)
# The log's epoch and head and a `CallerRecord`, in one value.
CALLER_JSON = f"json_build_array(feed.epoch, feed.head, {CALLER_COLUMNS})::text"
CONVERSATION_COLUMNS = ", ".join((columns(ConversationRow, "c"), columns(UserRow, "u"), columns(OrderRow, "o")))
# Many conversations have neither assignee nor labels. A join, and `exists`, might read through all users.
DESK_COLUMNS = """
    c.assignee_id,
    case when c.assignee_id is not null then (select name from users where id = c.assignee_id) end,
    case when c.assignee_id is not null then (select deleted_at is not null from users where id = c.assignee_id) end,
    case when c.label_ids = '{}' then '{}'::text[] else array(
        select name from labels where id = any(c.label_ids) order by folded
    ) end,
    c.first_reply_at,
    c.awaited,
    c.held_ids
"""
NO_DESK_COLUMNS = "null::text, null::text, null::bool, null::text[], null::timestamptz, null::text[], null::uuid[]"
_USER_FROM = len(ConversationRow._fields)
_ORDER_FROM = _USER_FROM + len(UserRow._fields)
_CONVERSATION = slice(0, _USER_FROM)
_USER = slice(_USER_FROM, _ORDER_FROM)
_ORDER = slice(_ORDER_FROM, _ORDER_FROM + len(OrderRow._fields))
_DESK = slice(_ORDER.stop, _ORDER.stop + len(DeskRow._fields))
_LABELS = _ORDER.stop + DeskRow._fields.index("labels")
