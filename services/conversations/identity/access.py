"""Reading for a caller in one statement: who asks is looked at beside what is asked for, in one snapshot.

It is a statement straight on the driver: a request that only reads has no transaction around it.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.event_log.position import encode_position
from services.conversations.identity.provisioning import (
    authenticate_many,
    needs_profile_update,
    provision_user,
    token_lookup_sql,
)
from services.conversations.identity.sessions import require_session, session_lookup_sql
from services.conversations.records import CallerRecord
from shared.auth import Principal
from shared.database import (
    ConnectionProvider,
    SessionFactory,
    driver_connection,
    request_connection,
    request_transaction,
)
from shared.problems import Unauthenticated
from shared.readers import Prepared, search


@dataclass(frozen=True, slots=True)
class AuthorizedReader:
    """A request that only reads: what runs its queries, each for the caller if they may still come.

    Whoever is new, or has news, is let in first. Raises `Unauthenticated` for a user whom the store deleted, and for
    a session that is over; `Unavailable` while the database is. It tells the end of the log in the same snapshot: what
    was read holds all that the log told up to there.
    """

    principal: Principal
    acquire: ConnectionProvider
    sessions: SessionFactory
    tell_position: Callable[[str], None]

    async def fetch(self, query: str, *values: Any) -> Sequence[Any]:
        """Run a query, and return its rows."""
        return await self._read(query, *values)

    async def prepare(self, query: str) -> Prepared:
        """Make a query ready whose plan is made for its values."""
        return _Prepared(partial(self._read, query, anew=True))

    async def _read(self, query: str, *values: Any, anew: bool = False) -> Sequence[Any]:
        rows, news = await self._read_and_look(query, values, anew=anew)
        if news:
            async with request_transaction(self.sessions) as session:
                await provision_user(session, self.principal)
            rows, _ = await self._read_and_look(query, values, anew=anew)
        return rows

    async def _read_and_look(self, query: str, values: Sequence[Any], *, anew: bool) -> tuple[Sequence[Any], bool]:
        look = token_lookup_sql if self.principal.session_id is None else session_lookup_sql
        who, more = look(self.principal, len(values) + 1)
        async with request_connection(self.acquire) as connection:
            run = partial(search, connection) if anew else connection.fetch
            rows: Sequence[Any] = await run(_beside(who, query), *values, *more)
        if not rows:
            raise Unauthenticated("The session is over.")
        epoch, head, *known = json.loads(rows[0][-1])
        news = needs_profile_update(self.principal, CallerRecord._make(known))
        self.tell_position(encode_position(UUID(epoch), head))
        return [row[:-2] for row in rows if row[-2]], news


@dataclass(frozen=True, slots=True)
class _Prepared:
    fetch: Callable[..., Coroutine[Any, Any, Sequence[Any]]]


def _beside(who: str, query: str) -> str:
    """Make the SQL of a query's rows, each with `true` and who asks behind it; alone if the query finds nothing.

    `who` is the SQL of one value or none. It comes with each row: one column costs less than a second statement. The
    rows stay in their order: they are joined with one row, for which there is no other way than one after the other.
    """
    return f"""
with who (asking) as materialized ({who})
select page.*, who.asking from who left join lateral (select query.*, true from ({query}) as query) as page on true
"""  # noqa: S608 - built from constants


class KnownUserCache:
    """The callers whom this process has lately seen in the database, so that posting need not look again."""

    def __init__(self, size: int = 10_000) -> None:
        self._seen: OrderedDict[Principal, None] = OrderedDict()
        self._size = size

    async def ensure(self, principal: Principal, sessions: SessionFactory) -> None:
        """Make sure that the caller is a user, in a transaction of its own, once per process and set of claims."""
        if principal in self._seen:
            self._seen.move_to_end(principal)
            return
        async with request_transaction(sessions) as session:
            await provision_user(session, principal)
        self._seen[principal] = None
        if len(self._seen) > self._size:
            self._seen.popitem(last=False)


async def authorize_caller(session: AsyncSession, principal: Principal, *, used: bool) -> tuple[UUID, int]:
    """Let a customer or an admin in, by token or by session; return the log's epoch and head from before."""
    if principal.session_id is not None:
        return await require_session(session, principal, used=used)
    seen = await authenticate_many(await driver_connection(session), [principal])
    return seen.get(principal) or await provision_user(session, principal)
