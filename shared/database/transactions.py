"""Sessions, transactions and connections on an engine, for processes and for requests."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import structlog
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from shared.database.engine import Driver, note_error, pool_of
from shared.database.errors import describe, is_retryable_rollback, is_temporary, lacks_migration
from shared.problems import Unavailable
from shared.process.failpoints import failpoint

if TYPE_CHECKING:
    import asyncpg

ATTEMPTS: Final = 5  # of a transaction that deadlocks with others

T = TypeVar("T")

SessionFactory = async_sessionmaker[AsyncSession]
ConnectionProvider = Callable[[], AbstractAsyncContextManager[Driver]]

log = structlog.get_logger()


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
        self._engine, self._pool = engine, pool_of(engine)

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
            note_error(self._engine, error)


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
        note_error(engine, error)
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
    if not driver.is_in_transaction():
        connection: Any = (await (await session.connection()).get_raw_connection()).dbapi_connection
        try:
            # SQLAlchemy calls this before its own first statement, which would cost as much as several of the driver's.
            await connection._start_transaction()  # noqa: SLF001 - there is no other way
        except AsyncAdapt_asyncpg_dbapi.Error as error:
            raise (error.__cause__ or error) from None  # the driver's own, as its statements raise them
    return driver
