"""Engines for PostgreSQL: the settings of connections, and a pool that tests and replaces them."""

import asyncio
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import msgspec
from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry

from shared.database.errors import is_read_only
from shared.database.primary import primary_connector
from shared.database_url import read_database_url
from shared.process.ending import seconds_left
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
TRUSTED_IDLE = 5.0  # seconds a connection may be idle in the pool before it is tested at its next use

# A driver's connection. Each statement on it is a transaction, unless one was started.
Driver: TypeAlias = "asyncpg.Connection[Any]"


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
        _check_connection(connection, record, pool_of(engine))

    def on_error(context: ExceptionContext) -> None:
        note_error(engine, context.original_exception)
        if context.is_disconnect:
            pool_of(engine).doubted_at = time.monotonic()

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


def pool_of(engine: AsyncEngine) -> _Pool:
    """Return the pool of an engine that `create_engine` made."""
    return cast("_Pool", engine.pool)


def replace_connections(engine: AsyncEngine) -> None:
    """Replace every connection of an engine before its next use, because the server accepts no writes.

    A connection keeps the settings that it started with, and a demoted server may keep running: waiting does not help.
    """
    pool_of(engine).replaced_at = time.monotonic()


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


def note_error(engine: AsyncEngine, error: BaseException) -> None:
    """Replace or test the engine's connections before their next use, if an error says that they are of no use."""
    if is_read_only(error):
        replace_connections(engine)
    elif isinstance(error, TimeoutError):  # the network may have dropped the other connections, too
        pool_of(engine).doubted_at = time.monotonic()


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
