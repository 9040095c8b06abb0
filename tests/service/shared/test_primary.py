"""Which of several database hosts a connection uses."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from sqlalchemy import text

from deploy.local.ports import free_ports
from deploy.local.postgres import Server
from shared.database.engine import create_engine
from shared.database.errors import READ_ONLY
from shared.database.primary import primary_connector
from shared.database.readiness import database_fault


@pytest.fixture
async def unresponsive() -> AsyncIterator[int]:
    """The port of a server that accepts connections and never responds."""
    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    for writer in writers:
        writer.close()
    server.close()


def hosts(url: str, *ports: int) -> str:
    parts = urlsplit(url)
    login, _, own = parts.netloc.rpartition("@")
    plain = "sslmode=disable"  # without TLS; an unresponsive TLS handshake leaves a pending future in the driver
    return parts._replace(
        query=plain, netloc=f"{login}@{','.join(f'127.0.0.1:{port}' for port in ports)},{own}"
    ).geturl()


async def test_a_host_that_is_down_or_unresponsive_does_not_prevent_connecting_to_the_next(
    databases: dict[str, str], unresponsive: int
) -> None:
    [down] = free_ports([0])
    engine = create_engine(hosts(databases["conversations"], down, unresponsive), application="tests")
    async with engine.connect() as connection:
        assert await connection.scalar(text("select 1")) == 1
    await engine.dispose()


async def test_the_host_that_last_accepted_writes_is_tried_first(postgres: Server, unresponsive: int) -> None:
    connect = primary_connector()
    options: dict[str, Any] = {
        "user": "postgres",
        "password": postgres.password,
        "database": "postgres",
        "timeout": 2.0,
        "ssl": False,
        "host": ["127.0.0.1", "127.0.0.1"],
        "port": [unresponsive, postgres.port],
    }
    await (await connect(**options)).close()
    loop = asyncio.get_running_loop()
    before = loop.time()
    await (await connect(**options | {"timeout": 60.0})).close()
    assert loop.time() - before < 20, "the unresponsive host was tried"  # which would have taken half a minute


async def test_hosts_that_accept_no_writes_are_reported_before_those_that_are_down(databases: dict[str, str]) -> None:
    [down] = free_ports([0])
    engine = create_engine(
        hosts(databases["conversations"], down),
        application="tests",
        bounds={"default_transaction_read_only": "on"},
    )
    assert await database_fault(engine, None) == READ_ONLY
    with pytest.raises(Exception, match="accepts no writes") as refused:
        async with engine.connect():
            pass
    assert getattr(refused.value, "orig", None) is not None
    await engine.dispose()


async def test_a_wrong_password_is_reported_as_such(postgres: Server) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await primary_connector()(
            host="127.0.0.1", port=postgres.port, user="postgres", password="wrong", database="postgres", timeout=5
        )
