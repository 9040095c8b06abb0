"""Whether a database can be worked with: it answers, takes writes, and has the tables that this code needs."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.clocks import ClockWatch, ahead
from shared.database import CONNECT_TIMEOUT, replace_connections
from shared.outages import DATABASE_ERRORS, NOT_MIGRATED, READ_ONLY, describe
from shared.primary import REFUSES_WRITES

_SERVER = text(f"select {REFUSES_WRITES}, clock_timestamp(), null")
_MIGRATED = text(f"select {REFUSES_WRITES}, clock_timestamp(), (select max(version_num) from alembic_version)")  # noqa: S608 - ours

log = structlog.get_logger()

_clocks = ClockWatch()


def newest_version(service: Path) -> str:
    """Return the newest version of the database that the code of the service in this folder knows.

    It is the number that the name of its last migration begins with. Numbers ascend, so what is greater is newer.
    """
    return max(path.name.partition("_")[0] for path in (service / "migrations" / "versions").glob("[0-9]*_*.py"))


async def wait_for_database(engine: AsyncEngine, version: str) -> None:
    """Return once the database can be worked with; until then log, from time to time, what is awaited."""
    await _wait(engine, version)


async def wait_for_server(engine: AsyncEngine) -> None:
    """Return once the database answers and takes writes, migrated or not."""
    await _wait(engine, None)


async def database_fault(engine: AsyncEngine, version: str | None) -> str | None:
    """Return in one line why the database cannot be worked with, or None when it can.

    It has to be migrated to `version` or a newer one: migrations expand first, so the code before still works. None
    asks for no migration.
    """
    probe = _SERVER if version is None else _MIGRATED
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT), engine.connect() as connection:
            asked_at = datetime.now(UTC)
            refuses_writes, now, found = (await connection.execute(probe)).one()
    except DATABASE_ERRORS as error:
        return describe(error)
    _clocks.note(ahead(asked_at, now, datetime.now(UTC)))
    if refuses_writes:
        replace_connections(engine)
        return READ_ONLY
    if version is not None and (found or "") < version:
        return f"{NOT_MIGRATED} (it is at {found or 'no version'}, this version needs {version})"
    return None


async def _wait(engine: AsyncEngine, version: str | None) -> None:
    tries = 0
    while (fault := await database_fault(engine, version)) is not None:
        if tries % 10 == 0:
            log.warning("waiting for the database", reason=fault)
        tries += 1
        await asyncio.sleep(1)
