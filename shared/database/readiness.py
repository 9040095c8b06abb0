"""Check whether a database is usable: it answers, accepts writes, and has the tables that this version needs."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.database.clock_skew import ClockSkewMonitor, measure_skew
from shared.database.engine import CONNECT_TIMEOUT, replace_connections
from shared.database.errors import DATABASE_ERRORS, NOT_MIGRATED, READ_ONLY, describe
from shared.database.primary import REFUSES_WRITES

_SERVER = text(f"select {REFUSES_WRITES}, clock_timestamp(), null")
_MIGRATED = text(f"select {REFUSES_WRITES}, clock_timestamp(), (select max(version_num) from alembic_version)")  # noqa: S608 - a constant

log = structlog.get_logger()

_clock_skew = ClockSkewMonitor()


def newest_version(service: Path) -> str:
    """Return the version of the newest migration of the service in this folder: the number at the start of its name.

    Numbers ascend, so a greater version is newer.
    """
    return max(path.name.partition("_")[0] for path in (service / "migrations" / "versions").glob("[0-9]*_*.py"))


async def wait_for_database(engine: AsyncEngine, version: str) -> None:
    """Return when the database is usable. Until then, log the reason at intervals."""
    await _wait(engine, version)


async def wait_for_server(engine: AsyncEngine) -> None:
    """Return when the database answers and accepts writes, migrated or not."""
    await _wait(engine, None)


async def database_fault(engine: AsyncEngine, version: str | None) -> str | None:
    """Return in one line why the database is not usable, or None if it is.

    It must be migrated to `version` or a newer one, with which older code still works: migrations expand first. With
    None, no migration is required.
    """
    probe = _SERVER if version is None else _MIGRATED
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT), engine.connect() as connection:
            asked_at = datetime.now(UTC)
            refuses_writes, now, migrated_to = (await connection.execute(probe)).one()
    except DATABASE_ERRORS as error:
        return describe(error)
    _clock_skew.record(measure_skew(asked_at, now, datetime.now(UTC)))
    if refuses_writes:
        replace_connections(engine)
        return READ_ONLY
    if version is not None and (migrated_to or "") < version:
        return f"{NOT_MIGRATED} (its version is {migrated_to or 'none'}, {version} is required)"
    return None


async def _wait(engine: AsyncEngine, version: str | None) -> None:
    attempts = 0
    while (fault := await database_fault(engine, version)) is not None:
        if attempts % 10 == 0:
            log.warning("waiting for the database", reason=fault)
        attempts += 1
        await asyncio.sleep(1)
