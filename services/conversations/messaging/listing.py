"""Lists of conversations. The cost of a page does not depend on the number of conversations.

A customer's list and the unfiltered list follow an index in their order. A customer's index also has status and flag,
so that filters skip its entries, of which a block holds a hundred, and read no rows that do not match. By waiting time,
those that wait are sorted; the others are in the order of their ids, which the same index has, and are read only for a
page that those do not fill.

No index has the order of a filtered list of all conversations, but one is sorted within each status and read flag: the
page is merged from the first rows of each. So are the indexes of an assignee's and of unassigned conversations within
each status. Only a list by label reads all conversations with that label, or the newest of all until it has a page, as
PostgreSQL estimates.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from services.conversations.models import FORMER_ORDER_OF, FORMER_ORDERS, ORDER_SEARCH_FORM
from services.conversations.records import (
    CONVERSATION_COLUMNS,
    DESK_COLUMNS,
    NO_DESK_COLUMNS,
    ConversationDetail,
    ConversationRow,
)
from services.conversations.rules import WAITING, Side, Status
from shared.database.reader import Reader, fetch_with_custom_plan
from shared.paging import DEFAULT_LIMIT, MAX_LIMIT, decode_cursor, encode_cursor, moment


@dataclass(frozen=True, slots=True)
class Filters:
    """The filters of a list of conversations; None or empty means all."""

    status: tuple[Status, ...] = ()
    unread: bool | None = None
    user_id: str | None = None
    order_id: str | None = None
    order_number: str | None = None
    assignee_id: str | None = None
    unassigned: bool = False
    label_id: int | None = None
    held: bool | None = None

    @property
    def is_selective(self) -> bool:
        """Return whether the filters select those of one customer, about one order, with one label or held emails."""
        return bool(self.held) or any(
            value is not None for value in (self.user_id, self.order_id, self.order_number, self.label_id)
        )

    def still_match(self, conversation: ConversationRow) -> bool:
        """Return whether a conversation that matched them earlier does so now. Its customer and order never change."""
        is_in = not self.status or conversation.status in self.status
        return is_in and self.unread in (None, not conversation.is_read_by_admin)


_SIZES = (DEFAULT_LIMIT + 1, 51, MAX_LIMIT + 1, 501)
BY_ACTIVITY = "c.last_activity_at desc, c.id desc"
_SINCE = "coalesce(c.waiting_since, 'infinity'::timestamptz)"  # as in the index on the waiting time
_BY_WAITING = f"{_SINCE}, c.id"
_MAY_WAIT, _NEVER_WAITS = (
    f"c.status in ({', '.join(repr(str(status)) for status in Status if (status in WAITING) is waits)})"
    for waits in (True, False)
)


def conversations_sql(page: str, order: str = BY_ACTIVITY, *extra_columns: str, side: Side = Side.ADMIN) -> str:
    """Return the SQL of conversations with their customers and orders, for admins also with what only they see.

    `page` is the SQL of the conversation rows.
    """
    columns = (CONVERSATION_COLUMNS, DESK_COLUMNS if side is Side.ADMIN else NO_DESK_COLUMNS, *extra_columns)
    return f"""
select {", ".join(columns)}
from ({page}) as c join users as u on u.id = c.user_id left join orders as o on o.id = c.order_id
order by {order}
"""  # noqa: S608 - built from constants


def rows_to_fetch(limit: int) -> int:
    """Return the number of rows to fetch for a page, more than `limit`, to know whether there is a next page.

    It is a literal in the SQL: for a parameter, a generic plan assumes a tenth of the table, so PostgreSQL would plan
    every query anew. The few sizes keep the number of prepared statements small.
    """
    return next(size for size in _SIZES if size > limit)


async def list_by_activity(
    reader: Reader, filters: Filters, side: Side, cursor: str | None, limit: int
) -> tuple[list[ConversationDetail], str | None]:
    """Return a page of conversations, newest activity first, and the cursor of the next page."""
    binding = cursor_binding("activity", side, filters)
    page = PageSql(filters, side)
    if cursor is not None:
        page.start_after(cursor, binding)
    rows = await page.fetch(reader, conversations_sql(page.sql(BY_ACTIVITY, rows_to_fetch(limit)), side=side))
    conversations = [ConversationDetail.of(row) for row in rows[:limit]]
    if len(rows) <= limit:
        return conversations, None
    return conversations, activity_cursor(binding, conversations[-1])


async def list_by_waiting(
    reader: Reader, filters: Filters, cursor: str | None, limit: int
) -> tuple[list[ConversationDetail], str | None]:
    """Return a page of conversations, longest wait first, those without a wait last, and the cursor of the next page.

    Leaves out conversations that changed since the first page: a reply moves a conversation towards the end of the
    list, so it would appear twice.
    """
    binding = cursor_binding("waiting", Side.ADMIN, filters)
    page = PageSql(filters, Side.ADMIN, by_waiting=True)
    started_at = None
    if cursor is not None:
        started_at, waiting_since, last_id = decode_cursor(cursor, binding, moment, _moment_or_never, UUID)
        page.conditions.append(f"c.changed_at <= {page.bind(started_at)}")
        since = page.bind(waiting_since)
        page.conditions.append(
            f"({_BY_WAITING}) > (coalesce({since}::timestamptz, 'infinity'::timestamptz), {page.bind(last_id)})"
        )
    # `now()` is older than the snapshot of the statement, so any change that the page does not show is newer.
    query = conversations_sql(page.sql(_BY_WAITING, rows_to_fetch(limit)), _BY_WAITING, "now()")
    rows = await page.fetch(reader, query)
    conversations = [ConversationDetail.of(row) for row in rows[:limit]]
    if len(rows) <= limit:
        return conversations, None
    last = conversations[-1].conversation
    waiting = last.waiting_since.isoformat() if last.waiting_since else ""
    return conversations, encode_cursor(binding, [(started_at or rows[0][-1]).isoformat(), waiting, str(last.id)])


def activity_cursor(binding: Hashable, last: ConversationDetail) -> str:
    """Return the cursor after the last conversation on a page of a list by activity."""
    row = last.conversation
    return encode_cursor(binding, [row.last_activity_at.isoformat(), str(row.id)])


def cursor_binding(order: str, side: Side, filters: Filters) -> tuple[Hashable, ...]:
    """Return what the cursors of a list belong to."""
    f = filters  # spelled out: `dataclasses.astuple` would cost more than the rest of the cursor
    desk = (f.assignee_id, f.unassigned, f.label_id, *(() if f.held is None else (f.held,)))
    is_desk = any(desk) or f.held is not None
    return (order, side, f.status, f.unread, f.user_id, f.order_id, f.order_number, *(desk if is_desk else ()))


class PageSql:
    """Builds the SQL of a page's rows and collects its parameters."""

    def __init__(self, filters: Filters, side: Side, *, by_waiting: bool = False) -> None:
        self.values: list[Any] = []
        self.conditions: list[str] = []
        flag = "c.is_read_by_admin" if side is Side.ADMIN else "c.is_read_by_user"
        flags = {None: [flag, f"not {flag}"], True: [f"not {flag}"], False: [flag]}[filters.unread]
        self._parts = [""]
        self._part_by_id = ""
        self._has_label = filters.label_id is not None
        if filters.is_selective:
            self.conditions += [*self._conditions_of(filters), *self._desk(filters)]
            self.conditions += flags if len(flags) == 1 else []
            if by_waiting and filters.user_id is not None:
                self._parts, self._part_by_id = [_MAY_WAIT], _NEVER_WAITS
        elif assignment := list(self._desk(filters)):
            self.conditions += [*assignment, *(flags if len(flags) == 1 else [])]
            self._parts = [f"c.status = '{status}'" for status in filters.status or tuple(Status)]
        elif filters.status or filters.unread is not None or by_waiting:
            statuses = filters.status or tuple(Status)
            self._parts = [f"c.status = '{status}' and {flag}" for status in statuses for flag in flags]

    def bind(self, *values: Any) -> str:
        """Add parameters, and return their placeholders."""
        first = len(self.values) + 1
        self.values += values
        return ", ".join(f"${number}" for number in range(first, len(self.values) + 1))

    async def fetch(self, reader: Reader, query: str) -> Sequence[Any]:
        """Fetch the rows of a query with the page's parameters."""
        if self._has_label:  # whether its index is worth reading depends on how many conversations have it
            return await fetch_with_custom_plan(reader, query, *self.values)
        rows: Sequence[Any] = await reader.fetch(query, *self.values)
        return rows

    def sql(self, order: str, limit: int) -> str:
        """Return the SQL of the first `limit` rows in an order."""
        first = f"order by {order} limit {limit}"
        selects = [f"select * from {self._matching(part)} {first}" for part in self._parts]  # noqa: S608 - built from constants
        if self._part_by_id:
            return self._filled_up_by_id(selects[0], first, limit)
        if len(selects) == 1:
            return selects[0]
        return f"select * from ({' union all '.join(f'({select})' for select in selects)}) as c {first}"  # noqa: S608 - built from constants

    def _filled_up_by_id(self, waiting: str, first: str, limit: int) -> str:
        """Return the SQL of those that may wait; the others are read only if fewer than `limit` of these do wait."""
        ids = f"select c.id from {self._matching(self._part_by_id)}"  # noqa: S608 - built from constants
        return f"""
            with waiting as materialized ({waiting})
            select * from (
                select * from waiting union all
                select * from conversations as c where c.id in (
                    {ids} and (select count(waiting_since) from waiting) < {limit} order by c.id limit {limit}
                )
            ) as c {first}
        """  # noqa: S608 - built from constants

    def where(self) -> str:
        """Return the SQL condition for conversations that match the filters."""
        parts = [f"({part})" for part in self._parts if part]
        either = [f"({' or '.join(parts)})"] if parts else []
        return " and ".join((*either, *self.conditions)) or "true"

    def start_after(self, cursor: str, binding: Hashable) -> None:
        """Leave out the conversations up to a cursor of a list by activity."""
        key = self.bind(*decode_cursor(cursor, binding, moment, UUID))
        self.conditions.append(f"(c.last_activity_at, c.id) < ({key})")

    def _matching(self, part: str) -> str:
        condition = " and ".join(filter(None, (part, *self.conditions)))
        return f"conversations as c {f'where {condition}' if condition else ''}"

    def _conditions_of(self, filters: Filters) -> Iterator[str]:
        if filters.user_id is not None:
            yield f"c.user_id = {self.bind(filters.user_id)}"
        if filters.order_id is not None:
            wanted = self.bind(filters.order_id)
            former = f"select id from orders where {FORMER_ORDERS} and {FORMER_ORDER_OF} = {wanted}"  # noqa: S608 - built from constants
            yield f"c.order_id = any(array(select {wanted}::text union all {former}))"
        if filters.order_number is not None:
            wanted = ORDER_SEARCH_FORM.replace("number", self.bind(filters.order_number))
            yield f"c.order_id in (select id from orders where {ORDER_SEARCH_FORM} = {wanted})"  # noqa: S608 - built from constants
        if filters.label_id is not None:
            yield f"c.label_ids <> '{{}}' and c.label_ids @> array[{self.bind(filters.label_id)}::int]"
        if filters.status:
            yield f"c.status = any({self.bind(list(filters.status))}::text[])"

    def _desk(self, filters: Filters) -> Iterator[str]:
        if filters.assignee_id is not None:
            yield f"c.assignee_id = {self.bind(filters.assignee_id)}"
        if filters.unassigned:
            yield "c.assignee_id is null"
        if filters.held is not None:
            yield "c.held_ids is not null" if filters.held else "c.held_ids is null"


def _moment_or_never(part: str) -> datetime | None:
    return moment(part) if part else None
