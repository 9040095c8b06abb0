"""What an error of the database means: an outage, a moment to try again, or a fault of our own."""

from typing import Final

import asyncpg
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

DATABASE_ERRORS: Final = (
    SQLAlchemyError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,  # also TimeoutError
)
"""Everything that a statement raises, through SQLAlchemy or straight on the driver."""

READ_ONLY: Final = "the database is read-only (a full disk, or a failover that is not over)"
NOT_MIGRATED: Final = "the database is older than this version, run: chats migrate"

_NO_WRITES = "25006"
# Beginnings of SQLSTATE. Of an outage: connection, read-only (a full disk, a standby), frozen within a transaction,
# rolled back (deadlock, a standby's conflict with recovery), disk full, too many connections, stopped or starting, I/O.
_AWAY = ("08", _NO_WRITES, "25P03", "25P04", "40", "53100", "53300", "57P", "58030")
# The tables, columns, types or functions that this version needs, or the rights to them, are missing: not migrated yet.
_MISSING = ("42P01", "42703", "42704", "42883", "42501")
_OUTAGE = (*_AWAY, *_MISSING)
# Of a request that may succeed in a moment besides: resources, not now (lock), cancelled (statement timeout).
_PASSING = (*_OUTAGE, "53", "55", "57")

# InternalClientError: a connection that the server has just ended, met before its end was read to the last byte.
# InvalidCachedStatementError: a migration has just changed a table that the connection had a statement prepared for.
_PASSING_ERRORS = (
    OSError,
    TimeoutError,
    PoolTimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.InvalidCachedStatementError,
    AsyncAdapt_asyncpg_dbapi.InvalidCachedStatementError,
)


def is_outage(error: BaseException | None) -> bool:
    """Tell whether the database was away, took no writes, or gave up on a transaction, whatever it was about."""
    return _is_passing(error, _OUTAGE)


def may_pass(error: BaseException | None) -> bool:
    """Tell whether a request that failed like this may succeed when it is repeated in a moment."""
    return _is_passing(error, _PASSING)


def is_read_only(error: BaseException | None) -> bool:
    """Tell whether the server took no writes."""
    return sqlstate(error) == _NO_WRITES


def lacks_migration(error: BaseException | None) -> bool:
    """Tell whether the database lacks what this version of the code needs."""
    return sqlstate(error) in _MISSING


def is_retryable_rollback(error: BaseException | None) -> bool:
    """Tell whether the database gave up on a transaction for another's sake (a deadlock): it may be tried again now."""
    return sqlstate(error).startswith("40")


def sqlstate(error: BaseException | None) -> str:
    """Return the SQLSTATE of an error of the driver, wrapped by SQLAlchemy or not; "" when it has none."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return getattr(cause, "sqlstate", None) or ""


def describe(error: BaseException | None) -> str:
    """Say in one line what is wrong with the database. The driver's own messages hold no password; a URL might."""
    if is_read_only(error):
        return READ_ONLY
    cause = error.orig if isinstance(error, DBAPIError) else error
    lines = str(cause).splitlines()
    said = lines[0] if lines else type(cause).__name__
    if lacks_migration(error):
        return f"{NOT_MIGRATED} ({said})"
    return f"the database does not answer ({said})"


def _is_passing(error: BaseException | None, states: tuple[str, ...]) -> bool:
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or _is_passing(error.orig, states)
    if isinstance(error, AsyncAdapt_asyncpg_dbapi.Error) and _is_passing(error.__cause__, states):
        return True  # as the pool raises it, while a connection is made
    return isinstance(error, _PASSING_ERRORS) or sqlstate(error).startswith(states)
