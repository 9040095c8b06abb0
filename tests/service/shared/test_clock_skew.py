"""A database with a wrong clock: processes report it, and still work."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from structlog.testing import capture_logs

from deploy.commands.status import print_status
from deploy.local.postgres import Server
from shared.database import readiness
from shared.database.clock_skew import ClockSkewMonitor
from shared.database.engine import create_engine
from shared.database.readiness import database_fault

LATE = """
create schema late;
create function late.clock_timestamp() returns timestamptz language sql as 'select pg_catalog.clock_timestamp() - interval ''1 hour''';
grant usage on schema late to public;
alter database conversations set search_path = late, pg_catalog, public;
"""  # noqa: E501 - a function's body
ON_TIME = "alter database conversations reset search_path; drop schema late cascade"


@pytest.fixture
async def late(postgres: Server) -> AsyncIterator[None]:
    """Set the clock of the conversations database back by an hour."""
    superuser = await asyncpg.connect(postgres.url("conversations"))
    await superuser.execute(LATE)
    yield
    await superuser.execute(ON_TIME)
    await superuser.close()


@pytest.mark.usefixtures("late")
async def test_a_process_reports_its_databases_wrong_clock_and_is_ready(
    databases: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "_clock_skew", ClockSkewMonitor())  # nothing was reported before
    engine = create_engine(databases["conversations"], application="tests")
    with capture_logs() as lines:
        for _ in range(3):
            assert await database_fault(engine, "0001") is None
    await engine.dispose()
    [line] = [line for line in lines if "clocks" in line["event"]]
    assert 3500 < line["ahead"] <= 3600


@pytest.mark.usefixtures("late")
async def test_the_status_compares_the_clocks(
    databases: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, url in databases.items():
        monkeypatch.setenv(f"CHATS_{name.upper()}_DATABASE_URL", url)
    assert not await asyncio.to_thread(print_status)
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("clocks")]
    assert "conversations -3600.0 s, notifications +0.0 s" in line
    assert "synchronize them" in line
