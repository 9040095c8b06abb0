"""Unread counts for badges, the most frequent read: those of concurrent callers share a statement."""

from collections.abc import Sequence
from typing import Any, Final

from services.conversations.event_log.position import encode_position
from services.conversations.identity.access import AuthorizedReader
from services.conversations.identity.provisioning import is_unchanged
from services.conversations.messaging.counts import count_unread, unread_count_sql
from services.conversations.records import CALLER_COLUMNS, CallerRecord
from services.conversations.rules import Side
from shared.batcher import Batcher
from shared.database.transactions import ConnectionProvider, request_connection
from shared.settings import Role

BATCH: Final = 64  # callers in a statement


class UnreadCounts:
    """Counts the unread conversations of callers, and authorizes them in the same statement.

    One that is alone runs the statement of an `AuthorizedReader`, and so does a caller with a session, and one who
    cannot share because they are new, changed or refused.
    """

    def __init__(self, acquire: ConnectionProvider) -> None:
        self._acquire = acquire
        self._batcher = Batcher(self._count_batch, BATCH, max_in_flight=2)

    async def of(self, reader: AuthorizedReader) -> int:
        """Return the number of a caller's side, up to `COUNT_LIMIT`. Raises as `AuthorizedReader` does."""
        count = await self._batcher.submit(reader) if reader.principal.session_id is None else None
        return await _count_alone(reader) if count is None else count

    async def _count_batch(self, readers: Sequence[AuthorizedReader]) -> Sequence[int | None]:
        """Return the counts of callers with tokens; None for each who cannot share a statement."""
        if len(readers) == 1:
            return [await _count_alone(reader) for reader in readers]
        callers = list({(reader.principal.id, reader.principal.role.value) for reader in readers})
        async with request_connection(self._acquire) as connection:
            rows: Any = await connection.fetch(_COUNT_MANY, *map(list, zip(*callers, strict=True)))
        found = {(row[0], row[1]): row for row in rows}
        return [_take(reader, found[reader.principal.id, reader.principal.role.value]) for reader in readers]


def _take(reader: AuthorizedReader, row: Any) -> int | None:
    _, _, count, epoch, head, *caller = row
    if not is_unchanged(reader.principal, CallerRecord._make(caller)):
        return None
    reader.set_position(encode_position(epoch, head))
    return int(count)


async def _count_alone(reader: AuthorizedReader) -> int:
    return await count_unread(reader, reader.principal.id if reader.principal.role is Role.CUSTOMER else None)


# The admins' count is evaluated once, and only if there is one of them.
_COUNT_MANY = f"""
select caller.id, caller.role, case caller.role
    when '{Side.CUSTOMER}' then {unread_count_sql(Side.CUSTOMER, "caller.id")}
    else {unread_count_sql(Side.ADMIN, "")}
end, feed.epoch, feed.head, {CALLER_COLUMNS}
from feed, unnest($1::text[], $2::text[]) as caller (id, role) left join users as u on u.id = caller.id
"""  # noqa: S608 - built from constants
