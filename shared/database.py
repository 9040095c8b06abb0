"""PostgreSQL for both services: engines, sessions, transactions."""

import math
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, cast

import structlog
from fastapi import Depends, Request
from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry
from sqlalchemy.util import greenlet_spawn

from shared.database_url import read_database_url
from shared.failpoints import failpoint
from shared.outages import describe, is_read_only, lacks_migration, may_pass
from shared.primary import primary_connector
from shared.problems import Unavailable
from shared.tls import database_tls

if TYPE_CHECKING:
    import asyncpg

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
PING_TIMEOUT = 2  # seconds
TRUSTED_IDLE = 5.0  # seconds a connection may rest in the pool before it is asked whether it still works

SessionFactory = async_sessionmaker[AsyncSession]
# A connection itself: each statement on it is its own transaction, unless one began.
Driver: TypeAlias = "asyncpg.Connection[Any]"
ConnectionProvider = Callable[[], AbstractAsyncContextManager[Driver]]

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
    plain_url, tls = database_tls(read_database_url(url))
    engine = create_async_engine(
        plain_url.set(drivername="postgresql+asyncpg"),
        poolclass=_Pool,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT,
        hide_parameters=True,  # they are people's text, and errors are logged
        connect_args={
            "async_creator_fn": primary_connector(),
            "timeout": CONNECT_TIMEOUT,
            "command_timeout": command_timeout,
            "server_settings": {"application_name": application, **bounds},
            **tls,
        },
    )

    def check(connection: Any, record: ConnectionPoolEntry, _: object) -> None:
        _check_connection(connection, record, _pool(engine))

    def on_error(context: ExceptionContext) -> None:
        _note_error(engine, context.original_exception)

    event.listen(engine.sync_engine, "connect", _note_connected)
    event.listen(engine.sync_engine, "checkin", _note_return)
    event.listen(engine.sync_engine, "checkout", check)
    event.listen(engine.sync_engine, "handle_error", on_error)
    return engine


class _Pool(AsyncAdaptedQueuePool):
    """A pool whose connections can all be replaced, or doubted, each before it is used again."""

    replaced_at = doubted_at = -math.inf


def _pool(engine: AsyncEngine) -> _Pool:
    return cast("_Pool", engine.pool)


def replace_connections(engine: AsyncEngine) -> None:
    """Have every connection of an engine replaced before its next use: they lead to a server that takes no writes.

    A session keeps the settings that it began with, and a server that was demoted may live on: neither gets better by
    waiting.
    """
    _pool(engine).replaced_at = time.monotonic()


def _note_connected(_: object, record: ConnectionPoolEntry) -> None:
    record.info["connected_at"] = time.monotonic()


def _note_return(_: object, record: ConnectionPoolEntry) -> None:
    record.info["returned_at"] = time.monotonic()


def _note_error(engine: AsyncEngine, error: BaseException) -> None:
    if is_read_only(error):
        replace_connections(engine)
    elif isinstance(error, TimeoutError):  # what one connection lost without a word, the others may have lost as well
        _pool(engine).doubted_at = time.monotonic()


def _check_connection(connection: Any, record: ConnectionPoolEntry, pool: _Pool) -> None:
    """Replace a connection that broke in the pool; the pool itself would ask the server at every checkout.

    One that was closed says so itself; one that something on the way forgot about is found by asking, after a while.
    """
    driver: Any = record.driver_connection
    returned_at = record.info.get("returned_at")
    if returned_at is None:  # a new one; the pool would make one more, and give up on that without saying why
        if driver.is_closed():
            raise ConnectionResetError("the server has ended a new connection")
        return
    if driver.is_closed() or record.info["connected_at"] <= pool.replaced_at:
        raise DisconnectionError
    if time.monotonic() - returned_at > TRUSTED_IDLE or returned_at <= pool.doubted_at:
        try:
            connection.run_async(lambda asked: asked.fetchrow(";", timeout=PING_TIMEOUT))
        except Exception as error:  # whatever a broken connection raises, the pool makes a new one
            raise DisconnectionError from error


def create_sessions(engine: AsyncEngine) -> SessionFactory:
    """Make the factory of sessions; what they loaded stays readable after the commit."""
    return async_sessionmaker(engine, expire_on_commit=False)


def connection_provider(engine: AsyncEngine) -> ConnectionProvider:
    """Make what lends connections of the engine's pool to those who need no transaction."""

    @asynccontextmanager
    async def acquire() -> AsyncIterator[Driver]:
        lent = await engine.raw_connection()
        try:
            driver: Any = lent.driver_connection
            with _noting_errors(engine):
                yield driver
        finally:
            await greenlet_spawn(lent.close)

    return acquire


def without_transactions(sessions: SessionFactory) -> SessionFactory:
    """Make the factory of sessions on the same connections whose statements are each a transaction of their own.

    One way to the server and back instead of three, for what is asked all the time and is one statement.
    """
    engine: AsyncEngine = sessions.kw["bind"]
    return create_sessions(engine.execution_options(isolation_level="AUTOCOMMIT"))


@asynccontextmanager
async def transaction(sessions: SessionFactory) -> AsyncIterator[AsyncSession]:
    """Open a session whose work is committed at the end, or rolled back by an exception."""
    # What is said straight to the driver is an error that SQLAlchemy never sees.
    with _noting_errors(sessions.kw["bind"]):
        async with sessions() as session, session.begin():
            yield session


@contextmanager
def _noting_errors(engine: AsyncEngine) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        _note_error(engine, error)
        raise


@asynccontextmanager
async def request_transaction(sessions: SessionFactory) -> AsyncIterator[AsyncSession]:
    """Open a transaction of a request: a database that is away, or that gave up on it, is `Unavailable`."""
    with _answered():
        async with transaction(sessions) as session:
            yield session
        failpoint("request-committed")


@asynccontextmanager
async def request_connection(acquire: ConnectionProvider) -> AsyncIterator[Driver]:
    """Lend a connection to a request whose statements are each a transaction of their own; errors as above."""
    with _answered():
        async with acquire() as connection:
            yield connection


@contextmanager
def _answered() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not may_pass(error):
            raise
        if lacks_migration(error):  # or a fault of ours, which has to be seen
            log.error("the database lacks what a request needs", error=describe(error))  # noqa: TRY400 - it is raised
        else:
            log.warning("the database let a request down", error=describe(error))
        raise Unavailable("The database does not answer at the moment. Try again.") from error


async def _session(request: Request) -> AsyncIterator[AsyncSession]:
    async with request_transaction(request.app.state.sessions) as session:
        yield session


# Commits before the answer goes out: scope="function". The default would answer first and commit later.
DbSession = Annotated[AsyncSession, Depends(_session, scope="function")]


def database_identity_sql(table: str) -> str:
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
