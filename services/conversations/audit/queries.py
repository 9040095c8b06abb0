"""Read the audit, newest first."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from services.conversations.rules import AuditAction
from shared.database.reader import Reader
from shared.paging import decode_cursor, encode_cursor, moment


class AuditRow(NamedTuple):
    """An entry of the audit."""

    id: UUID
    at: datetime
    actor_id: str
    actor_role: str
    action: str
    conversation_id: UUID | None
    target_id: str | None
    data: dict[str, Any] | None
    address: str | None
    request_id: UUID | None


async def list_entries(
    reader: Reader,
    *,
    actor_id: str | None,
    conversation_id: UUID | None,
    action: AuditAction | None,
    cursor: str | None,
    limit: int,
) -> tuple[list[AuditRow], str | None]:
    """Return a page of entries that match all filters, and the cursor of the next."""
    filters = {"actor_id": actor_id, "conversation_id": conversation_id, "action": action and action.value}
    binding = ("audit", *filters.values())
    values: list[Any] = [limit + 1]
    conditions = []
    for column, value in filters.items():
        if value is not None:
            values.append(value)
            conditions.append(f"{column} = ${len(values)}")
    if cursor is not None:
        values += decode_cursor(cursor, binding, moment, UUID)
        conditions.append(f"(at, id) < (${len(values) - 1}, ${len(values)})")
    where = f"where {' and '.join(conditions)}" if conditions else ""
    query = f"select {_COLUMNS} from audit_entries {where} order by at desc, id desc limit $1"  # noqa: S608 - constants
    rows = [AuditRow._make(row) for row in await reader.fetch(query, *values)]
    if len(rows) <= limit:
        return rows, None
    last = rows[limit - 1]
    return rows[:limit], encode_cursor(binding, [last.at.isoformat(), str(last.id)])


async def load_names(reader: Reader, ids: Iterable[str]) -> dict[str, str | None]:
    """Return the present names of users, for a page: the audit itself has none."""
    return dict(await reader.fetch("select id, name from users where id = any($1::text[])", list(ids)))


_COLUMNS = ", ".join(AuditRow._fields)
