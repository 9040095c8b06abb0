"""PostgreSQL for both services: engines, sessions, waiting for a server that is not there yet."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Annotated, Any, TypeAlias

import asyncpg
import structlog
from fastapi import Depends, Request
from sqlalchemy import TextClause, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import greenlet_spawn

from shared.failpoints import failpoint
from shared.problems import Unavailable
from shared.tls import database_tls

CONNECT_TIMEOUT = 5  # seconds
# Seconds until a statement's connection counts as dead. Without it, one that the network forgot without a word
# is waited on for ever: the relay would number nothing more, alive as it is.
COMMAND_TIMEOUT = 20
# What the server itself bounds. For everybody: it takes the locks from a process that froze within its transaction,
# before those who wait for them give up. For an API: it ends a statement before its connection is given up as dead, and
# lets nobody wait long for a row.
WORK_BOUNDS = {"idle_in_transaction_session_timeout": "10s"}
REQUEST_BOUNDS = WORK_BOUNDS | {"statement_timeout": "15s", "lock_timeout": "5s"}
POOL_TIMEOUT = 5  # seconds a request waits for a connection
TRUSTED_IDLE = 5.0  # seconds a connection may rest in the pool before it is asked whether it still works

Sessions = async_sessionmaker[AsyncSession]
# A connection itself: each statement on it is its own transaction, unless one began.
Driver: TypeAlias = "asyncpg.Connection[Any]"
Lend = Callable[[], AbstractAsyncContextManager[Driver]]

_ALIVE = text("select 1")
_MIGRATED = text("select version_num from alembic_version")

# Beginnings of SQLSTATE. Of an outage: connection, frozen within a transaction, rolled back (deadlock), stopped or
# starting. Of a request that may succeed in a moment besides: resources, not now (lock), cancelled (statement timeout).
_OUTAGE = ("08", "25P03", "25P04", "40", "57P")
_PASSING = (*_OUTAGE, "53", "55", "57")

log = structlog.get_logger()


def create_engine(
    url: str,
    *,
    application: str,
    pool_size: int = 10,
    command_timeout: float | None = COMMAND_TIMEOUT,
    bounds: Mapping[str, str] = WORK_BOUNDS,
) -> AsyncEngine:
    """Make an engine on asyncpg. `application` is the name that `pg_stat_activity` shows.

    `bounds` are settings of the server for each connection, as `REQUEST_BOUNDS`.
    """
    plain_url, tls = database_tls(make_url(url))
    engine = create_async_engine(
        plain_url.set(drivername="postgresql+asyncpg"),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT,
        hide_parameters=True,  # they are people's text, and errors are logged
        connect_args={
            "timeout": CONNECT_TIMEOUT,
            "command_timeout": command_timeout,
            "server_settings": {"application_name": application, **bounds},
            **tls,
        },
    )
    event.listen(engine.sync_engine, "checkin", _note_return)
    event.listen(engine.sync_engine, "checkout", _check_connection)
    return engine


def _note_return(_: object, record: ConnectionPoolEntry) -> None:
    record.info["returned_at"] = time.monotonic()


def _check_connection(connection: Any, record: ConnectionPoolEntry, _: object) -> None:
    """Replace a connection that broke in the pool; the pool itself would ask the server at every checkout.

    One that was closed says so itself; one that something on the way forgot about is found by asking, after a while.
    """
    driver: Any = record.driver_connection
    if driver.is_closed():
        raise DisconnectionError
    if time.monotonic() - record.info.get("returned_at", math.inf) > TRUSTED_IDLE:
        try:
            connection.ping()
        except Exception as error:  # whatever a broken connection raises, the pool makes a new one
            raise DisconnectionError from error


def create_sessions(engine: AsyncEngine) -> Sessions:
    """Make the factory of sessions; what they loaded stays readable after the commit."""
    return async_sessionmaker(engine, expire_on_commit=False)


def create_lender(engine: AsyncEngine) -> Lend:
    """Make what lends connections of the engine's pool to those who need no transaction."""

    @asynccontextmanager
    async def lend() -> AsyncIterator[Driver]:
        lent = await engine.raw_connection()
        try:
            driver: Any = lent.driver_connection
            yield driver
        finally:
            await greenlet_spawn(lent.close)

    return lend


def without_transactions(sessions: Sessions) -> Sessions:
    """Make the factory of sessions on the same connections whose statements are each a transaction of their own.

    One way to the server and back instead of three, for what is asked all the time and is one statement.
    """
    engine: AsyncEngine = sessions.kw["bind"]
    return create_sessions(engine.execution_options(isolation_level="AUTOCOMMIT"))


async def wait_for_database(engine: AsyncEngine) -> None:
    """Return once the database answers and is migrated; until then say, from time to time, what is awaited."""
    await _wait(engine, _MIGRATED)


async def wait_for_server(engine: AsyncEngine) -> None:
    """Return once the database answers, migrated or not."""
    await _wait(engine, _ALIVE)


async def database_fault(engine: AsyncEngine, probe: TextClause = _MIGRATED) -> str | None:
    """Say in one line why the database cannot be worked with, or None when it can."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT), engine.connect() as connection:
            await connection.execute(probe)
    except DBAPIError as error:
        if "alembic_version" in str(error.orig):
            return "the database is not migrated, run: chats migrate"
        return describe(error)
    except (OSError, PoolTimeoutError) as error:
        return describe(error)
    return None


async def _wait(engine: AsyncEngine, probe: TextClause) -> None:
    tries = 0
    while (fault := await database_fault(engine, probe)) is not None:
        if tries % 10 == 0:
            log.warning("waiting for the database", reason=fault)
        tries += 1
        await asyncio.sleep(1)


def describe(error: BaseException | None) -> str:
    """Say in one line what is wrong with the database. The driver's own messages hold no password; a URL might."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    lines = str(cause).splitlines()
    return f"the database does not answer ({lines[0] if lines else type(cause).__name__})"


@asynccontextmanager
async def transaction(sessions: Sessions) -> AsyncIterator[AsyncSession]:
    """Open a session whose work is committed at the end, or rolled back by an exception."""
    async with sessions() as session, session.begin():
        yield session


@asynccontextmanager
async def answered_transaction(sessions: Sessions) -> AsyncIterator[AsyncSession]:
    """Open a transaction of a request: a database that is away, or that gave up on it, is `Unavailable`."""
    with _answered():
        async with transaction(sessions) as session:
            yield session
        failpoint("request-committed")


@asynccontextmanager
async def answered_connection(lend: Lend) -> AsyncIterator[Driver]:
    """Lend a connection to a request whose statements are each a transaction of their own; errors as above."""
    with _answered():
        async with lend() as connection:
            yield connection


@contextmanager
def _answered() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not _is_passing(error, _PASSING):
            raise
        log.warning("the database let a request down", error=describe(error))
        raise Unavailable("The database does not answer at the moment. Try again.") from error


def is_outage(error: BaseException | None) -> bool:
    """Tell whether the database was away or gave up on a transaction, whatever it was about."""
    return _is_passing(error, _OUTAGE)


def was_in_the_way(error: BaseException | None) -> bool:
    """Tell whether the database gave up on a transaction for another's sake (a deadlock): it may be tried again now."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return (getattr(cause, "sqlstate", None) or "").startswith("40")


def _is_passing(error: BaseException | None, states: tuple[str, ...]) -> bool:
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or _is_passing(error.orig, states)
    # InternalClientError: a connection that the server has just ended, met before its end was read to the last byte.
    passing = (OSError, TimeoutError, PoolTimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError)
    if isinstance(error, passing):
        return True
    return (getattr(error, "sqlstate", None) or "").startswith(states)


async def _session(request: Request) -> AsyncIterator[AsyncSession]:
    async with answered_transaction(request.app.state.sessions) as session:
        yield session


# Commits before the answer goes out: scope="function". The default would answer first and commit later.
Session = Annotated[AsyncSession, Depends(_session, scope="function")]


def incarnation_of(table: str) -> str:
    """Return the SQL of what changes when a table lives on elsewhere: restored, failed over, moved, made anew.

    It is the server's identity, its timeline, and the ids of the database and the table. The timeline is that of the
    write-ahead log: the control file learns of a new one minutes late. A snapshot of the storage that is put back
    changes none of them.
    """
    return f"""(
        (select system_identifier from pg_control_system()) || ':' || left(pg_walfile_name(pg_current_wal_lsn()), 8)
        || ':' || (select oid from pg_database where datname = current_database()) || ':' || '{table}'::regclass::oid
    )"""  # noqa: S608 - a table of ours


async def driver_connection(session: AsyncSession) -> Driver:
    """Return the asyncpg connection below a session, for a statement straight on the driver.

    The statement is a part of the session's transaction, or its own if the session has not begun to talk.
    """
    connection = await session.connection()
    driver: Driver = (await connection.get_raw_connection()).driver_connection  # type: ignore[assignment]
    return driver
