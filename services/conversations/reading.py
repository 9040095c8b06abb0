"""Reading for a caller in one statement: who asks is looked at beside what is asked for, in one snapshot.

It is a statement straight on the driver: a request that only reads has no transaction around it.
"""

import json
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from services.conversations.people import admit, has_news, look_by_token
from services.conversations.positions import encode_position
from services.conversations.queries import search
from services.conversations.rows import Known, Prepared
from services.conversations.sessions import look_by_session
from shared.auth import Principal
from shared.database import Lend, Sessions, answered_connection, answered_transaction
from shared.problems import Unauthenticated


@dataclass(frozen=True, slots=True)
class Reading:
    """A request that only reads: what runs its queries, each for the caller if they may still come.

    Whoever is new, or has news, is let in first. Raises `Unauthenticated` for a user whom the store deleted, and for
    a session that is over; `Unavailable` while the database is. It tells the end of the log in the same snapshot: what
    was read holds all that the log told up to there.
    """

    principal: Principal
    lend: Lend
    sessions: Sessions
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
            async with answered_transaction(self.sessions) as session:
                await admit(session, self.principal)
            rows, _ = await self._read_and_look(query, values, anew=anew)
        return rows

    async def _read_and_look(self, query: str, values: Sequence[Any], *, anew: bool) -> tuple[Sequence[Any], bool]:
        look = look_by_token if self.principal.session_id is None else look_by_session
        who, more = look(self.principal, len(values) + 1)
        async with answered_connection(self.lend) as connection:
            run = partial(search, connection) if anew else connection.fetch
            rows: Sequence[Any] = await run(_beside(who, query), *values, *more)
        if not rows:
            raise Unauthenticated("The session is over.")
        epoch, head, *known = json.loads(rows[0][-1])
        news = has_news(self.principal, Known._make(known))
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
