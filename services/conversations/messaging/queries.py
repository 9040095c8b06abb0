"""Queries of the conversations service, except for lists of conversations and counts.

Every query is scoped in its SQL, so rows of other customers are never found. Queries run directly on the driver: a
request that only reads is one statement without a transaction.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from uuid import UUID

from services.conversations.messaging.email_stops import is_stopped_sql
from services.conversations.messaging.listing import BY_ACTIVITY, conversations_sql, rows_to_fetch
from services.conversations.models import USER_SEARCH_FORM
from services.conversations.records import (
    ConversationDetail,
    CustomerRow,
    MessageRow,
    OrderRow,
    UserRow,
    attachments_sql,
    columns,
)
from services.conversations.rules import CustomValue, Side
from shared.database.engine import Driver
from shared.database.reader import Reader, fetch_with_custom_plan
from shared.paging import MAX_NUMBER, decode_cursor, encode_cursor, moment, number, store_id
from shared.problems import NotFound


async def load_conversation(
    connection: Driver, conversation_id: UUID, *, scope: str | None = None
) -> ConversationDetail:
    """Return a conversation; with `scope`, only that customer's. Raises `NotFound`."""
    row = await connection.fetchrow(_CONVERSATION if scope is None else _OWN_CONVERSATION, conversation_id, scope)
    if row is None:
        raise NotFound("There is no such conversation.")
    return ConversationDetail.of(row)


async def load_own_conversation(
    connection: Driver, conversation_id: UUID, customer_id: str
) -> tuple[ConversationDetail, bool]:
    """Return a customer's conversation, and whether emails about it are off. Raises `NotFound`."""
    row = await connection.fetchrow(_OWN_CONVERSATION, conversation_id, customer_id)
    if row is None:
        raise NotFound("There is no such conversation.")
    return ConversationDetail.of(row), row[-1]


async def load_conversation_and_others(
    connection: Driver, conversation_id: UUID, others: int
) -> tuple[ConversationDetail, list[ConversationDetail], dict[str, CustomValue]]:
    """Return a conversation, up to `others` more of its customer, newest activity first, and the store's own fields.

    For admins. Raises `NotFound`.
    """
    rows = await connection.fetch(_conversation_and_others(others), conversation_id)
    details = [ConversationDetail.of(row) for row in rows]
    wanted = next((detail for detail in details if detail.conversation.id == conversation_id), None)
    if wanted is None:
        raise NotFound("There is no such conversation.")
    return wanted, [detail for detail in details if detail is not wanted], rows[0][-1] or {}


async def load_conversations(connection: Driver, ids: Iterable[UUID]) -> list[ConversationDetail]:
    """Return the conversations with these ids that exist, newest activity first."""
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

    The same statement checks that the conversation exists and belongs to `scope`.
    """
    binding = (str(conversation_id), newest_first, after)
    above, below = after if after is not None else -1, MAX_NUMBER
    if cursor is not None:
        (last_number,) = decode_cursor(cursor, binding, number)
        above, below = (above, last_number) if newest_first else (max(above, last_number), below)
    query = _messages("m.number desc" if newest_first else "m.number", rows_to_fetch(limit))
    rows = await reader.fetch(query, conversation_id, scope, above, below)
    if not rows:
        raise NotFound("There is no such conversation.")
    # A conversation without messages is a single row of nulls.
    messages = [MessageRow.of(row) for row in rows[:limit] if row[0] is not None]
    return messages, encode_cursor(binding, [messages[-1].number]) if len(rows) > limit else None


async def list_orders(
    reader: Reader, user_id: str, cursor: str | None, limit: int
) -> tuple[list[OrderRow], str | None]:
    """Return a page of a customer's orders, newest first, without deleted ones, and the cursor of the next."""
    key = decode_cursor(cursor, user_id, moment, store_id) if cursor is not None else (None, "")
    rows = await reader.fetch(_orders(rows_to_fetch(limit)), user_id, *key)
    orders = [OrderRow._make(row) for row in rows[:limit]]
    if len(rows) <= limit:
        return orders, None
    return orders, encode_cursor(user_id, [orders[-1].placed_at.isoformat(), orders[-1].id])


async def list_admins(reader: Reader, cursor: str | None, limit: int) -> tuple[Sequence[UserRow], str | None]:
    """Return a page of admins by id, without deleted ones, and the cursor of the next."""
    after = decode_cursor(cursor, "admins", store_id)[0] if cursor is not None else ""
    rows = await reader.fetch(_admins(rows_to_fetch(limit)), after)
    users = [UserRow._make(row) for row in rows[:limit]]
    return users, encode_cursor("admins", [users[-1].id]) if len(rows) > limit else None


async def find_customer(connection: Driver, user_id: str) -> UserRow | None:
    """Return a customer by id; None if there is none or they were deleted."""
    row = await connection.fetchrow(_CUSTOMER, user_id)
    return UserRow._make(row) if row else None


async def find_person_id(reader: Reader, user_id: str) -> str:
    """Return whose id this is: another one for a merged id."""
    rows = await reader.fetch("select merged_into from users where id = $1 and merged_into is not null", user_id)
    return rows[0][0] if rows else user_id


async def list_customers(
    reader: Reader, q: str | None, cursor: str | None, limit: int
) -> tuple[Sequence[CustomerRow], str | None]:
    """Return a page of customers by id, and the cursor of the next; `q` is a part of a name, email or id.

    A person is also found by a whole id that was merged into theirs.
    """
    after = decode_cursor(cursor, q, store_id)[0] if cursor is not None else ""
    if q:
        condition, values = user_search(q, 2)
        person = f"(select merged_into from users where id = ${len(values) + 1})"  # noqa: S608 - the last value is `q`
        condition = f"({condition} or u.id = {person})"
        rows = await fetch_with_custom_plan(reader, _customers(rows_to_fetch(limit), condition), after, *values)
    else:
        rows = await reader.fetch(_customers(rows_to_fetch(limit)), after)
    users = [CustomerRow._make(row) for row in rows[:limit]]
    return users, encode_cursor(q, [users[-1].id]) if len(rows) > limit else None


IS_ADMIN = f"u.role = '{Side.ADMIN}' and u.deleted_at is null and u.synced_role is distinct from '{Side.CUSTOMER}'"
IS_CUSTOMER = f"u.role = '{Side.CUSTOMER}' and u.deleted_at is null"


def user_search(text: str, first: int) -> tuple[str, list[str]]:
    """Return the SQL condition for users with a text in their name, email or id, and its parameters from `first` on.

    An index of trigrams serves it. For one pattern, PostgreSQL reads its entries for all trigrams, also for those that
    most users have, as a mail provider's. Of two patterns, it reads the second one's only where the first one matches:
    so the first one is the longest word, which few have, without the domain of an address.
    """
    words = text.partition("@")[0].split(" ")
    rare = max(reversed(words), key=len)
    values = [rare, text] if rare not in ("", text) else [text]
    patterns = (search_pattern_sql(f"${number}") for number in range(first, first + len(values)))
    return " and ".join(f"{USER_SEARCH_FORM} like {pattern}" for pattern in patterns), values


def search_pattern_sql(text: str) -> str:
    """Return the SQL of a pattern for `like` that finds a text anywhere in a search form."""
    return rf"'%' || regexp_replace(search_form({text}), '([\\%_])', '\\\1', 'g') || '%'"


_IS_WANTED = "select * from conversations as c where c.id = $1 and ($2::text is null or c.user_id = $2)"
_CONVERSATION = conversations_sql(_IS_WANTED)
_OWN_CONVERSATION = conversations_sql(_IS_WANTED, BY_ACTIVITY, is_stopped_sql("c.id"), side=Side.CUSTOMER)
_CONVERSATIONS = conversations_sql("select * from conversations as c where c.id = any($1::uuid[])")
_CUSTOMER = f"""
    select {columns(UserRow, "u")} from users as u
    where u.id = coalesce((select merged_into from users where id = $1), $1) and {IS_CUSTOMER}
"""  # noqa: S608 - built from constants


@cache
def _conversation_and_others(others: int) -> str:
    page = f"""
        select * from conversations as c where c.id = $1
        union all (
            select * from conversations as c
            where c.user_id = (select user_id from conversations where id = $1) and c.id <> $1
            order by c.last_activity_at desc, c.id desc limit {others}
        )
    """  # noqa: S608 - built from constants
    return conversations_sql(page, BY_ACTIVITY, "u.custom")


@cache
def _messages(order: str, rows: int) -> str:
    return f"""
select {columns(MessageRow, "m")}
from conversations as c
left join lateral (
    select m.*, u.name as sender_name, u.deleted_at is not null as sender_deleted, {attachments_sql("m")} as attachments
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
def _admins(rows: int) -> str:
    where = f"{IS_ADMIN} and u.id > $1"
    return f"select {columns(UserRow, 'u')} from users as u where {where} order by u.id limit {rows}"  # noqa: S608 - built from constants


@cache
def _customers(rows: int, *conditions: str) -> str:
    where = " and ".join((IS_CUSTOMER, "u.id > $1", *conditions))
    return f"select {columns(CustomerRow, 'u')} from users as u where {where} order by u.id limit {rows}"  # noqa: S608 - built from constants
