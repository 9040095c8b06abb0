"""The timeline: messages and entries of a conversation in one order.

Messages are not copied into entries: a page is merged from both tables. An entry follows the message that was the
newest when it was written.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple
from uuid import UUID

from services.conversations.emails.progress import KNOWN_UNTIL
from services.conversations.messaging.email_stops import STOPS_SQL
from services.conversations.messaging.listing import rows_to_fetch
from services.conversations.records import MessageRow, attachments_sql, columns
from shared.database.engine import Driver
from shared.database.reader import Reader
from shared.paging import MAX_NUMBER, decode_cursor, encode_cursor, moment, number
from shared.problems import NotFound


class EntryRow(NamedTuple):
    """An entry with its actor; `people` has the name of each person in its data, and whether they were deleted."""

    id: UUID
    at: datetime
    after_number: int
    kind: str
    actor_id: str | None
    actor_name: str | None
    actor_deleted: bool | None
    data: dict[str, Any]
    people: dict[str, tuple[str | None, bool] | None]


SHOWN = 200  # entries on a page that shows them between messages
MAX_MESSAGES = 100  # of one email
_MESSAGE = len(MessageRow._fields)
_START = datetime(1, 1, 1, tzinfo=UTC)
_FIRST_ID = UUID(int=0)


async def list_timeline(
    reader: Reader, conversation_id: UUID, *, newest_first: bool, cursor: str | None, limit: int
) -> tuple[list[MessageRow | EntryRow], str | None, datetime | None]:
    """Return a page of a conversation's timeline, the cursor of the next, and `KNOWN_UNTIL`. Raises `NotFound`."""
    binding = ("timeline", str(conversation_id), newest_first)
    key: Sequence[Any] = ()
    if cursor is not None:
        last, rank, at, item_id = decode_cursor(cursor, binding, number, _rank, moment, UUID)
        # A message comes before all entries that follow it.
        key = (
            min(last + rank, MAX_NUMBER) if newest_first else last,
            last,
            *((at, item_id) if rank else (_START, _FIRST_ID)),
        )
    query = _timeline(newest_first, bool(key), rows_to_fetch(limit))
    rows = await reader.fetch(query, conversation_id, *key)
    if not rows:
        raise NotFound("There is no such conversation.")
    items = [_item(row) for row in rows[:limit] if row[1] is not None]  # a row of nulls: there is nothing yet
    if len(rows) <= limit:
        return items, None, rows[0][-1]
    return items, encode_cursor(binding, _key(items[-1])), rows[0][-1]


async def list_entries(
    connection: Driver, conversation_id: UUID, *, first: int, last: int
) -> tuple[list[EntryRow], datetime | None, list[str]]:
    """Return the newest entries after messages `first` to `last` of a conversation, oldest first, and `KNOWN_UNTIL`.

    The last value are the reasons why its customer gets no emails about it.

    Of emails only those to customers; they may come after a later message, because an email may contain several.
    """
    rows = await connection.fetch(_ENTRIES, conversation_id, first, last, min(last + MAX_MESSAGES, MAX_NUMBER))
    known_until, stops = rows[0][-2:]
    return [EntryRow._make(row[:-2]) for row in reversed(rows) if row[0] is not None], known_until, stops


async def find_entry(connection: Driver, conversation_id: UUID, entry_id: UUID) -> EntryRow:
    """Return an entry of a conversation. Raises `NotFound`."""
    row = await connection.fetchrow(_ENTRY, conversation_id, entry_id)
    if row is None:
        raise NotFound("There is no such entry.")
    return EntryRow._make(row)


def _rank(part: int) -> int:
    if part not in {0, 1}:
        raise ValueError(part)
    return part


def _key(item: MessageRow | EntryRow) -> Sequence[str | int]:
    if isinstance(item, MessageRow):
        return (item.number, 0, item.created_at.isoformat(), str(item.id))
    return (item.after_number, 1, item.at.isoformat(), str(item.id))


def _item(row: Sequence[Any]) -> MessageRow | EntryRow:
    is_message, parts = row[1] == 0, tuple(row[4:-1])
    return MessageRow._make(parts[:_MESSAGE]) if is_message else EntryRow._make(parts[_MESSAGE:])


# Mentioned and assigned admins by id; there are few. Subqueries, because a join might read through all users.
_PEOPLE = """
    (
        select coalesce(jsonb_object_agg(named.id, (
            select jsonb_build_array(name, deleted_at is not null) from users where id = named.id
        )), '{}')
        from (
            select jsonb_array_elements_text(e.data -> 'mentions') as id
            union select unnest(array[e.data ->> 'from', e.data ->> 'to']) where e.kind = 'assignment'
        ) as named where named.id is not null
    )
"""


_ENTRY_COLUMNS = f"""
    e.id, e.at, e.after_number, e.kind, e.actor_id, (select name from users where id = e.actor_id),
    (select deleted_at is not null from users where id = e.actor_id), e.data, {_PEOPLE}
"""  # noqa: S608 - built from constants
_ENTRIES = f"""
    select e.*, known_until, stops
    from (select {KNOWN_UNTIL} as known_until, {STOPS_SQL} as stops) as emails left join lateral (
        (
            select {_ENTRY_COLUMNS} from conversation_entries as e
            where e.conversation_id = $1 and e.after_number between $2 and $3 and e.kind <> 'email'
            order by e.after_number desc, e.at desc, e.id desc limit {SHOWN}
        ) union all (
            select {_ENTRY_COLUMNS} from conversation_entries as e
            where e.conversation_id = $1 and e.after_number between $2 and $4 and e.kind = 'email'
                and e.data ->> 'to' = 'customer'
            order by e.after_number desc, e.at desc, e.id desc limit {SHOWN}
        )
    ) as e on true
    order by e.after_number desc, e.at desc, e.id desc
"""  # noqa: S608 - built from constants
_ENTRY = f"""
    select {_ENTRY_COLUMNS} from conversation_entries as e
    where e.conversation_id = $1 and e.id = $2
"""  # noqa: S608 - built from constants


@cache
def _timeline(newest_first: bool, continued: bool, rows: int) -> str:
    """Return the SQL of a page of messages and entries in one order.

    Each is read by its own index up to the page's length, then both are merged: the cost is that of two pages, also in
    a long conversation.
    """
    desc, after = (" desc", "<") if newest_first else ("", ">")
    place = entry_place = ""
    if continued:
        place = f"and m.number {after} $2::int"
        entry_place = f"and (e.after_number, e.at, e.id) {after} ($3::int, $4::timestamptz, $5::uuid)"
    return f"""
select page.*, {KNOWN_UNTIL} from conversations as c
left join lateral (
    (
        select m.number as place, 0 as rank, m.created_at as moment, m.id as item, {columns(MessageRow, "m")},
            null::uuid, null::timestamptz, null::int, null::text, null::text, null::text, null::bool, null::jsonb,
            null::jsonb
        from (
            select m.*, (select name from users where id = m.sender_id) as sender_name,
                (select deleted_at is not null from users where id = m.sender_id) as sender_deleted,
                {attachments_sql("m")} as attachments
            from messages as m
            where m.conversation_id = c.id {place}
            order by m.number{desc} limit {rows}
        ) as m
    ) union all (
        select e.after_number, 1, e.at, e.id, {", ".join(["null"] * _MESSAGE)},
            {_ENTRY_COLUMNS}
        from (
            select * from conversation_entries as e where e.conversation_id = c.id {entry_place}
            order by e.after_number{desc}, e.at{desc}, e.id{desc} limit {rows}
        ) as e
    )
    order by place{desc}, rank{desc}, moment{desc}, item{desc} limit {rows}
) as page on true
where c.id = $1
order by page.place{desc}, page.rank{desc}, page.moment{desc}, page.item{desc}
"""  # noqa: S608 - built from constants
