"""Browsers' sessions: begun by a token of the store, known by a cookie, ended by their row or by time.

Every change of a session locks its user first, never after the session. `check_session` and `load_page_context` hold
no lock if they are the first statement of a request.
"""

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import delete, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.event_log.position import encode_position
from services.conversations.messaging.counts import unread_count_sql
from services.conversations.models import BrowserSession
from services.conversations.records import CALLER_JSON
from services.conversations.rules import Side
from services.conversations.settings import StoreSettings
from shared.auth import Principal, Role
from shared.database import Driver, driver_connection
from shared.problems import Unauthenticated

IDLE: Final = timedelta(hours=12)  # since the browser was last used
LONGEST: Final = timedelta(days=7)  # since the session began
SEEN_EVERY: Final = timedelta(minutes=1)  # between notes that a session is used


@dataclass(frozen=True, slots=True)
class PageContext:
    """Who looks at a page, as the user's row has them, and what every page shows of the state of things.

    `unread` counts the conversations that their side has not read, up to `COUNT_LIMIT`. `position` is the end of the
    log in the same snapshot: what is read later is not older.
    """

    principal: Principal
    csrf: str
    unread: int
    position: str


async def begin(session: AsyncSession, user_id: str, side: Side, *, csrf: str | None = None) -> BrowserSession:
    """Begin a session of a known user, always with a new id. Raises `Unauthenticated` for a deleted user.

    `csrf` is that of a session of the same user that this one replaces, so that the forms in open pages keep working.
    """
    values = {"user_id": user_id, "role": side, "csrf": csrf or secrets.token_urlsafe(32)}
    found: BrowserSession | None = await session.scalar(select(BrowserSession).from_statement(_BEGIN), values)
    if found is None:
        raise Unauthenticated("This user was deleted.")
    return found


async def check_session(session: AsyncSession, principal: Principal, *, used: bool = True) -> str:
    """Return the `csrf` of the live session of a principal who came with its cookie, or raise `Unauthenticated`.

    Notes that the session is used, at most once a minute, unless nobody did (`used`): a script that looks for news
    keeps no session alive.
    """
    row = await _fetch(await driver_connection(session), _CHECK, principal, used=used)
    return str(row["csrf"])


async def require_session(session: AsyncSession, principal: Principal, *, used: bool = True) -> tuple[UUID, int]:
    """Return the log's epoch and head, so that what is read later is not older; else as `check_session`."""
    row = await _fetch(await driver_connection(session), _CHECK, principal, used=used)
    return row["epoch"], row["head"]


def session_lookup_sql(principal: Principal, place: int) -> tuple[str, list[Any]]:
    """Do as `people.look_by_token` for who comes by a session; nothing is found if it is over. Notes no use."""
    live = _live(*(f"${number}" for number in range(place, place + 3)))
    values = [principal.session_id, principal.id, principal.role.value]
    return f"select {CALLER_JSON} from feed, {live}", values  # noqa: S608 - built from constants


async def load_page_context(session: AsyncSession, principal: Principal, *, used: bool = True) -> PageContext:
    """Return who looks at a page, in one statement; else as `check_session`."""
    row = await _fetch(await driver_connection(session), _PAGE_CONTEXTS[principal.role], principal, used=used)
    profile = {field: row[field] for field in ("name", "email", "locale", "zoneinfo")}
    return PageContext(
        principal=Principal(id=principal.id, role=principal.role, session_id=principal.session_id, **profile),
        csrf=row["csrf"],
        unread=row["unread"],
        position=encode_position(row["epoch"], row["head"]),
    )


async def end(session: AsyncSession, session_id: UUID) -> None:
    """End a session; one that is over already stays so."""
    await session.execute(delete(BrowserSession).where(BrowserSession.id == session_id))


async def end_all_of(session: AsyncSession, user_id: str) -> None:
    """End every session of a user."""
    await session.execute(delete(BrowserSession).where(BrowserSession.user_id == user_id))


async def end_other_sides(session: AsyncSession, sides: Sequence[tuple[str, Side]]) -> None:
    """End every session of users that is for another side than the one beside the user's id."""
    ids, kept = zip(*sides, strict=True)
    await session.execute(_END_OTHER_SIDES, {"ids": list(ids), "kept": list(kept)})


async def find_ended_sessions(session: AsyncSession, ids: Collection[UUID]) -> set[UUID]:
    """Return those of some sessions that are over, whatever ended them."""
    living = await session.scalars(_LIVING, {"ids": list(ids)})
    return set(ids) - set(living)


async def require_sessions(connection: Driver, principals: Collection[Principal]) -> dict[Principal, tuple[UUID, int]]:
    """Check many sessions in one statement. Returns the log's epoch and head for each principal with a live session.

    Does not mark the sessions as used.
    """
    rows: Any = await connection.fetch(_REQUIRE_MANY, [principal.session_id for principal in principals])
    living = {(row["id"], row["user_id"], row["role"]) for row in rows}
    entered = [each for each in principals if (each.session_id, each.id, each.role.value) in living]
    return dict.fromkeys(entered, (rows[0]["epoch"], rows[0]["head"]))


async def purge_sessions(session: AsyncSession, _: StoreSettings, *, size: int) -> int:
    """Delete the rows of sessions that nobody has used for too long; return how many.

    One that has reached its longest time is used no more, so it goes 12 hours later at the latest.
    """
    return len((await session.execute(_PURGE, {"size": size})).all())


async def _fetch(connection: Driver, statement: str, principal: Principal, *, used: bool) -> Any:
    # Straight on the driver: as a request's first statement it is its own transaction, so the row is not locked for
    # as long as the request lasts, and other requests of the same browser need not wait.
    row = await connection.fetchrow(statement, principal.session_id, principal.id, principal.role.value, used)
    if row is None:
        raise Unauthenticated("The session is over.")
    return row


def _is_live(alias: str) -> str:
    return f"""(
        {alias}.last_seen_at > clock_timestamp() - interval '{IDLE.total_seconds()} seconds'
        and {alias}.created_at > clock_timestamp() - interval '{LONGEST.total_seconds()} seconds'
    )"""


# Who was deleted has none, nor an admin whom the store has made a customer: a session may begin at that moment.
_IS_THEIRS = "u.deleted_at is null and (s.role = 'customer' or u.synced_role is distinct from 'customer')"


def _live(identity: str, user: str, side: str) -> str:
    """Make the SQL, behind `from`, of a live session of a user, for a side; and of the user."""
    return f"""
    sessions as s join users as u on u.id = s.user_id
    where s.id = {identity} and s.user_id = {user} and s.role = {side} and {_IS_THEIRS} and {_is_live("s")}
"""


def _statement(wanted: str) -> str:
    """Make the SQL that finds a live session, `$1`, of a user, `$2`, for a side, `$3`, and notes its use if `$4`."""
    return f"""
with live as (
    select s.id, s.user_id, s.csrf, u.name, u.email, u.locale, u.zoneinfo from {_live("$1", "$2", "$3")}
),
used as (
    update sessions as s set last_seen_at = clock_timestamp() from live
    where s.id = live.id and $4::boolean
        and s.last_seen_at < clock_timestamp() - interval '{SEEN_EVERY.total_seconds()} seconds'
)
select {wanted}
"""  # noqa: S608 - built from constants


_CHECK = _statement("csrf, feed.epoch, feed.head from live, feed")


_PAGE_CONTEXTS = {
    Role(side): _statement(
        f"live.*, feed.epoch, feed.head, {unread_count_sql(side, 'live.user_id')} as unread from live, feed"
    )
    for side in Side
}

# The lock waits for a deletion of the user under way, and then finds nobody.
_BEGIN = text("""
    insert into sessions (user_id, role, csrf)
    select id, :role, :csrf from users where id = :user_id and deleted_at is null for key share
    returning *
""")

_END_OTHER_SIDES = text("""
    delete from sessions using unnest(cast(:ids as text[]), cast(:kept as text[])) as changed (user_id, side)
    where sessions.user_id = changed.user_id and sessions.role <> changed.side
""")

_LIVING = text(f"select id from sessions where id = any(:ids) and {_is_live('sessions')}")  # noqa: S608 - built from constants

_REQUIRE_MANY = f"""
select feed.epoch, feed.head, living.* from feed left join (
    select s.id, s.user_id, s.role from sessions as s join users as u on u.id = s.user_id
    where s.id = any($1::uuid[]) and {_IS_THEIRS} and {_is_live("s")}
) as living on true
"""  # noqa: S608 - built from constants

_PURGE = text(f"""
    delete from sessions where id in (
        select id from sessions
        where last_seen_at < clock_timestamp() - interval '{IDLE.total_seconds()} seconds'
        order by last_seen_at limit :size for update skip locked
    )
    returning id
""")  # noqa: S608 - built from constants
