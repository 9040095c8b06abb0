"""PostgreSQL for both services: engines, sessions, transactions."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, cast

import msgspec
import structlog
from sqlalchemy import event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry

from shared.database_errors import describe, is_read_only, is_retryable_rollback, is_temporary, lacks_migration
from shared.database_url import read_database_url
from shared.ending import seconds_left
from shared.failpoints import failpoint
from shared.primary import primary_connector
from shared.problems import Unavailable
from shared.tls import database_tls

if TYPE_CHECKING:
    import asyncpg

CONNECT_TIMEOUT = 5  # seconds
# Seconds until a statement's connection counts as dead. Without it, a process would wait forever on a connection that
# the network dropped silently: the relay would live on without numbering events.
COMMAND_TIMEOUT = 20
# Limits that the server enforces. For all processes: the locks of a process that froze within a transaction are
# released before those that wait for them give up. For an API: a statement ends before its connection counts as dead,
# and no request waits long for a row lock.
WORK_BOUNDS = {"idle_in_transaction_session_timeout": "10s"}
REQUEST_BOUNDS = WORK_BOUNDS | {"statement_timeout": "15s", "lock_timeout": "5s"}
_TIMES_AS_TEXT = {"TimeZone": "UTC", "DateStyle": "ISO"}  # for `_read_times_as_text`
POOL_TIMEOUT = 5  # seconds a request waits for a connection
PING_TIMEOUT = 2  # seconds
CLOSE_TIMEOUT = 2  # seconds
ATTEMPTS: Final = 5  # of a transaction that deadlocks with others
TRUSTED_IDLE = 5.0  # seconds a connection may be idle in the pool before it is tested at its next use

T = TypeVar("T")

SessionFactory = async_sessionmaker[AsyncSession]
# A driver's connection. Each statement on it is a transaction, unless one was started.
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
    """Create an engine on asyncpg. `application` is the name in `pg_stat_activity`.

    `bounds` are server settings for each connection, such as `REQUEST_BOUNDS`.
    """
    plain_url, tls = database_tls(read_database_url(url))
    engine = create_async_engine(
        plain_url.set(drivername="postgresql+asyncpg"),
        poolclass=_Pool,
        pool_size=pool_size,
        pool_use_lifo=True,  # the connection that was used last needs no test, and one that needs it gets it next
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT,
        hide_parameters=True,  # errors are logged, and parameters contain people's text
        json_deserializer=msgspec.json.decode,  # of columns, in a fifth of the time of Python's own
        connect_args={
            "async_creator_fn": primary_connector(),
            "timeout": CONNECT_TIMEOUT,
            "command_timeout": command_timeout,
            "server_settings": {"application_name": application, **_TIMES_AS_TEXT, **bounds},
            **tls,
        },
    )

    def check(connection: Any, record: ConnectionPoolEntry, _: object) -> None:
        _check_connection(connection, record, _pool(engine))

    def on_error(context: ExceptionContext) -> None:
        _note_error(engine, context.original_exception)
        if context.is_disconnect:
            _pool(engine).doubted_at = time.monotonic()

    event.listen(engine.sync_engine, "connect", _prepare_connection)
    event.listen(engine.sync_engine, "checkin", _note_return)
    event.listen(engine.sync_engine, "checkout", check)
    event.listen(engine.sync_engine, "handle_error", on_error)
    return engine


class _Pool(AsyncAdaptedQueuePool):
    """A pool that can have all of its connections replaced, or tested, before their next use."""

    replaced_at = doubted_at = -math.inf

    def lend(self) -> ConnectionPoolEntry | None:
        """Take a connection that is there and needs no test, at a tenth of the cost of a checkout; else return None.

        SQLAlchemy's checkout prepares for a transaction, and for a caller that never returns the connection.
        """
        if not self.checkedin():
            return None
        entry = self._do_get()
        if entry.dbapi_connection is not None and _is_trusted(entry, self):
            return entry
        self._do_return_conn(entry)
        return None

    def take_back(self, entry: ConnectionPoolEntry, error: BaseException | None) -> None:
        """Return a connection that was lent. After an error or a cancellation, its next use tests it."""
        entry.info["returned_at"] = time.monotonic() if error is None else -math.inf
        self._do_return_conn(entry)


def _pool(engine: AsyncEngine) -> _Pool:
    return cast("_Pool", engine.pool)


def replace_connections(engine: AsyncEngine) -> None:
    """Replace every connection of an engine before its next use, because the server accepts no writes.

    A connection keeps the settings that it started with, and a demoted server may keep running: waiting does not help.
    """
    _pool(engine).replaced_at = time.monotonic()


def _prepare_connection(connection: Any, record: ConnectionPoolEntry) -> None:
    connection.run_async(_read_times_as_text)
    record.info["connected_at"] = time.monotonic()


async def _read_times_as_text(driver: Driver) -> None:
    """Read times as text, which Python does in a fifth of the time that the driver takes for its own format."""
    await driver.set_type_codec(
        "timestamptz",
        schema="pg_catalog",
        encoder=datetime.isoformat,
        decoder=datetime.fromisoformat,
        format="text",
    )


def _note_return(_: object, record: ConnectionPoolEntry) -> None:
    record.info["returned_at"] = time.monotonic()


def _note_error(engine: AsyncEngine, error: BaseException) -> None:
    if is_read_only(error):
        replace_connections(engine)
    elif isinstance(error, TimeoutError):  # the network may have dropped the other connections, too
        _pool(engine).doubted_at = time.monotonic()


def _check_connection(connection: Any, record: ConnectionPoolEntry, pool: _Pool) -> None:
    """Replace a connection that broke in the pool. The pool's own check would ask the server at every checkout.

    A closed connection is known to be closed. One that the network dropped is found by a query, sent only after some
    idle time.
    """
    driver: Any = record.driver_connection
    returned_at = record.info.get("returned_at")
    if returned_at is None:  # new: for a DisconnectionError the pool would retry and then fail without a reason
        if driver.is_closed():
            raise ConnectionResetError("the server closed a new connection")
        return
    if driver.is_closed() or record.info["connected_at"] <= pool.replaced_at:
        raise DisconnectionError
    if not _is_trusted(record, pool):
        try:
            connection.run_async(lambda pinged: pinged.fetchrow(";", timeout=PING_TIMEOUT))
        except Exception as error:  # a broken connection may raise anything; the pool makes a new one
            raise DisconnectionError from error


def _is_trusted(record: ConnectionPoolEntry, pool: _Pool) -> bool:
    """Return whether a connection can be used without a test."""
    info, driver = record.info, cast("Any", record.driver_connection)
    returned_at: float = info.get("returned_at", -math.inf)
    return (
        not driver.is_closed()
        and info["connected_at"] > pool.replaced_at
        and time.monotonic() - returned_at <= TRUSTED_IDLE
        and returned_at > pool.doubted_at
    )


async def close_engine(engine: AsyncEngine) -> None:
    """Close the connections in an engine's pool, for a few seconds at most: the server may not answer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds_left(CLOSE_TIMEOUT)):
            await engine.dispose()


def create_sessions(engine: AsyncEngine) -> SessionFactory:
    """Create a session factory. Loaded objects stay readable after the commit."""
    return async_sessionmaker(engine, expire_on_commit=False)


def connection_provider(engine: AsyncEngine) -> ConnectionProvider:
    """Create a provider of connections from the engine's pool, for work without a transaction."""
    return lambda: _Loan(engine)


class _Loan(AbstractAsyncContextManager["Driver"]):
    """A connection on loan from an engine's pool. A class, because a generator would cost as much as the loan."""

    __slots__ = ("_checkout", "_engine", "_entry", "_pool")

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine, self._pool = engine, _pool(engine)

    async def __aenter__(self) -> Driver:
        self._entry = self._pool.lend()
        if self._entry is not None:
            return cast("Driver", self._entry.driver_connection)
        self._checkout = await self._engine.raw_connection()
        return cast("Driver", self._checkout.driver_connection)

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        if self._entry is not None:
            self._pool.take_back(self._entry, error)
        else:
            self._checkout.close()  # without a greenlet, which only a transaction of SQLAlchemy's own would need
        if isinstance(error, Exception):
            _note_error(self._engine, error)


async def fetch_alone(sessions: SessionFactory, statement: str, *values: Any) -> "Sequence[asyncpg.Record]":
    """Run a statement on the driver as a transaction of its own; return its rows.

    For loops that find nothing to do most of the time: a session would add BEGIN and COMMIT to each look.
    """
    async with connection_provider(sessions.kw["bind"])() as connection:
        return await connection.fetch(statement, *values)


@asynccontextmanager
async def transaction(sessions: SessionFactory) -> AsyncIterator[AsyncSession]:
    """Open a session. Commit it at the end, or roll it back after an exception."""
    # SQLAlchemy does not see errors of statements that run directly on the driver.
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
    """Open a transaction for a request. Temporary database errors become `Unavailable`."""
    try:
        async with transaction(sessions) as session:
            yield session
        failpoint("request-committed")
    except Exception as error:
        _raise_if_temporary(error)
        raise


async def run_transaction(sessions: SessionFactory, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
    """Run `work` in a transaction for a request, again if that was rolled back because of others (deadlock).

    Its effects must be in the transaction. Raises `Unavailable`, as `request_transaction` does.
    """
    attempt = 1
    while True:
        try:
            async with request_transaction(sessions) as session:
                return await work(session)
        except Unavailable as error:
            if attempt == ATTEMPTS or not is_retryable_rollback(error.__cause__):
                raise
            attempt += 1


class RolledBack(Exception):  # noqa: N818 - no error: the request is handled again
    """The transaction of a request was rolled back because of others. Raised before anything is answered."""


class request_connection(AbstractAsyncContextManager["Driver"]):  # noqa: N801 - used as a function
    """Provide a connection for a request without a transaction. Temporary database errors become `Unavailable`.

    A class, as a loan is.
    """

    __slots__ = ("_loan",)

    def __init__(self, acquire: ConnectionProvider) -> None:
        self._loan = acquire()

    async def __aenter__(self) -> Driver:
        try:
            return await self._loan.__aenter__()
        except Exception as error:
            _raise_if_temporary(error)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._loan.__aexit__(kind, error, trace)
        if isinstance(error, Exception):
            _raise_if_temporary(error)


def _raise_if_temporary(error: Exception) -> None:
    if not is_temporary(error):
        return
    if lacks_migration(error):  # possibly a bug, so log it as an error
        log.error("missing table or privilege", error=describe(error))
    else:
        log.warning("request failed, database unavailable", error=describe(error))
    raise Unavailable("The database is temporarily unavailable. Try again.") from error


def database_identity_sql(table: str) -> str:
    """Return the SQL of an identity that changes when a table is restored, failed over, moved or recreated.

    It consists of the server's identifier, its timeline, and the ids of the database and the table. The timeline is
    that of the write-ahead log: the control file is updated minutes later. Restoring a storage snapshot changes none.
    """
    return f"""(
        (select system_identifier from pg_control_system()) || ':' || left(pg_walfile_name(pg_current_wal_lsn()), 8)
        || ':' || (select oid from pg_database where datname = current_database()) || ':' || '{table}'::regclass::oid
    )"""  # noqa: S608 - a constant


async def driver_connection(session: AsyncSession) -> Driver:
    """Return the asyncpg connection of a session, to run statements directly on the driver.

    They are part of the session's transaction, or a transaction each if the session has not run a statement yet.
    """
    connection = await session.connection()
    driver: Driver = (await connection.get_raw_connection()).driver_connection  # type: ignore[assignment]
    return driver


async def transaction_driver(session: AsyncSession) -> Driver:
    """Return the asyncpg connection of a session for statements that are all part of its transaction."""
    driver = await driver_connection(session)
    if not driver.is_in_transaction():  # SQLAlchemy begins one with its own first statement
        await session.execute(text("select"))
    return driver
