"""Browser sessions: started with a token, identified by a cookie, and ended by deleting their row or by time.

Every change of a session locks its user first, never after the session. `check_session` and `load_page_context` keep no
lock: on a connection without a transaction each is one of its own.
"""

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from typing import Any, Final
from uuid import UUID

from sqlalchemy import delete, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.event_log.position import encode_position
from services.conversations.messaging.counts import unread_count_sql
from services.conversations.messaging.email_stops import stop_of_all_sql
from services.conversations.messaging.merged_ids import refused_caller
from services.conversations.models import BrowserSession
from services.conversations.records import CALLER_JSON
from services.conversations.rules import Side
from services.conversations.settings import StoreSettings
from shared.auth.principal import CallerMerged, Principal
from shared.database.engine import Driver
from shared.problems import Unauthenticated
from shared.settings import Role

IDLE: Final = timedelta(hours=12)  # since the browser was last used
LONGEST: Final = timedelta(days=7)  # since the session started
SEEN_EVERY: Final = timedelta(minutes=1)  # between updates of `last_seen_at`


@dataclass(frozen=True, slots=True)
class PageContext:
    """The user who views a page, and the data that every page shows.

    `unread` is the number of conversations that are unread by the user's side, up to `COUNT_LIMIT`. `position` is the
    end of the log in the same snapshot: later reads are at least as new. `emails_off` is why a customer gets no emails
    at all, None if they do.
    """

    principal: Principal
    csrf: str
    unread: int
    position: str
    emails_off: str | None = None


async def begin(session: AsyncSession, user_id: str, side: Side, *, csrf: str | None = None) -> BrowserSession:
    """Start a session for a known user, always with a new id.

    `csrf` is the token of the session of the same user that this one replaces, so that forms in open pages keep
    working. Raises `Unauthenticated` for a deleted user, or `CallerMerged`.
    """
    values = {"user_id": user_id, "role": side, "csrf": csrf or secrets.token_urlsafe(32)}
    browser_session: BrowserSession | None = await session.scalar(select(BrowserSession).from_statement(_BEGIN), values)
    if browser_session is None:
        raise await refused_caller(session, user_id)
    return browser_session


async def check_session(connection: Driver, principal: Principal, *, used: bool = True) -> str:
    """Return the CSRF token of a caller's live session. Raises `Unauthenticated`, or `CallerMerged`.

    With `used`, updates `last_seen_at` at most once a minute. Requests that scripts make by themselves do not count as
    use, so that they do not keep a session alive.
    """
    row = await _fetch(connection, _CHECK, principal, used=used)
    return str(row["csrf"])


async def require_session(connection: Driver, principal: Principal, *, used: bool = True) -> tuple[UUID, int]:
    """Check a session as `check_session` does; return the log's epoch and head: later reads are at least as new."""
    row = await _fetch(connection, _CHECK, principal, used=used)
    return row["epoch"], row["head"]


def session_lookup_sql(principal: Principal, first_parameter: int) -> tuple[str, list[Any]]:
    """Return the SQL that looks up a caller with a session, and its parameters, numbered from `first_parameter`.

    It finds no row if the session has ended, and does not mark it as used.
    """
    return _lookup_sql(first_parameter), [principal.session_id, principal.id, principal.role.value]


async def load_page_context(connection: Driver, principal: Principal, *, used: bool = True) -> PageContext:
    """Check a session as `check_session` does, and load the page context, in one statement."""
    row = await _fetch(connection, _PAGE_CONTEXTS[principal.role], principal, used=used)
    profile = {field: row[field] for field in ("name", "email", "locale", "zoneinfo")}
    return PageContext(
        principal=replace(principal, **profile),
        csrf=row["csrf"],
        unread=row["unread"],
        position=encode_position(row["epoch"], row["head"]),
        emails_off=row["emails_off"],
    )


async def refused_session(connection: Driver, principal: Principal) -> Exception:
    """Return why a caller has no live session under their id: it ended, or the id belongs to another person now."""
    person_id = await connection.fetchval("select merged_into from users where id = $1", principal.id)
    if person_id is not None:
        return CallerMerged(principal.id, person_id)
    return Unauthenticated("The session has ended. Sign in again.")


async def end(session: AsyncSession, session_id: UUID) -> bool:
    """End a session; return whether it had not ended yet."""
    ended = delete(BrowserSession).where(BrowserSession.id == session_id).returning(BrowserSession.id)
    return await session.scalar(ended) is not None


async def end_all_sessions(session: AsyncSession, user_id: str) -> None:
    """End all sessions of a user."""
    await session.execute(delete(BrowserSession).where(BrowserSession.user_id == user_id))


async def end_sessions_of_other_side(session: AsyncSession, sides: Sequence[tuple[str, Side]]) -> None:
    """End the sessions of users that are not for the given side, as pairs of user id and side."""
    ids, kept = zip(*sides, strict=True)
    await session.execute(_END_OTHER_SIDES, {"ids": list(ids), "kept": list(kept)})


async def find_ended_sessions(session: AsyncSession, ids: Collection[UUID]) -> set[UUID]:
    """Return the ids of the sessions that have ended."""
    live_ids = await session.scalars(_LIVE_IDS, {"ids": list(ids)})
    return set(ids) - set(live_ids)


async def require_sessions(
    connection: Driver, principals: Collection[Principal], *, used: bool = False
) -> dict[Principal, tuple[UUID, int]]:
    """Check many sessions in one statement; return the log's epoch and head for each caller with a live session.

    With `used`, updates `last_seen_at` at most once a minute, except where another transaction has locked the session.
    """
    query = _REQUIRE_AND_USE_MANY if used else _REQUIRE_MANY
    rows: Any = await connection.fetch(query, [principal.session_id for principal in principals])
    live = {(row["id"], row["user_id"], row["role"]) for row in rows}
    admitted = [caller for caller in principals if (caller.session_id, caller.id, caller.role.value) in live]
    return dict.fromkeys(admitted, (rows[0]["epoch"], rows[0]["head"]))


async def purge_sessions(session: AsyncSession, _: StoreSettings, *, size: int) -> int:
    """Delete sessions that were idle for too long; return how many.

    A session past its longest time can no longer be used, so it is deleted within 12 hours.
    """
    return len((await session.execute(_PURGE, {"size": size})).all())


async def _fetch(connection: Driver, statement: str, principal: Principal, *, used: bool) -> Any:
    # Directly on the driver: as the first statement of a request it is its own transaction, so it does not lock the
    # session for the whole request, and other requests of the same browser do not wait.
    row = await connection.fetchrow(statement, principal.session_id, principal.id, principal.role.value, used)
    if row is None:
        raise await refused_session(connection, principal)
    return row


def _is_live(alias: str) -> str:
    return f"""(
        {alias}.last_seen_at > clock_timestamp() - interval '{IDLE.total_seconds()} seconds'
        and {alias}.created_at > clock_timestamp() - interval '{LONGEST.total_seconds()} seconds'
    )"""


@cache  # by the number of a query's parameters; also saves the caller from comparing two long texts
def _lookup_sql(first_parameter: int) -> str:
    live = _live(*(f"${number}" for number in range(first_parameter, first_parameter + 3)))
    return f"select {CALLER_JSON} from feed, {live}"  # noqa: S608 - built from constants


# A session may start while its user is deleted or while the store makes an admin a customer: both make it invalid.
_IS_ALLOWED = "u.deleted_at is null and (s.role = 'customer' or u.synced_role is distinct from 'customer')"


def _live(session_id: str, user: str, side: str) -> str:
    """Return the SQL, after `from`, of a user's live session for a side, and of the user."""
    return f"""
    sessions as s join users as u on u.id = s.user_id
    where s.id = {session_id} and s.user_id = {user} and s.role = {side} and {_IS_ALLOWED} and {_is_live("s")}
"""


def _statement(result: str) -> str:
    """Return the SQL that finds a live session `$1` of a user `$2` for a side `$3`, and marks it as used if `$4`."""
    return f"""
with live as (
    select s.id, s.user_id, s.csrf, u.name, u.email, u.locale, u.zoneinfo from {_live("$1", "$2", "$3")}
),
used as (
    update sessions as s set last_seen_at = clock_timestamp() from live
    where s.id = live.id and $4::boolean
        and s.last_seen_at < clock_timestamp() - interval '{SEEN_EVERY.total_seconds()} seconds'
)
select {result}
"""  # noqa: S608 - built from constants


_CHECK = _statement("csrf, feed.epoch, feed.head from live, feed")


_EMAILS_OFF = {Side.CUSTOMER: stop_of_all_sql("live.user_id"), Side.ADMIN: "null::text"}
_PAGE_CONTEXTS = {
    Role(side): _statement(
        f"live.*, feed.epoch, feed.head, {unread_count_sql(side, 'live.user_id')} as unread,"
        f" {_EMAILS_OFF[side]} as emails_off from live, feed"
    )
    for side in Side
}

# The lock waits for a concurrent deletion of the user, and then finds no row.
_BEGIN = text("""
    insert into sessions (user_id, role, csrf)
    select id, :role, :csrf from users where id = :user_id and deleted_at is null for key share
    returning *
""")

_END_OTHER_SIDES = text("""
    delete from sessions using unnest(cast(:ids as text[]), cast(:kept as text[])) as changed (user_id, side)
    where sessions.user_id = changed.user_id and sessions.role <> changed.side
""")

_LIVE_IDS = text(f"select id from sessions where id = any(:ids) and {_is_live('sessions')}")  # noqa: S608 - built from constants

_LIVING = f"""
living as (
    select s.id, s.user_id, s.role from sessions as s join users as u on u.id = s.user_id
    where s.id = any($1::uuid[]) and {_IS_ALLOWED} and {_is_live("s")}
)
"""  # noqa: S608 - built from constants
_REQUIRED = "select feed.epoch, feed.head, living.* from feed left join living on true"
_REQUIRE_MANY = f"with {_LIVING} {_REQUIRED}"
# Waits for no lock, so that two of these cannot wait for each other.
_REQUIRE_AND_USE_MANY = f"""
with {_LIVING},
used as (
    update sessions set last_seen_at = clock_timestamp() where id in (
        select s.id from sessions as s join living using (id)
        where s.last_seen_at < clock_timestamp() - interval '{SEEN_EVERY.total_seconds()} seconds'
        for no key update of s skip locked
    )
)
{_REQUIRED}
"""  # noqa: S608 - built from constants

_PURGE = text(f"""
    delete from sessions where id in (
        select id from sessions
        where last_seen_at < (select clock_timestamp() - interval '{IDLE.total_seconds()} seconds')
        order by last_seen_at limit :size for update skip locked
    )
    returning id
""")  # noqa: S608 - built from constants
