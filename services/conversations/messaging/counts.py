"""Counts of conversations. Every count stops at `COUNT_LIMIT`, which bounds its cost."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Any

from services.conversations.messaging.queries import IS_CUSTOMER, user_search
from services.conversations.models import UNREAD_BY_ADMIN
from services.conversations.records import UserRow, columns
from services.conversations.rules import ACTIVE, COUNT_LIMIT, WAITING, Side, Status
from shared.database.engine import Driver
from shared.database.reader import Reader, fetch_with_custom_plan


@dataclass(frozen=True, slots=True)
class Tally:
    """The number of conversations by status, of those unread by admins, of an admin's, and of those of nobody.

    These two leave out resolved and closed ones. `held` are those with held emails, and held emails without one. Each
    is up to `COUNT_LIMIT`.
    """

    by_status: dict[Status, int]
    unread: int
    mine: int
    unassigned: int
    held: int

    @property
    def waiting(self) -> int:
        """Return the number of conversations that wait for an admin."""
        return min(COUNT_LIMIT, sum(self.by_status[status] for status in WAITING))


async def count_unread(reader: Reader, customer: str | None = None) -> int:
    """Count the conversations that are unread by the admins, or by a customer, up to `COUNT_LIMIT`."""
    [row] = await (reader.fetch(_UNREAD) if customer is None else reader.fetch(_UNREAD_OF_ONE, customer))
    count: int = row[0]
    return count


async def count_unread_by_customer(connection: Driver, customers: Collection[str]) -> dict[str, int]:
    """Count the unread conversations of several customers, each up to `COUNT_LIMIT`."""
    if not customers:
        return {}
    counts = {row[0]: row[1] for row in await connection.fetch(_UNREAD_OF, list(customers))}
    return dict.fromkeys(customers, 0) | counts


async def tally(reader: Reader, admin_id: str) -> Tally:
    """Count all conversations as an admin's inbox shows them."""
    [row] = await reader.fetch(_TALLY, admin_id)
    return _tally(row)


async def tally_and_find_customers(
    connection: Driver, admin_id: str, text: str, limit: int
) -> tuple[Tally, list[UserRow]]:
    """Count as `tally` does, and return the user with the id `text`, or else customers whom `list_customers` finds.

    Finds deleted customers only by id. A merged id is the person's.
    """
    condition, values = user_search(text, 3)
    query = _tally_and_customers(limit, condition)
    rows = await fetch_with_custom_plan(connection, query, admin_id, text, *values)
    return _tally(rows[0][:_COUNTED]), [UserRow._make(row[_COUNTED:]) for row in rows if row[_COUNTED] is not None]


def unread_count_sql(side: Side, customer: str) -> str:
    """Return the SQL of a side's unread count, up to `COUNT_LIMIT`; `customer` is the SQL of the customer's id."""
    return _count(f"c.user_id = {customer} and not c.is_read_by_user" if side is Side.CUSTOMER else UNREAD_BY_ADMIN)


def _count(condition: str) -> str:
    return f"(select count(*) from (select from conversations as c where {condition} limit {COUNT_LIMIT}) as counted)"  # noqa: S608 - built from constants


_UNREAD = f"select {unread_count_sql(Side.ADMIN, '')}"
_UNREAD_OF_ONE = f"select {unread_count_sql(Side.CUSTOMER, '$1')}"
_UNREAD_OF = f"""
select of.id, least(count(*), {COUNT_LIMIT}) from unnest($1::text[]) as of (id)
join conversations as c on c.user_id = of.id and not c.is_read_by_user group by of.id
"""  # noqa: S608 - built from constants
# The order of the index that starts with the status: otherwise PostgreSQL scans the table for a common status.
_IN_STATE = "c.is_read_by_admin, c.last_activity_at desc, c.id desc"
_ACTIVE = f"c.status in ({', '.join(repr(str(status)) for status in Status if status in ACTIVE)})"
_UNMATCHED = f"(select count(*) from (select from held_letters limit {COUNT_LIMIT}) as counted)"  # noqa: S608 - a constant
_COUNTS = ", ".join(
    (
        *(_count(f"c.status = '{status}' order by {_IN_STATE}") for status in Status),
        _count(UNREAD_BY_ADMIN),
        _count(f"c.assignee_id = $1 and {_ACTIVE}"),
        _count(f"c.assignee_id is null and {_ACTIVE}"),
        f"least({COUNT_LIMIT}, {_count('c.held_ids is not null')} + {_UNMATCHED})",
    )
)
_COUNTED = len(Status) + 4
_TALLY = f"select {_COUNTS}"


@cache
def _tally_and_customers(customers: int, condition: str) -> str:
    return f"""
with exactly as (select coalesce(merged_into, id) as id from users where id = $2),
alike as (
    select u.id from users as u where not exists (select from exactly) and {IS_CUSTOMER} and {condition}
    order by u.id limit {customers}
),
found as (select id from exactly union all select id from alike)
select {_COUNTS}, {columns(UserRow, "u")}
from (select) as one left join (found join users as u on u.id = found.id) on true
order by u.id
"""  # noqa: S608 - built from constants


def _tally(row: Any) -> Tally:
    *by_status, unread, mine, unassigned, held = row
    return Tally(dict(zip(Status, by_status, strict=True)), unread, mine, unassigned, held)
