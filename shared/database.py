"""PostgreSQL for both services: engines, sessions, waiting for a server that is not there yet."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import asyncpg
import structlog
from fastapi import Depends, Request
from sqlalchemy import TextClause, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from shared.problems import Unavailable

CONNECT_TIMEOUT = 5  # seconds
POOL_TIMEOUT = 5  # seconds a request waits for a connection

Sessions = async_sessionmaker[AsyncSession]

_ALIVE = text("select 1")
_MIGRATED = text("select version_num from alembic_version")

# Classes of SQLSTATE: connection, rolled back (deadlock), resources, not now (lock), stopped by an operator.
_PASSING = {"08", "40", "53", "55", "57"}

log = structlog.get_logger()


def create_engine(url: str, *, application: str, pool_size: int = 10) -> AsyncEngine:
    """Make an engine on asyncpg. `application` is the name that `pg_stat_activity` shows."""
    return create_async_engine(
        make_url(url).set(drivername="postgresql+asyncpg"),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT,
        pool_pre_ping=True,
        hide_parameters=True,  # they are people's text, and errors are logged
        connect_args={"timeout": CONNECT_TIMEOUT, "server_settings": {"application_name": application}},
    )


def create_sessions(engine: AsyncEngine) -> Sessions:
    """Make the factory of sessions; what they loaded stays readable after the commit."""
    return async_sessionmaker(engine, expire_on_commit=False)


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
        return _first_line(error.orig)
    except (OSError, TimeoutError) as error:
        return _first_line(error)
    return None


async def _wait(engine: AsyncEngine, probe: TextClause) -> None:
    tries = 0
    while (fault := await database_fault(engine, probe)) is not None:
        if tries % 10 == 0:
            log.warning("waiting for the database", reason=fault)
        tries += 1
        await asyncio.sleep(1)


def _first_line(error: BaseException | None) -> str:
    # The driver's own messages hold no password; the URL might.
    lines = str(error).splitlines()
    return f"the database does not answer ({lines[0] if lines else type(error).__name__})"


@asynccontextmanager
async def transaction(sessions: Sessions) -> AsyncIterator[AsyncSession]:
    """Open a session whose work is committed at the end, or rolled back by an exception."""
    async with sessions() as session, session.begin():
        yield session


@asynccontextmanager
async def answered_transaction(sessions: Sessions) -> AsyncIterator[AsyncSession]:
    """Open a transaction of a request: a database that is away, or that gave up on it, is `Unavailable`."""
    try:
        async with transaction(sessions) as session:
            yield session
    except Exception as error:
        if not _may_pass(error):
            raise
        log.warning("the database let a request down", error=_first_line(error))
        raise Unavailable("The database does not answer at the moment. Try again.") from error


def _may_pass(error: BaseException | None) -> bool:
    """Tell whether the same request may well succeed in a moment."""
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or _may_pass(error.orig)
    if isinstance(error, (OSError, TimeoutError, PoolTimeoutError, asyncpg.InterfaceError)):
        return True
    return str(getattr(error, "sqlstate", None))[:2] in _PASSING


async def _session(request: Request) -> AsyncIterator[AsyncSession]:
    async with answered_transaction(request.app.state.sessions) as session:
        yield session


# Commits before the answer goes out: scope="function". The default would answer first and commit later.
Session = Annotated[AsyncSession, Depends(_session, scope="function")]


async def driver_connection(session: AsyncSession) -> Any:
    """Return the asyncpg connection below a session that has not begun to talk, for a statement on the driver."""
    connection = await session.connection()
    return (await connection.get_raw_connection()).driver_connection
