"""Classification of database errors: an outage, a temporary error, or a bug."""

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
"""Everything that a statement can raise, through SQLAlchemy or directly on the driver."""

READ_ONLY: Final = "the database is read-only (disk full, or failover in progress)"
NOT_MIGRATED: Final = "the database is not migrated to this version, run: chats migrate"

_NO_WRITES = "25006"
# Prefixes of SQLSTATE. Outages: connection, read-only (full disk, standby), idle-in-transaction timeout, rollback
# (deadlock, a standby's recovery conflict), disk full, too many connections, stopping or starting, I/O error.
_AWAY = ("08", _NO_WRITES, "25P03", "25P04", "40", "53100", "53300", "57P", "58030")
# Missing tables, columns, types, functions or privileges: the database is not migrated yet.
_MISSING = ("42P01", "42703", "42704", "42883", "42501")
_OUTAGE = (*_AWAY, *_MISSING)
# A request may also succeed later after these: insufficient resources, lock not available, statement timeout.
_TEMPORARY = (*_OUTAGE, "53", "55", "57")

# InternalClientError: the server has just closed the connection, and the driver has not read everything yet.
# InvalidCachedStatementError: a migration has just changed a table of a prepared statement.
_TEMPORARY_ERRORS = (
    OSError,
    TimeoutError,
    PoolTimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.InvalidCachedStatementError,
    AsyncAdapt_asyncpg_dbapi.InvalidCachedStatementError,
)


def is_outage(error: BaseException | None) -> bool:
    """Return whether the database was unavailable or read-only, or rolled a transaction back for its own reasons."""
    return _is_temporary(error, _OUTAGE)


def is_temporary(error: BaseException | None) -> bool:
    """Return whether a request that failed with this error may succeed when it is repeated."""
    return _is_temporary(error, _TEMPORARY)


def is_read_only(error: BaseException | None) -> bool:
    """Return whether the server accepted no writes."""
    return sqlstate(error) == _NO_WRITES


def lacks_migration(error: BaseException | None) -> bool:
    """Return whether the database lacks tables or privileges that this version needs."""
    return sqlstate(error) in _MISSING


def is_retryable_rollback(error: BaseException | None) -> bool:
    """Return whether a transaction was rolled back because of another one (deadlock), and may be retried at once."""
    return sqlstate(error).startswith("40")


def sqlstate(error: BaseException | None) -> str:
    """Return the SQLSTATE of a driver's error, wrapped by SQLAlchemy or not; "" if it has none."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return getattr(cause, "sqlstate", None) or ""


def describe(error: BaseException | None) -> str:
    """Describe an error in one line. The driver's messages contain no password; a URL might."""
    if is_read_only(error):
        return READ_ONLY
    cause = error.orig if isinstance(error, DBAPIError) else error
    lines = str(cause).splitlines()
    message = lines[0] if lines else type(cause).__name__
    if lacks_migration(error):
        return f"{NOT_MIGRATED} ({message})"
    return f"the database does not answer ({message})"


def _is_temporary(error: BaseException | None, states: tuple[str, ...]) -> bool:
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or _is_temporary(error.orig, states)
    if isinstance(error, AsyncAdapt_asyncpg_dbapi.Error) and _is_temporary(error.__cause__, states):
        return True  # raised by the pool while it connects
    return isinstance(error, _TEMPORARY_ERRORS) or sqlstate(error).startswith(states)
