"""`chats status` with a database that cannot be used: it shows the other one."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from deploy.local.postgres import Server
from tests.service.deploy.conftest import Chats

LINES = {
    "conversations": {"log", "publisher", "retention", "search", "reports"},
    "notifications": {"consumer", "rebuild", "emails"},
}


@pytest.fixture(params=LINES)
async def read_only(request: pytest.FixtureRequest, postgres: Server) -> AsyncIterator[str]:
    """Make one database read-only. Return the name of its service."""
    superuser = await asyncpg.connect(postgres.url())
    await superuser.execute(f"alter database {request.param} set default_transaction_read_only = on")
    yield request.param
    await superuser.execute(f"alter database {request.param} reset default_transaction_read_only")
    await superuser.close()


async def test_the_status_of_the_other_service_is_shown_when_a_database_is_read_only(
    chats: Chats, read_only: str
) -> None:
    result = await chats("status")
    [fault] = [line for line in result.stdout.splitlines() if line.startswith("database")]
    assert read_only in fault
    assert "read-only" in fault
    shown = {line.split()[0] for line in result.stdout.splitlines()}
    [other] = LINES.keys() - {read_only}
    assert shown >= LINES[other]
    assert not shown & LINES[read_only]
    assert result.exit_code == 1
