"""The lists of conversations: a page of one is the same work however many conversations there are.

The customers' and the unfiltered list walk an index that is in their order. With filters over all conversations there
is none: an index is in order within each status and flag, so the first rows of each are taken, and of these the page.
"""

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from services.conversations.models import ORDER_SEARCH_FORM
from services.conversations.records import CONVERSATION_COLUMNS, ConversationDetail
from services.conversations.rules import Side, Status, former_order_id
from shared.paging import DEFAULT_LIMIT, MAX_LIMIT, decode_cursor, encode_cursor, moment
from shared.readers import Reader


@dataclass(frozen=True, slots=True)
class Filters:
    """What a list of conversations is narrowed to; None and empty mean all."""

    status: tuple[Status, ...] = ()
    unread: bool | None = None
    user_id: str | None = None
    order_id: str | None = None
    order_number: str | None = None

    @property
    def names_a_few(self) -> bool:
        """Tell whether it is one customer's conversations at most, or those about an order."""
        return any(value is not None for value in (self.user_id, self.order_id, self.order_number))


_SIZES = (DEFAULT_LIMIT + 1, 51, MAX_LIMIT + 1, 501)
_BY_ACTIVITY = "c.last_activity_at desc, c.id desc"
_SINCE = "coalesce(c.waiting_since, 'infinity'::timestamptz)"  # as the index on the waiting time has it
_BY_WAITING = f"{_SINCE}, c.id"


def conversations_sql(page: str, order: str = _BY_ACTIVITY, *more: str) -> str:
    """Make the SQL of some conversations, given by the SQL of their rows, with the people and things beside them."""
    return f"""
select {", ".join((CONVERSATION_COLUMNS, *more))}
from ({page}) as c join users as u on u.id = c.user_id left join orders as o on o.id = c.order_id
order by {order}
"""  # noqa: S608 - built from constants


def more_than(limit: int) -> int:
    """Return how many rows to ask for, to know whether there are more than a page holds.

    It is written into the SQL: of a limit that is a value PostgreSQL assumes a tenth of the table, in a plan that is
    kept, and would plan each time anew. So it is one of few.
    """
    return next(size for size in _SIZES if size > limit)


async def list_by_activity(
    reader: Reader, filters: Filters, side: Side, cursor: str | None, limit: int
) -> tuple[list[ConversationDetail], str | None]:
    """Return a page of conversations, last activity first, and the cursor of the next."""
    bound = _names("activity", side, filters)
    page = _Page(filters, side)
    if cursor is not None:
        key = page.place(*decode_cursor(cursor, bound, moment, UUID))
        page.conditions.append(f"(c.last_activity_at, c.id) < ({key})")
    rows = await reader.fetch(conversations_sql(page.sql(_BY_ACTIVITY, more_than(limit))), *page.values)
    threads = [ConversationDetail.of(row) for row in rows[:limit]]
    if len(rows) <= limit:
        return threads, None
    last = threads[-1].conversation
    return threads, encode_cursor(bound, [last.last_activity_at.isoformat(), str(last.id)])


async def list_by_waiting(
    reader: Reader, filters: Filters, cursor: str | None, limit: int
) -> tuple[list[ConversationDetail], str | None]:
    """Return a page of conversations, those that wait longest first, those that do not wait last.

    A conversation that changed since the first page is left to a new first page: an answer moves it backwards, and it
    would come twice.
    """
    bound = _names("waiting", Side.ADMIN, filters)
    page = _Page(filters, Side.ADMIN, always_in_parts=True)
    started = None
    if cursor is not None:
        started, waiting_since, identity = decode_cursor(cursor, bound, moment, _moment_or_never, UUID)
        page.conditions.append(f"c.changed_at <= {page.place(started)}")
        since = page.place(waiting_since)
        page.conditions.append(
            f"({_BY_WAITING}) > (coalesce({since}::timestamptz, 'infinity'::timestamptz), {page.place(identity)})"
        )
    # The time at which the statement begins: before it sees anything, so what changes behind its back is newer.
    query = conversations_sql(page.sql(_BY_WAITING, more_than(limit)), _BY_WAITING, "now()")
    rows = await reader.fetch(query, *page.values)
    threads = [ConversationDetail.of(row) for row in rows[:limit]]
    if len(rows) <= limit:
        return threads, None
    last = threads[-1].conversation
    waiting = last.waiting_since.isoformat() if last.waiting_since else ""
    return threads, encode_cursor(bound, [(started or rows[0][-1]).isoformat(), waiting, str(last.id)])


class _Page:
    """The SQL of a page's rows, and the values in it."""

    def __init__(self, filters: Filters, side: Side, *, always_in_parts: bool = False) -> None:
        self.values: list[Any] = []
        self.conditions: list[str] = []
        flag = "c.is_read_by_admin" if side is Side.ADMIN else "c.is_read_by_user"
        flags = {None: [flag, f"not {flag}"], True: [f"not {flag}"], False: [flag]}[filters.unread]
        self._parts = [""]
        if filters.names_a_few:
            self.conditions += list(self._narrowed(filters))
            self.conditions += flags if len(flags) == 1 else []
        elif filters.status or filters.unread is not None or always_in_parts:
            statuses = filters.status or tuple(Status)
            self._parts = [f"c.status = '{status}' and {flag}" for status in statuses for flag in flags]

    def place(self, *values: Any) -> str:
        """Return the places of values in the SQL."""
        first = len(self.values) + 1
        self.values += values
        return ", ".join(f"${number}" for number in range(first, len(self.values) + 1))

    def sql(self, order: str, limit: int) -> str:
        """Return the SQL of the first rows in an order."""
        first = f"order by {order} limit {limit}"
        parts = [" and ".join(filter(None, (part, *self.conditions))) for part in self._parts]
        selects = [f"select * from conversations as c {f'where {part}' if part else ''} {first}" for part in parts]  # noqa: S608 - built from constants
        if len(selects) == 1:
            return selects[0]
        return f"select * from ({' union all '.join(f'({select})' for select in selects)}) as c {first}"  # noqa: S608 - built from constants

    def _narrowed(self, filters: Filters) -> Iterator[str]:
        if filters.user_id is not None:
            yield f"c.user_id = {self.place(filters.user_id)}"
        if filters.order_id is not None:
            ids = [filters.order_id]
            if filters.user_id is not None:
                ids.append(former_order_id(filters.order_id, filters.user_id))
            yield f"c.order_id = any({self.place(ids)}::text[])"
        if filters.order_number is not None:
            wanted = ORDER_SEARCH_FORM.replace("number", self.place(filters.order_number))
            yield f"c.order_id in (select id from orders where {ORDER_SEARCH_FORM} = {wanted})"  # noqa: S608 - built from constants
        if filters.status:
            yield f"c.status = any({self.place(list(filters.status))}::text[])"


def _names(order: str, side: Side, filters: Filters) -> list[Any]:
    return [order, side, *astuple(filters)]


def _moment_or_never(part: str) -> datetime | None:
    return moment(part) if part else None
