"""Authorize callers: reads check the caller and fetch the rows in one statement, with one snapshot.

The statement runs directly on the driver: a request that only reads needs no transaction.
"""

from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.event_log.position import encode_position
from services.conversations.identity.provisioning import (
    authenticate_many,
    needs_profile_update,
    provision_user,
    token_lookup_sql,
)
from services.conversations.identity.sessions import (
    refused_session,
    require_session,
    require_sessions,
    session_lookup_sql,
)
from services.conversations.records import CallerRecord
from shared.auth.principal import Principal
from shared.batcher import Batcher
from shared.database.reader import PreparedStatement, fetch_with_custom_plan
from shared.database.transactions import (
    ConnectionProvider,
    SessionFactory,
    driver_connection,
    request_connection,
    request_transaction,
)

_read_epoch = lru_cache(maxsize=16)(UUID)  # all requests read the same one


@dataclass(frozen=True, slots=True)
class AuthorizedReader:
    """Runs the queries of a request that only reads, and authorizes its caller in the same statement.

    Provisions new users and changed profiles first. Raises `Unauthenticated` for a deleted user or an ended session,
    `CallerMerged` for a merged user, `Unavailable` while the database is. Passes the end of the log, from the same
    snapshot, to `set_position`: the rows include every change up to it.
    """

    principal: Principal
    acquire: ConnectionProvider
    sessions: SessionFactory
    set_position: Callable[[str], None]

    async def fetch(self, query: str, *values: Any) -> Sequence[Any]:
        """Run a query; return its rows."""
        return await self._read(query, *values)

    async def prepare(self, query: str) -> PreparedStatement:
        """Prepare a query that is planned for its actual parameters."""
        return _Prepared(partial(self._read, query, custom_plan=True))

    async def _read(self, query: str, *values: Any, custom_plan: bool = False) -> Sequence[Any]:
        rows, must_provision = await self._read_and_authorize(query, values, custom_plan=custom_plan)
        if must_provision:
            async with request_transaction(self.sessions) as session:
                await provision_user(session, self.principal)
            rows, _ = await self._read_and_authorize(query, values, custom_plan=custom_plan)
        return rows

    async def _read_and_authorize(
        self, query: str, values: Sequence[Any], *, custom_plan: bool
    ) -> tuple[Sequence[Any], bool]:
        lookup_sql = token_lookup_sql if self.principal.session_id is None else session_lookup_sql
        caller, caller_values = lookup_sql(self.principal, len(values) + 1)
        async with request_connection(self.acquire) as connection:
            run = partial(fetch_with_custom_plan, connection) if custom_plan else connection.fetch
            rows: Sequence[Any] = await run(_with_caller(caller, query), *values, *caller_values)
            if not rows:
                raise await refused_session(connection, self.principal)
        epoch, head, *record = msgspec.json.decode(rows[0][-1])
        must_provision = needs_profile_update(self.principal, CallerRecord._make(record))
        self.set_position(encode_position(_read_epoch(epoch), head))
        return [row[:-2] for row in rows if row[-2]], must_provision


@dataclass(frozen=True, slots=True)
class _Prepared:
    fetch: Callable[..., Coroutine[Any, Any, Sequence[Any]]]


@lru_cache(maxsize=1000)  # also saves the driver from comparing the text of each statement with those it has prepared
def _with_caller(caller: str, query: str) -> str:
    """Return the SQL of a query's rows, each followed by `true` and the caller; of the caller alone if there are none.

    `caller` is the SQL of at most one value. Each row repeats it, which costs less than a second statement. The rows
    keep their order, because they are joined with a single row.
    """
    return f"""
with who (asking) as materialized ({caller})
select page.*, who.asking from who left join lateral (select query.*, true from ({query}) as query) as page on true
"""  # noqa: S608 - built from constants


class KnownUserCache:
    """The callers whom this process has recently seen in the database, so that posting need not check again."""

    def __init__(self, acquire: ConnectionProvider, size: int = 10_000) -> None:
        self._acquire = acquire
        self._batcher = Batcher(self._check_batch, max_batch_size=64)
        self._seen: OrderedDict[Principal, None] = OrderedDict()
        self._size = size

    async def ensure(self, principal: Principal, sessions: SessionFactory) -> None:
        """Look the caller up, once per process and set of claims; create or change their user if the claims do."""
        if principal in self._seen:
            self._seen.move_to_end(principal)
            return
        if not await self._batcher.submit(principal):
            async with request_transaction(sessions) as session:
                await provision_user(session, principal)
        self._seen[principal] = None
        if len(self._seen) > self._size:
            self._seen.popitem(last=False)

    async def _check_batch(self, principals: Sequence[Principal]) -> Sequence[bool]:
        async with request_connection(self._acquire) as connection:
            unchanged = await authenticate_many(connection, set(principals))
        return [principal in unchanged for principal in principals]


class SessionChecks:
    """Checks the sessions of concurrent callers in one statement, and marks them as used."""

    def __init__(self, acquire: ConnectionProvider) -> None:
        self._acquire = acquire
        self._batcher = Batcher(self._check_batch, max_batch_size=64)

    async def require(self, principal: Principal) -> None:
        """Check a caller's session. Raises `Unauthenticated` if it has ended, or `CallerMerged`."""
        if not await self._batcher.submit(principal):
            async with request_connection(self._acquire) as connection:
                raise await refused_session(connection, principal)

    async def _check_batch(self, principals: Sequence[Principal]) -> Sequence[bool]:
        async with request_connection(self._acquire) as connection:
            live = await require_sessions(connection, set(principals), used=True)
        return [principal in live for principal in principals]


async def authorize_caller(session: AsyncSession, principal: Principal, *, used: bool) -> tuple[UUID, int]:
    """Authorize a customer or an admin by token or session; return the log's epoch and head from before."""
    connection = await driver_connection(session)
    if principal.session_id is not None:
        return await require_session(connection, principal, used=used)
    positions = await authenticate_many(connection, [principal])
    return positions.get(principal) or await provision_user(session, principal)
