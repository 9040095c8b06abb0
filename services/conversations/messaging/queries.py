"""The reads of the conversations service, but its lists of conversations and its counts.

Each is scoped in its SQL: what is not the caller's does not exist. They are statements straight on the driver: a
request that only reads is one of them, without a transaction around.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from uuid import UUID

from services.conversations.messaging.listing import conversations_sql, more_than
from services.conversations.models import USER_SEARCH_FORM
from services.conversations.records import ConversationDetail, MessageRow, OrderRow, UserRow, columns
from services.conversations.rules import Side
from shared.database import Driver
from shared.paging import MAX_NUMBER, decode_cursor, encode_cursor, moment, number, store_id
from shared.problems import NotFound
from shared.readers import Reader, search


async def load_conversation(
    connection: Driver, conversation_id: UUID, *, scope: str | None = None
) -> ConversationDetail:
    """Return a conversation; with `scope`, only that customer's. Raises `NotFound`."""
    row = await connection.fetchrow(_CONVERSATION, conversation_id, scope)
    if row is None:
        raise NotFound("There is no such conversation.")
    return ConversationDetail.of(row)


async def load_conversation_and_others(
    connection: Driver, conversation_id: UUID, others: int
) -> tuple[ConversationDetail, list[ConversationDetail]]:
    """Return a conversation and its customer's others, the newest ones, last activity first. Raises `NotFound`."""
    threads = [
        ConversationDetail.of(row) for row in await connection.fetch(_conversation_and_others(others), conversation_id)
    ]
    wanted = [thread for thread in threads if thread.conversation.id == conversation_id]
    if not wanted:
        raise NotFound("There is no such conversation.")
    return wanted[0], [thread for thread in threads if thread is not wanted[0]]


async def load_conversations(connection: Driver, ids: Iterable[UUID]) -> list[ConversationDetail]:
    """Return those of some conversations that are there, last activity first."""
    return [ConversationDetail.of(row) for row in await connection.fetch(_CONVERSATIONS, list(ids))]


async def list_messages(
    reader: Reader,
    conversation_id: UUID,
    *,
    scope: str | None,
    newest_first: bool,
    after: int | None,
    cursor: str | None,
    limit: int,
) -> tuple[list[MessageRow], str | None]:
    """Return a page of a conversation's messages with their senders, and the cursor of the next. Raises `NotFound`.

    The conversation is looked at in the same statement: one that is not the caller's has no messages to find.
    """
    bound = [str(conversation_id), newest_first, after]
    above, below = after if after is not None else -1, MAX_NUMBER
    if cursor is not None:
        (last_number,) = decode_cursor(cursor, bound, number)
        above, below = (above, last_number) if newest_first else (max(above, last_number), below)
    query = _messages("m.number desc" if newest_first else "m.number", more_than(limit))
    found = await reader.fetch(query, conversation_id, scope, above, below)
    if not found:
        raise NotFound("There is no such conversation.")
    # Without any message, the conversation's row stands alone.
    rows = [MessageRow._make(row) for row in found[:limit] if row[0] is not None]
    return rows, encode_cursor(bound, [rows[-1].number]) if len(found) > limit else None


async def list_orders(
    reader: Reader, user_id: str, cursor: str | None, limit: int
) -> tuple[list[OrderRow], str | None]:
    """Return a page of a customer's orders, newest first, without those that the store deleted."""
    key = decode_cursor(cursor, user_id, moment, store_id) if cursor is not None else (None, "")
    found = await reader.fetch(_orders(more_than(limit)), user_id, *key)
    orders = [OrderRow._make(row) for row in found[:limit]]
    if len(found) <= limit:
        return orders, None
    return orders, encode_cursor(user_id, [orders[-1].placed_at.isoformat(), orders[-1].id])


async def find_customer(connection: Driver, user_id: str) -> UserRow | None:
    """Return a customer by id, if there is one who was not deleted."""
    row = await connection.fetchrow(_CUSTOMER, user_id)
    return UserRow._make(row) if row else None


async def list_customers(
    reader: Reader, q: str | None, cursor: str | None, limit: int
) -> tuple[Sequence[UserRow], str | None]:
    """Return a page of customers by id; `q` is a part of the name, the address or the id."""
    behind = decode_cursor(cursor, q, store_id)[0] if cursor is not None else ""
    if q:
        found = await search(reader, _customers(more_than(limit), is_found_by("$2")), behind, q)
    else:
        found = await reader.fetch(_customers(more_than(limit)), behind)
    users = [UserRow._make(row) for row in found[:limit]]
    return users, encode_cursor(q, [users[-1].id]) if len(found) > limit else None


IS_CUSTOMER = f"u.role = '{Side.CUSTOMER}' and u.deleted_at is null"


def is_found_by(text: str) -> str:
    """Make the SQL of the users who have a text in the name, the address or the id: an index of trigrams knows all."""
    return rf"{USER_SEARCH_FORM} like '%' || regexp_replace(search_form({text}), '([\\%_])', '\\\1', 'g') || '%'"


_CONVERSATION = conversations_sql(
    "select * from conversations as c where c.id = $1 and ($2::text is null or c.user_id = $2)"
)
_CONVERSATIONS = conversations_sql("select * from conversations as c where c.id = any($1::uuid[])")
_CUSTOMER = f"select {columns(UserRow, 'u')} from users as u where u.id = $1 and {IS_CUSTOMER}"  # noqa: S608 - built from constants


@cache
def _conversation_and_others(others: int) -> str:
    return conversations_sql(f"""
        select * from conversations as c where c.id = $1
        union all (
            select * from conversations as c
            where c.user_id = (select user_id from conversations where id = $1) and c.id <> $1
            order by c.last_activity_at desc, c.id desc limit {others}
        )
    """)  # noqa: S608 - built from constants


@cache
def _messages(order: str, rows: int) -> str:
    return f"""
select {columns(MessageRow, "m")}
from conversations as c
left join lateral (
    select m.*, u.name as sender_name, u.deleted_at is not null as sender_deleted
    from messages as m join users as u on u.id = m.sender_id
    where m.conversation_id = c.id and m.number > $3 and m.number < $4
    order by {order} limit {rows}
) as m on true
where c.id = $1 and ($2::text is null or c.user_id = $2)
order by {order}
"""  # noqa: S608 - built from constants


@cache
def _orders(rows: int) -> str:
    return f"""
select {columns(OrderRow, "o")} from orders as o
where o.user_id = $1 and o.deleted_at is null
    and (o.placed_at, o.id) < (coalesce($2::timestamptz, 'infinity'::timestamptz), $3)
order by o.placed_at desc, o.id desc limit {rows}
"""  # noqa: S608 - built from constants


@cache
def _customers(rows: int, *conditions: str) -> str:
    where = " and ".join((IS_CUSTOMER, "u.id > $1", *conditions))
    return f"select {columns(UserRow, 'u')} from users as u where {where} order by u.id limit {rows}"  # noqa: S608 - built from constants
